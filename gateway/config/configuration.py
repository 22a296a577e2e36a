"""The configuration: every block of options in its place, read from YAML, checked as a whole.

Option classes stand beside the code they configure; this module composes them, finds the options of plugins and of
billing by name, and reports everything that is wrong at once, each with its line.
"""

from __future__ import annotations

import importlib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from gateway.admin.options import AdminOptions
from gateway.config.certificates import check_certificates
from gateway.config.circles import check_circles
from gateway.config.names import check_client_certificates, check_names, check_upstream
from gateway.config.order import check_needs, in_order
from gateway.config.plugin_loader import PluginError, PluginSpec, UnknownPlugin, load_plugin, load_shared, plugin_names
from gateway.config.reader import read
from gateway.config.source import ConfigError, Source, Steps, descend, error_lines
from gateway.config.watch import ReloadOptions
from gateway.config.wording import Finding, did_you_mean, findings
from gateway.consumers import ConsumerOptions, Name
from gateway.directory.options import DirectoryOptions
from gateway.downstream.listener import ListenerOptions
from gateway.downstream.shedding import SheddingOptions
from gateway.metering.usage import UsageOptions
from gateway.networks import Network
from gateway.options import FROM_FILE, Duration, Options, UpstreamName, named_upstreams, plugin_list
from gateway.permissions import PermissionText
from gateway.plugin import AnyPlugin
from gateway.route import RouteOptions
from gateway.stores.store import StoresOptions
from gateway.upstream.options import UpstreamOptions

__all__ = ["ConfigError", "GatewayConfig", "PluginSpec", "compose", "load"]

if TYPE_CHECKING:
    BillingOptions = Any
    ControlOptions = Any
else:  # by name, as plugins are: the edge reads the whole file but must not depend on billing or the control plane
    BillingOptions = importlib.import_module("gateway.billing.options").BillingOptions
    ControlOptions = importlib.import_module("gateway.control.options").ControlOptions

O = TypeVar("O", bound=Options)  # noqa: E741  # the usual letter for options here


def _on(value: Any) -> Any:
    """A section that is there is meant, also when nothing stands in it."""
    return {} if value is None else value


class GatewayConfig(Options):
    """The whole of `gateway.yaml`."""

    listeners: list[ListenerOptions] = Field(min_length=1, max_length=100)
    """Addresses that clients connect to."""
    admin: AdminOptions = AdminOptions()
    """The listener for operators."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Edge processes; `auto` starts one per core."""
    drain_timeout: Duration = 30.0
    """How long requests in flight may take to finish when a process stops."""
    shedding: SheddingOptions | None = None
    """Refusing requests while a process cannot keep up; without it none is refused."""
    reload: ReloadOptions = ReloadOptions()
    """Taking a changed configuration while requests are served."""
    stores: StoresOptions = StoresOptions()
    """Redis and PostgreSQL."""
    trusted_proxies: list[Network] = []
    """Addresses and networks whose `Forwarded` and `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `-Prefix` count."""
    upstreams: dict[UpstreamName, UpstreamOptions] = {}
    """Services behind the gateway, by name."""
    plugins: list[dict[str, Any]] = []
    """Plugins that run on every route, in order: `- name: {options}`."""
    routes: list[RouteOptions] = Field(min_length=1)
    """The ways through the gateway."""
    usage: UsageOptions = UsageOptions()
    """How usage is recorded and sent to billing."""
    billing: BillingOptions = BillingOptions()
    """How usage becomes rows and money."""
    control: ControlOptions = ControlOptions()
    """Where organizations, users, roles and keys are kept."""
    roles: dict[Name, list[PermissionText]] = {}
    """Permissions by the name of the role that has them: `reader: ["books:read"]`."""
    directory: Annotated[DirectoryOptions | None, BeforeValidator(_on)] = None
    """Callers that a control plane publishes; the section switches it on."""
    consumers: list[ConsumerOptions] = []
    """Who may call, and which organization pays for it."""

    _chains: dict[str | None, list[PluginSpec]] = PrivateAttr(default_factory=dict)
    _shared: dict[str, Options] = PrivateAttr(default_factory=dict)
    _warnings: list[str] = PrivateAttr(default_factory=list)
    _source: Source = PrivateAttr()

    @property
    def source(self) -> Source:
        """What was read, and where each value stands. Only `load` makes a configuration that knows it."""
        return self._source

    def plugins_of(self, route: RouteOptions | None) -> list[PluginSpec]:
        """The plugins that a route runs, in order: those of the top level first, then its own.

        A plugin that the route lists again keeps its place and takes the route's options, and one that must be
        `behind` others is moved there. None stands for requests that no route takes; they run the plugins of the top
        level. Only `load` makes a configuration that knows this.
        """
        return self._chains[route.name if route is not None else None]

    @property
    def warnings(self) -> list[str]:
        """What is not wrong, but will be or should not be, each with its line. Only `load` for serving finds any."""
        return self._warnings

    def shared(self, plugin: str) -> Options | None:
        """The top-level section that a plugin owns (its `Shared`), or None if the file has none."""
        return self._shared.get(plugin)

    def sections(self) -> Mapping[str, Options]:
        """The top-level sections that plugins own, by the plugin's name."""
        return self._shared


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

    def config(self, serving: bool, controlling: bool) -> GatewayConfig:
        """The configuration, whole. Raises ConfigError."""
        shared = self._sections()
        top = self._chain(("plugins",))
        own = [self._chain(("routes", index, "plugins")) for index in range(self._length(("routes",)))]
        config = self._checked(GatewayConfig, (), leave_out=shared)
        check_names(self._source)
        warnings = check_certificates(self._source, controlling=controlling) if serving else []
        if self._source.faults or config is None:
            raise ConfigError(error_lines(self._source.faults), self._source.files)
        config._chains = {None: in_order(top)} | {
            route.name: in_order({spec.name: spec for spec in (*top, *specs)}.values())
            for route, specs in zip(config.routes, own, strict=True)
        }
        check_needs(self._source, config._chains.values())
        check_circles(self._source, config.routes, {name: chain for name, chain in config._chains.items() if name})
        if self._source.faults:
            raise ConfigError(error_lines(self._source.faults), self._source.files)
        config._shared = {name: options for name, options in shared.items() if options is not None}
        config._warnings = warnings + (self._exposures(config.control) if controlling else [])
        return config

    def _exposures(self, control: ControlOptions) -> list[str]:
        if not control.exposed:
            return []
        place = self._source.place(("control", "bind"))
        text = f"the control plane on {control.bind} has no `tls`: tokens and secrets can be read on the way to it"
        return [f"{place.file}:{place.line}: {text}"]

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
        return PluginSpec(name, plugin, config, steps, parts)

    def _parts(self, plugin: type[AnyPlugin], steps: Steps) -> tuple[PluginSpec, ...]:
        """The plugins that the options of one list."""
        key = plugin_list(plugin.config_type)
        parts = self._chain((*steps, key), repeats=True) if key is not None else []
        for part in parts:
            if reason := plugin.refuses_part(part.plugin, part.config):
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
