"""Log: whole lines, no secrets, and nobody waits for a reader."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.log import LineSink, line_of, redact


def lines_of(content: bytes) -> list[dict[str, Any]]:
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def test_lines_reach_a_file_in_order(tmp_path: Path) -> None:
    sink = LineSink(tmp_path / "access.log")
    for number in range(5000):
        sink.write({"number": number, "path": "/x" * 20})
    sink.close()
    assert [line["number"] for line in lines_of((tmp_path / "access.log").read_bytes())] == list(range(5000))


def test_a_line_is_there_after_the_interval(tmp_path: Path) -> None:
    sink = LineSink(tmp_path / "access.log", interval_seconds=0.02)
    sink.write({"a": 1})
    for _ in range(200):
        if (tmp_path / "access.log").stat().st_size:
            break
        time.sleep(0.01)
    assert lines_of((tmp_path / "access.log").read_bytes()) == [{"a": 1}]
    sink.close()


def test_many_lines_do_not_wait_for_the_interval(tmp_path: Path) -> None:
    sink = LineSink(tmp_path / "access.log", interval_seconds=30, batch_bytes=1000)
    for number in range(100):
        sink.write({"number": number})
    for _ in range(200):
        if (tmp_path / "access.log").stat().st_size:
            break
        time.sleep(0.01)
    else:
        pytest.fail("a full batch was not written")
    sink.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_nobody_reads_costs_lines_and_no_time(blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    dropped: list[int] = []
    sink = LineSink(writer, capacity_bytes=20_000, interval_seconds=0.001, dropped=dropped.append)
    longest = 0.0
    for number in range(20_000):
        before = time.perf_counter()
        sink.write({"number": number, "text": "x" * 50})
        longest = max(longest, time.perf_counter() - before)
    assert longest < 0.25
    assert sum(dropped) > 0

    received = bytearray()
    drain = threading.Thread(target=lambda: received.extend(_read_all(reader)))
    drain.start()
    sink.close(10)
    os.close(writer)
    drain.join(10)
    os.close(reader)
    lines = lines_of(bytes(received))
    assert len(lines) + sum(dropped) == 20_000
    numbers = [line["number"] for line in lines]
    assert numbers == sorted(numbers)


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def test_closing_has_a_deadline_and_counts_what_it_gives_up() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    dropped: list[int] = []
    sink = LineSink(writer, interval_seconds=0.001, dropped=dropped.append)
    for _ in range(100):
        sink.write({"text": "x" * 100})
    time.sleep(0.1)
    for _ in range(100):
        sink.write({"text": "x" * 100})
    before = time.monotonic()
    sink.close(0.1)
    assert time.monotonic() - before < 2
    assert sum(dropped) == 100
    sink.write({"late": True})
    assert sum(dropped) == 101
    os.close(reader)  # the thread's write ends here
    sink._thread.join(5)
    os.close(writer)


def test_a_reader_that_left_costs_lines_only() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    dropped: list[int] = []
    sink = LineSink(writer, dropped=dropped.append)
    sink.write({"a": 1})
    sink.close()
    os.close(writer)
    assert dropped == [1]


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    sink = LineSink(path, interval_seconds=0.001)
    sink.write({"before": 1})
    while not path.stat().st_size:
        time.sleep(0.005)
    path.rename(tmp_path / "access.log.1")
    sink.write({"after": 1})
    sink.close()
    assert lines_of((tmp_path / "access.log.1").read_bytes()) == [{"before": 1}]
    assert lines_of(path.read_bytes()) == [{"after": 1}]


def test_processes_sharing_a_pipe_do_not_mix_their_lines() -> None:
    program = (
        "import sys\nfrom gateway.log import LineSink\nsink = LineSink(1, interval_seconds=0.001)\n"
        "for n in range(3000): sink.write({'who': sys.argv[1], 'n': n, 'text': 'y' * 90})\nsink.close(20)\n"
    )
    reader, writer = os.pipe()
    children = [subprocess.Popen([sys.executable, "-c", program, who], stdout=writer) for who in "abc"]
    os.close(writer)
    lines = lines_of(_read_all(reader))
    os.close(reader)
    assert [child.wait() for child in children] == [0, 0, 0]
    for who in "abc":
        assert [line["n"] for line in lines if line["who"] == who] == list(range(3000))


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.binary(), st.none(), st.floats())))
def test_anything_becomes_one_line_of_json(line: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    sink = LineSink(writer, interval_seconds=0.0)
    sink.write(line)
    sink.close()
    os.close(writer)
    content = _read_all(reader)
    os.close(reader)
    assert content.count(b"\n") == 1
    assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key tg_live_0123456789abcdefGHIJKL is unknown", "0123456789abcdef"),
        ("{'x-api-key': 'tg_test_AAAABBBB'}", "AAAABBBB"),
        ("{'x-api-key': 'an-old-key-of-theirs'}", "an-old-key"),
        ("Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln", "eyJ"),
        ("('authorization', 'Basic dXNlcjpwYXNz')", "dXNlcjpwYXNz"),
        ("sent Bearer abcdefghijkl upstream", "abcdefghijkl"),
        ("cannot reach redis://:s3cret@10.0.0.1:6379/0", "s3cret"),
        ("postgresql://tally:p:a@ss@db/x failed", "p:a@ss"),
        ("connection failed: password=hunter2 host=db", "hunter2"),
        ('{"token": "abcdef"}', "abcdef"),
    ],
)
def test_secrets_are_cut_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize("text", ["GET http://127.0.0.1:8080/a@b", "route books: 200", "tokens used: 12", "a: b"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_record_with_an_exception() -> None:
    try:
        raise ValueError("bad key tg_live_abc123")
    except ValueError:
        record = logging.LogRecord("gateway.x", logging.ERROR, __file__, 1, "no %s", ("way",), sys.exc_info())
    line = line_of(record, {"process": "1"})
    assert line["message"] == "no way"
    assert line["level"] == "error"
    assert line["process"] == "1"
    assert line["time"].endswith("Z")
    assert "ValueError: bad key tg_live_[redacted]" in line["exception"]
    assert "abc123" not in line["exception"]


def test_a_program_logs_json_to_its_end() -> None:
    program = (
        "import logging, warnings\nfrom gateway.log import configure\nconfigure('warning', process='7')\n"
        "logging.getLogger('a').info('quiet')\nlogging.getLogger('a').warning('loud %d', 1)\nwarnings.warn('old')\n"
        "logging.getLogger('b').error('last')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    lines = lines_of(result.stderr)
    assert [line["message"] for line in lines if line["logger"] != "py.warnings"] == ["loud 1", "last"]
    assert all(line["process"] == "7" for line in lines)
    assert len(lines) == 3
