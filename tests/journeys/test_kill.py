"""Whatever is killed, and whenever: every answer a client received whole is in the books exactly once."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from tests.journeys import guardless
from tests.journeys.clients import Clients
from tests.journeys.system import System

SEED = 20261121
REQUESTS = 20_000
KINDS = ("edge", "edge", "edge", "worker", "worker", "valkey", "valkey", "postgres")
BOOKED = "select event_id::text as id, count(*) as times from usage_event where kind = 'usage' group by event_id"


async def kill_at_random(system: System, killed: Counter[str], luck: random.Random) -> None:
    while True:
        for kind in luck.sample(KINDS, len(KINDS)):
            await asyncio.sleep(luck.uniform(0.3, 1.0))
            killed[kind] += await asyncio.to_thread(system.signal, kind, signal.SIGKILL)


async def booked(system: System) -> dict[str, int]:
    return {row["id"]: row["times"] for row in await system.query(BOOKED)}


async def missing_after(system: System, whole: Iterable[str], seconds: float) -> set[str]:
    """The ids that are not in the books after so many seconds, which are not waited for if all are."""
    wanted = {str(UUID(name)) for name in whole}
    give_up_at = asyncio.get_running_loop().time() + seconds
    missing = wanted
    while missing and asyncio.get_running_loop().time() < give_up_at:
        await asyncio.sleep(0.5)
        missing = wanted - (await booked(system)).keys()
    return missing


async def test_every_whole_answer_is_booked_exactly_once(tmp_path: Path):
    system = System(tmp_path)
    clients, killed, luck = Clients(system, SEED), Counter[str](), random.Random(SEED)
    try:
        await system.start()
        killer = asyncio.create_task(kill_at_random(system, killed, luck))
        try:
            async with asyncio.timeout(360):
                await clients.run(REQUESTS)
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
        missing = await missing_after(system, clients.whole, 90)
        books = await booked(system)
        code, said = 1, ""
        for _ in range(20):  # the last segments are adopted, sent and deleted
            code, said = await system.tallygate("reconcile")
            if code == 0:
                break
            await asyncio.sleep(2)
        print(f"seed {SEED}: sent {clients.sent}, whole {len(clients.whole)}, failed {clients.failed}")
        print(f"booked {len(books)} events, killed {killed}; reconcile: {said.strip()}")
        assert len(clients.whole) >= REQUESTS
        assert min(killed[kind] for kind in set(KINDS)) >= 1, killed
        assert not missing, f"{len(missing)} of {len(clients.whole)} whole answers are not billed\n{system.log()}"
        assert set(books.values()) == {1}
        assert code == 0, said
    finally:
        await system.stop()


async def test_control_a_journal_deleted_when_redis_has_it_loses_events(tmp_path: Path):
    """Without the guard the same kind of accident is noticed: the test above can fail."""
    system = System(tmp_path, (guardless.__file__,), GUARDLESS="journal")
    clients = Clients(system, SEED)
    try:
        await system.start()
        system.signal("worker", signal.SIGSTOP)
        await clients.run(300)
        await asyncio.sleep(3)  # for the segments to be sent, closed and deleted
        system.signal("valkey", signal.SIGKILL)
        system.signal("worker", signal.SIGKILL)
        missing = await missing_after(system, clients.whole, 15)
        assert missing, "nothing was lost: the control controls nothing"
    finally:
        await system.stop()


async def test_control_without_the_unique_key_events_are_doubled(tmp_path: Path):
    system = System(tmp_path)
    clients = Clients(system, SEED)
    try:
        await system.start()
        for row in await system.query(
            "select conname from pg_constraint where conrelid = 'usage_event'::regclass and contype in ('p', 'u')"
        ):
            await system.query(f"alter table usage_event drop constraint {row['conname']} cascade")
        await clients.run(300)
        assert not await missing_after(system, clients.whole, 30)
        for _ in range(5):  # what Redis knew of the accounts is gone, so segments are sent again
            await clients.run(len(clients.whole) + 50)
            system.signal("valkey", signal.SIGKILL)
            await asyncio.sleep(3)
        assert any(times > 1 for times in (await booked(system)).values()), "nothing was doubled"
    finally:
        await system.stop()
