"""TLS towards an upstream: who must be there, what is shown to it, and what becomes of a call if something is wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.background import Background
from gateway.clock import Clock
from gateway.fetch import Fetch
from gateway.metrics import Metrics
from gateway.tls import client as client_module
from gateway.tls.client import ClientTls, UpstreamTlsOptions
from gateway.upstream.probe import ProbeOptions, Prober
from gateway.upstream.target import Target as UpstreamTarget
from gateway.upstream.target import TargetOptions
from tests.fixtures.certificates import EXPIRED, Authority, server_context
from tests.fixtures.conversation import Line, Scripted, calling, eventually, respond, serving
from tests.fixtures.secure_conversation import counted
from tests.fixtures.wire import OK, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def trusting(authority: Authority, **more: Any) -> dict[str, Any]:
    """The options of an upstream whose targets are of this authority."""
    return {"tls": {"ca": str(authority.path), **more}}


def speaking(authority: Authority, *addresses: str, dns: list[str] | None = None) -> ssl.SSLContext:
    """What a target needs that has a certificate for these addresses and names."""
    return server_context(authority.issue("target", dns or [], addresses=addresses))


async def test_connections_are_kept_and_used_again(authority: Authority) -> None:
    target = Target(tls=speaking(authority, "127.0.0.1"))
    async with serving(target, upstream=trusting(authority)) as edge:
        for _ in range(5):
            assert (await edge.ask(ASK)).endswith(b"ok")
        assert len(target.heard) == 1
        assert target.text.count(b"GET / HTTP/1.1\r\nHost: a\r\n") == 5
        assert edge.upstream.pool.idle == 1


async def test_the_system_s_authorities_count_where_none_are_given(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tls=speaking(authority, "127.0.0.1"))
    async with serving(target) as edge:
        assert (await edge.ask(ASK)).startswith(b"HTTP/1.1 502 "), "verified, though nothing was said about it"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    async with serving(target) as edge:
        assert (await edge.ask(ASK)).endswith(b"ok")


@pytest.mark.parametrize(
    ("addresses", "lifetime", "ca", "words"),
    [
        (["127.0.0.2"], None, "authority", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (["127.0.0.1"], EXPIRED, "authority", "certificate has expired"),
        (["127.0.0.1"], None, "other", "unable to get local issuer certificate"),
    ],
    ids=["another name", "expired", "another authority"],
)
async def test_a_target_that_is_not_who_it_should_be_is_a_bad_gateway(
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    addresses: list[str],
    lifetime: Any,
    ca: str,
    words: str,
) -> None:
    believed = {"authority": authority, "other": Authority(tmp_path, "other")}[ca]
    issued = authority.issue("target", addresses=addresses, **({"lifetime": lifetime} if lifetime else {}))
    target = Target(tls=server_context(issued))
    async with serving(target, upstream=trusting(believed)) as edge:
        back = await edge.ask(ASK)
        assert back.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"certificate" not in back, "that is nobody's business but the operator's"
        assert target.heard == []
        assert counted(edge, "tallygate_upstream_failures_total", upstream="u", reason="connect") == 1
        assert edge.upstream.pool.connections == set()
        assert await eventually(lambda: edge.upstream.pool._opening == 0)
    (line,) = [record.message for record in caplog.records if record.name.startswith("gateway")]
    assert line.startswith("upstream u, target 127.0.0.1:")
    assert line.endswith(f": TLS: certificate verify failed: {words}")


async def test_without_verification_any_certificate_will_do(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target(tls=server_context(authority.issue("target", ["x.example"], EXPIRED)))
    async with serving(target, upstream={"tls": {"verify": False}}) as edge:
        assert (await edge.ask(ASK)).endswith(b"ok")
    assert [record.levelno for record in caplog.records if "not verified" in record.message] == [logging.WARNING]


class Named(Target):
    """Keeps the names that it was asked for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(tls=context)
        self.names: list[str | None] = []
        context.sni_callback = lambda handshake, name, _: self.names.append(name)  # type: ignore[assignment]


