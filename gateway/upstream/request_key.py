"""Request key: what says that requests belong together: a field, a cookie, who calls, or from where.

Hashes of it are the same in every process and on every machine, today and tomorrow; Python's own are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TypeAlias

from pydantic import model_validator

from gateway.cookie import CookieName, read_cookie
from gateway.exchange import Request
from gateway.header_options import FieldName
from gateway.options import Options

KeyReader: TypeAlias = Callable[[Request], bytes | None]
"""The key of a request, None where it has none."""


class RequestKeyOptions(Options):
    """What makes requests belong together: exactly one of these."""

    header: FieldName | None = None
    """The value of this header field."""
    cookie: CookieName | None = None
    """The value of this cookie."""
    consumer: bool = False
    """The consumer that authentication named."""

    @model_validator(mode="after")
    def _there_is_one(self) -> RequestKeyOptions:
        if (self.header is not None) + (self.cookie is not None) + self.consumer != 1:
            raise ValueError("needs exactly one key (write `header: name`, `cookie: name` or `consumer: true`)")
        return self

    def reader(self) -> KeyReader:
        """What reads this key from a request."""
        if self.header is not None:
            return _header_reader(self.header)
        if self.cookie is not None:
            return _cookie_reader(self.cookie)
        return _consumer


def client_address(request: Request) -> bytes | None:
    """The client's address; of an IPv6 one the network, within which devices change theirs at will (RFC 8981)."""
    return _network(request.client) if request.client else None


def _header_reader(name: str) -> KeyReader:
    def read(request: Request) -> bytes | None:
        value = request.headers.get(name)
        return value.encode("latin-1") if value else None

    return read


def _cookie_reader(name: str) -> KeyReader:
    def read(request: Request) -> bytes | None:
        value = read_cookie(request.headers, name)
        return value.encode("latin-1") if value else None

    return read


def _consumer(request: Request) -> bytes | None:
    return request.identity or None


@lru_cache(maxsize=4096)
def _network(client: str) -> bytes:
    try:
        address = ip_address(client)
    except ValueError:
        return client.encode()
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:8]
    return address.packed
