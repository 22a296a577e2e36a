from tests.fixtures.plugin_folder import write_plugin

__all__ = ["write_plugin"]
