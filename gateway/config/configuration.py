"""The configuration: every block of options in its place.

Option classes stand beside the code they configure; this module says where each of them stands in the file, and finds
the options of billing and of the control plane by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from gateway.admin.options import AdminOptions
from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source
from gateway.config.watch import ReloadOptions
from gateway.consumers import ConsumerOptions, Name
from gateway.directory.options import DirectoryOptions
from gateway.downstream.listener import ListenerOptions
from gateway.downstream.shedding import SheddingOptions
from gateway.metering.usage import UsageOptions
from gateway.networks import Network
from gateway.options import (
    Duration,
    Options,
    UpstreamName,
)
from gateway.permissions import PermissionText
from gateway.route import RouteOptions
from gateway.stores.store import StoresOptions
from gateway.upstream.options import UpstreamOptions

if TYPE_CHECKING:
    BillingOptions = Any
    ControlOptions = Any
else:  # by name, as plugins are: the edge reads the whole file but must not depend on billing or the control plane
    BillingOptions = importlib.import_module("gateway.billing.options").BillingOptions
    ControlOptions = importlib.import_module("gateway.control.options").ControlOptions


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
    """Permissions by the name of the role that has them: `reader: ["books:read"]`. They are for fixed `consumers` and
    strangers, and without the section `directory` for whoever holds a token; with it, what the roles of a token may do
    is said by the control plane alone."""
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
    def chains(self) -> dict[str, list[PluginSpec]]:
        """The plugins that each route runs, by its name, in order. Only `load` makes one that knows this."""
        return {name: chain for name, chain in self._chains.items() if name is not None}

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
