"""The stream: whatever is written comes out at the other end, in order and whole, however the bytes travel."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tls.failure import HandshakeFailed
from gateway.tls.stream import RECORD, SLICE, TlsStream, Truncated
from tests.fixtures.certificates import Authority, server_context


class Pipe(asyncio.Transport):
    """One direction of a connection, in memory: what is written waits in `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.most = 0
        self.closed = False
        self.aborted = False
        self.eof = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += data
        self.most = max(self.most, len(data))

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return len(self.sent)


class Heard(asyncio.Protocol):
    """A protocol that keeps all it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.most = 0
        self.said: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.said.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.most = max(self.most, len(data))

    def eof_received(self) -> bool:
        self.said.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.said.append("lost")
        self.error = error

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")


class Side(TlsStream):
    """A stream with its protocol above, and its pipe below."""

    def __init__(self, context: ssl.SSLContext, name: str | None = None) -> None:
        self.heard, self.pipe = Heard(), Pipe()
        self.told: list[HandshakeFailed | None] = []
        super().__init__(self.heard, context, name)

    def succeeded(self) -> None:
        self.told.append(None)

    def failed(self, failure: HandshakeFailed) -> None:
        self.told.append(failure)

    def begin(self) -> None:
        self.connection_made(self.pipe)


Pair = tuple[Side, Side]


def carry(pair: Pair, sizes: Iterator[int] | None = None) -> None:
    """Carry what was sent to the other side, in pieces of these sizes, until there is nothing more to carry."""
    while any(side.pipe.sent for side in pair):
        for one, other in (pair, pair[::-1]):
            size = next(sizes) if sizes is not None else len(one.pipe.sent)
            piece = bytes(one.pipe.sent[:size])
            del one.pipe.sent[:size]
            if piece and not other.pipe.closed:
                other.data_received(piece)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    directory: Path = tmp_path_factory.mktemp("contexts")
    authority = Authority(directory)
    return authority.client(), server_context(authority.issue("server", ["localhost"]))


def secured(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Pair:
    """Both sides, after the handshake."""
    pair = Side(contexts[0], "localhost"), Side(contexts[1])
    for side in pair:
        side.begin()
    carry(pair)
    assert [side.told for side in pair] == [[None], [None]]
    return pair


def test_another_protocol_takes_over(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = pair = secured(contexts)
    heir = Heard()
    server.set_protocol(heir)
    assert server.get_protocol() is heir
    client.write(b"for the heir")
    client.write_eof()
    carry(pair)
    assert (bytes(heir.data), heir.said) == (b"for the heir", ["eof"])
    assert (bytes(server.heard.data), server.heard.said) == (b"", ["made"])


WRITES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0, 1, 2, 1000, RECORD - 1, RECORD, RECORD + 1, SLICE, 3 * SLICE + 5])),
    max_size=8,
)
SIZES = st.lists(st.sampled_from([1, 5, 37, 1400, RECORD, SLICE - 1, SLICE, SLICE + 1, 300_000]), min_size=1)


def endlessly(sizes: Sequence[int]) -> Iterator[int]:
    """Round and round; small ones only so often, to come to an end in time."""
    turn = 0
    while True:
        size = sizes[turn % len(sizes)]
        yield size if turn < 2000 else max(size, 1400)
        turn += 1


@settings(max_examples=60, deadline=None)
@given(writes=WRITES, sizes=SIZES)
def test_what_is_written_comes_out(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], writes: list[tuple[bool, int]], sizes: list[int]
) -> None:
    pair = Side(contexts[0], "localhost"), Side(contexts[1])
    for side in pair:
        side.begin()
    carry(pair, endlessly(sizes))
    written = bytearray(), bytearray()
    for turn, (by_client, size) in enumerate(writes):
        text = bytes([turn + 1]) * size
        pair[0 if by_client else 1].write(text)
        written[0 if by_client else 1].extend(text)
    carry(pair, endlessly(sizes))
    assert (pair[1].heard.data, pair[0].heard.data) == written
    for side in pair:
        side.close()
    carry(pair)
    for one, other in (pair, pair[::-1]):
        assert one.pipe.closed
        assert not one.pipe.aborted
        one.connection_lost(None)
        assert other.heard.said[0] == "made"
    assert all(side.heard.error is None for side in pair)


def test_a_goodbye_is_heard_and_answered(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = secured(contexts)
    client.write(b"last words")
    client.close()
    carry((client, server))
    assert server.heard.data == b"last words"
    assert server.heard.said == ["made", "eof"]
    assert server.pipe.closed
    server.eof_received()
    server.connection_lost(None)
    assert server.heard.error is None, "a peer that said goodbye has not been cut off"


def test_after_a_goodbye_of_ours_the_peer_is_still_heard(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = secured(contexts)
    server.write(b"bye")
    server.write_eof()
    server.write(b"too late")
    assert server.pipe.eof
    carry((client, server))
    assert client.heard.data == b"bye"
    assert client.heard.said == ["made", "eof"]
    late = secured(contexts)
    late[1].write_eof()
    late[1].pipe.sent.clear()
    late[0].write(b"go on")
    carry(late)
    assert late[1].heard.data == b"go on"
    late[0].close()
    carry(late)
    assert late[1].heard.said == ["made", "eof"]


def test_an_end_without_a_goodbye_is_an_error(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = secured(contexts)
    client.write(b"half of")
    carry((client, server))
    assert server.eof_received() is False, "the socket's transport closes itself"
    server.connection_lost(None)
    assert isinstance(server.heard.error, Truncated)
    assert server.heard.said == ["made", "lost"]


@pytest.mark.parametrize("blocked", [False, True])
def test_a_record_that_cannot_be_opened_ends_it_with_an_alert(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], blocked: bool
) -> None:
    client, server = secured(contexts)
    client.write(b"good")
    client.write(b"bad")
    client.pipe.sent[-1] ^= 1
    if blocked:
        server.pause_writing()
    carry((client, server))
    assert server.heard.data == b"good", "what came before is not lost"
    server.connection_lost(None)
    assert "bad record mac" in str(server.heard.error)
    assert server.pipe.closed
    assert server.pipe.aborted is blocked, "an alert does not wait behind what nobody takes"
    client.connection_lost(None)
    assert "alert bad record mac" in str(client.heard.error)


def test_a_handshake_that_fails_is_told_to_both_sides(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    pair = Side(contexts[0], "other.example"), Side(contexts[1])
    for side in pair:
        side.begin()
    carry(pair)
    client, server = (side.told[0] for side in pair)
    assert client is not None
    assert server is not None
    assert client.reason == "certificate_invalid"
    assert "not valid for 'other.example'" in str(client)
    assert server.reason == "refused_by_peer"
    for side in pair:
        assert side.pipe.closed
        side.connection_lost(None)
        assert side.heard.said == ["made", "lost"]
        assert side.heard.error is side.told[0]
        assert len(side.told) == 1
        assert not side.secured


def test_who_gives_up_during_the_handshake_is_told_once(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    reasons = []
    for end in ("close", "lost", "abort"):
        server = Side(contexts[1])
        server.begin()
        server.close() if end == "close" else server.abort() if end == "abort" else server.eof_received()
        server.connection_lost(None)
        reasons.append([failure.reason for failure in server.told if failure is not None])
    assert reasons == [["unfinished"], ["closed"], []], "what we abort has not failed"


def test_nothing_is_kept_back_for_a_peer_that_is_slow(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """All of it waits in the socket's transport, where it is measured and limited."""
    client, server = secured(contexts)
    for word in ("pause", "resume"):
        getattr(server, f"{word}_writing")()
        assert server.heard.said[-1] == word
        server.write(b"a" * 1_000_000)
        assert server._outgoing.pending == 0
    assert server.get_write_buffer_size() > 2_000_000
    assert server.pipe.most < SLICE + 1000, "OpenSSL's buffers stay small"
    carry((client, server))
    assert len(client.heard.data) == 2_000_000
    assert client._incoming.pending == 0


def test_after_its_end_everything_is_a_word_in_the_wind(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, _ = secured(contexts)
    client.connection_lost(None)
    client.write(b"late")
    client.write_eof()
    client.pause_reading()
    client.resume_reading()
    client.close()
    client.abort()
    assert client.is_closing()
    assert not client.is_reading()
    assert client.get_write_buffer_size() == 0
    assert client.get_extra_info("socket") is None
    assert client.pipe.sent == b""
