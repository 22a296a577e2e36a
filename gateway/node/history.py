"""History: how much came to each route over the last minutes, kept by the supervisor from what all processes count."""

from __future__ import annotations

from asyncio import get_running_loop
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from gateway.admin.status import MOST_ROUTES, SAMPLES, Traffic
from gateway.metrics import SECONDS
from gateway.readings import Readings

SAMPLE_SECONDS: Final = 5.0
"""Time between two samples: `status.SAMPLES` of them are five minutes."""
_QUANTILE: Final = 0.95
_QUANTILE_SAMPLES: Final = 12  # the last minute
REQUESTS: Final = "tallygate_requests_total"
DURATIONS: Final = "tallygate_request_seconds"


class _Route:
    """What was counted for one route, at each sample: requests, errors, and requests by how long they took."""

    def __init__(self) -> None:
        self.counts: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES + 1)  # with when
        self.durations: deque[Sequence[float]] = deque(maxlen=_QUANTILE_SAMPLES + 1)


class History:
    """Takes a sample whenever it is told to, which should be every SAMPLE_SECONDS."""

    def __init__(self, readings: Readings) -> None:
        """`readings` reads REQUESTS and DURATIONS."""
        self._readings = readings
        self._routes: dict[str, _Route] = {}

    def take(self, routes: Iterable[str]) -> None:
        """Takes a sample of these routes; any other is forgotten."""
        names = list(routes)[:MOST_ROUTES]
        self._routes = {name: self._routes.get(name) or _Route() for name in names}
        counts = {name: [0.0, 0.0] for name in names}
        durations = {name: [0.0] * (len(SECONDS) + 1) for name in names}
        for reading in self._readings.look():
            name = reading.values[0]
            if name not in counts:
                continue
            if reading.metric == REQUESTS:
                counts[name][0] += reading.cells[0]
                counts[name][1] += reading.cells[0] if reading.values[1] >= "500" else 0.0
            else:
                durations[name] = [a + b for a, b in zip(durations[name], reading.cells[1:], strict=True)]
        now = get_running_loop().time()
        for name, route in self._routes.items():
            requests, errors = counts[name]
            route.counts.append((now, requests, errors))
            route.durations.append(durations[name])

    def traffic(self) -> dict[str, Traffic]:
        """What came to each route."""
        return {name: _traffic(route) for name, route in self._routes.items()}


def _traffic(route: _Route) -> Traffic:
    steps = [(b[0] - a[0], b[1] - a[1], b[2] - a[2]) for a, b in pairwise(route.counts)]
    answered = [b - a for a, b in zip(route.durations[0], route.durations[-1], strict=True)] if route.durations else []
    return Traffic(
        [requests / seconds for seconds, requests, _ in steps],
        [errors / seconds for seconds, _, errors in steps],
        quantile(_QUANTILE, answered),
    )


def quantile(share: float, counts: Sequence[float]) -> float | None:
    """The time within which this share ended, of requests counted by the bounds in SECONDS; None without requests.

    As Prometheus' histogram_quantile: linear within the range that it lies in, and never beyond the last bound.
    """
    totals = list(accumulate(counts))
    if not totals or not totals[-1]:
        return None
    rank = share * totals[-1]
    place = next(place for place, total in enumerate(totals) if total >= rank)
    if place == len(SECONDS):
        return SECONDS[-1]
    begin = SECONDS[place - 1] if place else 0.0
    return begin + (SECONDS[place] - begin) * (rank - (totals[place] - counts[place])) / counts[place]
