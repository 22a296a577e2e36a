"""Meters: what can be counted, as the configuration says it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from gateway.header_options import FieldName
from gateway.options import Options

PlainMeter: TypeAlias = Literal["requests", "bytes_in", "bytes_out", "messages_in", "messages_out"]
"""A quantity that the gateway counts itself."""


def _not_plain(name: str) -> str:
    if name in get_args(PlainMeter):
        raise ValueError(f"{name} is counted by the gateway itself (write `- {name}`, or give this meter another name)")
    return name


MeterName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$"), AfterValidator(_not_plain)]


class HeaderMeter(Options):
    """A quantity that the upstream says in a header field."""

    name: MeterName
    """The meter."""
    from_: Literal["response_header"] = Field(alias="from")
    """Where the quantity comes from."""
    header: FieldName
    """The header field; its value is a whole number."""
    estimate: int = Field(default=0, ge=0)
    """Booked if the number is missing or the process dies before it is known."""


class JsonMeter(Options):
    """A quantity that the upstream says in the JSON of its answer; in the last event that has it, if it streams."""

    name: MeterName
    """The meter."""
    from_: Literal["response_json"] = Field(alias="from")
    """Where the quantity comes from."""
    path: str = Field(min_length=1, pattern=r"^[^.]+(\.[^.]+)*$")
    """Keys and indexes, joined by dots: `usage.total_tokens`, `choices.0.index`."""
    estimate: int = Field(default=0, ge=0)
    """Booked if the number is missing or the process dies before it is known."""


_TOLD: Final = {"response_header": "HeaderMeter", "response_json": "JsonMeter"}


def _says_from_where(meter: Any) -> Any:
    if isinstance(meter, dict) and str(meter.get("from")) not in _TOLD:
        raise ValueError("where does the quantity come from? (write `from: response_header` or `from: response_json`)")
    return meter


def _kind_of(meter: Any) -> str:
    if isinstance(meter, dict):
        return _TOLD[meter["from"]]
    return type(meter).__name__ if isinstance(meter, Options) else "PlainMeter"


Meter: TypeAlias = Annotated[
    Annotated[PlainMeter, Tag("PlainMeter")]
    | Annotated[HeaderMeter, Tag("HeaderMeter")]
    | Annotated[JsonMeter, Tag("JsonMeter")],
    Discriminator(_kind_of),
    BeforeValidator(_says_from_where),
]
"""What is counted: by the gateway itself, or told by the answer."""
