"""Digest: what Content-Digest says of a body (RFC 9530), and whether that is so."""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import Final

from gateway.headers import Headers
from plugins.hmac_auth.structured_fields import Item, read_dictionary

_ALGORITHMS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


def read_digests(headers: Headers) -> dict[str, bytes]:
    """Each digest that can be checked, by its algorithm. Raises ValueError if there is none, or it is not well-formed.

    Others are passed over: the RFC has senders give several, and calls md5 and its kind insecure.
    """
    members = read_dictionary(", ".join(headers.getall("content-digest")))
    found: dict[str, bytes] = {}
    for algorithm, member in members.items():
        if not isinstance(member, Item) or not isinstance(member.value, bytes):
            raise ValueError("a digest is a sequence of bytes")
        if algorithm in _ALGORITHMS:
            found[algorithm] = member.value
    if not found:
        raise ValueError("no digest that can be checked")
    return found


def holds(digests: dict[str, bytes], body: bytes) -> bool:
    """Whether all of these are digests of this body."""
    return all(compare_digest(_ALGORITHMS[name](body).digest(), value) for name, value in digests.items())
