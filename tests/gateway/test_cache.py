"""The cache against a list that does the same, slowly."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.cache import Cache
from gateway.metrics import Metrics

MOST = 3
DIGESTS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        metrics = Metrics(None)
        self.size = metrics.gauge("size", "Size.")
        self.evictions = metrics.counter("evictions_total", "Evictions.")
        self.cache: Cache[int] = Cache(MOST, self.size, self.evictions)
        self.model: list[tuple[bytes, int]] = []
        self.evicted = 0

    @rule(digest=DIGESTS, value=st.integers())
    def put(self, digest: bytes, value: int) -> None:
        self.cache.put(digest, value)
        self.model = [*(item for item in self.model if item[0] != digest), (digest, value)]
        if len(self.model) > MOST:
            del self.model[0]
            self.evicted += 1

    @rule(digest=DIGESTS)
    def get(self, digest: bytes) -> None:
        expected = dict(self.model).get(digest)
        assert self.cache.get(digest) == expected
        if expected is not None:
            self.model = [*(item for item in self.model if item[0] != digest), (digest, expected)]

    @rule(digest=DIGESTS)
    def drop(self, digest: bytes) -> None:
        self.cache.drop(digest)
        self.model = [item for item in self.model if item[0] != digest]

    @invariant()
    def holds_the_same(self) -> None:
        assert self.cache.items() == self.model
        assert len(self.cache) == self.size.value == len(self.model)
        assert self.evictions.value == self.evicted


TestCache = CacheMachine.TestCase