async def test_a_target_is_asked_for_by_the_host_of_its_url(authority: Authority) -> None:
    """And not by the address that the host was resolved to."""
    target = Named(speaking(authority, dns=["localhost"]))
    async with serving(target) as edge:
        port = edge._server.sockets[0].getsockname()[1]
    async with serving(target, upstream={"targets": [f"https://localhost:{port}"], **trusting(authority)}) as edge:
        target.names.clear()
        server = await asyncio.start_server(target.serve, "127.0.0.1", port, ssl=target.tls)
        assert (await edge.ask(ASK)).endswith(b"ok")
        assert target.names == ["localhost"]
        server.close()


async def test_a_server_name_takes_the_place_of_the_host(authority: Authority) -> None:
    target = Named(speaking(authority, dns=["internal.example"]))
    async with serving(target, upstream=trusting(authority, server_name="internal.example")) as edge:
        assert (await edge.ask(ASK)).endswith(b"ok")
        assert target.names == ["internal.example"]
    async with serving(target, upstream=trusting(authority, server_name="other.example")) as edge:
        assert (await edge.ask(ASK)).startswith(b"HTTP/1.1 502 ")


def test_a_target_is_who_its_url_says_whatever_its_address() -> None:
    target = UpstreamTarget(TargetOptions(url="https://api.example"), address="10.0.0.7")
    assert (target.secure, target.server_name, target.address) == (True, "api.example", "10.0.0.7:443")
    assert target.name == "https://api.example:443 (10.0.0.7)"


# What is shown to a target


async def test_a_target_that_asks_is_shown_a_certificate(authority: Authority, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    shown: list[Any] = []

    async def look(line: Line) -> None:
        shown.append(line._writer.get_extra_info("peercert"))
        await respond(OK)(line)

    target = Scripted(look)
    target.tls = server_context(authority.issue("target", addresses=["127.0.0.1"]), clients)
    gateway = clients.issue("gateway", uris=["spiffe://example/gateway"])
    async with serving(target, upstream=trusting(authority, **gateway.upstream_options)) as edge:
        assert (await edge.ask(ASK)).endswith(b"ok")
    assert shown[0]["subjectAltName"] == (("URI", "spiffe://example/gateway"),)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_target_that_does_not_believe_us_is_a_bad_gateway(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    """With TLS 1.3 it says so only after our side of the handshake."""
    context = server_context(authority.issue("target", addresses=["127.0.0.1"]), Authority(tmp_path, "clients"))
    context.maximum_version = version

    def refuse(listening: socket.socket) -> None:
        """Of blocking sockets, because uvloop's servers leave out the alert that says why a handshake failed."""
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as sock:
            sock.settimeout(5)
            with suppress(ssl.SSLError):
                sock.do_handshake()
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):  # a reset, for what is not read, could overtake the alert
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = asyncio.get_running_loop().run_in_executor(None, refuse, listening)
        port = listening.getsockname()[1]
        options = {"targets": [f"https://127.0.0.1:{port}"], **trusting(authority)}
        async with serving(Target(), upstream=options) as edge, calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer()).startswith(b"HTTP/1.1 502 ")
            assert edge.upstream.pool.idle == 0
        await refusing
    (line,) = [record.message for record in caplog.records if record.name.startswith("gateway")]
    assert "TLS: " in line
    assert "alert" in line


