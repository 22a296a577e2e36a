"""Frames: a WebSocket's frames are read as they pass, to count messages and to refuse what breaks rules.

Headers are read, what a Close says, and text, which must be UTF-8. Other payloads go by unread, and so does what is
compressed (RFC 7692): what it says is between client and upstream.
"""

from __future__ import annotations

from typing import Final

from gateway.websocket.payload import NOT_UTF8, PROTOCOL_ERROR, TOO_BIG, Text, Violation, judge_close, mask

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_COMPRESSED: Final = 0x40
_MASKED: Final = 0x80
_CONTROL: Final = 0x8
_CLOSE: Final = 0x8
_TEXT: Final = 0x1
_CONTINUATION: Final = 0x0
_OPCODES: Final = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_LARGEST_CONTROL: Final = 125


class FrameReader:
    """Reads one direction of a WebSocket: `masked` from a client, not from a server (RFC 6455 §5.1).

    `messages` counts those that have passed whole, `size` the bytes of their payloads as they are on the wire, and of
    the message under way; control frames do not count. `compressed` says that permessage-deflate was agreed on.
    `closed` says that nothing passes any more: because a Close has, because of a `violation`, or because it was told to
    `finish`; what comes then is still read, up to the peer's Close (`said_close`). `torn` says that a violation came
    when a part of its frame had passed already.
    """

    __slots__ = (
        "_closes",
        "_compressed",
        "_counts",
        "_header",
        "_is_last",
        "_key",
        "_left",
        "_length",
        "_masked",
        "_max_message",
        "_message",
        "_message_ends",
        "_text",
        "closed",
        "messages",
        "said_close",
        "size",
        "torn",
        "violation",
    )

    def __init__(self, *, masked: bool, max_message: int, compressed: bool) -> None:
        self._masked = masked
        self._max_message = max_message
        self._compressed = compressed
        self._header = b""  # of a frame; kept back until it is whole, so that a Close of ours may come before it
        self._key = b""
        self._length = 0  # bytes of the frame's payload
        self._left = 0  # those of them that are still to pass
        self._counts = False  # it is a data frame
        self._closes = False  # it is a Close
        self._is_last = False  # nothing passes after it
        self._message: int | None = None  # bytes of the message under way
        self._message_ends = False  # with this frame
        self._text: Text | None = None  # the message under way, if it is text that can be read
        self.messages = 0
        self.size = 0
        self.closed = False
        self.said_close = False
        self.torn = False
        self.violation: Violation | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes arrived; those of them that pass. How they are cut changes nothing but where a bad text is torn."""
        if self.said_close or self.violation is not None:
            return b""
        if self._header:
            data, self._header = self._header + data, b""
        at, end, began, passed = 0, len(data), -1, 0
        while at < end and not self.said_close:
            if not self._left:
                size = self._begin(data, at)
                if not size:
                    break
                began = at
                at += size
            passing = min(self._left, end - at)
            if not self.closed:
                if self._counts and not self._read(data, at, passing):
                    self.violation, self.closed, self.torn = NOT_UTF8, True, began < 0
                    return data[: max(began, 0)]
                passed = at + passing
            at += passing
            self._left -= passing
            if not self._left:
                self._end()
        return data if passed == end else data[:passed]

    def finish(self) -> None:
        """Let the frame under way pass, and nothing after it."""
        if self._left:
            self._is_last = True
        else:
            self.closed = True

    def _begin(self, data: bytes, at: int) -> int:
        """A header begins here: its size in bytes, or 0 if it is not whole or not valid. A Close is read as a whole."""
        size, length = _measure(data, at)
        if not size:
            self._header = data[at:]
            return 0
        first = data[at]
        closes = first & 0xF == _CLOSE
        self._key = data[at + size - 4 : at + size] if self._masked else b""
        self.violation = self._judge(first, data[at + 1], length)
        if self.violation is None and closes:
            if len(data) < at + size + length:
                self._header = data[at:]
                return 0
            self.violation = judge_close(self._unmasked(data[at + size : at + size + length], 0))
        if self.violation is not None:
            self.closed = True
            return 0
        self._length = self._left = length
        self._counts = not first & _CONTROL
        if self._counts:
            if self._message is None:
                self._text = Text() if first & ~_FIN == _TEXT else None
            self._message = (self._message or 0) + length
            self._message_ends = first >= _FIN
        self._closes = closes
        return size

    def _judge(self, first: int, second: int, length: int) -> Violation | None:
        """What is wrong with a frame whose header begins with these two bytes (RFC 6455 §5.2-5.5, RFC 7692 §6)."""
        opcode, reserved = first & 0xF, first & _RESERVED
        if (second >= _MASKED) is not self._masked:
            return _wrong("a client's frame must be masked" if self._masked else "a server's frame must not be masked")
        if opcode not in _OPCODES:
            return _wrong("a frame has a reserved opcode")
        if length < 0:
            return _wrong("a frame's length is not written as it must be")
        if opcode & _CONTROL:
            if first < _FIN or length > _LARGEST_CONTROL:
                return _wrong("a control frame is fragmented or too long")
            return _wrong("a control frame has a reserved bit") if reserved else None
        if reserved and not (reserved == _COMPRESSED and self._compressed and opcode != _CONTINUATION):
            return _wrong("a frame has a reserved bit")
        if (opcode == _CONTINUATION) is (self._message is None):
            return _wrong("a fragment is out of place")
        if (self._message or 0) + length > self._max_message:
            return Violation(TOO_BIG, f"a message is larger than {self._max_message} bytes")
        return None

    def _read(self, data: bytes, at: int, size: int) -> bool:
        """Some payload of a message is about to pass: whether it may."""
        if self._text is not None:
            piece = self._unmasked(data[at : at + size], self._length - self._left)
            if not self._text.goes_on(piece, last=self._message_ends and size == self._left):
                return False
        self.size += size
        return True

    def _unmasked(self, payload: bytes, at: int) -> bytes:
        return mask(payload, self._key, at) if self._key else payload

    def _end(self) -> None:
        """A frame is over."""
        if self._counts and self._message_ends:
            self.messages += not self.closed
            self._message = self._text = None
        self.said_close = self._closes
        self.closed = self.closed or self._is_last or self._closes


def _measure(data: bytes, at: int) -> tuple[int, int]:
    """Bytes of the header that begins here, 0 if it is not whole, and of the payload behind it.

    A length that is not written in the fewest bytes, or has its highest bit set, is -1 (RFC 6455 §5.2).
    """
    if len(data) < at + 2:
        return 0, 0
    second = data[at + 1]
    length = second & 0x7F
    size = 6 if second >= _MASKED else 2
    if length < 126:
        return (size, length) if len(data) >= at + size else (0, 0)
    extended = 2 if length == 126 else 8
    size += extended
    if len(data) < at + size:
        return 0, 0
    length = int.from_bytes(data[at + 2 : at + 2 + extended])
    shortest = 126 if extended == 2 else 2**16
    return size, length if shortest <= length < 2**63 else -1


def _wrong(reason: str) -> Violation:
    return Violation(PROTOCOL_ERROR, reason)
