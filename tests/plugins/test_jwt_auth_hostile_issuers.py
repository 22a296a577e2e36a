"""Issuers that are slow, broken, hostile or hard to reach: nobody is let in by them, and nobody known is kept out."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import gateway.tls.renewal
from gateway.config.composition import ConfigError
from plugins.jwt_auth import JwtAuth
from tests.fixtures.certificates import EXPIRED, Authority, Issued, authority, server_context
from tests.fixtures.configuration import here, loaded
from tests.fixtures.issuer import Hands, IssuerServer, claims, issuer_server, jwk, options, token, until
from tests.play import Stage, ask

__all__ = ["authority", "here"]

KEYS = json.dumps({"keys": [jwk("ES256", "ES256")]}).encode()


async def sent(stage: Stage, plugin: JwtAuth, text: str) -> int:
    return (await stage.play(plugin, request=ask(authorization=f"Bearer {text}"))).response.status


def fetching(stage: Stage, server: IssuerServer, tls: dict[str, Any] | None = None, **keys: Any) -> JwtAuth:
    how = {"jwks": f"{server.url}/keys", "allow_http": True, "timeout": 0.5, "tls": tls, **keys}
    return stage.make(JwtAuth, **options(keys=how))  # type: ignore[return-value]


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with issuer_server() as server:
        server.publish(jwk("ES256", "ES256"))
        yield server


# What an issuer may answer


def redirected(url: str) -> Any:
    return 302, {"Location": f"{url}/elsewhere"}, b""


NONSENSE = {
    "an error with keys": lambda url: (500, {}, KEYS),
    "not found, with keys": lambda url: (404, {}, KEYS),
    "no content": lambda url: (204, {}, b""),
    "part of them": lambda url: (206, {}, KEYS),
    "elsewhere": redirected,
    "elsewhere, for good": lambda url: (301, {"Location": f"{url}/elsewhere"}, KEYS),
    "compressed though nobody asked": lambda url: (200, {"Content-Encoding": "gzip"}, gzip.compress(KEYS)),
    "a bomb": lambda url: (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 20_000_000, 1)),
    "huge": lambda url: (200, {}, KEYS + b" " * 300_000),
    "nothing": lambda url: (200, {}, b""),
    "no keys": lambda url: {"keys": []},
    "no usable key": lambda url: {"keys": [jwk("ES256", "ES256", use="enc"), {"kty": "oct", "k": "AAAA"}]},
    "a secret": lambda url: {"keys": [{"kty": "oct", "kid": "ES256", "k": "A" * 43, "alg": "HS256"}]},
    "deep": lambda url: (200, {}, b'{"keys":' + b"[" * 90_000),
    "twice": lambda url: (200, {}, KEYS[:-1] + b',"keys":[]}'),
    "UTF-16": lambda url: (200, {}, KEYS.decode().encode("utf-16")),
    "a page": lambda url: (200, {"Content-Type": "text/html"}, b"<html>sign in"),
    "no HTTP": lambda url: (200, {"\0": "\0"}, KEYS),
    "a length that is none": lambda url: (200, {"Content-Length": "x"}, KEYS),
}


@pytest.mark.parametrize("answer", list(NONSENSE.values()), ids=list(NONSENSE))
async def test_an_answer_that_makes_no_sense_changes_nothing(stage: Stage, issuer: IssuerServer, answer: Any):
    issuer.answers["/elsewhere"] = (200, {}, KEYS)
    good = issuer.answers["/keys"]
    issuer.answers["/keys"] = answer(issuer.url)
    hands = Hands(stage)
    plugin = fetching(stage, issuer, refetch=1.0)
    await plugin.start()
    assert await sent(stage, plugin, token()) == 503  # nobody can tell
    assert "/elsewhere" not in issuer.asked
    issuer.answers["/keys"] = good
    hands.later += 2.0
    assert await sent(stage, plugin, token()) == 200
    issuer.answers["/keys"] = answer(issuer.url)
    hands.later += 2.0
    assert await sent(stage, plugin, token(kid="other")) == 503
    assert await sent(stage, plugin, token(payload=claims(n=1))) == 200  # the keys of before count on
    assert await sent(stage, plugin, token(number=1)) == 401


async def test_one_that_drips_holds_nobody_for_longer_than_its_time(stage: Stage):
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            pass

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    server = IssuerServer()
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    plugin = fetching(stage, server)
    await plugin.start()
    began = monotonic()
    answers = await asyncio.gather(*(sent(stage, plugin, token(payload=claims(n=n))) for n in range(20)))
    assert answers == [503] * 20
    assert monotonic() - began < 2.0
    listening.close()


async def test_invented_keys_make_nobody_wait_who_is_known(stage: Stage, issuer: IssuerServer):
    hands = Hands(stage)
    plugin = fetching(stage, issuer, timeout=2.0, refetch=1.0)
    await plugin.start()
    assert await sent(stage, plugin, token()) == 200
    hands.later += 2.0
    issuer.open.clear()
    flood = [asyncio.create_task(sent(stage, plugin, token(kid=f"k{n}"))) for n in range(100)]
    await until(lambda: len(issuer.asked) == 2)
    began = monotonic()
    assert await sent(stage, plugin, token(payload=claims(n=1))) == 200
    assert monotonic() - began < 0.5
    assert not any(task.done() for task in flood)
    issuer.open.set()
    assert set(await asyncio.gather(*flood)) == {401}
    assert len(issuer.asked) == 2


async def test_keys_change_while_old_tokens_live(stage: Stage, issuer: IssuerServer):
    """As issuers do it: the new key is published first, then used, and the old one goes when its tokens have ended."""
    old, new = jwk("ES256", "old"), jwk("ES256", "new", number=1)
    issuer.publish(old)
    hands = Hands(stage)
    plugin = fetching(stage, issuer, refetch=1.0)
    await plugin.start()
    before = [token(kid="old", payload=claims(n=n)) for n in range(3)]
    assert [await sent(stage, plugin, text) for text in before[:2]] == [200, 200]
    issuer.publish(old, new)
    hands.later += 2.0
    assert await sent(stage, plugin, token(kid="new", number=1)) == 200
    assert [await sent(stage, plugin, text) for text in before] == [200, 200, 200]
    issuer.publish(new)
    hands.later += 2.0
    assert await sent(stage, plugin, token(kid="unknown")) == 401  # which has the keys fetched
    assert [await sent(stage, plugin, text) for text in before] == [401, 401, 401]
    assert await sent(stage, plugin, token(kid="new", number=1)) == 200


# How an issuer is reached


async def answered(stage: Stage, context: Any, tls: dict[str, Any] | None) -> int:
    async with issuer_server(context) as server:
        server.publish(jwk("ES256", "ES256"))
        plugin = fetching(stage, server, tls, timeout=2.0)
        await plugin.start()
        status = await sent(stage, plugin, token())
        await plugin.stop()
        return status


@pytest.fixture
def shown(authority: Authority) -> Issued:
    return authority.issue("localhost", ["localhost"])


async def test_an_authority_of_our_own_is_believed_where_it_is_named(stage: Stage, authority: Authority, shown: Issued):
    assert await answered(stage, server_context(shown), {"ca": str(authority.path)}) == 200
    assert await answered(stage, server_context(shown), None) == 503
    assert await answered(stage, server_context(shown), {}) == 503


async def test_a_certificate_must_be_valid_and_of_the_right_name(stage: Stage, authority: Authority, tmp_path: Path):
    tls = {"ca": str(authority.path)}
    expired = authority.issue("expired", ["localhost"], EXPIRED)
    elsewhere = authority.issue("elsewhere", ["issuer.example"])
    assert await answered(stage, server_context(expired), tls) == 503
    assert await answered(stage, server_context(elsewhere), tls) == 503
    assert await answered(stage, server_context(elsewhere), tls | {"server_name": "issuer.example"}) == 200
    other = Authority(tmp_path, "other")
    assert await answered(stage, server_context(elsewhere), {"ca": str(other.path)}) == 503


async def test_an_issuer_may_ask_for_our_certificate(stage: Stage, authority: Authority, shown: Issued):
    context = server_context(shown, clients=authority)
    tls = {"ca": str(authority.path)}
    assert await answered(stage, context, tls) == 503
    assert await answered(stage, context, tls | authority.issue("gateway").upstream_options) == 200


async def test_a_new_authority_is_believed_when_its_file_is_replaced(
    stage: Stage, authority: Authority, shown: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gateway.tls.renewal, "LOOK_SECONDS", 0.05)
    hands, ca = Hands(stage), tmp_path / "believed.pem"
    ca.write_bytes(Authority(tmp_path, "before").path.read_bytes())
    async with issuer_server(server_context(shown)) as server:
        server.publish(jwk("ES256", "ES256"))
        plugin = fetching(stage, server, {"ca": str(ca)}, refetch=1.0, timeout=2.0)
        await plugin.start()
        assert await sent(stage, plugin, token()) == 503
        ca.write_bytes(authority.path.read_bytes())
        await asyncio.sleep(0.4)
        hands.later += 2.0
        assert await sent(stage, plugin, token()) == 200
        stage.services._joint.clear()  # as a reload has services of its own
        heir = fetching(stage, server, {"ca": str(ca)}, refetch=1.0, timeout=2.0)
        heir.inherit(plugin)
        await heir.start()
        await plugin.stop()
        server.publish(jwk("ES256", "new", number=1))
        hands.later += 2.0
        assert await sent(stage, heir, token(kid="new", number=1)) == 200
        await heir.stop()


TEXT = """\
listeners: [{bind: "127.0.0.1:8080"}]
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes:
  - name: all
    upstream: demo
    plugins:
      - any_of:
          plugins:
            - jwt_auth:
                issuer: https://sso.internal
                audience: books
                algorithms: [ES256]
                claims: {organization: org}
                keys:
                  discovery: true
                  tls: {%s}
"""


def test_files_that_cannot_be_used_are_said_with_their_line(here: Path, authority: Authority, shown: Issued) -> None:
    Path("junk.pem").write_text("junk")
    for tls, said in (
        ("ca: nowhere.pem", "tls.ca: cannot be read: No such file"),
        ("ca: junk.pem", "tls.ca: holds no certificate in PEM"),
        (f"client_certificate: {shown.certificate}, client_key: junk.pem", "tls.client_key: holds no private key"),
        ("client_key: junk.pem", "`client_certificate` and `client_key` belong together"),
        ("cas: junk.pem", 'unknown key "cas"'),
    ):
        with pytest.raises(ConfigError) as caught:
            loaded(TEXT % tls, serving=True)
        assert f"gateway.yaml:16: routes[0].plugins.any_of.plugins.jwt_auth.keys.{said.split(':')[0]}"[:60] in str(
            caught.value
        )
        assert said.split(": ", 1)[-1] in str(caught.value)
    assert loaded(TEXT % f"ca: {authority.path}", serving=True).warnings == []
    (warning,) = loaded(TEXT % "verify: false", serving=True).warnings
    assert warning.startswith("gateway.yaml:16: certificates of targets are not verified")
