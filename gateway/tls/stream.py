"""Stream: TLS on one connection, between its socket's transport and its protocol (README, decision 17).

Bytes are sealed and opened in memory, in the call that brings them, and nothing is kept back: what the socket's
transport does for flow control, deadlines and endings it does here too. So a protocol need not know what it runs on.
"""

from __future__ import annotations

from asyncio import BaseProtocol, Protocol, Transport
from contextlib import suppress
from ssl import MemoryBIO, SSLContext, SSLError, SSLObject, SSLSession, SSLWantReadError, SSLZeroReturnError
from typing import Any, Final, cast

from gateway.tls.failure import HandshakeFailed, handshake_failed, in_words

RECORD: Final = 16 * 1024
"""Most bytes of a record (RFC 8446 §5.1)."""
SLICE: Final = 4 * RECORD
"""Most bytes that OpenSSL is given at once: its buffers never shrink again."""


class Truncated(ConnectionError):
    """The peer ended the connection without saying so in TLS: anybody on the way may have cut it off."""


class TlsStream(Protocol, Transport):
    """To the socket's transport it is the protocol, to `protocol` it is the transport.

    `protocol` hears of the connection at once, before the handshake, and of bytes when they are opened.
    """

    def __init__(
        self, protocol: Protocol, context: SSLContext, server_name: str | None = None, session: SSLSession | None = None
    ) -> None:
        """A `server_name` makes it the client: it is who the peer must be. `session` is one to be resumed."""
        super().__init__()
        self._protocol = protocol
        self._incoming = MemoryBIO()
        self._outgoing = MemoryBIO()
        self.ssl: SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_name is None, server_name, session
        )
        self._transport: Transport | None = None
        self.secured = False
        self._over = False  # the handshake failed, or was given up
        self._said_goodbye = False
        self._heard_goodbye = False
        self._blocked = False
        self._error: Exception | None = None  # why the connection is about to be lost

    def succeeded(self) -> None:
        """The handshake has. What must know of it overrides this, and may still raise HandshakeFailed."""

    def failed(self, failure: HandshakeFailed) -> None:
        """The handshake has, or the peer left before its end. What must know of it overrides this."""

    # What the socket's transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._protocol.connection_made(self)
        if not self.ssl.server_side and not transport.is_closing():
            self._shake_hands()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.secured and not self._over:
            self._over = True
            self.failed(HandshakeFailed("closed", "TLS: the peer closed the connection during the handshake"))
        self._protocol.connection_lost(self._error or error)

    def eof_received(self) -> bool:
        if self.secured and not self._heard_goodbye and self._error is None:
            self._error = Truncated("the connection ended without a word")
        return False

    def data_received(self, data: bytes) -> None:
        pieces: list[bytes] = []
        for start in range(0, len(data), SLICE):
            self._incoming.write(data[start : start + SLICE])
            if (self.secured or self._shake_hands()) and not self._open(pieces):
                break
        if self._wants_renegotiation():
            self._fail(HandshakeFailed("renegotiation", "TLS: the peer wants a second handshake"))
            return
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._flush()  # OpenSSL may have something to answer
        if self._error is not None:
            self._break_off()
        elif self._heard_goodbye and not self._protocol.eof_received():
            self.close()

    def pause_writing(self) -> None:
        self._blocked = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._blocked = False
        self._protocol.resume_writing()

    # What the protocol calls

    def set_protocol(self, protocol: BaseProtocol) -> None:
        """From now on another one hears of what arrives: the connection has become a tunnel."""
        self._protocol = cast(Protocol, protocol)

    def get_protocol(self) -> BaseProtocol:
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Seal and send."""
        if self._said_goodbye or self._transport is None:
            return
        seal, sealed, transport = self.ssl.write, self._outgoing.read, self._transport
        view = data if len(data) <= SLICE else memoryview(data)
        done = 0
        while done < len(data):
            done += seal(view[done : done + SLICE])
            transport.write(sealed())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say that nothing more will be said, and go on listening (RFC 8446 §6.1)."""
        self._say_goodbye()
        if self._transport is not None:
            self._transport.write_eof()

    def close(self) -> None:
        """Send what is written, say goodbye, and close. The peer's goodbye is not waited for (RFC 8446 §6.1)."""
        if self.is_closing() or self._transport is None:
            return
        if self.secured:
            self._say_goodbye()
            self._transport.close()
        else:
            self._fail(HandshakeFailed("unfinished", "TLS: it was closed before the handshake was finished"))

    def abort(self) -> None:
        """Close at once, and without a goodbye: the peer must notice."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def is_reading(self) -> bool:
        return self._transport is not None and self._transport.is_reading()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    # TLS

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it has succeeded."""
        if self._over:
            return False
        try:
            self.ssl.do_handshake()
            self.succeeded()
        except SSLWantReadError:
            self._flush()
        except SSLError as error:
            self._fail(handshake_failed(error))
        except HandshakeFailed as failure:
            self._fail(failure)
        else:
            self.secured = True
            self._flush()
        return self.secured

    def _fail(self, failure: HandshakeFailed) -> None:
        self._over = True
        self._error = failure
        self._break_off()
        self.failed(failure)

    def _open(self, pieces: list[bytes]) -> bool:
        """Open the records that are here; whether more may follow."""
        read, incoming = self.ssl.read, self._incoming
        try:
            while incoming.pending:
                piece = read(RECORD)
                if not piece:
                    self._heard_goodbye = True
                    return False
                pieces.append(piece)
        except SSLWantReadError:
            pass
        except SSLZeroReturnError:
            self._heard_goodbye = True
            return False
        except SSLError as error:
            self._error = ConnectionAbortedError(in_words(error))
            return False
        return True

    def _wants_renegotiation(self) -> bool:
        """OpenSSL declines it, but only warns the peer, as often as it asks. Until TLS 1.3 nothing else is answered."""
        return self._outgoing.pending > 0 and self.secured and self._error is None and self.ssl.version() != "TLSv1.3"

    def _say_goodbye(self) -> None:
        if not self._said_goodbye and self.secured:
            self._said_goodbye = True
            with suppress(SSLError):  # it wants to hear the peer's
                self.ssl.unwrap()
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _break_off(self) -> None:
        """Send the alert that OpenSSL made, and close; at once if it would wait behind what the peer does not take."""
        self._flush()
        if self._transport is not None:
            self._transport.abort() if self._blocked else self._transport.close()
