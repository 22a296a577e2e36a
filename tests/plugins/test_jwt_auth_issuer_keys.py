"""Keys that an issuer publishes: fetched once for all, renewed, kept while it does not answer, and never guessed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.chain import Chain
from gateway.fetch import Fetched
from gateway.headers import Headers
from plugins.jwt_auth import JwtAuth
from plugins.jwt_auth.issuer_keys import IssuerKeys, lifetime
from tests.fixtures.issuer import (
    ASYMMETRIC,
    Hands,
    IssuerServer,
    claims,
    issuer_server,
    jwk,
    options,
    token,
    until,
)
from tests.play import Played, Stage, ask


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with issuer_server() as server:
        yield server


def fetching(issuer: IssuerServer, *algorithms: str, **keys: Any) -> dict[str, Any]:
    found = {"jwks": f"{issuer.url}/keys", "allow_http": True, "timeout": 2.0, **keys}
    return options(*(algorithms or ["ES256"]), keys=found)


def bearing(text: str) -> Any:
    return ask(authorization=f"Bearer {text}")


async def sent(stage: Stage, plugin: JwtAuth, text: str) -> int:
    played: Played = await stage.play(plugin, request=bearing(text))
    return played.response.status


def fetched(stage: Stage, source: str, result: str = "ok") -> float:
    family = stage.metrics.counter(
        "tallygate_jwt_key_fetches_total", "Times that keys of an issuer were fetched.", ("source", "result")
    )
    return family.labels(source, result).value


async def test_a_token_is_verified_with_a_published_key(stage: Stage, issuer: IssuerServer):
    issuer.publish(*(jwk(name, name) for name in ASYMMETRIC))
    plugin = stage.make(JwtAuth, **fetching(issuer, *ASYMMETRIC))
    await plugin.start()
    for name in ASYMMETRIC:
        assert await sent(stage, plugin, token(name)) == 200
        assert await sent(stage, plugin, token(name, kid=None)) == 200
        assert await sent(stage, plugin, token(name, number=1)) == 401
    assert issuer.asked == ["/keys"]


async def test_a_known_key_makes_no_request_wait(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    await until(lambda: fetched(stage, f"{issuer.url}/keys"))
    issuer.open.clear()
    chain = Chain([plugin])
    assert not chain.waits
    assert await sent(stage, plugin, token()) == 200


async def test_many_that_need_a_key_wait_for_one_fetch(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "ES256"))
    issuer.open.clear()
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    requests = [asyncio.create_task(sent(stage, plugin, token())) for _ in range(20)]
    await until(lambda: issuer.asked)
    requests[0].cancel()  # one client leaves; the others still get their answer
    issuer.open.set()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert answers[1:] == [200] * 19
    assert issuer.asked == ["/keys"]


async def test_plugins_of_many_routes_fetch_once(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "ES256"))
    plugins = [stage.make(JwtAuth, **fetching(issuer)) for _ in range(3)]
    plugins.append(stage.make(JwtAuth, **fetching(issuer) | {"leeway": 7.0}))
    for plugin in plugins:
        await plugin.start()
    made = token()
    assert [await sent(stage, plugin, made) for plugin in plugins] == [200] * 4
    assert issuer.asked == ["/keys"]


async def test_a_new_key_is_taken_as_soon_as_a_token_names_it(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "old"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    before = token(kid="old")
    assert await sent(stage, plugin, before) == 200
    issuer.publish(jwk("ES256", "old"), jwk("ES256", "new", number=1))
    assert await sent(stage, plugin, token(kid="new", number=1)) == 200
    assert issuer.asked == ["/keys", "/keys"]
    assert await sent(stage, plugin, before) == 200


async def test_a_withdrawn_key_verifies_nothing_any_more(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "old"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    before = token(kid="old")
    assert await sent(stage, plugin, before) == 200
    issuer.publish(jwk("ES256", "new", number=1))
    assert await sent(stage, plugin, token(kid="new", number=1)) == 200  # which has the keys fetched
    assert await sent(stage, plugin, before) == 401  # though it was remembered


async def test_a_refused_token_is_looked_at_again_when_keys_change(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "k"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    other = token(kid="k", number=1)
    assert await sent(stage, plugin, other) == 401
    assert await sent(stage, plugin, other) == 401
    issuer.publish(jwk("ES256", "k", number=1))
    await sent(stage, plugin, token(kid="unknown"))
    assert await sent(stage, plugin, other) == 200


async def test_invented_keys_cause_one_fetch_in_a_while(stage: Stage, issuer: IssuerServer):
    hands = Hands(stage)
    issuer.publish(jwk("ES256", "ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer, refetch=30.0))
    await plugin.start()
    assert await sent(stage, plugin, token()) == 200
    for number in range(20):
        assert await sent(stage, plugin, token(kid=f"invented {number}")) == 401
    assert len(issuer.asked) == 2
    hands.later = 31.0
    assert await sent(stage, plugin, token(kid="invented")) == 401
    assert len(issuer.asked) == 3


async def test_which_keys_are_of_no_use_is_said_once(
    stage: Stage, issuer: IssuerServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "plugins.jwt_auth")
    issuer.publish(jwk("ES256", "ES256"), {"kty": "oct"})
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    assert await sent(stage, plugin, token()) == 200
    await plugin._verifier.issuer_keys.look_again()
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("plugins.jwt_auth")]
    assert message.startswith(f"keys of {issuer.url}/keys have changed: 1 in use, passed over: key 1: ")


async def test_keys_without_names_may_change_too(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    assert await sent(stage, plugin, token(kid=None)) == 200
    issuer.publish(jwk("ES256", number=1))
    assert await sent(stage, plugin, token(kid=None, number=1)) == 200


async def test_nobody_can_tell_before_the_first_answer(stage: Stage, issuer: IssuerServer):
    issuer.answers["/keys"] = (500, {}, b"")
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    played = await stage.play(plugin, request=bearing(token()))
    assert played.response.status == 503
    assert played.response.headers["retry-after"] == "1"
    assert b"issuer-down" in played.body  # and not a store of ours
    assert played.seen_upstream is None
    for _ in range(5):
        assert await sent(stage, plugin, token(kid="invented")) == 503
    assert await sent(stage, plugin, token(payload=claims(exp=1))) == 401  # this one could not be valid anyway
    assert await sent(stage, plugin, "eyJ.a.b") == 401
    assert len(issuer.asked) <= 2


async def test_keys_are_kept_while_the_issuer_does_not_answer_but_not_for_ever(stage: Stage, issuer: IssuerServer):
    hands = Hands(stage)
    issuer.publish(jwk("ES256", "ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer, refresh=60.0, stale=600.0))
    await plugin.start()
    assert await sent(stage, plugin, token()) == 200
    issuer.answers["/keys"] = (503, {}, b"")
    hands.later = 600.0
    assert await sent(stage, plugin, token(payload=claims(a=1))) == 200
    assert await sent(stage, plugin, token(kid="new", number=1)) == 503  # nobody can tell whether there is one now
    hands.later = 700.0
    assert await sent(stage, plugin, token(payload=claims(a=2))) == 503
    issuer.publish(jwk("ES256", "ES256"))
    hands.later = 1000.0
    assert await sent(stage, plugin, token(payload=claims(a=3))) == 200


async def test_an_issuer_that_comes_back_is_noticed_without_a_request(stage: Stage, issuer: IssuerServer):
    hands = Hands(stage)
    issuer.answers["/keys"] = (500, {}, b"")
    keys: IssuerKeys = stage.make(JwtAuth, **fetching(issuer))._issuer_keys()
    await keys.start()
    await until(lambda: fetched(stage, f"{issuer.url}/keys", "failed"))
    assert not keys.known
    issuer.publish(jwk("ES256", "ES256"))
    hands.later = 60.0
    await until(lambda: keys.known)  # in the two seconds that the first pause is long
    assert keys.answering


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[],"keys":[]}', b"\xff", b" " * 300_000, b'{"keys":[' + b"{}," * 101],
    ids=["empty", "list", "no keys", "object", "twice", "not UTF-8", "too large", "cut off"],
)
async def test_what_is_no_key_set_changes_nothing(stage: Stage, issuer: IssuerServer, body: bytes):
    issuer.publish(jwk("ES256", "ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    assert await sent(stage, plugin, token()) == 200
    issuer.answers["/keys"] = (200, {}, body)
    assert await sent(stage, plugin, token(kid="unknown")) == 503
    assert await sent(stage, plugin, token(payload=claims(a=1))) == 200


async def test_discovery_finds_the_keys_of_the_same_issuer(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "ES256"))
    there = f"{issuer.url}/realms/books/"
    issuer.answers["/realms/books/.well-known/openid-configuration"] = {
        "issuer": there,
        "jwks_uri": f"{issuer.url}/keys",
    }
    plugin = stage.make(JwtAuth, **options(issuer=there, keys={"discovery": True, "allow_http": True, "timeout": 2.0}))
    await plugin.start()
    assert await sent(stage, plugin, token(payload=claims(iss=there))) == 200
    assert issuer.asked == ["/realms/books/.well-known/openid-configuration", "/keys"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": "{url}/keys"},
        {"issuer": "{url}/", "jwks_uri": "{url}/keys"},
        {"jwks_uri": "{url}/keys"},
        {"issuer": "{url}"},
        {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{url}", "jwks_uri": 1},
    ],
)
async def test_discovery_believes_no_other_document(stage: Stage, issuer: IssuerServer, document: dict[str, Any]):
    issuer.publish(jwk("ES256", "ES256"))
    written = json.dumps(document).replace("{url}", issuer.url).encode()
    issuer.answers["/.well-known/openid-configuration"] = (200, {}, written)
    plugin = stage.make(
        JwtAuth, **options(issuer=issuer.url, keys={"discovery": True, "allow_http": True, "timeout": 2.0})
    )
    await plugin.start()
    assert await sent(stage, plugin, token(payload=claims(iss=issuer.url))) == 503
    assert "/keys" not in issuer.asked


async def test_a_reload_goes_on_with_the_keys(stage: Stage, issuer: IssuerServer):
    issuer.publish(jwk("ES256", "ES256"))
    plugin = stage.make(JwtAuth, **fetching(issuer))
    await plugin.start()
    made = token()
    assert await sent(stage, plugin, made) == 200
    stage.services._joint.clear()  # as the services of the next configuration have nothing yet
    heir = stage.make(JwtAuth, **fetching(issuer))
    heir.inherit(plugin)
    await heir.start()
    await plugin.stop()
    issuer.answers.clear()
    assert await sent(stage, heir, made) == 200
    assert await sent(stage, heir, token(payload=claims(a=1))) == 200
    assert issuer.asked == ["/keys"]


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 600),
        ({"cache-control": "public, max-age=300, must-revalidate"}, 300),
        ({"cache-control": "max-age=300", "age": "100"}, 200),
        ({"cache-control": "max-age=300", "age": "-1"}, 300),
        ({"cache-control": "max-age=5"}, 60),
        ({"cache-control": "Max-Age=99999"}, 600),
        ({"cache-control": "no-cache"}, 60),
        ({"cache-control": "max-age=300, no-store"}, 60),
        ({"cache-control": "s-maxage=100"}, 600),
        ({"cache-control": "max-age=99999999999999999999"}, 600),
    ],
)
def test_keys_are_kept_as_long_as_is_said_within_bounds(fields: dict[str, str], seconds: float):
    assert lifetime(Fetched(200, Headers(fields), b""), 600.0) == seconds
