"""The simulation behind `bin/bench balancing`: always the same, and it can tell a good balancer from a bad one."""

from __future__ import annotations

import pytest

from benchmarks.balancing import BALANCERS, FEW_WORKERS, WORKERS, Simulation, flapping, slow, sound

SICK = [sound, sound, sound, slow, flapping]


def simulated(balancer: str, tempers: list, workers: int = WORKERS, seconds: float = 20.0) -> Simulation:
    return Simulation(BALANCERS[balancer], tempers, workers, seed=1, seconds=seconds).run()


def test_the_same_seed_gives_the_same_figures():
    one, other = simulated("adaptive", SICK, seconds=2.0), simulated("adaptive", SICK, seconds=2.0)
    assert one.taken == other.taken
    assert one.failed == other.failed


def test_every_call_is_answered_once():
    run = simulated("round_robin", SICK, seconds=5.0)
    assert len(run.taken) == sum(server.calls for server in run.servers) == pytest.approx(5000, rel=0.1)
    assert all(server.busy == 0 and not server.queue for server in run.servers)


def test_adaptive_keeps_away_from_sick_targets():
    p99 = {name: simulated(name, SICK).quantile(0.99) for name in BALANCERS}
    assert p99["adaptive"] < 0.4 * p99["least_connections"]
    assert p99["adaptive"] < 0.1 * p99["round_robin"]


def test_where_all_are_sound_there_is_little_to_choose():
    p99 = {name: simulated(name, [sound] * 5, FEW_WORKERS).quantile(0.99) for name in BALANCERS}
    assert max(p99.values()) < 1.2 * min(p99.values())
