"""`bin/bench`: runs a benchmark, prints its table, and ends with status 1 when a budget does not hold."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks import balancing, chain, directory, memory, nginx_comparison, reloads, soak, streams, tools
from benchmarks.machine import Cores, share_out
from benchmarks.programs import ProgramFailed, Programs

WORK = Path("var/bench")
LONGEST_SECONDS = 8 * 60
"""The main benchmark gives up after this long, rather than keep a machine busy."""


def main() -> int:
    arguments = parse()
    try:
        cores = share_out(os.sched_getaffinity(0))
    except ValueError as error:
        sys.exit(str(error))
    if cores.shared:
        print("fewer than four cores: origin, load and stores share what is left of them, so the figures say less")
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    WORK.mkdir(parents=True, exist_ok=True)
    with WORK.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another benchmark runs in this checkout")
        shutil.rmtree(WORK)
        WORK.mkdir()
        # This process measures and waits; it must not do so on the proxy's core.
        os.sched_setaffinity(0, cores.load)
        try:
            with Programs(WORK.resolve()) as programs:
                return int(arguments.run(programs, cores, arguments))
        except (ProgramFailed, tools.ToolMissing) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.set_defaults(run=compare, rounds=5, seconds=3.0, peers_only=False)
    parser.add_argument("--rounds", type=int, help="rounds of each case (default: 5)")
    parser.add_argument("--seconds", type=float, help="length of one round (default: 3)")
    parser.add_argument("--peers-only", action="store_true", help="without the edge: tries the harness itself")
    commands = parser.add_subparsers(title="other benchmarks")
    long = commands.add_parser("soak", help="load for a long time; the slope of the edge's memory")
    long.add_argument("--minutes", type=float, default=10.0)
    long.set_defaults(run=lambda programs, cores, given: soak.run(programs, cores, minutes=given.minutes))
    sizes = commands.add_parser("memory", help="1 GiB each way, a slow reader, 10,000 idle clients")
    sizes.set_defaults(run=lambda programs, cores, _: memory.run(programs, cores))
    several = commands.add_parser("streams", help="what is added to events on their way; the memory of 2,000 streams")
    several.set_defaults(run=lambda programs, cores, _: streams.run(programs, cores))
    callers = commands.add_parser("directory", help="1,000,000 published keys: first sights, and the edge's memory")
    callers.set_defaults(run=lambda programs, cores, _: directory.run(programs, cores))
    changes = commands.add_parser("reloads", help="thousands of reloads; what memory keeps of each")
    changes.add_argument("--times", type=int, default=10_000)
    changes.add_argument("--minutes", type=float, default=15.0, help="the longest it may take (default: 15)")
    changes.set_defaults(
        run=lambda programs, cores, given: reloads.run(programs, cores, times=given.times, minutes=given.minutes)
    )
    chains = commands.add_parser("chain", help="what key_auth and authorize add to an empty chain")
    chains.set_defaults(run=lambda programs, cores, _: chain.run(programs.directory / "stores"))
    balancers = commands.add_parser("balancing", help="one slow and one flapping target, simulated, by balancer")
    balancers.set_defaults(run=lambda programs, cores, _: balancing.run())
    return parser.parse_args()


def compare(programs: Programs, cores: Cores, arguments: argparse.Namespace) -> int:
    tools.ensure()
    signal.alarm(LONGEST_SECONDS)
    return nginx_comparison.run(
        programs, cores, rounds=arguments.rounds, seconds=arguments.seconds, peers_only=arguments.peers_only
    )


def end(number: int, frame: object) -> NoReturn:
    """Leave by way of every `finally`, so that nothing started here stays behind."""
    del frame
    if number == signal.SIGALRM:
        print(f"bench: given up after {LONGEST_SECONDS // 60} minutes", file=sys.stderr)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
