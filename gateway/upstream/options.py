"""Upstream options: a service behind the gateway as `upstreams:` in the configuration describes it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gateway.http1.grammar import valid_host
from gateway.options import Duration, Options, Size
from gateway.tls.client import UpstreamTlsOptions
from gateway.upstream.balancing import BalancerOptions
from gateway.upstream.balancing.round_robin import RoundRobinOptions
from gateway.upstream.breaker import CircuitBreakerOptions
from gateway.upstream.bulkhead import BulkheadOptions
from gateway.upstream.health import HealthOptions
from gateway.upstream.resolver import ResolverOptions, is_fixed
from gateway.upstream.retry import RetryOptions
from gateway.upstream.sticky import StickyOptions
from gateway.upstream.target import TargetOptions, check_targets


class TimeoutOptions(Options):
    """Deadlines of one call; each is answered 504 when the head was not sent yet, and cuts the response otherwise."""

    connect: Duration = Field(default=2.0, gt=0)
    """Opening a connection to a target."""
    first_byte: Duration = Field(default=30.0, gt=0)
    """From the request's last byte to the head of the response."""
    idle: Duration = Field(default=60.0, gt=0)
    """Silence between two pieces of a body, in either direction."""
    total: Duration = Field(default=300.0, gt=0)
    """The whole call."""
    exempt_streams: bool = False
    """Whether streams of events (`text/event-stream`, JSON lines) may outlast `total`; `idle` holds for them too."""


class UpstreamOptions(Options):
    """A service and the addresses that provide it."""

    targets: list[TargetOptions] = Field(min_length=1)
    """The addresses that provide it."""
    balancer: BalancerOptions = RoundRobinOptions()
    """How a target is picked: a name, or a block of that `name` and its options."""
    sticky: StickyOptions | None = None
    """Keeping each client at the target that answered it first; the balancer then places new clients."""
    resolver: ResolverOptions = ResolverOptions()
    """How the names of targets are resolved; all addresses of a name become targets."""
    health: HealthOptions | None = None
    """How it is found out which targets can be used; without it all of them are, always."""
    timeouts: TimeoutOptions = TimeoutOptions()
    """Deadlines of one call."""
    retry: RetryOptions | None = None
    """Repeating attempts that failed; without it only a connection that had gone stale is replaced."""
    circuit_breaker: CircuitBreakerOptions | None = None
    """When calls are no longer sent because too many fail, and when that is tried again."""
    bulkhead: BulkheadOptions | None = None
    """How many calls one process may have in flight; without it there is no limit but that of connections."""
    max_connections: int = Field(default=512, ge=1)
    """Connections of one process to all targets together."""
    max_waiting: int = Field(default=1024, ge=0)
    """Calls of one process that may wait for a connection; the next one is answered 503 at once."""
    wait_timeout: Duration = 1.0
    """How long a call waits for a connection before it is answered 503."""
    keepalive_timeout: Duration = 55.0
    """How long an unused connection stays open; keep it below the targets' own limit."""
    max_response_head: Size = 64 * 1024
    """Largest head of a response; a larger one is answered 502."""
    host: str = "preserve"
    """The Host field sent upstream: `preserve` the client's, the `target`'s own, or a literal name."""
    tls: UpstreamTlsOptions | None = None
    """How targets with `https://` are verified, and what they are shown. Without, they are verified."""

    @field_validator("host")
    @classmethod
    def _host_is_a_name(cls, value: str) -> str:
        if not valid_host(value):
            raise ValueError(f"not a host: {value!r} (write preserve, target or a name such as api.example.com)")
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return (
            [{"url": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("targets")
    @classmethod
    def _targets_differ(cls, value: list[TargetOptions]) -> list[TargetOptions]:
        check_targets(value)
        return value

    @model_validator(mode="after")
    def _weights_are_heeded(self) -> UpstreamOptions:
        weights = {target.weight for target in self.targets if target.weight}
        if isinstance(self.balancer, RoundRobinOptions) and len(weights) > 1:
            raise ValueError("round_robin does not heed weights (write `balancer: weighted`, or leave them out)")
        return self

    @model_validator(mode="after")
    def _some_can_be_ejected(self) -> UpstreamOptions:
        passive = self.health.passive if self.health is not None else None
        called = [target for target in self.targets if target.weight]
        if passive is None or "max_ejected" not in passive.model_fields_set or not passive.max_ejected:
            return self
        if not passive.most_of(len(called)) and all(is_fixed(target.host) for target in called):
            share, least = f"{passive.max_ejected * 100:g}%", -(-100 // len(called))
            raise ValueError(f"max_ejected: {share} of {len(called)} is no target (write at least {least}%, or 0%)")
        return self

    @property
    def secure(self) -> bool:
        """Whether any target speaks TLS."""
        return any(target.secure for target in self.targets)

    @field_validator("tls")
    @classmethod
    def _a_target_speaks_tls(cls, value: UpstreamTlsOptions | None, info: ValidationInfo) -> UpstreamTlsOptions | None:
        targets = info.data.get("targets", [])
        if value is not None and targets and not any(target.secure for target in targets):
            raise ValueError("no target speaks TLS (write https:// in its URL)")
        return value
