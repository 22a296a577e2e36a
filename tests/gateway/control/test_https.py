"""The API over TLS: who asks verifies it, its certificate is replaced while it runs, and clients may need one too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.background import Background
from gateway.cli.control_client import CA_VARIABLE, URL_VARIABLE, ControlClient, ControlRefused
from gateway.clock import Clock
from gateway.control.options import ControlOptions
from gateway.control.principal import TOKEN_VARIABLE
from gateway.metrics import Metrics
from gateway.tls import renewal
from gateway.tls.certificate import Unusable
from gateway.tls.server import ListenerTlsOptions, following_context
from tests.fixtures.certificates import Authority, Issued, authority
from tests.fixtures.control import TOKEN, Client, serving

__all__ = ["authority"]

HERE = ["127.0.0.1"]


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    background = Background()
    yield background
    await background.stop()


async def context_of(background: Background, **options: Any) -> Any:
    return await following_context(
        ListenerTlsOptions(**options), "test", background=background, clock=Clock(), metrics=Metrics(None)
    )


async def ask(client: Client, options: dict[str, Any], **environment: str) -> Any:
    """As a command asks: which organizations there are."""

    def asked() -> Any:
        known = {TOKEN_VARIABLE: TOKEN} | environment
        return ControlClient(ControlOptions(client={"url": client.url} | options), known).ask(
            "GET", "/v1/organizations"
        )

    document, _ = await asyncio.to_thread(asked)
    return document["items"]


async def test_a_command_verifies_whom_it_tells_its_token(
    database_url: str, background: Background, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    context = await context_of(background, **authority.issue("control", addresses=HERE).options)
    async with serving(database_url, context=context) as client:
        assert await ask(client, {"ca": str(authority.path)}) == []
        assert await ask(client, {"ca": str(other.path)}, **{CA_VARIABLE: str(authority.path)}) == []
        for wrong in ({}, {"ca": str(other.path)}):
            with pytest.raises(ControlRefused, match=r"is `control.client.ca` right") as caught:
                await ask(client, wrong)
            assert TOKEN not in str(caught.value)
        with pytest.raises(ControlRefused, match=r"certificate is not valid for 'localhost'\.$"):
            await ask(client, {"ca": str(authority.path), "url": client.url.replace("127.0.0.1", "localhost")})
        with pytest.raises(ControlRefused, match=r"control.client.ca: "):
            await ask(client, {"ca": str(tmp_path / "none.pem")})
        with pytest.raises(ControlRefused, match="does not answer"):
            await ask(client, {"url": client.url.replace("https", "http")})


@pytest.mark.parametrize("url", ["control.example.com", "ftp://control", "https://", "https://control:port"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ControlRefused, match="is no address of a control plane: write https://"):
        ControlClient(ControlOptions(), {TOKEN_VARIABLE: TOKEN, URL_VARIABLE: url})


async def test_a_certificate_is_replaced_while_it_serves(
    database_url: str, background: Background, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.05)
    issued = authority.issue("control", addresses=HERE)
    context = await context_of(background, **issued.options)
    async with serving(database_url, context=context) as client:
        before = await shown(client, authority)
        renewed = authority.issue("control", addresses=HERE).serial
        await asyncio.sleep(0.5)
        assert before != renewed == await shown(client, authority)
        issued.certificate.write_text("nonsense")
        await asyncio.sleep(0.5)
        assert await shown(client, authority) == renewed


async def test_clients_that_must_show_a_certificate(
    database_url: str, background: Background, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of an authority that is believed now, not when it was started."""
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.05)
    (tmp_path / "next").mkdir()
    following = Authority(tmp_path / "next", "next")
    believed = tmp_path / "believed.pem"
    believed.write_text(authority.path.read_text())
    control = authority.issue("control", addresses=HERE)
    context = await context_of(background, **control.options, client_ca=str(believed))
    admin, newcomer = pair(authority.issue("admin")), pair(following.issue("newcomer"))
    async with serving(database_url, context=context) as client:
        ca = {"ca": str(authority.path)}
        assert await ask(client, ca | admin) == []
        for wrong in ({}, newcomer):
            with pytest.raises(ControlRefused, match="does not answer"):
                await ask(client, ca | wrong)
        believed.write_text(following.path.read_text())
        await asyncio.sleep(0.5)
        assert await ask(client, ca | newcomer) == []
        with pytest.raises(ControlRefused, match="does not answer"):
            await ask(client, ca | admin)


async def test_a_certificate_for_each_name(database_url: str, background: Background, authority: Authority) -> None:
    first, second = authority.issue("first", dns=["first.test"]), authority.issue("second", dns=["second.test"])
    context = await context_of(background, certificates=[first.options, second.options])
    async with serving(database_url, context=context) as client:
        for name, issued in (("first.test", first), ("second.test", second), ("other.test", first)):
            assert await shown(client, authority, name) == issued.serial


async def test_files_that_cannot_be_used(background: Background, tmp_path: Path) -> None:
    with pytest.raises(Unusable):
        await context_of(background, certificate=str(tmp_path / "none"), key=str(tmp_path / "none"))


def pair(issued: Issued) -> dict[str, str]:
    return {"certificate": str(issued.certificate), "key": str(issued.key)}


async def shown(client: Client, authority: Authority, name: str = "127.0.0.1") -> int:
    """The serial number of the certificate that a client is shown that asks for this name."""
    context = authority.client()
    context.check_hostname = False
    port = int(client.url.rsplit(":", 1)[1])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return int(serial, 16)
