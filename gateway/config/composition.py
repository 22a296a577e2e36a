"""Composition: a GatewayConfig made of what was read, or everything that is wrong with it, each with its line."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gateway.config.certificates import check_certificates
from gateway.config.circles import check_circles
from gateway.config.configuration import GatewayConfig
from gateway.config.exposure import control_exposed, exposed
from gateway.config.names import check_client_certificates, check_names, check_roles, check_upstream
from gateway.config.order import check_answers, check_authentication, check_needs, in_order
from gateway.config.path_parameters import check_parameters
from gateway.config.plugin_loader import PluginError, PluginSpec, UnknownPlugin, load_plugin, load_shared, plugin_names
from gateway.config.reader import read
from gateway.config.source import ConfigError, Source, Steps, descend, error_lines
from gateway.config.wording import Finding, did_you_mean, findings
from gateway.options import FROM_FILE, Options, blocks_of, named_roles, named_upstreams, plugin_list
from gateway.plugin import AnyPlugin
from gateway.tls.client import UpstreamTlsOptions

__all__ = ["ConfigError", "compose", "load"]

O = TypeVar("O", bound=Options)  # noqa: E741  # the usual letter for options here


def load(
    path: Path | str, environment: Mapping[str, str], *, serving: bool = False, controlling: bool = False
) -> GatewayConfig:
    """Read and check a configuration file. Raises ConfigError with everything that is wrong with it.

    `serving`: it is to be served with, so the files it names must be fit for that; who only bills need not have them.
    `controlling`: those of the control plane too, which may be on another machine than the edge.
    """
    source = read(path, environment)
    config = compose(source, serving=serving, controlling=controlling)
    config._source = source
    return config


def compose(source: Source, *, serving: bool = False, controlling: bool = False) -> GatewayConfig:
    """Check what was read. Raises ConfigError with everything that is wrong with it."""
    return _Composition(source).config(serving, controlling)


class _Composition:
    """Turns a source into a GatewayConfig, or into all the reasons why not."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._directory = Path(source.place(()).file).parent
        self._unusable: set[str] = set()  # plugins that cannot be loaded; said once
        self._tls: list[Steps] = []  # where plugins have blocks about TLS

    def config(self, serving: bool, controlling: bool) -> GatewayConfig:
        """The configuration, whole. Raises ConfigError."""
        shared = self._sections()
        top = self._chain(("plugins",))
        own = [self._chain(("routes", index, "plugins")) for index in range(self._length(("routes",)))]
        config = self._checked(GatewayConfig, (), leave_out=shared)
        check_answers(self._source, top, own)
        all_readable = not self._source.faults  # else what is missing from a chain may just not be readable yet
        check_names(self._source)
        warnings = check_certificates(self._source, self._tls, controlling=controlling) if serving else []
        if config is not None and all_readable:
            self._arrange(config, top, own)
        if self._source.faults or config is None:
            raise ConfigError(error_lines(self._source.faults), self._source.files)
        config._shared = {name: options for name, options in shared.items() if options is not None}
        if serving:
            warnings += exposed(self._source, config.listeners, config.chains)
        if controlling:
            warnings += control_exposed(self._source, config.control)
        config._warnings = warnings
        return config

    def _arrange(self, config: GatewayConfig, top: list[PluginSpec], own: list[list[PluginSpec]]) -> None:
        """The plugins of each route in the order in which they run, and whether they can do there what they are for."""
        config._chains = {None: in_order(top)} | {
            route.name: in_order({spec.name: spec for spec in (*top, *specs)}.values())
            for route, specs in zip(config.routes, own, strict=True)
        }
        check_needs(self._source, config._chains.values())
        check_authentication(self._source, config._chains.values())
        check_parameters(self._source, config.routes, top, own)
        check_circles(self._source, config.routes, config.chains)

    def _length(self, steps: Steps) -> int:
        value = self._source.at(steps)
        return len(value) if isinstance(value, list) else 0

    def _sections(self) -> dict[str, Options | None]:
        """Top-level sections that belong to plugins, by the name of the plugin; None for one that is not valid."""
        sections: dict[str, Options | None] = {}
        root = self._source.value
        for key in root if isinstance(root, dict) else ():
            if key in GatewayConfig.model_fields:
                continue
            try:
                kind = load_shared(key)
            except PluginError as error:
                sections[key] = None
                self._source.fault((key,), str(error))
                continue
            if kind is not None:
                sections[key] = self._checked(kind, (key,))
        return sections

    def _chain(self, steps: Steps, *, repeats: bool = False) -> list[PluginSpec]:
        """The plugins listed at `steps`, each with its options; `repeats`: one may be listed more than once."""
        specs: list[PluginSpec] = []
        listed: set[str] = set()
        for index in range(self._length(steps)):
            entry = (*steps, index)
            value = self._source.at(entry)
            if isinstance(value, str):
                name = self._source.shown(entry)
                self._source.unreadable(entry, f"a plugin is an entry with a colon: `- {name}:`")
            elif isinstance(value, dict) and len(value) != 1:
                names = ", ".join(value) or "none"
                self._source.fault(entry, f"an entry names one plugin (indent its options below it), found {names}")
            elif isinstance(value, dict):
                name = next(iter(value))
                spec = self._spec(name, (*entry, name))
                if name in listed and not repeats:
                    self._source.fault((*entry, name), "this plugin is listed twice")
                elif spec is not None:
                    listed.add(name)
                    specs.append(spec)
        return specs

    def _spec(self, name: str, steps: Steps) -> PluginSpec | None:
        if name in self._unusable:
            return None
        try:
            plugin = load_plugin(name, self._directory)
        except UnknownPlugin as error:
            self._source.fault(steps, f"{error}{did_you_mean(name, plugin_names())}")
            return None
        except PluginError as error:
            self._unusable.add(name)
            self._source.fault(steps, str(error))
            return None
        parts = self._parts(plugin, steps)
        config = self._checked(plugin.config_type, steps)
        if plugin.needs_client_certificates:
            check_client_certificates(self._source, steps)
        if config is None:
            return None
        for keys in named_upstreams(config):
            check_upstream(self._source, (*steps, *keys))
        for keys in named_roles(config):
            check_roles(self._source, (*steps, *keys))
        self._tls += [(*steps, *keys) for keys in blocks_of(config, UpstreamTlsOptions)]
        return PluginSpec(name, plugin, config, steps, parts)

    def _parts(self, plugin: type[AnyPlugin], steps: Steps) -> tuple[PluginSpec, ...]:
        """The plugins that the options of one list."""
        key = plugin_list(plugin.config_type)
        parts = self._chain((*steps, key), repeats=True) if key is not None else []
        specs = [(part.plugin, part.config) for part in parts]
        for place, part in enumerate(parts):
            if reason := plugin.refuses_part(specs[place], specs[:place]):
                self._source.fault(part.steps, reason)
        return tuple(parts)

    def _checked(self, kind: type[O], steps: Steps, leave_out: Container[str] = ()) -> O | None:
        """The block at `steps` as a `kind`; None if it is none, and then the faults say why."""

        def block(root: Any) -> Any:
            value = descend(root, steps)
            if isinstance(value, dict):
                return {key: item for key, item in value.items() if key not in leave_out}
            return {} if value is None and steps else value

        options, found = _tried(kind, block(self._source.value))
        if found and self._source.written:  # ask again about the text in the file, so that no secret is repeated
            _, again = _tried(kind, block(self._source.as_written()))
            safe = {finding.steps: finding.text for finding in again}
            found = [self._discreet(finding, steps, safe) for finding in found]
        for finding in found:
            self._source.fault((*steps, *finding.steps), finding.text, finding.key)
        return options

    def _discreet(self, finding: Finding, steps: Steps, safe: Mapping[Steps, str]) -> Finding:
        """The finding without anything that came from the environment or from a file."""
        there = (*steps, *finding.steps)
        hidden = [text for where, text in self._source.written.items() if where[: len(there)] == there]
        if not finding.quotes or not hidden:
            return finding
        return finding._replace(text=safe.get(finding.steps, f"the value of {', '.join(hidden)} does not fit here"))


def _tried(kind: type[O], value: Any) -> tuple[O | None, list[Finding]]:
    try:
        return kind.model_validate(value, context=FROM_FILE), []
    except ValidationError as error:
        return None, findings(kind, error, value)
    except Exception as error:  # noqa: BLE001  # a validator of a stranger's plugin may raise anything
        return None, [Finding((), f"cannot be checked: its own check failed with {type(error).__name__}", quotes=False)]
