"""Mirror: a share of a route's requests is sent a second time, to an upstream whose answers nobody waits for.

A request is mirrored once its own answer has begun, as by Traefik: so whatever the mirror does, it delays nothing, and
it can be left out without anybody noticing. Only who has to bill must not count it: it is no request of a customer's.
"""

from __future__ import annotations

from asyncio import timeout
from random import Random
from typing import TYPE_CHECKING, Final

from pydantic import Field

from gateway.body import Body
from gateway.exchange import Request
from gateway.options import Duration, Options, Rate, Size
from gateway.upstream.call import response_of

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics
    from gateway.upstream.upstream import Upstream

MIRRORED: Final = b"X-Tallygate-Mirror: 1\r\n"
"""Tells the upstream that nobody waits for its answer; forwarding.py drops a client's own."""


class MirrorOptions(Options):
    """Sends a share of the requests to another upstream too; its answers are thrown away, and nothing is billed."""

    upstream: str
    """Name of the upstream. Its requests carry `X-Tallygate-Mirror: 1`."""
    share: Rate = Field(default=1.0, gt=0, le=1)
    """How many of the requests are mirrored."""
    max_in_flight: int = Field(default=64, ge=1)
    """Mirrored requests of one process under way at once; while there are so many, none is mirrored."""
    timeout: Duration = Field(default=10.0, gt=0)
    """How long a mirrored request may take in all."""
    replay_buffer: Size = 64 * 1024
    """Request bodies up to this size are kept until the answer begins; requests with larger ones are not mirrored."""


class Mirror:
    """The mirror of one route. What it sends runs in the background, and never more at once than its bound."""

    def __init__(
        self,
        options: MirrorOptions,
        route: str,
        upstream: Upstream,
        *,
        background: Background,
        metrics: Metrics,
        random: Random,
    ) -> None:
        self.in_flight = 0
        self._options = options
        self._upstream = upstream
        self._background = background
        self._random = random.random
        requests = metrics.counter(
            "tallygate_mirror_requests_total",
            "Requests to be mirrored: `mirrored`, `failed` (unanswered), or `left_out` (no room, or too large a body).",
            ("route", "result"),
        )
        self._mirrored = requests.labels(route, "mirrored")
        self._failed = requests.labels(route, "failed")
        self._left_out = requests.labels(route, "left_out")

    def chooses(self) -> bool:
        """Whether the next request is to be mirrored; if so, its body has to be kept."""
        return self._random() < self._options.share

    def send(self, request: Request, body: bytes | None) -> None:
        """Send a request again that was chosen, with its whole body, or None for one that could not be kept."""
        options = self._options
        if body is None or len(body) > options.replay_buffer or self.in_flight >= options.max_in_flight:
            self._left_out.inc()
            return
        self.in_flight += 1
        _ = self._background.start(self._call(_again(request, body)), "mirrored request")

    async def _call(self, request: Request) -> None:
        outcome = self._failed
        try:
            async with timeout(self._options.timeout):
                response = await response_of(lambda caller: self._upstream.call(request, caller))
                try:
                    await _heard_out(response.body)
                finally:
                    response.close()
            outcome = self._mirrored
        except Exception:  # noqa: BLE001 - whatever it was, the upstream has logged it, and nobody waits
            return
        finally:
            self.in_flight -= 1
            outcome.inc()


async def _heard_out(body: Body | bytes) -> None:
    """Take all of an answer: a connection that is not read to its end cannot be used again."""
    if isinstance(body, Body):
        while not (await body.next())[1]:
            pass


def _again(request: Request, content: bytes) -> Request:
    """The same request once more, with nothing in it that leads back to the client."""
    mirrored = Request(request.method, request.target, request.headers)
    if content:
        mirrored.body = Body(length=len(content))
        mirrored.body.feed(content)
        mirrored.body.finish()
    mirrored.scheme, mirrored.hop_scheme, mirrored.host = request.scheme, request.hop_scheme, request.host
    mirrored.peer, mirrored.client, mirrored.http10 = request.peer, request.client, request.http10
    mirrored.identity = request.identity + MIRRORED
    return mirrored
