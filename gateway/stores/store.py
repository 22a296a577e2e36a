"""Store: where the stores are, and the one exception that says a store did not answer."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.options import Duration, Options
from gateway.trouble import Trouble

EMBEDDED = "embedded"
"""The address that stands for a server which this program starts and stops itself."""


class StoreUnavailable(Trouble):
    """The store did not answer in time, refused, or could not be reached."""


def _redis_address(value: str) -> str:
    if value != EMBEDDED and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("not a Redis address (write embedded, redis://…, rediss://… or unix://…)")
    _check_ports(value, "redis://host:6379")
    return value


def _postgres_address(value: str) -> str:
    if value != EMBEDDED and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("not a PostgreSQL address (write embedded or postgresql://…)")
    _check_ports(value, "postgresql://host:5432/name")
    return value


def _check_ports(url: str, example: str) -> None:
    """Each host of the URL has a port that can be one, or none. What is said repeats nothing, as it may be secret."""
    hosts = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    for host in hosts.split(","):
        port = re.fullmatch(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::(\d{0,5}))?", host)
        if port is None or int(port[1] or 1) not in range(1, 65536):
            raise ValueError(f"what follows the host is no port (write {example})")


class StoresOptions(Options):
    """The servers that hold what several processes share."""

    redis: Annotated[str, AfterValidator(_redis_address)] = EMBEDDED
    """Redis or Valkey: `redis://`, `rediss://` or `unix://`, or `embedded` for one that starts and stops with `up`."""
    postgres: Annotated[str, AfterValidator(_postgres_address)] = EMBEDDED
    """PostgreSQL: `postgresql://`, or `embedded` for one that starts and stops with `up`. The edge never uses it."""
    deadline: Duration = Field(default=0.05, gt=0)
    """How long one call to Redis may take while a request waits for it."""
    directory: str = "var"
    """Directory of the embedded servers' files, relative to where the command runs."""
