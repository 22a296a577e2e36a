"""Say where the time went, in the response: `Server-Timing: gateway;dur=0.4, upstream;dur=12.1` (W3C Server Timing)."""

from __future__ import annotations

from gateway.exchange import Exchange, Response
from gateway.networks import Network, Networks
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services


class Config(PluginConfig):
    """Who is told."""

    consumers: list[str] | None = None
    """Names of consumers that are told; any known consumer, if absent; none, if empty."""
    networks: list[Network] = []
    """Addresses and networks that are told, whoever calls."""
    everyone: bool = False
    """Tell everyone."""


class ServerTiming(Plugin[Config]):
    """Says in `Server-Timing` what the upstream took to begin its answer and what the gateway took, in milliseconds.

    By default known consumers alone are told: durations tell a stranger whether something was found, or how busy a
    service is. What the upstream says of its own stays. List it first, and the gateway's time has all plugins in it.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._monotonic = services.clock.monotonic
        self._everyone = config.everyone
        self._consumers = frozenset(config.consumers) if config.consumers is not None else None
        self._networks = Networks(config.networks)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if not self._everyone and not self._may_know(exchange):
            return
        now = self._monotonic()
        spent = now - exchange.started_at
        if exchange.upstream_sent_at:
            waited = (exchange.upstream_headed_at or now) - exchange.upstream_sent_at
            said = f"gateway;dur={(spent - waited) * 1000:.1f}, upstream;dur={waited * 1000:.1f}"
        else:
            said = f"gateway;dur={spent * 1000:.1f}"
        response.headers.add("Server-Timing", said)

    def _may_know(self, exchange: Exchange) -> bool:
        consumer = exchange.consumer
        if consumer is not None and (self._consumers is None or consumer.name in self._consumers):
            return True
        return exchange.request.client in self._networks
