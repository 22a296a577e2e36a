"""Log: JSON lines, one object a line, that never make a request wait for whoever reads them.

Two things are written: the program's own messages (`configure` gives the standard `logging` our form, with secrets
cut out) and the access log's lines (a `LineSink` of their own). A pipe whose reader has stopped blocks the thread
that writes and nothing else; beyond a bound, lines are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

LONGEST_MESSAGE: Final = 16 * 1024
_ATOMIC: Final = select.PIPE_BUF
"""Several processes write to one pipe; only pieces up to this size are not mixed."""

_SECRETS: Final = (
    (re.compile(r"tg_(live|test)_[0-9A-Za-z]+"), r"tg_\1_[redacted]"),
    (
        re.compile(r"(?i)(\b(?:proxy-)?authorization|\bx-api-key|\bcookie)(['\"]*\s*[:=,]\s*b?['\"]?)[^'\"\r\n]+"),
        r"\1\2[redacted]",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[-\w.~+/]{8,}=*"), r"\1 [redacted]"),
    (re.compile(r"(\w://[^\s/:@'\"]*):[^\s/'\"]*@"), r"\1:[redacted]@"),
    (re.compile(r"(?i)\b(password|secret|token)(['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&]+"), r"\1\2[redacted]"),
)


def redact(text: str) -> str:
    """`text` without what must not be in a log: our keys, credentials in header fields and URLs, passwords."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class Trouble:
    """What goes wrong again and again until somebody mends it: logged when it begins and when it changes."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, str] = {}

    def say(self, about: str, text: str) -> None:
        """It goes wrong, as `text` says in full; `about` is what it has to do with."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._log.warning("%s", text)

    def over(self, about: str) -> None:
        """It has gone well."""
        self._said.pop(about, None)


class LineSink:
    """Lines on their way to a file, a pipe or a terminal: gathered for a moment, written by a thread of its own.

    `write` never waits. It drops the line when `capacity_bytes` are waiting already; the thread drops what the
    destination does not take. `dropped` is told how many, in the thread of whoever calls `write` or `close`.
    A file that was moved away (log rotation) is opened anew under its name.
    """

    def __init__(
        self,
        target: Path | int,
        *,
        interval_seconds: float = 0.05,
        batch_bytes: int = 64 * 1024,
        capacity_bytes: int = 4 * 2**20,
        dropped: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """`target` is a path to append to or an open file descriptor, which stays open. Raises OSError."""
        self._target = target
        self._descriptor = target if isinstance(target, int) else _open(target)
        self._interval = interval_seconds
        self._batch = batch_bytes
        self._capacity = capacity_bytes
        self._dropped = dropped
        self._encode = msgspec.json.Encoder().encode_into
        self._lines = bytearray()
        self._writing = 0
        self._lost = 0
        self._guard = threading.Lock()
        self._some = threading.Event()
        self._enough = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def write(self, line: Mapping[str, Any] | msgspec.Struct) -> None:
        """Adds an object as a line, unless there is no room or it has been closed."""
        with self._guard:
            lines = self._lines
            size = len(lines)
            if size + self._writing >= self._capacity or self._closed:
                self._lost += 1
            else:
                try:
                    self._encode(line, lines, size)
                except (UnicodeEncodeError, TypeError):
                    del lines[size:]
                    self._encode(_encodable(line), lines, size)
                lines += b"\n"
        if self._lost:
            self._report()
        if not size:
            self._some.set()
        elif len(lines) >= self._batch:
            self._enough.set()

    def close(self, deadline_seconds: float = 1.0) -> None:
        """Writes what is waiting, for at most so long; the rest is dropped. Idempotent."""
        with self._guard:
            self._closed = True
        self._some.set()
        self._enough.set()
        self._thread.join(deadline_seconds)
        if self._thread.is_alive():
            self._lose(self._lines)
            self._lines = bytearray()
        self._report()

    def _lose(self, lines: bytes | bytearray | memoryview) -> None:
        with self._guard:
            self._lost += bytes(lines).count(b"\n")

    def _report(self) -> None:
        with self._guard:
            lost, self._lost = self._lost, 0
        if lost:
            self._dropped(lost)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._enough.wait(self._interval)
            with self._guard:
                lines, self._lines = self._lines, bytearray()
                self._writing = len(lines)
                self._some.clear()
                self._enough.clear()
                closed = self._closed
            if lines:
                self._put(memoryview(bytes(lines)))
            self._writing = 0
            if closed:
                break
        if isinstance(self._target, Path):
            os.close(self._descriptor)

    def _put(self, lines: memoryview) -> None:
        try:
            if isinstance(self._target, Path) and _moved(self._target, self._descriptor):
                old, self._descriptor = self._descriptor, _open(self._target)
                os.close(old)
            atomic = _ATOMIC if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode) else len(lines)
        except OSError:
            self._lose(lines)
            return
        while lines:
            piece = lines[: _end_of_line(lines, atomic)]
            try:
                written = os.write(self._descriptor, piece)
            except BlockingIOError:  # somebody else who has this pipe open made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
                continue
            except OSError:
                self._lose(lines)
                return
            lines = lines[written:]


class JsonHandler(logging.Handler):
    """The program's own messages as JSON lines; `constant` fields are the same in each."""

    def __init__(self, sink: LineSink, constant: Mapping[str, str]) -> None:
        super().__init__()
        self._sink = sink
        self._constant = constant

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(line_of(record, self._constant))
        except Exception:  # noqa: BLE001 - logging's own rule: what goes wrong here is shown, not raised
            self.handleError(record)

    def close(self) -> None:
        self._sink.close()
        super().close()


def line_of(record: logging.LogRecord, constant: Mapping[str, str]) -> dict[str, str]:
    """A log record's line: time (RFC 3339, UTC), level, logger, message, and an exception with its traceback."""
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        **constant,
        "message": redact(record.getMessage()[:LONGEST_MESSAGE]),
    }
    if record.exc_info and record.exc_info[0] is not None:
        # The last part of a traceback is the telling one.
        line["exception"] = redact(logging.Formatter().formatException(record.exc_info)[-LONGEST_MESSAGE:])
    return line


def configure(level: str = "info", **constant: str) -> JsonHandler:
    """Makes JSON lines on standard error of everything that is logged in this process; replaces what was configured.

    Close the handler at the end; the interpreter's exit does it otherwise.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    handler = JsonHandler(LineSink(sys.stderr.fileno(), interval_seconds=0.0), constant)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return handler


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _moved(path: Path, descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    with contextlib.suppress(FileNotFoundError):
        there = path.stat()
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)
    return True


def _end_of_line(lines: memoryview, most: int) -> int:
    """How much of `lines` to write at once: whole lines up to `most` bytes, or all of a line that is longer."""
    if len(lines) <= most:
        return len(lines)
    end = bytes(lines[:most]).rfind(b"\n") + 1
    return end or bytes(lines).index(b"\n") + 1


def _encodable(value: Any) -> Any:
    """The same for JSON: text that UTF-8 cannot carry is replaced, and what is no JSON at all is named."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(_encodable(str(key))): _encodable(item) for key, item in value.items()}
        case msgspec.Struct():
            return _encodable(msgspec.structs.asdict(value))
        case list() | tuple():
            return [_encodable(item) for item in value]
    return _encodable(repr(value))