async def test_what_is_no_tls_is_a_bad_gateway(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def talks_first(line: Line) -> None:
        await line.say(b"220 mail.example ESMTP\r\n")
        await line.gone()

    async with serving(Scripted(talks_first)) as plain:
        port = plain._server.sockets[0].getsockname()[1]
        options = {"targets": [f"https://127.0.0.1:{port}"], **trusting(authority)}
        async with serving(Target(), upstream=options) as edge:
            assert (await edge.ask(ASK)).startswith(b"HTTP/1.1 502 ")
    assert "TLS: wrong version number" in caplog.text


async def test_a_handshake_that_hangs_takes_no_longer_than_connecting_may(authority: Authority) -> None:
    async def mute(line: Line) -> None:
        await line.gone()

    silent = Scripted(mute)
    async with serving(silent) as plain:
        port = plain._server.sockets[0].getsockname()[1]
        options = {"targets": [f"https://127.0.0.1:{port}"], "timeouts": {"connect": "300ms"}, **trusting(authority)}
        async with serving(Target(), upstream=options) as edge:
            began = asyncio.get_running_loop().time()
            async with calling(edge) as client:
                await client.say(ASK)
                assert (await client.answer()).startswith(b"HTTP/1.1 504 ")
            assert 0.25 < asyncio.get_running_loop().time() - began < 1.5
            assert edge.upstream.pool._opening == 0
            assert await eventually(lambda: silent.closed == 1), "the connection is not left open"


# Bodies and endings


async def test_a_body_that_only_the_end_delimits_must_end_with_a_goodbye(authority: Authority) -> None:
    """Else anybody on the way could have cut it short (RFC 9112 §9.8)."""

    async def says_goodbye(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nwhole")

    async def is_cut(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nhalf of")
        await asyncio.sleep(0.1)
        line.cut()

    target = Scripted(says_goodbye, is_cut)
    target.tls = speaking(authority, "127.0.0.1")
    async with serving(target, upstream=trusting(authority)) as edge:
        assert (await edge.ask(ASK)).endswith(b"whole\r\n0\r\n\r\n")
        back = await edge.ask(ASK)
        assert b"half of" in back
        assert back.endswith((b"<reset>", b"half of\r\n<end>"))
        assert b"\r\n0\r\n\r\n" not in back


# Sessions


async def test_the_next_connection_resumes_the_session_of_the_last(authority: Authority) -> None:
    target = Target(tls=speaking(authority, "127.0.0.1"), close_after=True)
    assert target.tls is not None
    async with serving(target, upstream=trusting(authority)) as edge:
        for _ in range(4):
            assert (await edge.ask(ASK)).endswith(b"ok")
            assert await eventually(lambda: edge.upstream.pool.connections == set())
        assert len(target.heard) == 4
        assert target.tls.session_stats()["hits"] == 3


async def test_sessions_are_kept_for_so_many_targets_and_no_more(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOST_SESSIONS", 2)
    tls = ClientTls(UpstreamTlsOptions(ca=str(authority.path)), "u", clock=Clock(), metrics=Metrics(None))
    background = Background()
    await tls.start(background)
    await background.stop()
    context, _ = tls.terms_of("a")
    for number in range(5):
        stream = tls.stream(asyncio.Protocol(), "a.example", f"10.0.0.{number}:443")
        stream._keep(object())  # type: ignore[arg-type]
        assert len(tls._sessions) <= 2
    assert context is tls.terms_of("a")[0]


# Probes


async def test_a_probe_of_a_target_verifies_it_as_calls_do(authority: Authority, tmp_path: Path) -> None:
    target = Target(tls=speaking(authority, dns=["api.internal"]))
    server = await asyncio.start_server(target.serve, "127.0.0.1", 0, ssl=target.tls)
    port = server.sockets[0].getsockname()[1]
    asked = UpstreamTarget(TargetOptions(url=f"https://api.internal:{port}"), address="127.0.0.1")
    background, fetch, metrics = Background(), Fetch(), Metrics(None)
    reasons = []
    for ca in (authority, Authority(tmp_path, "other")):
        tls = ClientTls(UpstreamTlsOptions(ca=str(ca.path)), "u", clock=Clock(), metrics=metrics)
        await tls.start(background)
        prober = Prober(
            "u",
            ProbeOptions(path="/health"),
            lambda target, reason: None,
            fetch=fetch,
            tls=tls,
            rng=None,  # type: ignore[arg-type]
            background=background,
            metrics=metrics,
        )
        reasons.append(await prober.ask(asked))
    await background.stop()
    await fetch.close()
    server.close()
    await asyncio.sleep(0.02)
    assert reasons[0] == ""
    assert "certificate verify failed" in reasons[1]
    assert target.text.startswith(b"GET /health HTTP/1.1\r\n")
