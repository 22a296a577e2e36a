"""Attempts: one request's way to a response where attempts may be refused, repeated or given company.

Breakers say whether an attempt may be made at all, the bulkhead when, the balancer where, and the retry whether one
that failed is repeated. Whoever called hears of the last result only.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import TYPE_CHECKING

from gateway.body import Body
from gateway.exchange import Request, Response
from gateway.problem import CircuitOpen, Overloaded, retry_after
from gateway.upstream.call import Call, Caller
from gateway.upstream.failure import failure_of
from gateway.upstream.replay import ReplayableBody

if TYPE_CHECKING:
    from gateway.upstream.target import Target
    from gateway.upstream.upstream import Upstream


class Attempt:
    """One try at one target; the Caller of its call."""

    __slots__ = ("_attempts", "began", "call", "target")

    def __init__(self, attempts: Attempts, target: Target, began: float) -> None:
        self._attempts = attempts
        self.target = target
        self.began = began
        self.call: Call | None = None

    def answered(self, response: Response) -> None:
        self._attempts.ended(self, response)

    def failed(self, error: Exception) -> None:
        self._attempts.ended(self, error)


class Attempts:
    """All attempts of one call. It is cancelled like a Call, and waits in the bulkhead like any Waiter.

    `body` is the request's, or one in its place that can be sent again, which stays the caller's.
    """

    __slots__ = (
        "_began",
        "_body",
        "_caller",
        "_deadline",
        "_hedges",
        "_live",
        "_made",
        "_own_body",
        "_placed",
        "_request",
        "_timer",
        "_tried",
        "_upstream",
        "_weight",
    )

    def __init__(self, upstream: Upstream, request: Request, body: Body | ReplayableBody, caller: Caller) -> None:
        self._upstream = upstream
        self._request = request
        self._caller = caller
        self._began = self._deadline = 0.0
        self._body = upstream.replayable(body)
        self._own_body = self._body is not body
        self._live: list[Attempt] = []
        self._tried: list[Target] = []
        self._made = 0
        self._hedges = 0
        self._placed = False
        self._timer: TimerHandle | None = None
        self._weight = 1

    def begin(self, now: float) -> None:
        """Make the first attempt, or wait for a place."""
        upstream, bulkhead = self._upstream, self._upstream.bulkhead
        self._began, self._deadline = now, now + upstream.total
        if upstream.circuits is not None and (wait := upstream.circuits.whole.admit(now)):
            self._caller.failed(CircuitOpen(headers=retry_after(wait)))
            return
        if bulkhead is None:
            self._start(now)
            return
        try:
            self._placed = bulkhead.enter(self, now)
        except Overloaded as refusal:
            self._end(refusal)
            return
        if self._placed:
            self._start(now)

    def cancel(self) -> None:
        """Nobody waits for the response any more."""
        self._stop_timer()
        for attempt in self._live:
            self._leave(attempt)
        self._live.clear()
        upstream = self._upstream
        if upstream.circuits is not None:
            upstream.circuits.whole.abandon(self._began)
        if upstream.bulkhead is not None and not upstream.bulkhead.give_up(self) and self._placed:
            upstream.bulkhead.leave()
        self._release_body()

    # The Waiter of the bulkhead

    def admitted(self) -> None:
        """There is a place now."""
        self._placed = True
        self._start(self._upstream.time())

    def refused(self, problem: Overloaded) -> None:
        """It waited too long."""
        self._end(problem)

    # Attempts

    def _start(self, now: float) -> None:
        upstream = self._upstream
        if upstream.retry is not None:
            upstream.retry.begin(now)
            if upstream.retry.hedge_after is not None:
                self._timer = upstream.loop.call_later(upstream.retry.hedge_after, self._hedge)
        if upstream.targets.wants_feedback:
            self._weight = upstream.targets.weigh(self._request)
        self._attempt()

    def _attempt(self) -> None:
        upstream, now = self._upstream, self._upstream.time()
        target = self._pick(now)
        if not isinstance(target, Exception):
            attempt = Attempt(self, target, now)
            self._live.append(attempt)
            self._tried.append(target)
            self._made += 1
            deadline = self._deadline if upstream.retry is None else upstream.retry.deadline(now, self._deadline)
            attempt.call = Call(upstream, self._request, attempt, target, deadline, self._body)
            if upstream.targets.wants_feedback:
                upstream.targets.sent(target, now, self._weight)
            upstream.attempt(attempt.call, now)
        elif not self._live:
            self._end(target)

    def _pick(self, now: float) -> Target | Exception:
        """A target whose circuit is not open, one that was not tried yet if there is one."""
        upstream, avoid = self._upstream, list(self._tried)
        shortest = 0.0
        for _ in range(len(upstream.targets.all)):
            target = upstream.targets.pick(self._request, now, avoid)
            if target is None:
                break
            wait = upstream.circuits.to(target).admit(now) if upstream.circuits is not None else 0.0
            if not wait:
                return target
            shortest = min(shortest or wait, wait)
            avoid.append(target)
        if shortest:
            return CircuitOpen(headers=retry_after(shortest))
        return Overloaded("No target of the upstream is available.", headers=retry_after(1.0))

    def _hedge(self) -> None:
        upstream, request = self._upstream, self._request
        retry = upstream.retry
        if retry is None or retry.hedge_after is None or not self._live:
            return
        has_body = request.body.length != 0
        if retry.hedge(self._hedges, method=request.method, has_body=has_body, now=upstream.time()):
            self._hedges += 1
            self._timer = upstream.loop.call_later(retry.hedge_after, self._hedge)
            self._attempt()

    def ended(self, attempt: Attempt, result: Response | Exception) -> None:
        """An attempt has a response's head, or failed."""
        self._live.remove(attempt)
        now = self._upstream.time()
        self._record(attempt, result, now)
        if self._live and (not isinstance(result, Response) or result.status >= 500):
            if isinstance(result, Response):
                result.close()
            return  # its company may do better
        pause = self._pause(result, now)
        if pause is None:
            self._end(result, attempt)
            return
        if isinstance(result, Response):
            result.close()
        self._body.rewind()
        self._stop_timer()
        self._timer = self._upstream.loop.call_later(pause, self._attempt)

    def _pause(self, result: Response | Exception, now: float) -> float | None:
        retry, request = self._upstream.retry, self._request
        if retry is None:
            return None
        return retry.pause(
            result,
            self._made - self._hedges,
            method=request.method,
            replayable=not isinstance(self._body, ReplayableBody) or self._body.rewindable_after(result),
            forwarded=False,
            now=now,
            deadline=self._deadline,
        )

    def _record(self, attempt: Attempt, result: Response | Exception, now: float) -> None:
        """Tell breaker and balancer what became of an attempt."""
        upstream, failure = self._upstream, failure_of(result)
        known = failure is not None and failure != "refused"
        if upstream.circuits is not None:
            breaker = upstream.circuits.to(attempt.target)
            if known:
                breaker.record(failure not in breaker.failures, attempt.began, now)
            else:
                breaker.abandon(attempt.began)
        if upstream.targets.wants_feedback:
            ok = None if not known else isinstance(failure, int) and failure < 500
            response = result if isinstance(result, Response) else None
            upstream.targets.answered(attempt.target, response, now - attempt.began, ok, self._weight)

    def _leave(self, attempt: Attempt) -> None:
        """Give an attempt up that is still on its way."""
        upstream = self._upstream
        if attempt.call is not None:
            attempt.call.cancel()
        if upstream.circuits is not None:
            upstream.circuits.to(attempt.target).abandon(attempt.began)
        if upstream.targets.wants_feedback:
            seconds = upstream.time() - attempt.began
            upstream.targets.answered(attempt.target, None, seconds, None, self._weight)

    # The end

    def _end(self, result: Response | Exception, last: Attempt | None = None) -> None:
        self._stop_timer()
        for attempt in self._live:
            self._leave(attempt)
        self._live.clear()
        self._record_call(result)
        if isinstance(result, Response):
            if last is not None and last.call is not None:
                last.call.deadline = self._deadline
                self._upstream.targets.keep_client(self._request, result, last.target)
            if isinstance(result.body, Body):
                result.body.when_over(self._over)
            else:
                self._over()
            self._caller.answered(result)
        else:
            self._over()
            self._caller.failed(result)

    def _record_call(self, result: Response | Exception) -> None:
        if self._upstream.circuits is None:
            return
        breaker = self._upstream.circuits.whole
        failure = failure_of(result)
        if failure is None or failure == "refused":
            breaker.abandon(self._began)
        else:
            breaker.record(failure not in breaker.failures, self._began, self._upstream.time())

    def _over(self) -> None:
        """The response has arrived whole, or nobody waits for the rest of it."""
        self._release_body()
        if self._placed and self._upstream.bulkhead is not None:
            self._placed = False
            self._upstream.bulkhead.leave()

    def _release_body(self) -> None:
        if self._own_body and isinstance(self._body, ReplayableBody):
            self._body.release()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
