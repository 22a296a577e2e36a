"""Certificate: what certificates, keys and revocation lists say, and why one cannot be used.

OpenSSL verifies peers; here their certificates are read, and our own files are looked at before they are needed, so
that what is wrong is said with the option that names the file. The one door to `cryptography`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import AfterValidator

MAX_FILE_BYTES: Final = 4 * 2**20
SOON_SECONDS: Final = 14 * 86400.0
"""A certificate that expires sooner is worth a warning."""
_REVOCATION_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


Option: TypeAlias = tuple[str | int, ...]
"""The way to an option from its block: `("client_ca",)`, `("certificates", 1, "key")`."""


class Unusable(Exception):
    """A file cannot be used. `option` is the one that names it, `text` says why."""

    def __init__(self, option: Option, text: str) -> None:
        super().__init__(f"{'.'.join(map(str, option))}: {text}")
        self.option = option
        self.text = text


@dataclass(frozen=True, slots=True)
class Presented:
    """A certificate that we present. `names` are the DNS names it is good for, in lower case, perhaps `*.example.com`;
    `expires_at` is when the first of its chain does, in seconds since the epoch. `warnings` are for an operator.
    """

    path: str
    names: tuple[str, ...]
    expires_at: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What the verified certificate of a client says about it.

    `subject` is its distinguished name (RFC 4514), such as `CN=robot,O=Acme`; the others are its subject alternative
    names: a SPIFFE ID is one of `uris`. `fingerprint` is the SHA-256 of the certificate, in hexadecimal, `issuer` the
    name of who issued it: any authority that is believed can call another one so (`is_signed_by` can not be deceived).
    """

    subject: str
    dns_names: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    fingerprint: str
    expires_at: float
    issuer: str = ""
    der: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def read(cls, der: bytes) -> ClientCertificate:
        """The certificate with this DER. Raises ValueError if it is not well-formed, whatever OpenSSL thinks of it."""
        certificate = x509.load_der_x509_certificate(der)
        return cls(
            certificate.subject.rfc4514_string(),
            _alternative_names(certificate, x509.DNSName),
            _alternative_names(certificate, x509.UniformResourceIdentifier),
            _alternative_names(certificate, x509.RFC822Name),
            certificate.fingerprint(SHA256()).hex(),
            certificate.not_valid_after_utc.timestamp(),
            certificate.issuer.rfc4514_string(),
            der,
        )

    def is_signed_by(self, authorities: str) -> bool:
        """Whether one of these certificates (PEM) is the one whose key has signed this one."""
        own = x509.load_der_x509_certificate(self.der)
        for authority in x509.load_pem_x509_certificates(authorities.encode()):
            try:
                own.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False


def _authorities(text: str) -> str:
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise ValueError("not certificates in PEM that can be read: write `${file:authority.pem}`") from None
    return text


Authorities: TypeAlias = Annotated[str, AfterValidator(_authorities)]
"""Certificates of authorities in PEM, as an option."""


def present(certificate: str, key: str, passphrase: str | None, options: Sequence[Option], now: float) -> Presented:
    """Look at a certificate with its chain, leaf first, and its key. `options` are those that name the three.

    `now` is in seconds since the epoch. Raises Unusable.
    """
    chain = _certificates(options[0], certificate)
    _check_key(chain[0], key, passphrase, options)
    for place, member in enumerate(chain):
        _check_time(options[0], member, "it" if place == 0 else f"certificate {place + 1} of its chain", now)
    expires_at = min(member.not_valid_after_utc.timestamp() for member in chain)
    warnings = []
    if expires_at - now < SOON_SECONDS:
        warnings.append(f"certificate {certificate} expires on {_date(expires_at)}")
    if os.stat(key).st_mode & stat.S_IROTH:
        warnings.append(f"key {key} can be read by everybody on this machine (chmod o-r)")
    names = _names(options[0], chain[0])
    return Presented(certificate, names, expires_at, tuple(warnings))


def check_authorities(option: Option, path: str, now: float) -> None:
    """Look at a bundle of certificates of authorities; at least one must be valid now. Raises Unusable."""
    if all(member.not_valid_after_utc.timestamp() <= now for member in _certificates(option, path)):
        raise Unusable(option, "every certificate in it has expired")


def check_revocation_lists(option: Option, path: str, now: float) -> None:
    """Look at revocation lists in PEM. Raises Unusable."""
    lists = _REVOCATION_LIST.findall(_content(option, path))
    if not lists:
        raise Unusable(option, "holds no revocation list in PEM")
    for block in lists:
        try:
            due = x509.load_pem_x509_crl(block).next_update_utc
        except ValueError as error:
            raise Unusable(option, f"holds a revocation list that cannot be read ({error})") from None
        if due is not None and due.timestamp() <= now:
            # OpenSSL would refuse every client.
            raise Unusable(option, f"it was to be replaced by {_date(due.timestamp())}")


def _content(option: Option, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Unusable(option, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise Unusable(option, f"is larger than {MAX_FILE_BYTES // 2**20}MiB")
    return content


def _certificates(option: Option, path: str) -> list[x509.Certificate]:
    """At least one."""
    try:
        return x509.load_pem_x509_certificates(_content(option, path))
    except ValueError:
        raise Unusable(option, "holds no certificate in PEM that can be read") from None


def _check_key(leaf: x509.Certificate, path: str, passphrase: str | None, options: Sequence[Option]) -> None:
    _, option, passphrase_option = options
    content = _content(option, path)
    try:
        key = load_pem_private_key(content, passphrase.encode() if passphrase is not None else None)
    except TypeError:  # how `cryptography` says that there is a passphrase but none is needed, or the other way round
        if passphrase is not None:
            raise Unusable(passphrase_option, "the key is not encrypted: it needs no passphrase") from None
        raise Unusable(option, f"is encrypted: give its passphrase as `{passphrase_option[-1]}`") from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is not None and b"ENCRYPTED" in content:
            raise Unusable(passphrase_option, "is not the passphrase of the key") from None
        raise Unusable(option, "holds no private key in PEM that can be read") from None
    if _public(key.public_key()) != _public(leaf.public_key()):
        raise Unusable(option, "does not belong to the first certificate of the chain")


def _public(key: Any) -> bytes:
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def _check_time(option: Option, certificate: x509.Certificate, which: str, now: float) -> None:
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if ends <= now:
        raise Unusable(option, f"{which} expired on {_date(ends)}")
    if begins > now:
        raise Unusable(option, f"{which} is not valid before {_date(begins)}")


def _names(option: Option, leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        return tuple(name.lower().rstrip(".") for name in _alternative_names(leaf, x509.DNSName))
    except ValueError as error:
        raise Unusable(option, f"its names cannot be read ({error})") from None


def _alternative_names(
    certificate: x509.Certificate, kind: type[x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name]
) -> tuple[str, ...]:
    """Raises ValueError."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value.get_values_for_type(kind))


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
