"""Payload: the few things in a WebSocket's frames that a proxy reads or says: masks, text, and why somebody leaves."""

from __future__ import annotations

import os
from codecs import getincrementaldecoder
from typing import Final, NamedTuple

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
INVALID_TEXT: Final = 1007
TOO_BIG: Final = 1009
_CLOSE: Final = 0x88
_MASKED: Final = 0x80
_MAY_BE_SAID: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
"""Codes that a Close may have: those of RFC 6455 §7.4 and of IANA's registry that mean something on the wire."""
_utf8: Final = getincrementaldecoder("utf-8")


class Violation(NamedTuple):
    """What a peer did wrong: the code to close with (RFC 6455 §7.4.1), and why."""

    code: int
    reason: str


NOT_UTF8: Final = Violation(INVALID_TEXT, "a text is not UTF-8")


class Text:
    """A message of text on its way, which must be UTF-8 (RFC 6455 §8.1)."""

    __slots__ = ("_decode",)

    def __init__(self) -> None:
        self._decode = _utf8().decode

    def goes_on(self, piece: bytes, *, last: bool) -> bool:
        """Whether it still is with this piece, unmasked."""
        try:
            self._decode(piece, last)
        except UnicodeDecodeError:
            return False
        return True


def mask(data: bytes, key: bytes, at: int = 0) -> bytes:
    """Mask, or unmask, a piece that begins at byte `at` of its frame's payload (RFC 6455 §5.3)."""
    turned = key[at % 4 :] + key[: at % 4]
    size = len(data)
    keys = (turned * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def judge_close(payload: bytes) -> Violation | None:
    """What is wrong with what a Close says, unmasked (RFC 6455 §5.5.1); it may say nothing."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not any(code in codes for codes in _MAY_BE_SAID):
        return Violation(PROTOCOL_ERROR, "a Close has no valid code")
    return None if Text().goes_on(payload[2:], last=True) else NOT_UTF8


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """A Close (RFC 6455 §5.5.1). `reason` is short and in ASCII."""
    payload = code.to_bytes(2) + reason.encode("ascii")
    if not masked:
        return bytes((_CLOSE, len(payload))) + payload
    key = os.urandom(4)
    return bytes((_CLOSE, _MASKED | len(payload))) + key + mask(payload, key)
