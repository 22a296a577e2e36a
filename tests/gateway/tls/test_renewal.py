"""Files that change while they are in use: handshakes get the new ones, connections keep what they have."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.tls import renewal
from tests.fixtures.certificates import EXPIRED, Authority, server_context
from tests.fixtures.conversation import eventually, serving
from tests.fixtures.secure_conversation import calling_securely, counted
from tests.fixtures.wire import Edge, Target

SUCCESS = "tallygate_tls_certificate_reload_success"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at all the time."""
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.02)


async def serial(edge: Edge, authority: Authority) -> int:
    """The number of the certificate that a new client is shown."""
    async with calling_securely(edge, authority.client()) as client:
        await client.ask()
        return int(client.ssl.getpeercert()["serialNumber"], 16)  # type: ignore[index]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + 5
    while not await condition():
        assert loop.time() < give_up_at
        await asyncio.sleep(0.01)


async def shows(edge: Edge, authority: Authority, number: int) -> None:
    """Wait until new clients are shown the certificate with this number."""

    async def is_shown() -> bool:
        return await serial(edge, authority) == number

    await until(is_shown)


async def test_a_certificate_that_is_replaced_is_shown_to_who_comes_next(authority: Authority) -> None:
    first = authority.issue("a", ["localhost"])
    before = first.serial
    async with serving(Target(), tls=first.options) as edge:
        async with calling_securely(edge, authority.client()) as living:
            await living.ask()
            assert await serial(edge, authority) == before
            second = authority.issue("a", ["localhost"])
            await shows(edge, authority, second.serial)
            assert (await living.ask()).endswith(b"ok"), "a connection lives on"
            assert int(living.ssl.getpeercert()["serialNumber"], 16) == before  # type: ignore[index]
        assert counted(edge, SUCCESS, owner="127.0.0.1:1") == 1
        expiry = counted(
            edge, "tallygate_tls_certificate_expiry_timestamp_seconds", certificate=second.options["certificate"]
        )
        assert expiry == pytest.approx(second.expires_at, abs=1)


async def test_a_link_that_leads_elsewhere_is_a_change(authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes replaces secrets: all files at once, by one link."""
    issued = {name: authority.issue(name, ["localhost"]) for name in ("old", "new")}
    for name, each in issued.items():
        (tmp_path / f"{name}.d").mkdir()
        for file, path in (("tls.crt", each.certificate), ("tls.key", each.key)):
            shutil.copy(path, tmp_path / f"{name}.d" / file)
    link = tmp_path / "data"
    link.symlink_to("old.d")
    options = {"certificate": str(link / "tls.crt"), "key": str(link / "tls.key")}
    async with serving(Target(), tls=options) as edge:
        before = await serial(edge, authority)
        fresh = tmp_path / "fresh"
        fresh.symlink_to("new.d")
        os.replace(fresh, link)
        assert before == issued["old"].serial
        await shows(edge, authority, issued["new"].serial)


def expired(authority: Authority) -> None:
    authority.issue("a", ["localhost"], EXPIRED)


def without_its_key(authority: Authority) -> None:
    key = (authority.path.parent / "a.key").read_bytes()
    (authority.path.parent / "a.key").write_bytes(authority.issue("a", ["localhost"]).key.read_bytes()[:10] + key[10:])


def gone(authority: Authority) -> None:
    (authority.path.parent / "a.pem").unlink()


def empty(authority: Authority) -> None:
    (authority.path.parent / "a.pem").write_text("")


@pytest.mark.parametrize("spoil", [expired, without_its_key, gone, empty])
async def test_files_that_cannot_be_used_change_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture, spoil: Callable[[Authority], None]
) -> None:
    issued = authority.issue("a", ["localhost"])
    before = issued.serial
    with caplog.at_level(logging.INFO):
        async with serving(Target(), tls=issued.options) as edge:
            spoil(authority)
            assert await eventually(lambda: counted(edge, SUCCESS, owner="127.0.0.1:1") == 0)
            await asyncio.sleep(0.2)
            assert await serial(edge, authority) == before
            errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
            assert len(errors) == 1, "said once, not at every look"
            assert errors[0].startswith("127.0.0.1:1: its new certificate files are not used: ")
            again = authority.issue("a", ["localhost"])
            await shows(edge, authority, again.serial)
            assert counted(edge, SUCCESS, owner="127.0.0.1:1") == 1


async def test_of_two_files_that_are_replaced_one_after_the_other_both_are_waited_for(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.2)
    issued = authority.issue("a", ["localhost"])
    async with serving(Target(), tls=issued.options) as edge:
        other = authority.issue("other", ["localhost"])
        os.replace(other.certificate, issued.certificate)
        await asyncio.sleep(0.1)
        os.replace(other.key, issued.key)
        await shows(edge, authority, issued.serial)
        assert caplog.records == []


async def test_clients_are_believed_by_what_the_files_say_now(authority: Authority, tmp_path: Path) -> None:
    """A session of before does not get around it."""
    clients = Authority(tmp_path, "clients")
    robot = clients.issue("robot")
    options = {
        **authority.issue("a", ["localhost"]).options,
        "client_ca": str(clients.path),
        "client_crl": str(clients.revoke()),
    }
    context = authority.client(robot)
    async with serving(Target(), tls=options) as edge, calling_securely(edge, context) as living:
        await living.ask()
        clients.revoke(robot)

        async def is_refused() -> bool:
            try:
                async with calling_securely(edge, context, session=living.ssl.session) as client:
                    await client.ask()
            except ssl.SSLError as error:
                return "certificate revoked" in str(error)
            return False

        await until(is_refused)
        assert (await living.ask()).endswith(b"ok")


async def test_what_an_upstream_is_shown_and_must_show_is_renewed_too(authority: Authority, tmp_path: Path) -> None:
    new = Authority(tmp_path, "new")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.path.read_bytes())
    target = Target(tls=server_context(new.issue("target", addresses=["127.0.0.1"])))
    async with serving(target, upstream={"tls": {"ca": str(bundle)}}) as edge:
        ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert (await edge.ask(ask)).startswith(b"HTTP/1.1 502 ")
        bundle.write_bytes(authority.path.read_bytes() + new.path.read_bytes())

        async def is_believed() -> bool:
            return (await edge.ask(ask)).startswith(b"HTTP/1.1 200 ")

        await until(is_believed)
