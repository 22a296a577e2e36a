"""Members: the kinds of values that the API's objects are made of, each with what it may be."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from gateway.permissions import PermissionText

MOST: Final = 100
"""Entries of any list that a client may send."""
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _within_reason(value: datetime) -> datetime:
    if not datetime(2000, 1, 1, tzinfo=UTC) < value < datetime(9000, 1, 1, tzinfo=UTC) - timedelta(days=1):
        raise ValueError("not a year between 2000 and 9000")
    return value


def _network(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F.:]+(/\d{1,3})?", text):
        raise ValueError("not a network in CIDR notation: write 192.0.2.0/24 or 2001:db8::/32")
    return str(ip_network(text))


def _written(value: object) -> datetime:
    """RFC 3339, and nothing else that could be taken for a point in time, such as a number."""
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError:
        pass  # such as the thirtieth of February
    raise ValueError("not a point in time with its offset: write 2026-01-31T12:00:00Z")  # pydantic reports these


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$", description="It never changes.", examples=["acme"])
]
"""How a thing is called in paths, in usage records and in header fields."""
_UNREADABLE: Final = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""What a terminal obeys, and what turns the text around it about."""
Title = Annotated[str, Field(pattern=f"^[^{_UNREADABLE}]{{0,200}}$")]
"""What people read."""
Email = Annotated[str, Field(pattern=f"^[^{_UNREADABLE}@ ]{{1,64}}@[^{_UNREADABLE}@ ]{{1,189}}$")]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written), AfterValidator(_within_reason)]
"""A point in time (RFC 3339), with its offset."""
Instant = Annotated[datetime, Field(strict=False)]
"""A point in time that only we say."""
Permission = Annotated[PermissionText, Field(min_length=1, max_length=800)]
"""`resource:action`, `!` before it to deny, ` if …` behind it for a condition."""
Network = Annotated[str, Field(min_length=1, max_length=50), AfterValidator(_network)]
"""An address or a network in CIDR notation."""
RouteName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")]
Roles = Annotated[list[Name], Field(max_length=MOST)]
Permissions = Annotated[list[Permission], Field(max_length=MOST)]
