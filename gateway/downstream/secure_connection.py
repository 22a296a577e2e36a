"""Secure connection: a client's connection under TLS; its requests came by https, and may say who the client is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.downstream.client_connection import ClientConnection

if TYPE_CHECKING:
    from gateway.exchange import Request
    from gateway.tls.certificate import ClientCertificate


class SecureConnection(ClientConnection):
    """A client's connection behind a `tls.server.ClientStream`.

    It begins with the handshake, which has to end within the time of the first head. `certificate` is there once the
    client has shown one, and is read once for all of its requests.
    """

    certificate: ClientCertificate | None = None

    def _begin(self, request: Request) -> None:
        request.scheme = request.hop_scheme = "https"
        request.certificate = self.certificate
        super()._begin(request)
