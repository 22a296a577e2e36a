"""Grammar: what requests and responses have in common on the wire (RFC 9112, RFC 9110).

A gate of regular expressions says whether the bytes of a head are valid at all, without any of the leniency that
request smuggling feeds on; only then is asked what they mean (`request_head.py`, `response_head.py`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from gateway.headers import TCHAR

TOKEN: Final = TCHAR.encode() + b"++"
_FIELD: Final = TOKEN + rb":[\t -~\x80-\xff]*+\r\n"
# Not possessive as a whole: a group that is matches too much in Python before 3.11.5 (CPython issue 100061).
FIELD_LINES: Final = re.compile(rb"((?:" + _FIELD + rb")*)\r\n")
"""What follows the first line of a head: the fields, and the empty line that ends it."""
# What no valid head contains, wherever it is cut: a line feed alone, a carriage return alone, a control character.
NEVER_IN_HEAD: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A registered name without the characters that DNS does not have and lists do: `a,b` is two hosts to some readers.
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[\-._~0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(?::(\d{0,5}))?")
LENGTH: Final = re.compile(r"\d{1,18}")

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that are meant for the next reader alone (RFC 9110 §7.6.1)."""
NEVER_NAMED: Final = frozenset(
    {
        "",
        "authorization",
        "close",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "keep-alive",
        "set-cookie",
        "te",
    }
)
"""Members of Connection that are no field names, and fields that no message can do without."""

CRLF: Final = "\r\n"
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@lru_cache(maxsize=4096)
def valid_host(host: str) -> bool:
    """Whether this is `host` or `host:port` as RFC 3986 §3.2.2 writes them, with a port that exists."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 65535:
        return False
    try:
        IPv6Address(match[1] or "::")
    except ValueError:
        return False
    return True


def host_name(authority: str) -> str:
    """The host of `host:port`, in lower case and without a final dot."""
    host = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
    return host.lower().rstrip(".") if not host.startswith("[") else host.lower()


@lru_cache(maxsize=1024)
def options_of(value: str) -> frozenset[str]:
    """The members of a list such as Connection's, in lower case and without parameters."""
    return frozenset(option.partition(";")[0].strip().lower() for option in value.split(","))


def chunk(data: bytes) -> bytes:
    """A piece of a body in the chunked coding (RFC 9112 §7.1); never for empty data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[tuple[str, str]]) -> bytes:
    """The end of a chunked body, with its trailer fields."""
    if not trailers:
        return b"0\r\n\r\n"
    return f"0\r\n{''.join(f'{name}: {value}{CRLF}' for name, value in trailers)}\r\n".encode("latin-1")
