"""Header options: what the configuration may say about header fields, checked when it is read."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

from gateway.headers import valid_field
from gateway.http1.grammar import HOP_BY_HOP

_FRAMING: Final = HOP_BY_HOP | {"content-length", "host"}
# Said by the gateway on every request that goes upstream (`forwarding.py`); a field set here would be taken out there.
_OURS: Final = frozenset({"expect", "forwarded", "max-forwards", "proxy", "x-real-ip"})
_OURS_BEGIN: Final = ("x-forwarded-", "x-tallygate-")


def _name(name: str) -> str:
    if not valid_field(name, ""):
        raise ValueError(f"not the name of a header field: {name!r}")
    return name


def _settable(name: str) -> str:
    if _name(name).lower() in _FRAMING:
        raise ValueError(f"{name} frames or directs the message itself; the gateway sets it")
    return name


def _settable_on_requests(name: str) -> str:
    lower = _settable(name).lower()
    if lower in _OURS or lower.startswith(_OURS_BEGIN):
        raise ValueError(f"{name} tells the upstream where a request came from; the gateway sets it")
    if "_" in name:
        raise ValueError(f"{name} may be taken for {name.replace('_', '-')}, which upstreams may trust: write dashes")
    return name


def _value(value: str) -> str:
    if not valid_field("x", value):
        raise ValueError(f"not the value of a header field: {value!r}")
    return value


FieldName: TypeAlias = Annotated[str, AfterValidator(_name)]
"""The name of a header field."""
RequestFieldName: TypeAlias = Annotated[str, AfterValidator(_settable_on_requests)]
"""The name of a header field that may be changed on a request to an upstream."""
ResponseFieldName: TypeAlias = Annotated[str, AfterValidator(_settable)]
"""The name of a header field that may be changed on a response."""
FieldValue: TypeAlias = Annotated[str, AfterValidator(_value)]
"""The value of a header field."""
