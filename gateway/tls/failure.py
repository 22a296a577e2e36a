"""Failure: why a handshake came to nothing, as one word for a metric and in plain words for a person."""

from __future__ import annotations

import re
from ssl import SSLCertVerificationError, SSLError
from typing import Final, Literal, TypeAlias

Reason: TypeAlias = Literal[
    "plain_http",
    "not_tls",
    "version",
    "cipher",
    "no_certificate",
    "certificate_expired",
    "certificate_revoked",
    "certificate_unknown",
    "certificate_invalid",
    "refused_by_peer",
    "renegotiation",
    "closed",
    "unfinished",
    "other",
]
"""`certificate_unknown`: of an authority that is not trusted here; `certificate_invalid`: any other fault of the peer's
certificate; `renegotiation`: it wanted a second handshake; `refused_by_peer`: it sent an alert; `closed`: it left;
`unfinished`: we closed, as it took too long.
"""

_BY_OPENSSL: Final[dict[str, Reason]] = {
    "HTTP_REQUEST": "plain_http",
    "HTTPS_PROXY_REQUEST": "plain_http",
    "WRONG_VERSION_NUMBER": "not_tls",
    "RECORD_LAYER_FAILURE": "not_tls",
    "PACKET_LENGTH_TOO_LONG": "not_tls",
    "UNEXPECTED_MESSAGE": "not_tls",
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "NO_PROTOCOLS_AVAILABLE": "version",
    "NO_SHARED_CIPHER": "cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "cipher",
    "NO_SUITABLE_KEY_SHARE": "cipher",
    "NO_SUITABLE_GROUPS": "cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
}
# X509_V_ERR_… of openssl/x509_vfy.h
_BY_VERIFICATION: Final[dict[int, Reason]] = {
    10: "certificate_expired",
    23: "certificate_revoked",
    2: "certificate_unknown",
    18: "certificate_unknown",
    19: "certificate_unknown",
    20: "certificate_unknown",
    21: "certificate_unknown",
    27: "certificate_unknown",
}
_FRAME: Final = re.compile(r"^\[[^\]]*\] ?|\.?\s*\(_ssl\.c:\d+\)$")
"""What Python puts around OpenSSL's words."""


class HandshakeFailed(OSError):
    """There is no TLS on this connection. The text says why."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def handshake_failed(error: SSLError) -> HandshakeFailed:
    """What OpenSSL found wrong."""
    return HandshakeFailed(_reason(error), in_words(error))


def in_words(error: SSLError) -> str:
    """`TLS: certificate verify failed: certificate has expired` and the like."""
    return f"TLS: {_FRAME.sub('', str(error))}"


def _reason(error: SSLError) -> Reason:
    if isinstance(error, SSLCertVerificationError):
        return _BY_VERIFICATION.get(error.verify_code, "certificate_invalid")
    name = error.reason or ""
    if "_ALERT_" in name:
        return "refused_by_peer"
    return _BY_OPENSSL.get(name, "other")
