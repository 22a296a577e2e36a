"""Know the consumer by the certificate that the client has shown in the TLS handshake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from gateway.authentication import Authenticator, NotOurs, Realm
from gateway.consumers import CertificateFact, Consumer, Subscription
from gateway.exchange import Exchange
from gateway.expiring import Expiring
from gateway.headers import Headers, twins
from gateway.metrics import GaugePart
from gateway.options import Options
from gateway.plugin import PluginConfig
from gateway.services import Services
from gateway.template import compiled
from gateway.tls.certificate import Authorities, ClientCertificate

_TELLING: Final = ("client-cert", "client-cert-chain", "x-forwarded-client-cert")
_PRETENDED: Final = frozenset(spelling for name in _TELLING for spelling in (name, *twins(name)))
"""Fields by which proxies tell of certificates (RFC 9440, Envoy). Nobody who sends them here is believed."""
_HOUR: Final = 3600.0
_ASKED: Final = 4096

_FACTS: Final[Mapping[str, Callable[[ClientCertificate], tuple[str, ...]]]] = {
    "certificate.fingerprint": lambda certificate: (certificate.fingerprint,),
    "certificate.uri": lambda certificate: certificate.uris,
    "certificate.dns": lambda certificate: tuple(map(str.lower, certificate.dns_names)),
    "certificate.email": lambda certificate: certificate.emails,
    "certificate.subject": lambda certificate: (certificate.subject,),
    "certificate.issuer": lambda certificate: (certificate.issuer,),
}
"""What a certificate says: by its name in templates and attributes and, less the prefix, under `consumers`."""


def _without_pretended(headers: Headers) -> None:
    for name, _ in headers.pick(_PRETENDED):
        del headers[name]


def _fact(name: str) -> Callable[[ClientCertificate], tuple[str, ...]]:
    if name not in _FACTS:
        raise ValueError(f"unknown name {{{name}}} (there are {', '.join(_FACTS)})")
    return _FACTS[name]


def _template(text: str) -> str:
    compiled(text, _fact)
    return text


CertificateTemplate = Annotated[str, AfterValidator(_template)]


class MappingOptions(Options):
    """Who the holder is of a certificate that is not under `consumers`. In braces stands what the certificate says:
    `{certificate.dns}`, `.uri`, `.email`, `.subject`, `.issuer` or `.fingerprint`. A certificate that does
    not say just one such thing, or not in visible ASCII, is refused.
    """

    name: CertificateTemplate
    """Who calls, such as `{certificate.dns}`."""
    organization: CertificateTemplate
    """Who pays."""
    subscription: Subscription = ""
    """The subscription that usage is booked on."""


class Config(PluginConfig):
    """Whose certificates are taken: those under `consumers` and, if there is a mapping, all others that are valid."""

    issuers: list[Authorities] = []
    """Certificates, in PEM, of the authorities of which one must itself have signed the caller's, such as
    `["${file:partner.pem}"]`. Without, any will do that the `client_ca` of the listener stands for."""
    mapping: MappingOptions | None = None
    """Makes a consumer of any certificate that the `client_ca` of a listener stands for; null for none."""
    realm: Realm = "tallygate"
    """What a refusal calls the protected area."""


class MtlsAuth(Authenticator[Config]):
    """The certificate is the one of this very connection, verified against the listener's `client_ca`; header fields
    that tell of another are taken out. What a certificate says becomes attributes of the consumer.

    One that two consumers could call theirs is refused, and so is one that has expired since the handshake. Where
    several authorities are believed, each could give out the names of the others: `issuers`, and `issuer` of a
    certificate under `consumers`, hold them apart. In `any_of`, what other `issuers` signed is left for the others.
    """

    needs_client_certificates = True
    disbelieved = _PRETENDED

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self.challenge = f'Certificate realm="{config.realm}"'
        self._consumers = services.consumers.certificates
        size = services.metrics.gauge(
            "tallygate_mtls_auth_remembered", "Client certificates whose holder is remembered."
        )
        self._known: Expiring[Consumer | Literal[False]] = Expiring(_ASKED, services.clock.monotonic, GaugePart(size))

    async def start(self) -> None:
        self._known.retain()

    async def stop(self) -> None:
        self._known.release()

    def authenticate(self, exchange: Exchange) -> Consumer | NotOurs | None:
        request = exchange.request
        request.headers.once(_without_pretended)
        certificate = request.certificate
        if certificate is None:
            return None
        if certificate.expires_at <= exchange.admitted_at / 1e6:
            raise self.refusal()
        consumer = self._known.get(certificate.fingerprint)
        if consumer is None:
            ours = not self.config.issuers or any(map(certificate.is_signed_by, self.config.issuers))
            consumer = ours and self._holder(certificate)
            self._known.put(certificate.fingerprint, consumer, _HOUR)
        return NotOurs(self) if consumer is False else consumer

    def _holder(self, certificate: ClientCertificate) -> Consumer:
        """Raises Unauthorized for a certificate that is nobody's."""
        found = [self._consumers[fact] for fact in facts_of(certificate) if fact in self._consumers]
        known = [consumer for issuer, consumer in found if issuer is None or certificate.is_signed_by(issuer)]
        try:
            consumer = known[0] if known else self._mapped(certificate)
        except ValueError:
            raise self.refusal() from None
        if any(other.name != consumer.name for other in known):
            raise self.refusal()
        return consumer.having({name: ", ".join(read(certificate)) for name, read in _FACTS.items()})

    def _mapped(self, certificate: ClientCertificate) -> Consumer:
        """Raises ValueError for a certificate that does not say what the mapping asks for."""
        mapping = self.config.mapping
        if mapping is None:
            raise ValueError("nobody's certificate")
        name, organization = _filled(mapping.name, certificate), _filled(mapping.organization, certificate)
        return Consumer(name, organization, mapping.subscription, "", certificate.fingerprint[:16])


def facts_of(certificate: ClientCertificate) -> Iterator[CertificateFact]:
    """All that a certificate may be known by, the narrowest first."""
    for name, read in _FACTS.items():
        yield from ((name.removeprefix("certificate."), value) for value in read(certificate))


def _filled(template: str, certificate: ClientCertificate) -> str:
    form, readers = compiled(template, _fact)
    values = [read(certificate) for read in readers]
    if any(len(value) != 1 for value in values):
        raise ValueError("not said, or said more than once")
    return form % tuple([value[0] for value in values])
