"""A reload gives TLS to a listener, takes it away and puts another in its place; what is under way goes on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.edge.edge import Edge
from gateway.edge.lasting import Lasting
from gateway.edge.runtime import BuildFailed
from gateway.tls import renewal
from tests.fixtures.certificates import EXPIRED, Authority
from tests.fixtures.configuration import loaded
from tests.fixtures.conversation import eventually
from tests.fixtures.lasting import lasting_in
from tests.journeys.line import Cut, Line, Unanswered
from tests.journeys.node import until
from tests.journeys.upstream import Upstream

EXPIRY = "tallygate_tls_certificate_expiry_timestamp_seconds"


class Gateway:
    """An edge with one listener, in front of an upstream that answers when it is told to."""

    def __init__(self, lasting: Lasting, upstream: Upstream) -> None:
        self.upstream = upstream
        self.metrics = lasting.metrics
        self.edge = Edge(lasting)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self._generation = 0

    async def prepare(self, listener: str) -> None:
        text = f"""\
listeners: [{{bind: "127.0.0.1:{self.port}"{listener}}}]
upstreams: {{u: {{targets: ["http://127.0.0.1:{self.upstream.port}"]}}}}
routes: [{{name: all, upstream: u}}]
"""
        self._generation += 1
        sock = self.sock.dup()
        try:
            await self.edge.prepare(self._generation, loaded(text), f"{self._generation:x}", [sock])
        except BuildFailed:
            sock.close()
            raise

    async def take(self, listener: str = "") -> None:
        await self.prepare(listener)
        assert await self.edge.commit(self._generation)

    def shown(self, issued_as: str) -> float:
        """When the certificate in this file expires, as the metrics have it; not a number if they do not."""
        return (
            self.metrics.gauge(
                EXPIRY,
                "When a certificate that is presented expires, or one of its chain: seconds since the Unix epoch.",
                ("certificate",),
            )
            .labels(issued_as)
            .value
        )


@pytest.fixture
async def gateway(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.02)
    upstream = Upstream()
    await upstream.start()
    async with lasting_in(tmp_path / "journal") as lasting:
        gateway = Gateway(lasting, upstream)
        yield gateway
        await gateway.edge.stop(0.2)
    gateway.sock.close()
    await upstream.stop()


@pytest.fixture
def authority(here: Path) -> Authority:
    """An authority in the current directory, and two certificates of it: `a` and `b`."""
    authority = Authority(here)
    for name in ("a", "b"):
        authority.issue(name, ["localhost"])
    return authority


def tls(name: str = "a", more: str = "") -> str:
    return f", tls: {{certificate: {name}.pem, key: {name}.key{more}}}"


async def test_tls_comes_and_goes(gateway: Gateway, authority: Authority) -> None:
    """Who came on other terms does not stay, but what has begun is ended first."""
    await gateway.take()
    idle, busy = await Line.open(gateway.port), await Line.open(gateway.port)
    await idle.ask("/")
    busy.send("/held")
    call = await gateway.upstream.call()
    await gateway.take(tls())
    assert await idle.closed() == b""
    secure = await Line.open(gateway.port, tls=authority.client())
    assert (await secure.ask("/")).status == 200
    plain = await Line.open(gateway.port)
    with pytest.raises((Unanswered, Cut)):
        await plain.ask("/")
    call.answer()
    answer = await busy.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    await gateway.take()
    with pytest.raises((Unanswered, Cut)):
        await secure.ask("/")
    again = await Line.open(gateway.port)
    assert (await again.ask("/")).status == 200
    for line in (idle, busy, secure, plain, again):
        line.leave()


async def test_another_certificate_is_for_who_comes_next(gateway: Gateway, authority: Authority) -> None:
    await gateway.take(tls("a"))
    living = await Line.open(gateway.port, tls=authority.client())
    before = living.certificate
    await gateway.take(tls("b"))
    assert (await living.ask("/")).status == 200, "its terms are the same"
    coming = await Line.open(gateway.port, tls=authority.client())
    assert before != coming.certificate
    assert await eventually(lambda: gateway.shown("a.pem") != gateway.shown("a.pem"), 5), "nobody is shown it any more"
    assert gateway.shown("b.pem") > 0
    living.leave()
    coming.leave()


async def test_a_certificate_that_two_had_is_still_counted(gateway: Gateway, authority: Authority) -> None:
    await gateway.take(tls("a"))
    await gateway.take(tls("a", ", min_version: 1.3"))
    assert await eventually(lambda: not gateway.edge._retired, 5)
    await asyncio.sleep(0.2)
    assert gateway.shown("a.pem") > 0


async def test_clients_that_must_show_certificates_from_now_on_must_come_again(
    gateway: Gateway, authority: Authority
) -> None:
    await gateway.take(tls())
    anonymous = await Line.open(gateway.port, tls=authority.client())
    await anonymous.ask("/")
    await gateway.take(tls(more=", client_ca: authority.pem"))
    with pytest.raises((Unanswered, Cut)):
        await anonymous.ask("/")
    with pytest.raises((Unanswered, Cut, OSError)):
        await (await Line.open(gateway.port, tls=authority.client())).ask("/")
    known = await Line.open(gateway.port, tls=authority.client(authority.issue("robot")))
    assert (await known.ask("/")).status == 200
    anonymous.leave()
    known.leave()


async def test_what_has_not_changed_is_the_same_tls(gateway: Gateway, authority: Authority) -> None:
    """So its sessions can be resumed, and its files are watched once."""
    await gateway.take(tls())
    (listener,) = gateway.edge._listeners.values()
    before, tasks = listener.tls, len(asyncio.all_tasks())
    for _ in range(20):
        await gateway.take(tls() + ", max_connections: 9")
    assert listener.tls is before is not None
    assert await eventually(lambda: len(asyncio.all_tasks()) == tasks, 5)
    authority.issue("a", ["localhost"])
    line = await Line.open(gateway.port, tls=authority.client())
    first = line.certificate
    line.leave()

    async def is_renewed() -> bool:
        line = await Line.open(gateway.port, tls=authority.client())
        line.leave()
        return line.certificate != first

    await until(is_renewed, 5)


async def test_files_that_cannot_be_used_change_nothing(gateway: Gateway, authority: Authority) -> None:
    await gateway.take(tls())
    line = await Line.open(gateway.port, tls=authority.client())
    authority.issue("old", ["localhost"], EXPIRED)
    with pytest.raises(BuildFailed, match=r"^listener 127.0.0.1:\d+: Unusable: certificate: it expired on "):
        await gateway.prepare(tls("old"))
    with pytest.raises(BuildFailed, match="key: cannot be read"):
        await gateway.prepare(", tls: {certificate: b.pem, key: nowhere.key}")
    assert (await line.ask("/")).status == 200
    context: ssl.SSLContext = authority.client()
    coming = await Line.open(gateway.port, tls=context)
    assert coming.certificate == line.certificate
    line.leave()
    coming.leave()


async def test_a_redirect_comes_and_goes(gateway: Gateway) -> None:
    """On the same connection: it is a matter of requests."""
    await gateway.take()
    line = await Line.open(gateway.port)
    for listener, status in (("", 200), (", redirect_to_https: 8443", 301), (", redirect_to_https: false", 200)):
        await gateway.take(listener)
        answer = await line.ask("/x")
        assert answer.status == status
    line.leave()
