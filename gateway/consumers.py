"""Consumers: who calls, and which organization pays for it."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from copy import copy
from types import MappingProxyType
from typing import Annotated, Final, Self, TypeAlias
from unicodedata import normalize

from pydantic import AfterValidator, Field, field_validator, model_validator

from gateway.options import Options
from gateway.passwords import check_hash
from gateway.permissions import Grants, PermissionText
from gateway.tls.certificate import Authorities

CONSUMER_FIELD: Final = "X-Tallygate-Consumer"
ORGANIZATION_FIELD: Final = "X-Tallygate-Organization"
USER_FIELD: Final = "X-Tallygate-User"
"""The header fields that tell an upstream who calls; a client's own are never believed."""

# What goes into a header field and a usage record: visible ASCII, of bounded length.
_NAME: Final = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
Name: TypeAlias = Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
SUBSCRIPTION: Final = re.compile(r"[!-~]{0,128}")
Subscription: TypeAlias = Annotated[str, Field(pattern=rf"^{SUBSCRIPTION.pattern}$")]
"""What usage is booked on; it may be left out."""
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

Roles: TypeAlias = Mapping[str, Iterable[str]]
"""Permissions by the name of the role that has them."""


CERTIFICATE_FIELDS: Final = ("fingerprint", "uri", "dns", "email", "subject")
"""What a certificate may be known by."""
CertificateFact: TypeAlias = tuple[str, str]
"""One of those, and its value."""


def _user(value: str) -> str:
    if not re.fullmatch(r"[^:\x00-\x1f\x7f-\x9f]{1,128}", value):
        raise ValueError("a user name has 1 to 128 characters, without colons and control characters (RFC 7617)")
    return normalize("NFC", value)


def _long_secret(value: str) -> str:
    try:
        secret = b64decode(value, validate=True)
    except ValueError:
        raise ValueError("not base64 (`openssl rand -base64 32` makes a secret)") from None
    if len(secret) < 32:
        raise ValueError("too short: at least 32 bytes, in base64 (`openssl rand -base64 32` makes a secret)")
    return value


def _fingerprint(value: str) -> str:
    digits = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("not a SHA-256 in hexadecimal: 64 digits are needed")
    return digits


class KeyOptions(Options):
    """One key of a fixed consumer. The key itself is never stored, only its hash. It is made by `tallygate keys new`;
    `tallygate key add` makes one of the control plane's, which stands in no configuration.
    """

    id: Name
    """Name of the key in usage records; safe to show."""
    sha256: str
    """SHA-256 of the key in hexadecimal, as `tallygate keys new` prints it."""

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise ValueError("not a SHA-256 in hexadecimal: 64 digits are needed (`tallygate keys new` prints one)")
        return value.lower()


class PasswordOptions(Options):
    """One password of a consumer. The password itself is never stored, only its hash."""

    id: Name
    """Name of the password in usage records; safe to show."""
    user: Annotated[str, AfterValidator(_user)] | None = None
    """The user name that goes with it; the id unless it says something else."""
    argon2id: Annotated[str, AfterValidator(check_hash)]
    """Argon2id hash of the password, as `tallygate passwords new` prints it."""

    @model_validator(mode="after")
    def _has_a_user(self) -> Self:
        _user(self.login)
        return self

    @property
    def login(self) -> str:
        """The user name that a client writes."""
        return self.user if self.user is not None else self.id


class HmacKeyOptions(Options):
    """A secret that a consumer signs requests with. It cannot be kept as a hash: checking a signature takes the secret
    itself, so who can read it can sign. Keep it in a file of its own.
    """

    id: Name
    """Name of the secret in signatures (`keyid`) and in usage records; safe to show."""
    secret: Annotated[str, AfterValidator(_long_secret)]
    """At least 32 random bytes in base64, as `openssl rand -base64 32` prints them; best as `${file:path}`."""


class CertificateOptions(Options):
    """A client certificate of a consumer, known by one thing that it says."""

    id: Name
    """Name of the certificate in usage records; safe to show."""
    fingerprint: Annotated[str, AfterValidator(_fingerprint)] | None = None
    """SHA-256 of the whole certificate in hexadecimal, with or without colons."""
    uri: str | None = None
    """A URI among its alternative names, such as the SPIFFE ID `spiffe://acme/robot`."""
    dns: Annotated[str, AfterValidator(str.lower)] | None = None
    """A DNS name among its alternative names."""
    email: str | None = None
    """A mail address among its alternative names."""
    subject: str | None = None
    """Its subject, whole, as RFC 4514 writes it: `CN=robot,O=Acme`."""
    issuer: Authorities | None = None
    """Certificate, in PEM, of the authority that must itself have signed it, such as `${file:partner.pem}`; null for
    any that the listener's `client_ca` stands for."""

    @model_validator(mode="after")
    def _known_by_one_thing(self) -> Self:
        if len(self.model_fields_set & set(CERTIFICATE_FIELDS)) != 1:
            raise ValueError(f"a certificate is known by exactly one of {', '.join(CERTIFICATE_FIELDS)}")
        return self

    @property
    def known_by(self) -> CertificateFact:
        """The thing and what it must be."""
        return next((field, value) for field in CERTIFICATE_FIELDS if (value := getattr(self, field)) is not None)


