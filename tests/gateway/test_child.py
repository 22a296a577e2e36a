"""Child: kept running, told when it cannot be, stopped in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.child import FIRST_PAUSE, SETTLED, Child, ChildFailed, Launch


def python(program: str, *arguments: str | Path) -> Launch:
    return Launch([sys.executable, "-c", textwrap.dedent(program), *arguments])


SLEEP = "import time\ntime.sleep(60)"


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_dies_is_started_again_with_growing_pauses() -> None:
    child = Child("sleeper", lambda: python(SLEEP))
    await child.start()
    assert child.ready
    born = []
    for starts in (2, 3, 4):
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        before = time.monotonic()
        await until(lambda starts=starts: child.starts == starts and child.ready)  # type: ignore[misc]
        born.append(time.monotonic() - before)
        assert child.pid != pid
    assert born[0] >= 0.1
    assert born[1] >= 0.2
    assert born[2] >= 0.4
    last = child.pid
    await child.stop(5)
    assert last is not None
    assert not alive(last)
    assert child.pid is None


async def test_one_that_was_up_for_a_while_is_started_again_at_once() -> None:
    child = Child("sleeper", lambda: python(SLEEP))
    await child.start()
    try:
        for starts in (2, 3, 4):
            await until(lambda: child.up_seconds is not None and child.up_seconds >= SETTLED)
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            await until(lambda starts=starts: child.starts == starts and child.ready)  # type: ignore[misc]
            assert child._pause == FIRST_PAUSE * 2
    finally:
        await child.stop(5)


async def test_a_child_that_fails_at_its_first_start_is_not_tried_again() -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    child = Child("broken", lambda: python("raise SystemExit(7)"), ready=never)
    with pytest.raises(ChildFailed, match=r"broken did not start \(exit status 7\)"):
        await child.start()
    assert child.starts == 1
    await child.stop(1)


async def test_a_program_that_does_not_exist() -> None:
    child = Child("nothing", lambda: Launch(["/nonexistent/program"]))
    with pytest.raises(FileNotFoundError):
        await child.start()
    await child.stop(1)


async def test_a_child_that_ignores_the_request_is_killed_after_the_deadline(tmp_path: Path) -> None:
    program = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1], "w").close()
        time.sleep(60)
    """
    flag = tmp_path / "deaf"

    async def deaf() -> None:
        await until(flag.exists)

    child = Child("stubborn", lambda: python(program, flag), ready=deaf)
    await child.start()
    pid = child.pid
    assert pid is not None
    before = time.monotonic()
    await child.stop(0.3)
    assert 0.3 <= time.monotonic() - before < 3
    assert not alive(pid)


async def test_a_child_may_take_its_time_up_to_the_deadline(tmp_path: Path) -> None:
    program = """
        import signal, sys, time
        def end(*_):
            time.sleep(0.3)
            open(sys.argv[1], "w").close()
            raise SystemExit
        signal.signal(signal.SIGTERM, end)
        open(sys.argv[2], "w").close()
        time.sleep(60)
    """

    async def started() -> None:
        await until((tmp_path / "started").exists)

    child = Child("tidy", lambda: python(program, tmp_path / "done", tmp_path / "started"), ready=started)
    await child.start()
    await child.stop(5)
    assert (tmp_path / "done").exists()


async def test_stopping_between_two_lives() -> None:
    child = Child("mortal", lambda: python(SLEEP))
    await child.start()
    child.kill()
    await until(lambda: child.pid is None)
    await child.stop(5)
    await asyncio.sleep(0.3)
    assert child.starts == 1
    assert child.pid is None


async def test_cancelling_the_start_leaves_nothing_running() -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    child = Child("slow", lambda: python(SLEEP), ready=never)
    start = asyncio.create_task(child.start())
    await until(lambda: child.pid is not None)
    pid = child.pid
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert pid is not None
    assert not alive(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties a child to its parent's life")
def test_a_child_dies_with_us_even_if_we_are_killed() -> None:
    program = """
        import asyncio, signal, sys
        from gateway.child import Child, Launch
        async def main():
            launch = Launch([sys.executable, "-c", "import time; time.sleep(60)"], dies_with_us=signal.SIGTERM)
            child = Child("sleeper", lambda: launch)
            await child.start()
            print(child.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    give_up = time.monotonic() + 5
    while alive(pid) and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < give_up
        time.sleep(0.01)
