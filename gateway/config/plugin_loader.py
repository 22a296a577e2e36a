"""Plugins by name: the name in the YAML is the name of the module. There is no registry to keep in step."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from gateway.options import Options
from gateway.plugin import AnyPlugin, Plugin, PluginConfig

_FOLDER: Final = "plugins"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_DOTTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_PLAIN_HOOKS: Final = ("on_chunk", "on_sending", "on_finish")


class PluginError(Exception):
    """A plugin cannot be used; the text says which and why."""


class UnknownPlugin(PluginError):
    """No module has this name."""


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin in its place on a route: the name it has there, what runs, its options, and where the file has them."""

    name: str
    plugin: type[AnyPlugin]
    config: PluginConfig
    steps: tuple[str | int, ...] = ()

    def unmade(self) -> AnyPlugin:
        """The plugin before it is made, to be looked at: it has its options and its hooks, which cannot be called."""
        plugin = self.plugin.__new__(self.plugin)
        plugin.config = self.config
        return plugin


def load_plugin(name: str, beside: Path | None = None) -> type[AnyPlugin]:
    """The plugin of this name: `cors` is the module `plugins.cors`, a dotted name is a module of your own.

    That one is found wherever Python finds it, else in the directory `beside`.

    The module holds one class `Config` and one subclass of `Plugin[Config]`. Raises PluginError.
    """
    module = _module(name, beside)
    kinds = [kind for kind in _own_classes(module) if issubclass(kind, Plugin)]
    config = getattr(module, "Config", None)
    if len(kinds) != 1:
        found = ", ".join(kind.__name__ for kind in kinds) or "none"
        raise PluginError(f'plugin "{name}" must hold exactly one subclass of Plugin, found {found}')
    plugin = kinds[0]
    if not (isinstance(config, type) and issubclass(config, PluginConfig)):
        raise PluginError(f'plugin "{name}" has no class Config (a PluginConfig)')
    if getattr(plugin, "config_type", None) is not config:
        raise PluginError(f'plugin "{name}": {plugin.__name__} is not a Plugin[Config]')
    for hook in _PLAIN_HOOKS:
        if inspect.iscoroutinefunction(getattr(plugin, hook)):
            raise PluginError(f'plugin "{name}": {hook} must be a plain function, not async')
    return plugin


def load_shared(name: str) -> type[Options] | None:
    """The class of the top-level section that the plugin `name` owns, its `Shared`; None if it owns none.

    Raises PluginError when there is such a plugin and it cannot be loaded.
    """
    if not _NAME.fullmatch(name):
        return None
    try:
        shared = getattr(_module(name), "Shared", None)
    except UnknownPlugin:
        return None
    return shared if isinstance(shared, type) and issubclass(shared, Options) else None


def plugin_names() -> list[str]:
    """The plugins that come with the gateway, in alphabetical order."""
    folder = importlib.import_module(_FOLDER)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if _NAME.fullmatch(module.name))


def _module(name: str, beside: Path | None = None) -> ModuleType:
    if _NAME.fullmatch(name):
        path = f"{_FOLDER}.{name}"
    elif _DOTTED.fullmatch(name):
        path = name
        _look_in(beside, name.partition(".")[0])
    else:
        raise UnknownPlugin(f'"{name}" is no name of a plugin')
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(error.name + ".")):
            raise UnknownPlugin(f'unknown plugin "{name}"') from None
        raise PluginError(f'plugin "{name}" cannot be loaded: {_said(error)}') from error
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise PluginError(f'plugin "{name}" cannot be loaded: {_said(error)}') from error


def _look_in(directory: Path | None, package: str) -> None:
    """Have Python look in a directory for a package that it finds nowhere else. It looks there last."""
    if directory is None or package in sys.modules or find_spec(package) is not None:
        return
    path = str(directory.absolute())
    if PathFinder.find_spec(package, [path]) is not None and path not in sys.path:
        sys.path.append(path)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _own_classes(module: ModuleType) -> list[type[Any]]:
    """Classes written in this module or, for a plugin that is a folder, in a module of it; not what it imported."""
    prefix = module.__name__ + "."
    members = vars(module).values()
    return [kind for kind in members if isinstance(kind, type) and (kind.__module__ + ".").startswith(prefix)]
