"""Breaker against a naive model: a list of everything that ended, and the rules as one would write them down."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.metrics import Metrics
from gateway.upstream.breaker import Breaker, CircuitBreakerOptions, SlowCallOptions
from gateway.upstream.window import BUCKETS


@dataclass(eq=False)
class Call:
    began: float
    era: int  # how many changes of state came before


@dataclass
class Model:
    """The documented rules, with no thought of cost."""

    options: CircuitBreakerOptions
    state: str = "closed"
    since: float = 0.0
    era: int = 0
    ended: list[tuple[float, bool, bool]] = field(default_factory=list)
    successes: int = 0

    def begin(self, state: str, now: float) -> None:
        self.state, self.since = state, now
        self.era += 1
        self.ended, self.successes = [], 0

    def admits(self, now: float, trials: int) -> bool:
        if self.state == "open" and now >= self.since + self.options.recovery_timeout:
            self.begin("half-open", now)
            trials = 0
        return self.state == "closed" or (
            self.state == "half-open" and trials + self.successes < self.options.half_open_requests
        )

    def record(self, call: Call, ok: bool, now: float) -> None:
        if call.era != self.era:
            return
        slow_call = self.options.slow_call
        slow = slow_call is not None and now - call.began >= slow_call.duration
        if self.state == "half-open":
            if not ok or slow:
                self.begin("open", now)
            else:
                self.successes += 1
                if self.successes == self.options.half_open_requests:
                    self.begin("closed", now)
        elif self.state == "closed":
            self.ended.append((now, not ok, slow))
            if not ok or slow:
                self.judge(now)

    def judge(self, now: float) -> None:
        width = self.options.window / BUCKETS
        lately = [each for each in self.ended if each[0] // width >= now // width - BUCKETS]
        failed = sum(each[1] for each in lately) / len(lately)
        slow = sum(each[2] for each in lately) / len(lately)
        threshold = self.options.slow_call.threshold if self.options.slow_call else 2.0
        if len(lately) >= self.options.minimum_requests and (
            failed >= self.options.failure_threshold or slow >= threshold
        ):
            self.begin("open", now)


options = st.builds(
    CircuitBreakerOptions,
    failure_threshold=st.sampled_from([0.1, 0.5, 1.0]),
    slow_call=st.none() | st.builds(SlowCallOptions, duration=st.just(2.0), threshold=st.sampled_from([0.3, 1.0])),
    minimum_requests=st.integers(1, 6),
    window=st.just(10.0),
    recovery_timeout=st.sampled_from([0.5, 20.0]),
    half_open_requests=st.integers(1, 4),
)


class BreakerAndModel(RuleBasedStateMachine):
    @initialize(options=options, now=st.floats(0.0, 1e6))
    def start(self, options: CircuitBreakerOptions, now: float) -> None:
        self.now = now
        self.model = Model(options)
        self.breaker = Breaker(options, "u", "t", Metrics(None))
        self.calls: list[Call] = []

    def trials(self) -> int:
        return sum(call.era == self.model.era for call in self.calls)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 2.0, 5.0, 25.0]) | st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        wait = self.breaker.admit(self.now)
        assert (wait == 0.0) == self.model.admits(self.now, self.trials())
        if wait:
            assert wait > 0.0
            if self.model.state == "open":
                assert abs(self.model.since + self.model.options.recovery_timeout - self.now - wait) < 1e-6
        else:
            self.calls.append(Call(self.now, self.model.era))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), ok=st.booleans())
    def end(self, data: st.DataObject, ok: bool) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.breaker.record(ok, call.began, self.now)
        self.model.record(call, ok, self.now)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.breaker.abandon(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))).began)

    @invariant()
    def same_state(self) -> None:
        if hasattr(self, "model"):
            assert self.breaker.state == self.model.state

    @invariant()
    def never_more_trials_than_allowed(self) -> None:
        if hasattr(self, "model") and self.model.state == "half-open":
            assert self.trials() + self.model.successes <= self.model.options.half_open_requests


BreakerAndModel.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
test_the_breaker_follows_its_rules = BreakerAndModel.TestCase
