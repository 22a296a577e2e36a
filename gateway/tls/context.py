"""Context: what is agreed on with any peer, whichever side we are on: versions, ciphers, and HTTP/1.1."""

from __future__ import annotations

import ssl
from ssl import SSLContext, TLSVersion
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from gateway.tls.certificate import Option, Unusable

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: keys that are gone when the connection is, and AEAD (RFC 9325 §4.2). TLS 1.3 has no others."""

MinVersion = Annotated[
    Literal["1.2", "1.3"], BeforeValidator(lambda value: str(value) if isinstance(value, float) else value)
]
"""YAML takes `1.3` for a number."""
_VERSIONS: Final = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}


def new_context(protocol: int, min_version: str) -> SSLContext:
    """`protocol` is ssl.PROTOCOL_TLS_SERVER or ssl.PROTOCOL_TLS_CLIENT."""
    context = SSLContext(protocol)
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def load_key_pair(context: SSLContext, certificate: str, key: str, passphrase: str | None, option: Option) -> None:
    """Raises Unusable, about `option`."""
    try:
        context.load_cert_chain(certificate, key, passphrase or "")  # with None OpenSSL would ask in the terminal
    except OSError as error:
        raise Unusable(option, f"OpenSSL does not take it with its key: {_words(error)}") from None


def load_authorities(context: SSLContext, path: str, option: Option) -> None:
    """Certificates or revocation lists. Raises Unusable, about `option`."""
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise Unusable(option, f"OpenSSL does not take it: {_words(error)}") from None


def _words(error: Any) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
