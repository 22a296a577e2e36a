"""Segments that are damaged when their process has died: the whole records before the damage are booked, once.

An edge process is killed with its journal full of usage that nobody was sent yet. Then the files are cut inside of a
record, and bytes in them are changed. What cannot be read is counted, said once, and kept where it is more than the
one record a dying process may leave; nothing hangs, and another start finds nothing new.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from gateway.metering.segment import FINAL, LARGEST_RECORD, STARTED, SegmentReader, decode_payload
from tests.fixtures.valkey import ValkeyServer
from tests.journeys.line import Load, Unanswered
from tests.journeys.node import Node, until
from tests.journeys.upstream import Upstream


class Placed(NamedTuple):
    """A record of a segment, and where it ends."""

    kind: int
    id: str
    end: int


def records(path: Path) -> list[Placed]:
    reader = SegmentReader(path)
    found = []
    for record in reader:
        event = decode_payload(record.payload)
        assert event is not None
        found.append(Placed(record.kind, str(UUID(bytes=event.event_id)), reader.position))
    return found


def change(path: Path, at: int, count: int = 4) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        was = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in was))


def damage(segments: list[Path]) -> list[Placed]:
    """Damages four segments in four ways; the records that were whole before the damage."""
    inside, last_bytes, early, behind = segments
    found = {path: records(path) for path in segments}
    os.truncate(inside, found[inside][-1].end - 5)
    change(last_bytes, found[last_bytes][-1].end - 9)
    change(early, found[early][4].end + 2)  # in the length of the sixth record
    with behind.open("r+b") as file:
        file.seek(found[behind][-1].end)
        file.write(os.urandom(300))
    return [*found[inside][:-1], *found[last_bytes][:-1], *found[early][:5], *found[behind]]


@pytest.mark.parametrize("supervisor", ["lives", "dies"])
async def test_what_is_whole_is_booked(node: Node, valkey: ValkeyServer, upstream: Upstream, supervisor: str):
    node.config["usage"]["journal"] |= {"segment": "64KiB"}
    await node.start()
    held = await node.line()
    held.send("/ai/held")
    await upstream.call()
    valkey.kill()
    try:
        async with Load(node.port, "/bulky/quick") as load:
            await load.answered(150)
        node.edge.send_signal(signal.SIGSTOP)  # so that nothing is adopted before it is damaged
        for pid in node.edge_pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unanswered):
            await held.head()
        used = [path for path in node.segments() if records(path)]
        found = [record for path in used[:-5] + used[-1:] for record in records(path)] + damage(used[-5:-1])
    finally:
        valkey.start()
    ended = {record.id for record in found if record.kind == FINAL}
    begun = {record.id for record in found if record.kind == STARTED}
    assert ended < {str(UUID(name)) for name in load.served}
    assert begun - ended, "the one that is held, and those whose end is damaged"
    if supervisor == "lives":
        node.edge.send_signal(signal.SIGCONT)
    else:
        node.edge.kill()
        await node.edge.wait()
        await node.start_edge()
    rows = await node.booked(ended | begun)
    assert rows.keys() == ended | begun
    assert {name for name, row in rows.items() if row.outcome == "estimated"} == begun - ended
    assert await node.metric("tallygate_journal_torn_total") == 4
    await until(node.has_settled)
    (kept,) = node.journal.glob("*/*.damaged")
    assert kept.stat().st_size > LARGEST_RECORD
    assert node.log("edge").count("is damaged at") == 1
    assert "Traceback" not in node.log("edge")
    if supervisor == "lives":  # else that was another start
        await and_once_only(node, len(rows))


async def and_once_only(node: Node, booked: int) -> None:
    """Another start finds nothing new; what could not be read is still there to be looked into."""
    assert await node.end_edge(10) == 0, node.log("edge")
    await node.start_edge()
    assert await node.metric("tallygate_journal_torn_total") == 0
    assert await node.metric("tallygate_journal_damaged_total") == 0
    assert node.log("edge").count("is damaged at") == 1
    assert len(list(node.journal.glob("*/*.damaged"))) == 1
    assert await node.metric("tallygate_journal_damaged_files") == 1
    assert len(await node.books()) == booked
    assert await node.reconcile() == (0, f"{booked} records accounted for, {booked} booked\nno gaps\n")
