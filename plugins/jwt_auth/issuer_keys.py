"""The keys that an issuer publishes (RFC 7517 §5, OpenID Connect Discovery 1.0), fetched before they are needed.

A request waits for a fetch only while its key is not known. Whoever needs one at the same time waits for the same one,
and tokens with invented keys cannot cause more than one every `refetch` seconds. What was fetched is used until it is
`stale`; after that, and before the first answer, nobody can tell whether a token is valid.
"""

from __future__ import annotations

import logging
import re
from asyncio import Task, sleep, wait
from math import inf
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.fetch import Fetched, FetchFailed
from gateway.metrics import Counter
from gateway.services import Services
from gateway.tls.client import ClientTls
from plugins.jwt_auth.key_set import KeySet, read_key_set
from plugins.jwt_auth.options import KeysOptions
from plugins.jwt_auth.strict_json import read_object

_LARGEST_DOCUMENT: Final = 256 * 1024
_SOONEST: Final = 60.0
"""Seconds that keys are at least kept for, whatever Cache-Control says."""
_SAID: Final = 5
"""Keys that are of no use of which the log says why."""
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts while the issuer does not answer."""
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})(?:$|[,\s])", re.IGNORECASE)
_UNCACHED: Final = re.compile(r"(?:^|[,\s])no-(?:store|cache)(?:$|[,\s=])", re.IGNORECASE)

log: Final = logging.getLogger(__name__)


class IssuerKeys:
    """`keys` is the newest set; the same object as long as nothing in it changes."""

    def __init__(self, options: KeysOptions, issuer: str, algorithms: frozenset[str], services: Services) -> None:
        """`issuer` is asked for the address of its keys, unless `options` name it."""
        self.keys = KeySet()
        self._options = options
        self._issuer = issuer
        self._algorithms = algorithms
        self._source = options.jwks or issuer
        self._services = services
        self._monotonic = services.clock.monotonic
        self._tls: ClientTls | None = None
        if options.tls is not None:
            self._tls = ClientTls(options.tls, self._source, clock=services.clock, metrics=services.metrics)
        self._flight: Task[None] | None = None
        self._started = False
        self._asked_at = -inf
        self._due_at = -inf
        self._good_until = -inf
        self._failures = 0
        fetches = services.metrics.counter(
            "tallygate_jwt_key_fetches_total", "Times that keys of an issuer were fetched.", ("source", "result")
        )
        self._fetched: Counter = fetches.labels(self._source, "ok")
        self._failed: Counter = fetches.labels(self._source, "failed")
        times = services.metrics.gauge(
            "tallygate_jwt_keys_timestamp_seconds", "When the keys in use were fetched, since the epoch.", ("source",)
        )
        self._time = times.labels(self._source)

    @property
    def known(self) -> bool:
        """Whether there are keys, not too old to go by."""
        return self._monotonic() < self._good_until

    @property
    def answering(self) -> bool:
        """Whether the newest attempt to fetch keys succeeded, so that a key that is not in them does not exist."""
        return self.known and self._failures == 0

    @property
    def worth_waiting(self) -> bool:
        """Whether a fetch is under way, or may be begun because of a token."""
        return self._flight is not None or self._monotonic() - self._asked_at >= self._options.refetch

    def inherit(self, previous: IssuerKeys) -> None:
        """Go on with the keys of the one before a reload."""
        self.keys = previous.keys
        self._asked_at, self._failures = previous._asked_at, previous._failures
        self._due_at, self._good_until = previous._due_at, previous._good_until

    async def start(self) -> None:
        """Begin to fetch, and go on. Raises Unusable for files that TLS cannot be spoken with. Idempotent."""
        if self._started:
            return
        self._started = True
        if self._tls is not None:
            await self._tls.start(self._services.background)
        if self._due_at <= self._monotonic():
            _ = self._renew()
        _ = self._services.background.start(self._refresh(), "jwt_auth")

    def stop(self) -> None:
        """Nobody needs keys any more. Idempotent."""
        if self._tls is not None:
            self._tls.leave()

    async def look_again(self) -> None:
        """Fetch because of a token whose key is not known. Raises nothing: `keys` says what came of it."""
        if self._flight is None:
            self._asked_at = self._monotonic()
        await wait({self._renew()})

    async def _refresh(self) -> None:
        while True:
            pause = self._due_at - self._monotonic()
            if pause > 0 and self._flight is None:
                await sleep(min(pause, _LONGEST_PAUSE))  # what is due may have changed meanwhile
            else:
                await wait({self._renew()})

    def _renew(self) -> Task[None]:
        """The fetch that is under way, for all that want one; begun if there is none."""
        if self._flight is None:
            self._flight = self._services.background.start(self._fetch(), "jwt_auth")
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed(self, _flight: Task[None]) -> None:
        self._flight = None

    async def _fetch(self) -> None:
        self._due_at = self._monotonic() + _LONGEST_PAUSE  # whatever happens, not again at once
        try:
            answer = await self._get(self._options.jwks or await self._discovered())
            keys = read_key_set(answer.body, self._algorithms)
        except (FetchFailed, ValueError) as error:
            self._failures += 1
            self._failed.inc()
            self._due_at = self._monotonic() + min(2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
            if self._failures == 1:
                log.warning("keys of %s: %s", self._source, error)
            return
        if keys != self.keys:
            self.keys = keys
            said = "; ".join(keys.passed_over[:_SAID]) or "none"
            log.info("keys of %s have changed: %d in use, passed over: %s", self._source, len(keys), said)
        self._failures = 0
        self._fetched.inc()
        self._time.set(self._services.clock.nanos() / 1e9)
        self._due_at = self._monotonic() + lifetime(answer, self._options.refresh)
        self._good_until = self._due_at + self._options.stale

    async def _discovered(self) -> str:
        """The address of the issuer's keys, as its own document says it (OpenID Connect Discovery 1.0 §4).

        Raises FetchFailed, ValueError.
        """
        answer = await self._get(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        document: dict[str, Any] = read_object(answer.body)
        if document.get("issuer") != self._issuer:
            raise ValueError("the issuer's document is of another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not url.startswith("http"):
            raise ValueError("the issuer's document has no `jwks_uri`")
        return url

    async def _get(self, url: str) -> Fetched:
        if not (url.startswith("https://") or self._options.allow_http):
            raise ValueError("an address that is not https")
        tls = self._tls.terms_of(urlsplit(url).hostname or "") if self._tls is not None else None
        answer = await self._services.fetch.get(url, within=self._options.timeout, limit=_LARGEST_DOCUMENT, tls=tls)
        if answer.status != 200:
            raise FetchFailed(f"the answer has status {answer.status}")
        return answer


def lifetime(answer: Fetched, longest: float) -> float:
    """The seconds that an answer may be kept (RFC 9111 §4.2), but a minute at least, and `longest` at most."""
    said = ",".join(answer.headers.getall("cache-control"))
    if _UNCACHED.search(said):
        return _SOONEST
    match = _MAX_AGE.search(said)
    if match is None:
        return longest
    age = answer.headers.get("age") or ""
    spent = int(age) if re.fullmatch(r"[0-9]{1,9}", age) else 0
    return max(_SOONEST, min(int(match[1]) - spent, longest))
