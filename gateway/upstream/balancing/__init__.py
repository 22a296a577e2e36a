"""Balancing: how the next target is picked. One file for each way; `balancer.py` is what they have in common."""

from __future__ import annotations

from random import Random
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Discriminator, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from gateway.options import Options
from gateway.upstream.balancing.adaptive import Adaptive, AdaptiveOptions
from gateway.upstream.balancing.balancer import Balancer
from gateway.upstream.balancing.consistent_hash import ConsistentHash, ConsistentHashOptions, IpHashOptions
from gateway.upstream.balancing.least_connections import LeastConnections, LeastConnectionsOptions
from gateway.upstream.balancing.round_robin import RoundRobin, RoundRobinOptions
from gateway.upstream.balancing.weighted import Weighted, WeightedOptions
from gateway.upstream.request_key import client_address

_KINDS: Final[dict[str, type[Options]]] = {
    "round_robin": RoundRobinOptions,
    "weighted": WeightedOptions,
    "least_connections": LeastConnectionsOptions,
    "ip_hash": IpHashOptions,
    "consistent_hash": ConsistentHashOptions,
    "adaptive": AdaptiveOptions,
}
_NAMES: Final = ", ".join(_KINDS)


class _NameOrBlock:
    """`adaptive` is short for `{name: adaptive}`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(_block, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "enum": list(_KINDS)}, handler(schema)]}


def _block(value: Any) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict) and value.get("name") not in _KINDS:
        raise ValueError(f"not a balancer: {value.get('name')!r} (write {_NAMES})")
    return value


def _tag(value: Any) -> str | None:
    kind = _KINDS.get(str(value.get("name"))) if isinstance(value, dict) else type(value)
    return kind.__name__ if kind is not None else None


BalancerOptions: TypeAlias = Annotated[
    Annotated[RoundRobinOptions, Tag("RoundRobinOptions")]
    | Annotated[WeightedOptions, Tag("WeightedOptions")]
    | Annotated[LeastConnectionsOptions, Tag("LeastConnectionsOptions")]
    | Annotated[IpHashOptions, Tag("IpHashOptions")]
    | Annotated[ConsistentHashOptions, Tag("ConsistentHashOptions")]
    | Annotated[AdaptiveOptions, Tag("AdaptiveOptions")],
    Discriminator(_tag),
    _NameOrBlock(),
]
"""How a target is picked: a name, or a block of that `name` and its options."""


def make_balancer(options: BalancerOptions, rng: Random) -> Balancer:
    """The balancer of these options, with no targets yet."""
    match options:
        case RoundRobinOptions():
            return RoundRobin(rng)
        case WeightedOptions():
            return Weighted()
        case LeastConnectionsOptions():
            return LeastConnections(rng)
        case IpHashOptions():
            return ConsistentHash(client_address, options.bound, rng)
        case ConsistentHashOptions():
            return ConsistentHash(options.reader(), options.bound, rng)
        case AdaptiveOptions():
            return Adaptive(options, rng)
