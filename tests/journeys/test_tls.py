"""TLS from end to end: clients, the edge and an upstream that asks for its certificate, as real processes.

Certificates are replaced while requests are served, large bodies go both ways, and what was used is booked as without.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.certificates import EXPIRED, Authority, server_context
from tests.fixtures.ports import free_port
from tests.journeys.line import Line, Load
from tests.journeys.node import Node, until
from tests.journeys.upstream import Upstream

MIB = 2**20


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "certificates").mkdir()
    return Authority(tmp_path / "certificates")


@pytest.fixture
async def secure_upstream(authority: Authority) -> AsyncIterator[Upstream]:
    """An upstream that speaks TLS, and only with who shows a certificate."""
    upstream = Upstream()
    await upstream.start(server_context(authority.issue("upstream", ["localhost"]), clients=authority))
    yield upstream
    await upstream.stop()


def securely(node: Node, authority: Authority, upstream: int) -> int:
    """Has the node listen with TLS as well, and speak it with the upstream; returns the port."""
    port = free_port()
    node.config["listeners"].append(
        {"bind": f"127.0.0.1:{port}", "tls": authority.issue("edge", ["localhost"]).options}
    )
    gateway = authority.issue("gateway")
    node.config["upstreams"]["behind"] = {
        "targets": [f"https://localhost:{upstream}"],
        "tls": {"ca": str(authority.path), **gateway.upstream_options},
    }
    return port


async def test_what_is_used_over_tls_is_booked(node: Node, authority: Authority, secure_upstream: Upstream) -> None:
    """Whole answers, a client that is cut off, and what is under way when the edge is told to end."""
    port = securely(node, authority, secure_upstream.port)
    node.config["processes"] = 2
    await node.start()
    context = authority.client()
    streaming, slow = [await Line.open(port, tls=context) for _ in range(2)]
    streaming.send("/held/stream")
    stream = await secure_upstream.call()
    stream.begin()
    stream.say(b"five!")
    head = (await streaming.head())[1]
    assert await streaming.piece() == b"five!"
    streaming.leave(reset=True)
    await asyncio.wait_for(stream.gone.wait(), 5)
    slow.send("/ai/held")
    call = await secure_upstream.call()
    async with Load(port, "/quick", "/ai/quick", tls=context) as load, Load(node.port, "/quick") as plain:
        await load.answered(300)
        await plain.answered(300)
        status = asyncio.create_task(node.end_edge(15.0))
        await until(node.refuses)
        call.answer()
        answer = await slow.answer()
    slow.leave()
    assert await status == 0, node.log("edge")
    assert answer.fields["connection"] == "close"
    served = [*load.served, *plain.served, answer.id]
    rows = await node.booked([*served, head["x-request-id"]])
    assert len(rows) == len(served) + 1
    cut = [row for row in rows.values() if row.outcome != "ok"]
    assert [(row.outcome, row.quantities) for row in cut] == [("client_gone", {"requests": 0, "bytes_out": 5})]
    assert "Traceback" not in node.log("edge")
    assert (await node.reconcile())[0] == 0


async def test_a_certificate_is_replaced_under_load(
    node: Node, authority: Authority, secure_upstream: Upstream
) -> None:
    port = securely(node, authority, secure_upstream.port)
    node.config["processes"] = 2
    await node.start(worker=False)
    context = authority.client()
    living = await Line.open(port, tls=context)
    before = living.certificate

    async def is_replaced() -> bool:
        lines = [await Line.open(port, tls=context) for _ in range(8)]
        shown = {line.certificate for line in lines}
        for line in lines:
            line.leave()
        return shown == {after}

    async with Load(port, clients=4, tls=context) as load:
        await load.answered(50)
        issued = authority.issue("edge", ["localhost"])
        after, expires_at = issued.serial, issued.expires_at
        await until(is_replaced)
        (authority.path.parent / "edge.pem").write_text("no certificate")

        async def is_refused() -> bool:
            return await node.metric("tallygate_tls_certificate_reload_success", f"127.0.0.1:{port}") == 0

        await until(is_refused)
        assert await is_replaced(), "what cannot be used changes nothing"
        assert (await living.ask("/quick")).status == 200
        assert living.certificate == before
        await load.answered(50)
    assert load.failures == []
    assert load.refused == 0
    expiry = await node.metric("tallygate_tls_certificate_expiry_timestamp_seconds", "edge.pem")
    assert expiry == pytest.approx(2 * expires_at, abs=2), "of two processes"
    assert node.log("edge").count("its new certificate files are not used") == 2
    living.leave()


async def test_plain_clients_are_sent_to_https_and_told_to_stay_there(
    node: Node, authority: Authority, secure_upstream: Upstream
) -> None:
    port = securely(node, authority, secure_upstream.port)
    node.config["listeners"][0]["redirect_to_https"] = port
    node.config["plugins"] = [{"hsts": None}, {"request_id": None}]
    node.config["routes"] = [route for route in node.config["routes"] if route["name"] in ("open", "ai")]
    await node.start(worker=False)
    plain = await node.line()
    plain.send("/open/x")
    status, fields = await plain.head()
    assert (status, fields["location"]) == (301, f"https://a:{port}/open/x")
    assert "strict-transport-security" not in fields
    secure = await Line.open(port, tls=authority.client())
    for path, expected in (("/open/quick", 200), ("/nowhere", 404)):
        answer = await secure.ask(path)
        assert (answer.status, answer.fields["strict-transport-security"]) == (expected, "max-age=31536000")
    await secure_upstream.stop()
    answer = await secure.ask("/open/quick")
    assert (answer.status, answer.fields["strict-transport-security"]) == (502, "max-age=31536000")
    secure.leave()


async def test_an_edge_does_not_start_with_a_key_of_another_certificate(
    node: Node, authority: Authority, secure_upstream: Upstream
) -> None:
    securely(node, authority, secure_upstream.port)
    (authority.path.parent / "edge.key").write_bytes(authority.issue("other").key.read_bytes())
    status, said = await node.run_edge()
    assert status == 2
    assert "listeners[1].tls.key: does not belong to the first certificate of the chain" in said
    assert said.startswith("gateway.yaml:")


async def test_a_reload_with_a_bad_certificate_is_refused_whole_and_a_good_one_is_taken(
    node: Node, authority: Authority, secure_upstream: Upstream
) -> None:
    port = securely(node, authority, secure_upstream.port)
    node.config["processes"] = 2
    await node.start(worker=False)
    living = await Line.open(port, tls=authority.client())
    before = living.certificate
    options = node.config["listeners"][1]["tls"]
    good = authority.issue("next", ["localhost"])
    async with Load(port, clients=4, tls=authority.client()) as load:
        await load.answered(20)
        for bad, fault in (
            (authority.issue("old", ["localhost"], EXPIRED).options, "certificate: it expired on "),
            ({**good.options, "key": options["key"]}, "key: does not belong to the first certificate of the chain"),
        ):
            node.config["listeners"][1]["tls"] = bad
            node.config["routes"].append({"name": "extra", "match": {"path": "/extra"}, "upstream": "behind"})
            status, said = await node.reload()
            assert status == 422
            (line,) = said["errors"]
            assert re.match(r"gateway\.yaml:\d+: listeners\[1\]\.tls\." + re.escape(fault), line)
            assert node.config["routes"].pop()["name"] == "extra"
        assert "extra" not in (await node.admin("/routes")).body.decode()
        node.config["listeners"][1]["tls"] = good.options
        status, said = await node.reload()
        assert status == 200, said
        assert len(said["changes"]) == 2
        await load.answered(50)
    assert (load.failures, load.refused) == ([], 0)
    for _ in range(8):
        line_ = await Line.open(port, tls=authority.client())
        assert line_.certificate == good.serial != before
        line_.leave()
    assert (await living.ask("/quick")).status == 200
    living.leave()


class Bulk:
    """An upstream that sends and takes as many bytes as it is asked for."""

    def __init__(self) -> None:
        self.taken = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            size = int(head.split(b" ", 2)[1].rpartition(b"/")[2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
            for _ in range(size // MIB):
                writer.write(bytes(MIB))
                await writer.drain()
        else:
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while self.taken < size:
                self.taken += len(await reader.read(MIB))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()


async def test_large_bodies_take_no_memory(node: Node, authority: Authority) -> None:
    """Neither way: 256 MiB take no more than 8 do."""
    bulk = Bulk()
    server = await asyncio.start_server(
        bulk.serve, "127.0.0.1", 0, ssl=server_context(authority.issue("upstream", ["localhost"]))
    )
    port = securely(node, authority, server.sockets[0].getsockname()[1])
    await node.start(worker=False)
    (pid,) = node.edge_pids()
    edge = psutil.Process(pid)
    context = authority.client()
    most = []
    for size in (8, 256):
        seen = [edge.memory_info().rss]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(b"GET /open/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (size * MIB))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)  # who takes nothing for a while is waited for
        for _ in range(size):
            await reader.readexactly(MIB)
            seen.append(edge.memory_info().rss)
        bulk.taken = 0
        writer.write(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (size * MIB))
        for _ in range(size):
            writer.write(bytes(MIB))
            await writer.drain()
            seen.append(edge.memory_info().rss)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        most.append(max(seen))
    server.close()
    assert most[1] - most[0] < 8 * MIB, f"{(most[1] - most[0]) / MIB:.0f} MiB more"
