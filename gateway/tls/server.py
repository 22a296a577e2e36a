"""Server: TLS of a listener: which certificate a client is shown, which clients are believed, and why some are not."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from ssl import SSLContext, SSLObject
from typing import TYPE_CHECKING, Final, Literal

from pydantic import model_validator

from gateway.clock import Clock
from gateway.options import Options
from gateway.tls.certificate import (
    ClientCertificate,
    Option,
    Presented,
    check_authorities,
    check_revocation_lists,
    present,
)
from gateway.tls.context import MinVersion, load_authorities, load_key_pair, new_context
from gateway.tls.failure import HandshakeFailed, Reason
from gateway.tls.renewal import Made, Renewal
from gateway.tls.stream import TlsStream

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.downstream.secure_connection import SecureConnection
    from gateway.metrics import Metrics

REPORT_SECONDS: Final = 60.0
"""How often failed handshakes are told to the log, all in one line."""

log = logging.getLogger(__name__)


class CertificateOptions(Options):
    """A certificate and its key, in PEM. Paths are seen from where the gateway is started."""

    certificate: str
    """File with the certificate, and after it those of its chain."""
    key: str
    """File with the certificate's private key."""
    passphrase: str | None = None
    """The key's passphrase, such as `${file:/run/secrets/passphrase}`."""


