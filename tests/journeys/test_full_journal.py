"""A journal without room: what could not be billed is not served, and says so before the upstream is called.

The room ends because the worker is stopped and the budget is reached, because the disk is full, or because the
directory takes no more files. Clients get a 503 that tells them to come back; what is not metered works on. Nothing
that was accepted is lost, and when there is room again everything goes on by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.line import Answer, Load, ask
from tests.journeys.node import Node, until
from tests.journeys.upstream import Upstream

UNPRIVILEGED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""Starts a program for which permissions count, though root runs it."""


async def fill(load: Load) -> None:
    """Wait until requests are refused, and some more."""

    async def refused() -> bool:
        return sum(answer.status == 503 for answer in load.answers) > 50

    await until(refused, 30)


async def works_again(node: Node) -> None:
    async def accepted() -> bool:
        return (await ask(node.port, "/ai/quick")).status == 200

    await until(accepted)


def are_well_refused(refused: list[Answer], upstream: Upstream) -> None:
    for answer in refused:
        assert answer.status == 503
        assert answer.fields["content-type"] == "application/problem+json"
        assert int(answer.fields["retry-after"]) >= 1
        assert json.loads(answer.body)["type"].endswith("/journal-full")
        assert not upstream.seen[answer.name]


async def all_is_booked_once(node: Node, load: Load) -> None:
    assert not load.failures
    await node.booked(load.served)
    await until(node.has_settled)
    rows = await node.books()
    assert Counter(row.outcome for row in rows) == {"ok": len(rows)}
    assert await node.reconcile() == (0, f"{len(rows):,} records accounted for, {len(rows):,} booked\nno gaps\n")
    assert "Traceback" not in node.log("edge")


async def test_at_the_budget_requests_are_refused_before_the_upstream(node: Node, upstream: Upstream):
    node.config["usage"]["journal"] |= {"segment": "64KiB", "budget": "512KiB"}
    await node.start()
    node.worker.send_signal(signal.SIGSTOP)
    async with Load(node.port, "/bulky/quick", "/quick") as load:
        await fill(load)
        assert (await ask(node.port, "/open/quick")).status == 200
    refused = [answer for answer in load.answers if answer.status != 200]
    are_well_refused(refused, upstream)
    assert await node.metric("tallygate_journal_refused_total") == len(refused)
    assert node.journal_bytes() <= 512 * 1024
    assert sum(upstream.seen.values()) == len(load.served) + 1
    node.worker.send_signal(signal.SIGCONT)
    await node.booked(load.served)
    await works_again(node)
    async with load:
        await load.answered(100)
    await all_is_booked_once(node, load)


async def test_a_second_mark_is_gone_on_to(node: Node, upstream: Upstream):
    journal = {"segment": "64KiB", "budget": "256KiB", "when_full": "second_mark", "second_mark": "4MiB"}
    node.config["usage"]["journal"] |= journal
    await node.start()
    node.worker.send_signal(signal.SIGSTOP)

    async def over_budget() -> bool:
        return await node.metric("tallygate_journal_over_budget") == 1

    async with Load(node.port, "/bulky/quick", clients=2, pause=0.02) as slow:
        await until(over_budget)
    assert {answer.status for answer in slow.answers} == {200}
    async with Load(node.port, "/bulky/quick") as load:
        await fill(load)
    are_well_refused([answer for answer in load.answers if answer.status != 200], upstream)
    assert 3 * 2**20 < node.journal_bytes() <= 4 * 2**20
    node.worker.send_signal(signal.SIGCONT)
    await works_again(node)
    await node.booked(slow.served)
    await all_is_booked_once(node, load)
    assert not await over_budget()


@pytest.fixture
def small_disk(node: Node) -> Iterator[Path]:
    """The journal's directory, on a disk of a mebibyte."""
    node.journal.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tallygate-test", node.journal],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield node.journal
    subprocess.run(["umount", "--lazy", node.journal], check=True)


async def test_a_disk_that_is_full(node: Node, upstream: Upstream, small_disk: Path):
    node.config["usage"]["journal"] |= {"segment": "64KiB"}
    await node.start()
    node.worker.send_signal(signal.SIGSTOP)
    async with Load(node.port, "/bulky/quick", "/ai/quick") as load:
        await fill(load)
    are_well_refused([answer for answer in load.answers if answer.status != 200], upstream)
    assert shutil.disk_usage(small_disk).free < 64 * 1024
    await until(lambda: node.has_said("No space left on device"))
    for pid in node.edge_pids():
        os.kill(pid, signal.SIGKILL)  # what was written is adopted, though there is no room for another byte
    node.worker.send_signal(signal.SIGCONT)
    await works_again(node)
    await all_is_booked_once(node, load)


async def test_a_disk_that_is_full_from_the_start(node: Node, small_disk: Path):
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(2 * 2**20))
    status, said = await node.run_edge()
    assert (status, said) == (1, f"the journal directory {node.journal} cannot be used: No space left on device\n")


@pytest.fixture
def before(node: Node) -> tuple[str, ...]:
    """What starts a program for which permissions count."""
    if os.geteuid() != 0:
        return ()
    if shutil.which(UNPRIVILEGED[0]) is None:
        pytest.skip(f"permissions mean nothing to root, and there is no {UNPRIVILEGED[0]}")
    return UNPRIVILEGED


async def test_a_directory_that_is_read_only_from_the_start(node: Node, before: tuple[str, ...]):
    node.journal.mkdir(mode=0o555)
    status, said = await node.run_edge(*before)
    assert (status, said) == (1, f"the journal directory {node.journal} cannot be used: Permission denied\n")


async def test_a_directory_that_becomes_read_only(node: Node, upstream: Upstream, before: tuple[str, ...]):
    node.config["usage"]["journal"] |= {"segment": "64KiB"}
    await node.start_worker()
    await node.start_edge(*before)
    boots = [path for path in node.journal.iterdir() if path.is_dir()]
    async with Load(node.port, "/bulky/quick") as load:
        await load.answered(20)
        for path in (node.journal, *boots):
            path.chmod(0o555)
        await fill(load)
        assert (await ask(node.port, "/open/quick")).status == 200
        await node.booked(load.served)
        await until(lambda: node.has_said("cannot delete"))
        for path in (node.journal, *boots):
            path.chmod(0o755)
        await works_again(node)
    are_well_refused([answer for answer in load.answers if answer.status != 200], upstream)
    await all_is_booked_once(node, load)
