from tests.fixtures.configuration import here
from tests.fixtures.plugin_folder import write_plugin

__all__ = ["here", "write_plugin"]
