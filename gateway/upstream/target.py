"""Target: one address of an upstream, and what the process knows of it.

A target never changes; what is learned about it is in its TargetState. A reload makes new targets while the old ones
still serve, and a name that resolves to new addresses makes new ones too: whoever is the same target as before, by the
name of its upstream and its own, goes on with the same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from pydantic import ConfigDict, Field, field_validator

from gateway.options import Options

if TYPE_CHECKING:
    from gateway.upstream.balancing.adaptive import Observed
    from gateway.upstream.outlier import Record
    from gateway.upstream.probe import Verdict


def _or_a_plain_url(schema: dict[str, Any]) -> None:
    block = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, block]


class TargetOptions(Options):
    """One address of an upstream, or a DNS name for several. A plain URL is short for `{url: …}`."""

    model_config = ConfigDict(json_schema_extra=_or_a_plain_url)

    url: str
    """`http://host:port` or `https://host:port`, without a path."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Share of the calls, in proportion to the other targets' weights; 0 drains it: no new calls go there."""
    zone: str | None = None
    """Where it runs, such as `eu-1a`, for balancers that prefer what is near."""

    @field_validator("url")
    @classmethod
    def _url_is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        beyond = parts.path not in ("", "/") or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or beyond:
            raise ValueError(f"not a target: {value!r} (write http://host:port or https://host:port, without a path)")
        if parts.username or parts.password:
            raise ValueError("a target's URL holds no user name or password")
        _ = parts.port  # raises ValueError for a port out of range
        return value

    @property
    def host(self) -> str:
        """The address or the name."""
        return urlsplit(self.url).hostname or ""

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return urlsplit(self.url).scheme == "https"


def check_targets(targets: Sequence[TargetOptions]) -> None:
    """Raises ValueError for a list that names a target twice, or drains all of them."""
    names = [Target(target).name for target in targets]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"target {min(twice)} is listed twice (give it a weight instead)")
    if not any(target.weight for target in targets):
        raise ValueError("every target is drained (give one a weight above 0)")


class TargetState:
    """What is known of a target. Each part belongs to whoever keeps it, and is made when that is first in use.

    `in_flight` is how much was sent and not yet answered, in weights of requests; only balancers that want feedback
    count it.
    """

    __slots__ = ("__weakref__", "in_flight", "observed", "record", "turn", "verdict")

    def __init__(self) -> None:
        self.in_flight = 0
        self.turn = 0  # balancing/weighted.py
        self.observed: Observed | None = None  # balancing/adaptive.py
        self.record: Record | None = None  # outlier.py
        self.verdict: Verdict | None = None  # probe.py


class Target:
    """One address of an upstream, ready to be connected to. `authority` is what its own Host field would say.

    `address` is given where a DNS name was resolved, and is then connected to in the name's place. `name` is what the
    target is called in metrics, and how it is known again. `secure` says that it speaks TLS, and `server_name` who has
    to be there then, whatever the address.
    """

    __slots__ = ("address", "authority", "host", "name", "port", "secure", "server_name", "state", "weight", "zone")

    def __init__(self, options: TargetOptions, *, address: str | None = None) -> None:
        parts = urlsplit(options.url)
        host = parts.hostname or ""
        self.host = address or host
        self.secure = options.secure
        self.server_name = host
        self.port = parts.port or (443 if self.secure else 80)
        self.authority = parts.netloc
        self.address = _joined(self.host, self.port)
        self.name = f"{parts.scheme}://{_joined(host, self.port)}" + (f" ({address})" if address else "")
        self.weight = options.weight
        self.zone = options.zone
        self.state = TargetState()

    def __repr__(self) -> str:
        return f"Target({self.name!r}, weight={self.weight})"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class TargetStates:
    """The states of all targets of a process. What no target holds any more is forgotten."""

    def __init__(self) -> None:
        self._states: WeakValueDictionary[tuple[str, str], TargetState] = WeakValueDictionary()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._states)

    def continue_with(self, upstream: str, target: Target) -> None:
        """Let a new target go on with the state that the same target of the same upstream has, if there is one."""
        target.state = self._states.setdefault((upstream, target.name), target.state)
