"""Intake against plain inserts: what exactly-once accounting costs, and how it scales with workers.

Compares, in rounds that take turns on one PostgreSQL (durable, as in production), events a second of

- `plain`: unnest inserts of the same rows into the same partitioned table, one connection, nothing checked;
- `one`: the whole intake (decode, dedupe, roll-ups, counts) in one process on one connection, frames unpacked before;
- `four`: four such processes, each with a shard of its own;
- `worker`: one process with as many shards in hand at once as `billing.connections` says.

    python -m benchmarks.intake [--events 30000] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

from gateway.billing.database import WORKER, Database
from gateway.billing.intake import Intake
from gateway.billing.options import BillingOptions
from gateway.billing.record import Delivered, Record, columns, examine, unpack
from gateway.clock import Clock
from gateway.metrics import Metrics
from gateway.migration import migrate
from tests.fixtures.postgres import PostgresServer, run_sql
from tests.fixtures.usage import event, frame, now_millis

BATCH: Final = 1000
OPTIONS: Final = BillingOptions()
PLAIN: Final = """
insert into usage_event (
  event_day, event_id, segment, number, version, kind, ref, organization, subscription, plan_version, key, route,
  upstream, provider, model, status, outcome, admitted_at, occurred_at, quantities, payload_hash
)
select a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q,
  timestamptz 'epoch' + r * interval '1 microsecond', timestamptz 'epoch' + s * interval '1 microsecond', t, u
from unnest(
  $1::date[], $2::uuid[], $3::text[], $4::integer[], $5::smallint[], $6::text[], $7::uuid[], $8::text[],
  $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::smallint[],
  $17::text[], $18::bigint[], $19::bigint[], $20::jsonb[], $21::bytea[]
) as x (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u)
"""


def batches(shard: int, events: int) -> list[list[Delivered]]:
    """Stream entries of `events` events in all: two frames to a batch, 50 organizations with four keys each."""
    segment = f"benchmark/{os.getpid():016x}/{shard:08d}"
    made = []
    for start in range(0, events, BATCH):
        used = [
            event(organization=f"organization_{n % 50}", key=f"key_{n % 200}", route=f"route_{n % 5}")
            for n in range(BATCH)
        ]
        halves = (used[: BATCH // 2], used[BATCH // 2 :])
        frames = [frame(half, segment, start + at * len(half)) for at, half in enumerate(halves)]
        made.append([unpack(f"{start}-{at}", packed) for at, packed in enumerate(frames)])
    return made


def row(record: Record) -> tuple[object, ...]:
    """A row of usage_event, as PLAIN inserts it."""
    used = record.event
    assert used is not None
    return (
        *(record.day, record.event_id, *record.place, used.version, used.kind, used.ref, used.organization),
        *(used.subscription, used.plan_version, used.key, used.route, used.upstream, used.provider, used.model),
        *(used.status, used.outcome, used.admitted_at, used.occurred_at),
        *(json.dumps(used.quantities), record.digest),
    )


async def plain(url: str, events: int) -> float:
    work = []
    for batch in batches(0, events):
        placed = [item for delivered in batch for item in delivered.records]
        work.append(columns([row(examine(place, payload, now_millis(), 10**12)) for place, payload in placed]))
    connection = await asyncpg.connect(url)
    try:
        await connection.fetchval("select open_usage_day($1)", work[0][0][0])
        await connection.execute("set role tallygate_worker")
        started = time.perf_counter()
        for parameters in work:
            await connection.execute(PLAIN, *parameters)
        return events / (time.perf_counter() - started)
    finally:
        await connection.close()


async def account(url: str, events: int, shards: list[int]) -> float:
    """Events a second of one process that has all of `shards` in hand at once."""
    lanes = [(shard, batches(shard, events // len(shards))) for shard in shards]
    async with Database(url, WORKER, connections=len(shards)) as database:
        intake = Intake(database, Metrics(None), Clock(), retention=OPTIONS.retention)
        await asyncio.gather(*(intake.account(shard, []) for shard in shards))
        if not sys.stdin.isatty():
            print("ready", flush=True)
            sys.stdin.readline()
        started = time.perf_counter()

        async def lane(shard: int, work: list[list[Delivered]]) -> None:
            for batch in work:
                await intake.account(shard, batch)

        await asyncio.gather(*(lane(shard, work) for shard, work in lanes))
        return events / (time.perf_counter() - started)


def run_processes(url: str, events: int, processes: int, lanes: int) -> float:
    """Events a second of several processes together, from their common start to the end of the last."""
    children = []
    for number in range(processes):
        shards = ",".join(str(number * lanes + lane) for lane in range(lanes))
        command = [sys.executable, "-m", "benchmarks.intake", "--account", url, "--shards", shards]
        command += ["--events", str(events)]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    return events * processes / (time.perf_counter() - started)


def measure(events: int, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {"plain": [], "one": [], "four": [], "worker": []}
    server = PostgresServer(durable=True)
    try:
        server.start()

        def fresh() -> str:
            name = server.fresh_name()
            asyncio.run(run_sql(server.url(), f"create database {name}", "checkpoint"))
            asyncio.run(migrate(server.url(name)))
            return server.url(name)

        for _ in range(rounds):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rates["plain"].append(runner.run(plain(fresh(), events)))
            rates["one"].append(run_processes(fresh(), events, 1, 1))
            rates["four"].append(run_processes(fresh(), events, 4, 1))
            rates["worker"].append(run_processes(fresh(), events, 1, OPTIONS.connections))
    finally:
        server.remove()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--account", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--shards", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.account:
        shards = [int(shard) for shard in arguments.shards.split(",")]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(account(arguments.account, arguments.events, shards))
        return
    rates = measure(arguments.events, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        "one_vs_plain": medians["one"] / medians["plain"],
        "four_vs_one": medians["four"] / medians["one"],
        "worker_vs_plain": medians["worker"] / medians["plain"],
    }
    for name, values in rates.items():
        print(f"{name:8} {medians[name]:10,.0f} events/s   ({min(values):,.0f} to {max(values):,.0f})")
    for name, ratio in ratios.items():
        print(f"{name:16} {ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"events_per_second": medians, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