class ListenerTlsOptions(Options):
    """HTTPS. Files are PEM, their paths are seen from where the gateway is started, and changes are taken without a
    restart.
    """

    certificate: str | None = None
    """File with the certificate, and after it those of its chain."""
    key: str | None = None
    """File with the certificate's private key."""
    passphrase: str | None = None
    """The key's passphrase, such as `${file:/run/secrets/passphrase}`."""
    certificates: list[CertificateOptions] = []
    """Several certificates in place of one: the client's SNI picks one by its names, the first is for all others."""
    min_version: MinVersion = "1.2"
    """Oldest version of TLS that is spoken."""
    client_ca: str | None = None
    """File with the certificates of the authorities that clients' certificates must be of (mTLS)."""
    client_auth: Literal["required", "optional"] = "required"
    """Whether a client without a certificate is let in. One with a certificate that is not valid never is."""
    client_crl: str | None = None
    """File with the revocation lists of the authorities that issue clients' certificates, one of each."""

    @model_validator(mode="after")
    def _fits_together(self) -> ListenerTlsOptions:
        if bool(self.certificates) == (self.certificate is not None):
            raise ValueError("needs either `certificate` and `key`, or a list of them under `certificates`")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` belong together")
        if self.passphrase is not None and self.key is None:
            raise ValueError("`passphrase` belongs to a `key` (write it into the list)")
        if self.client_ca is None and self.model_fields_set & {"client_auth", "client_crl"}:
            raise ValueError("clients' certificates are not asked for without `client_ca`")
        return self

    @property
    def key_pairs(self) -> Sequence[CertificateOptions]:
        """All certificates with their keys, the one for unknown names first."""
        if self.certificate is None or self.key is None:
            return self.certificates
        return [CertificateOptions(certificate=self.certificate, key=self.key, passphrase=self.passphrase)]

    @property
    def terms(self) -> tuple[object, ...]:
        """What a client must bring to be let in."""
        return self.min_version, self.client_ca, self.client_auth, self.client_crl

    @property
    def files(self) -> list[str]:
        """All files that count."""
        pairs = [file for pair in self.key_pairs for file in (pair.certificate, pair.key)]
        return [*pairs, *filter(None, (self.client_ca, self.client_crl))]


def make_server_context(options: ListenerTlsOptions, clock: Clock) -> Made:
    """What a listener presents and believes, from its files. Raises Unusable."""
    now = clock.nanos() / 1e9
    if options.client_ca is not None:
        check_authorities(("client_ca",), options.client_ca, now)
    if options.client_crl is not None:
        check_revocation_lists(("client_crl",), options.client_crl, now)
    contexts: list[SSLContext] = []
    presented: list[Presented] = []
    for place, pair in enumerate(options.key_pairs):
        block: Option = ("certificates", place) if options.certificates else ()
        named = [(*block, name) for name in ("certificate", "key", "passphrase")]
        presented.append(present(pair.certificate, pair.key, pair.passphrase, named, now))
        context = new_context(ssl.PROTOCOL_TLS_SERVER, options.min_version)
        load_key_pair(context, pair.certificate, pair.key, pair.passphrase, named[0])
        _believe(context, options)
        contexts.append(context)
    if len(contexts) > 1:
        contexts[0].sni_callback = _picker(contexts, presented)
    return Made(contexts[0], presented, [warning for each in presented for warning in each.warnings])


def _believe(context: SSLContext, options: ListenerTlsOptions) -> None:
    if options.client_ca is None:
        return
    context.verify_mode = ssl.CERT_REQUIRED if options.client_auth == "required" else ssl.CERT_OPTIONAL
    load_authorities(context, options.client_ca, ("client_ca",))
    if options.client_crl is not None:
        load_authorities(context, options.client_crl, ("client_crl",))
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _picker(
    contexts: Sequence[SSLContext], presented: Sequence[Presented]
) -> Callable[[SSLObject, str | None, SSLContext], None]:
    """Changes a handshake over to the context with the certificate for the name that the client asks for.

    Of several certificates for a name the first counts, and an exact name before `*`, which stands for one label
    (RFC 9525 §6.3). Handshakes begin with the first of the contexts.
    """
    by_name: dict[str, SSLContext | None] = dict.fromkeys(presented[0].names)
    for context, certificate in zip(contexts[1:], presented[1:], strict=True):
        for name in certificate.names:
            by_name.setdefault(name, context)

    def pick(handshake: SSLObject, name: str | None, _: SSLContext) -> None:
        if name is not None:
            name = name.lower().rstrip(".")
            context = by_name.get(name, by_name.get("*." + name.partition(".")[2]))
            if context is not None:
                handshake.context = context

    return pick


async def following_context(
    options: ListenerTlsOptions, owner: str, *, background: Background, clock: Clock, metrics: Metrics
) -> SSLContext:
    """For a server that keeps the context it begins with: every handshake goes on with what the files say by then.

    `owner` is what it is called in logs and metrics. Raises Unusable.
    """
    renewal = Renewal(owner, options.files, lambda: make_server_context(options, clock), metrics)
    await renewal.start(background)
    door = new_context(ssl.PROTOCOL_TLS_SERVER, options.min_version)
    _believe(door, options)
    door.num_tickets = 0  # a session that is resumed would not be asked again for what counts by then
    door.options |= ssl.OP_NO_TICKET

    def go_on(handshake: SSLObject, name: str | None, _: SSLContext) -> None:
        current = handshake.context = renewal.context
        if name is not None and current.sni_callback is not None:
            current.sni_callback(handshake, name, current)

    door.sni_callback = go_on
    return door


class ServerTls:
    """TLS of one listener."""

    def __init__(
        self, options: ListenerTlsOptions, bind: str, *, background: Background, clock: Clock, metrics: Metrics
    ) -> None:
        """`background` is its own."""
        self.options = options
        self.bind = bind
        self.clock = clock
        self._background = background
        self._renewal = Renewal(bind, options.files, lambda: make_server_context(options, clock), metrics)
        self._failures = metrics.counter(
            "tallygate_tls_handshake_failures_total", "TLS handshakes that failed, by reason.", ("bind", "reason")
        )
        self._handshakes = metrics.counter(
            "tallygate_tls_handshakes_total", "TLS handshakes that succeeded, by version.", ("bind", "version")
        )
        self._unreported: dict[Reason, tuple[int, str]] = {}

    async def start(self) -> None:
        """Read the files, begin to look whether they change, and to tell the log of failures. Raises Unusable."""
        await self._renewal.start(self._background)
        self._background.every(REPORT_SECONDS, self._report, f"failed handshakes of {self.bind}")

    async def stop(self) -> None:
        """No handshake begins with it any more."""
        await self._background.stop()
        self._report()
        self._renewal.leave()

    def stream(self, connection: SecureConnection) -> ClientStream:
        """What stands between a client's socket and its connection."""
        return ClientStream(self, connection, self._renewal.context)

    def count(self, handshake: SSLObject) -> None:
        """A handshake has succeeded."""
        self._handshakes.labels(self.bind, handshake.version() or "").inc()

    def count_failure(self, failure: HandshakeFailed, peer: str) -> None:
        """A handshake has failed. What scans and broken clients do must not fill a log: it is told once a minute."""
        self._failures.labels(self.bind, failure.reason).inc()
        count, _ = self._unreported.get(failure.reason, (0, ""))
        self._unreported[failure.reason] = count + 1, peer

    def _report(self) -> None:
        failed, self._unreported = self._unreported, {}
        if failed:
            words = ", ".join(f"{reason} {count} (last from {peer})" for reason, (count, peer) in failed.items())
            log.warning("%s: TLS handshakes failed within a minute: %s", self.bind, words)


class ClientStream(TlsStream):
    """TLS towards a client."""

    def __init__(self, tls: ServerTls, connection: SecureConnection, context: SSLContext) -> None:
        super().__init__(connection, context)
        self._tls = tls
        self._connection = connection

    def succeeded(self) -> None:
        self._connection.certificate = self._certificate()
        self._tls.count(self.ssl)

    def failed(self, failure: HandshakeFailed) -> None:
        self._tls.count_failure(failure, self._connection.peer)

    def _certificate(self) -> ClientCertificate | None:
        """What the certificate says that the client showed, and OpenSSL has verified. Raises HandshakeFailed."""
        der = self.ssl.getpeercert(binary_form=True)
        if der is None:
            return None
        try:
            certificate = ClientCertificate.read(der)
        except ValueError as error:
            raise HandshakeFailed("certificate_invalid", f"TLS: the certificate cannot be read: {error}") from None
        if certificate.expires_at <= self._tls.clock.nanos() / 1e9:  # where a session is resumed, OpenSSL does not look
            raise HandshakeFailed("certificate_expired", "TLS: the certificate has expired since it was verified")
        return certificate