class ConsumerOptions(Options):
    """Somebody who calls, known by what he shows: keys, passwords, signatures or certificates."""

    name: Name
    """Who calls; appears in logs."""
    organization: Name
    """Who pays; usage is billed to it."""
    subscription: Subscription = ""
    """The subscription that usage is booked on."""
    keys: list[KeyOptions] = []
    """The consumer's API keys, hashed."""
    passwords: list[PasswordOptions] = []
    """The consumer's passwords, hashed, for `basic_auth`."""
    hmac_keys: list[HmacKeyOptions] = []
    """Secrets that the consumer signs requests with, for `hmac_auth`."""
    certificates: list[CertificateOptions] = []
    """The consumer's client certificates, for `mtls_auth`."""
    roles: list[Name] = []
    """Its roles: names of the section `roles`."""
    permissions: list[PermissionText] = []
    """What it may do beyond its roles, or with a leading `!` may not."""
    attributes: dict[Name, str] = {}
    """Other facts about it that conditions ask for, as `attribute.NAME`."""


class Consumer:
    """Who calls (`name`), who pays (`organization`), and the key that said so (`key` is its id, never the secret).

    `user` is the person behind it, if there is one. `roles`, `scopes` (of a token) and `permissions` are what it may
    do, as text, `grants` its permissions made ready; `attributes` are other facts about it, such as a certificate's
    subject.
    `identity` is the header lines that tell an upstream who calls. Raises ValueError for a name that cannot stand in a
    header line.
    """

    __slots__ = (
        *("attributes", "grants", "identity", "key", "name", "organization", "permissions", "plan_version", "roles"),
        *("scopes", "subscription", "user"),
    )

    def __init__(
        self,
        name: str,
        organization: str,
        subscription: str = "",
        plan_version: str = "",
        key: str = "",
        *,
        user: str = "",
        roles: frozenset[str] = frozenset(),
        scopes: frozenset[str] = frozenset(),
        permissions: tuple[str, ...] = (),
        attributes: Mapping[str, str] = _NONE,
    ) -> None:
        self.name = name
        self.organization = organization
        self.subscription = subscription
        self.plan_version = plan_version
        self.key = key
        self.user = user
        self.roles = roles
        self.scopes = scopes
        self.permissions = permissions
        self.grants = Grants.of(permissions)
        self.attributes = attributes
        said = {CONSUMER_FIELD: name, ORGANIZATION_FIELD: organization} | ({USER_FIELD: user} if user else {})
        for text in said.values():
            if not _NAME.fullmatch(text):
                raise ValueError("a name of a caller is visible ASCII, at most 128 characters")
        self.identity = "".join(f"{field}: {text}\r\n" for field, text in said.items()).encode("ascii")

    def having(self, attributes: Mapping[str, str]) -> Consumer:
        """The same with these attributes as well."""
        other = copy(self)
        other.attributes = {**self.attributes, **attributes}
        return other


class Consumers:
    """All consumers of the configuration, found by the SHA-256 of their key, and by what else they may show.

    `roles` are the configuration's.
    `passwords`: user name → (hash, consumer); `hmac_keys`: id → (secret, consumer); `certificates`: what they are
    known by → (who must have signed them, consumer). These are dictionaries on names that are no secrets.
    """

    def __init__(self, options: Iterable[ConsumerOptions] = (), roles: Roles = MappingProxyType({})) -> None:
        self._roles = roles
        self._by_digest: dict[bytes, Consumer] = {}
        self.passwords: dict[str, tuple[str, Consumer]] = {}
        self.hmac_keys: dict[str, tuple[bytes, Consumer]] = {}
        self.certificates: dict[CertificateFact, tuple[Authorities | None, Consumer]] = {}
        for who in options:
            for key in who.keys:
                self._by_digest[bytes.fromhex(key.sha256)] = self._consumer(who, key.id)
            for password in who.passwords:
                self.passwords[password.login] = password.argon2id, self._consumer(who, password.id)
            for hmac_key in who.hmac_keys:
                self.hmac_keys[hmac_key.id] = b64decode(hmac_key.secret), self._consumer(who, hmac_key.id)
            for certificate in who.certificates:
                self.certificates[certificate.known_by] = certificate.issuer, self._consumer(who, certificate.id)

    def _consumer(self, who: ConsumerOptions, key: str) -> Consumer:
        return Consumer(
            who.name,
            who.organization,
            who.subscription,
            "",
            key,
            roles=frozenset(who.roles),
            permissions=tuple(dict.fromkeys((*self.permissions_of(who.roles), *who.permissions))),
            attributes=MappingProxyType(who.attributes),
        )

    def permissions_of(self, roles: Iterable[str]) -> tuple[str, ...]:
        """The permissions of these roles, each once; a role that the configuration does not know has none."""
        return tuple(dict.fromkeys(text for role in roles for text in self._roles.get(role, ())))

    def by_key_digest(self, digest: bytes) -> Consumer | None:
        """The consumer whose key has this SHA-256, or None.

        A dictionary look-up on a digest leaks no timing about the key: to steer the comparison, one would have to
        steer SHA-256.
        """
        return self._by_digest.get(digest)
