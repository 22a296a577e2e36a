"""The comparison with nginx from beginning to end: start everything, measure, print, write, judge."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks import budgets, report, throughput
from benchmarks.cases import Case
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, peak
from benchmarks.peers import start_nginx
from benchmarks.programs import ProgramFailed, Programs, free_ports
from benchmarks.throughput import AUTHORIZED, BARE, LOGGED, LUA, NGINX, ORIGIN, VARIED, VARIED_LUA, WHOLE_JOB, Measured
from gateway.keys import new_key

LATENCY_ROUNDS: Final = 3
LATENCY_SECONDS: Final = 4.0
JOURNALLED: Final = "tallygate_journal_records_total"


class Setting(NamedTuple):
    """What was started: the cases to compare, the origin asked directly, and the process that each case loads."""

    cases: list[Case]
    direct: Case
    pids: dict[str, int]
    edge: Edge | None


def run(programs: Programs, cores: Cores, *, rounds: int, seconds: float, peers_only: bool) -> int:
    """Measure all cases. Returns the exit status: 1 when a budget does not hold."""
    setting = start(programs, cores, peers_only=peers_only)
    edge = setting.edge
    measured = [Measured(case) for case in setting.cases]
    print(f"saturation: {rounds} rounds of {seconds:g} s, {throughput.CONNECTIONS[0]} connections", flush=True)
    journalled_before = edge.metric(JOURNALLED) if edge else 0
    throughput.saturate(measured, cores, rounds=rounds, seconds=seconds)
    if edge:
        check_books(measured, edge.metric(JOURNALLED) - journalled_before)
    ratios = throughput.ratios({each.case.name: each for each in measured})
    half = measured[0].rate / 2
    print(f"latency: {LATENCY_ROUNDS} rounds of {LATENCY_SECONDS:g} s at {half:,.0f} requests/s", flush=True)
    direct = Measured(setting.direct)
    offered = [*(each for each in measured if not each.case.varied), direct]
    throughput.offer(offered, cores, rate=half, rounds=LATENCY_ROUNDS, seconds=LATENCY_SECONDS)
    programs.check()

    peaks = {name: peak(pid) for name, pid in setting.pids.items()}
    print(f"\n{report.saturation_table(measured, peaks)}\n\n{report.latency_table(offered, half)}\n")
    for name, ratio in ratios.items():
        print(f"{name:32} {ratio:.3f}")
    if edge is None:
        return 0
    report.write(report.document([*measured, direct], cores, ratios, half, peaks))
    added = measured[0].p50 - direct.p50
    return budgets.verdict("throughput", {**ratios, "added_latency_p50_milliseconds": round(added, 3)})


def start(programs: Programs, cores: Cores, *, peers_only: bool) -> Setting:
    """Start the origin, nginx and the edge. Every case is checked to answer with the origin's document."""
    origin_port, proxy_port, lua_port, unused = free_ports(4)
    start_nginx(programs, "origin", cores.origin, origin_port)
    edge = None if peers_only else start_edge(programs, cores, origin=origin_port, demo=unused)
    key = edge.key if edge else new_key("test")
    headers = {"x-api-key": key}
    proxy = start_nginx(programs, "proxy", cores.proxy, proxy_port, ORIGIN=str(origin_port))
    lua = start_nginx(programs, "lua", cores.proxy, lua_port, ORIGIN=str(origin_port), KEY=key)
    pids = {NGINX: proxy, LUA: lua, VARIED_LUA: lua}
    cases = [
        Case(NGINX, proxy_port, "/thing", headers),
        Case(LUA, lua_port, "/thing", headers, keyed=True),
        Case(VARIED_LUA, lua_port, "/thing", headers, keyed=True, varied=True),
    ]
    if edge:
        cases = [
            edge.case(WHOLE_JOB, "whole", keyed=True),
            edge.case(AUTHORIZED, "authorized", keyed=True),
            edge.case(LOGGED, "logged", keyed=True),
            edge.case(VARIED, "whole", keyed=True, varied=True),
            edge.case(BARE, "bare", keyed=False),
            *cases,
        ]
        pids |= dict.fromkeys((WHOLE_JOB, AUTHORIZED, LOGGED, VARIED, BARE), edge.process)
    direct = Case(ORIGIN, origin_port, "/thing", headers)
    expected = direct.document()
    for case in cases:
        case.check(expected)
    return Setting(cases, direct, pids, edge)


def check_books(measured: list[Measured], journalled: float) -> None:
    """A case that claims the whole job must have done it: one usage event for every answer wrk counted."""
    answered = sum(
        made.load.requests
        for each in measured
        if each.case.name in (WHOLE_JOB, AUTHORIZED, LOGGED, VARIED)
        for made in each.rounds
    )
    if journalled < answered:
        raise ProgramFailed(f"the edge answered {answered:,} metered requests and journalled only {journalled:,.0f}")
