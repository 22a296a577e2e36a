"""Client: TLS towards an upstream: what its targets must show, and what they are shown."""

from __future__ import annotations

import ssl
from asyncio import Future, Protocol, get_running_loop
from collections.abc import Callable
from ssl import SSLContext, SSLSession
from typing import TYPE_CHECKING, Final

from pydantic import model_validator

from gateway.clock import Clock
from gateway.options import Options
from gateway.tls.certificate import Presented, check_authorities, present
from gateway.tls.context import MinVersion, load_authorities, load_key_pair, new_context
from gateway.tls.failure import HandshakeFailed
from gateway.tls.renewal import Made, Renewal
from gateway.tls.stream import TlsStream

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics

MOST_SESSIONS: Final = 1024
"""Sessions that are kept; beyond that all are forgotten, and a connection costs a whole handshake again."""
_KEY_PAIR: Final = (("client_certificate",), ("client_key",), ("client_passphrase",))


class UpstreamTlsOptions(Options):
    """TLS towards targets with `https://`. Files are PEM, their paths are seen from where the gateway is started, and
    changes are taken without a restart.
    """

    verify: bool = True
    """Whether a target must show a valid certificate for its name. Without, anybody on the way can be the target."""
    ca: str | None = None
    """File with the certificates of the authorities that targets' certificates must be of; the system's if absent."""
    server_name: str | None = None
    """The name that targets are asked for (SNI) and must have a certificate for; the host of their URL if absent."""
    client_certificate: str | None = None
    """File with the certificate that targets are shown if they ask (mTLS), and after it those of its chain."""
    client_key: str | None = None
    """File with that certificate's private key."""
    client_passphrase: str | None = None
    """The key's passphrase, such as `${file:/run/secrets/passphrase}`."""
    min_version: MinVersion = "1.2"
    """Oldest version of TLS that is spoken."""

    @model_validator(mode="after")
    def _fits_together(self) -> UpstreamTlsOptions:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("`client_certificate` and `client_key` belong together")
        if self.client_passphrase is not None and self.client_key is None:
            raise ValueError("`client_passphrase` belongs to a `client_key`")
        if self.ca is not None and not self.verify:
            raise ValueError("`ca` means nothing with `verify: false`")
        return self

    @property
    def files(self) -> list[str]:
        """All files that count."""
        return [*filter(None, (self.ca, self.client_certificate, self.client_key))]


def make_client_context(options: UpstreamTlsOptions, clock: Clock) -> Made:
    """What targets are shown and must show, from the files. Raises Unusable."""
    now = clock.nanos() / 1e9
    context = new_context(ssl.PROTOCOL_TLS_CLIENT, options.min_version)
    presented: list[Presented] = []
    warnings = []
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        warnings.append("certificates of targets are not verified: anybody on the way can be the target")
    elif options.ca is not None:
        check_authorities(("ca",), options.ca, now)
        load_authorities(context, options.ca, ("ca",))
    else:
        context.load_default_certs()
    if options.client_certificate is not None and options.client_key is not None:
        certificate, key, passphrase = options.client_certificate, options.client_key, options.client_passphrase
        presented.append(present(certificate, key, passphrase, _KEY_PAIR, now))
        load_key_pair(context, certificate, key, passphrase, _KEY_PAIR[0])
        warnings += presented[0].warnings
    return Made(context, presented, warnings)


class ClientTls:
    """TLS of one upstream. The last session of each target is kept, so that its next connection can resume it."""

    def __init__(self, options: UpstreamTlsOptions, upstream: str, *, clock: Clock, metrics: Metrics) -> None:
        self._server_name = options.server_name
        self._renewal = Renewal(upstream, options.files, lambda: make_client_context(options, clock), metrics)
        self._sessions: dict[tuple[str, str], tuple[SSLContext, SSLSession]] = {}

    async def start(self, background: Background) -> None:
        """Read the files, and begin to look whether they change. Raises Unusable."""
        await self._renewal.start(background)

    def leave(self) -> None:
        """It is not used any more, and its metrics go."""
        self._renewal.leave()

    def terms_of(self, host: str) -> tuple[SSLContext, str]:
        """What a connection to `host` needs: the context that counts now, and who must be there."""
        return self._renewal.context, self._server_name or host.rstrip(".")

    def stream(self, connection: Protocol, host: str, address: str) -> TargetStream:
        """What stands between the socket of a `connection` to `address` and the connection; `host` must be there."""
        context, name = self.terms_of(host)
        made_in, session = self._sessions.get((name, address), (None, None))

        def keep(session: SSLSession) -> None:
            if len(self._sessions) >= MOST_SESSIONS:
                self._sessions.clear()
            self._sessions[name, address] = context, session

        return TargetStream(connection, context, name, session if made_in is context else None, keep)


class TargetStream(TlsStream):
    """TLS towards a target."""

    def __init__(
        self,
        connection: Protocol,
        context: SSLContext,
        name: str,
        session: SSLSession | None,
        keep: Callable[[SSLSession], None],
    ) -> None:
        super().__init__(connection, context, name, session)
        self._keep = keep
        self._failure: HandshakeFailed | None = None
        self._waiter: Future[None] | None = None

    async def until_secured(self) -> None:
        """Wait for the end of the handshake. Raises HandshakeFailed; if nobody waits any more, the connection ends."""
        if not self.secured and self._failure is None:
            self._waiter = get_running_loop().create_future()
            try:
                await self._waiter
            except BaseException:
                self.abort()
                raise
        if self._failure is not None:
            raise self._failure

    def succeeded(self) -> None:
        self._wake()

    def failed(self, failure: HandshakeFailed) -> None:
        self._failure = failure
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self.secured:
            session = self.ssl.session  # not before: in TLS 1.3 it comes some time after the handshake
            if session is not None:
                self._keep(session)
        super().connection_lost(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
