"""Interruption: the first signal is a request, the second an order; a failure is nobody's traceback."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys

import pytest

from gateway.node.interruption import Interruption


def press(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


async def test_work_that_is_not_interrupted() -> None:
    async with Interruption() as interruption:
        assert await interruption.unless_asked(asyncio.sleep(0.01))
        await interruption.unless_urgent(asyncio.sleep(0.01), pytest.fail)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_cancels_what_is_starting(number: signal.Signals) -> None:
    cleaned = []

    async def start() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    async with Interruption() as interruption:
        asyncio.get_running_loop().call_later(0.02, press, number)
        assert not await interruption.unless_asked(start())
        assert cleaned == [True]
        await asyncio.wait_for(interruption.wait(), 1)
        assert not await interruption.unless_asked(asyncio.sleep(60))


async def test_the_first_signal_does_not_disturb_an_orderly_end() -> None:
    async with Interruption() as interruption:
        asyncio.get_running_loop().call_later(0.01, press)
        await interruption.wait()
        await interruption.unless_urgent(asyncio.sleep(0.05), pytest.fail)


async def test_the_second_signal_hurries_it() -> None:
    killed = asyncio.Event()

    async def stop() -> None:
        await killed.wait()

    async with Interruption() as interruption:
        for seconds in (0.01, 0.05):
            asyncio.get_running_loop().call_later(seconds, press)
        await interruption.wait()
        await asyncio.wait_for(interruption.unless_urgent(stop(), killed.set), 1)


async def test_a_second_signal_before_the_end_has_begun() -> None:
    killed = asyncio.Event()

    async def stop() -> None:
        await killed.wait()

    async with Interruption() as interruption:
        interruption.interrupt()
        interruption.interrupt()
        await asyncio.wait_for(interruption.unless_urgent(stop(), killed.set), 1)


async def test_what_does_not_hurry_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.node.interruption._LAST_SECONDS", 0.05)
    hurried = []
    async with Interruption() as interruption:
        for seconds in (0.01, 0.02):
            asyncio.get_running_loop().call_later(seconds, press)
        await interruption.wait()
        await asyncio.wait_for(interruption.unless_urgent(asyncio.sleep(60), lambda: hurried.append(True)), 1)
    assert hurried == [True]
    assert [record.message for record in caplog.records] == ["not everything ended within 0.05 s, and is broken off"]


async def test_a_failure_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("cannot listen")

    async with Interruption() as interruption:
        with pytest.raises(ValueError, match="cannot listen"):
            await interruption.unless_asked(fails())
    assert not caplog.records


async def test_a_timeout_of_the_work_itself_is_a_failure() -> None:
    async def slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async with Interruption() as interruption:
        with pytest.raises(TimeoutError):
            await interruption.unless_asked(slow())
        with pytest.raises(TimeoutError):
            await interruption.unless_urgent(slow(), pytest.fail)


async def test_a_hang_up_asks_for_a_reload() -> None:
    asked = asyncio.Event()
    async with Interruption(asked.set) as interruption:
        press(signal.SIGHUP)
        await asyncio.wait_for(asked.wait(), 1)
        assert await interruption.unless_asked(asyncio.sleep(0.01))


IN_A_TERMINAL = """
import asyncio, fcntl, os, signal, termios
from gateway.node.interruption import Interruption
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # now it is our controlling terminal
async def main():
    async with Interruption(lambda: os.write(2, b"reload ")) as interruption:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        os.write(2, b"waiting ")
        await asyncio.wait_for(interruption.wait(), 5)
    os.write(2, b"end")
asyncio.run(main())
"""


def test_a_hang_up_of_the_terminal_itself_asks_for_an_end() -> None:
    """Whoever closes a window in which a gateway runs does not expect it to go on unseen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL],
        stdin=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    assert process.stderr is not None
    said = b""
    while not said.endswith(b"waiting "):
        piece = os.read(process.stderr.fileno(), 100)
        assert piece, said
        said += piece
    os.close(ours)
    said += process.stderr.read()
    process.stderr.close()
    assert process.wait(10) == 0
    assert said == b"reload waiting end"
