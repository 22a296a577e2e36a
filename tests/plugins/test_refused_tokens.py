"""Why a token was refused: the caller is never told, the operator is, in the access log and by a metric."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.authentication import Authenticator
from plugins.access_log import AccessLog
from plugins.any_of import AnyOf
from plugins.authorize import Authorize
from plugins.jwt_auth import JwtAuth
from tests.fixtures.authorization_server import AuthorizationServer, introspecting
from tests.fixtures.directory import Process, process, publisher
from tests.fixtures.issuer import claims, encode, options, part, token
from tests.fixtures.publishing import Publisher
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process
from tests.play import Played, Stage, ask

__all__ = ["publisher", "redis", "valkey", "valkey_process"]

INVALID = 'Bearer realm="tallygate", error="invalid_token"'
ACTIVE = {"active": True, "sub": "anna", "org": "acme"}


def counted(stage: Stage) -> dict[str, float]:
    """How often each reason was counted that was."""
    family = stage.metrics._families["tallygate_tokens_refused_total"][1]
    return {values[0]: series.value for values, series in family._known.items()}


async def refused(stage: Stage, plugin: Authenticator[Any], text: str, reason: str) -> Played:
    before = counted(stage).get(reason, 0)
    played = await stage.play(stage.make(AccessLog), plugin, request=ask(authorization=f"Bearer {text}"))
    assert (played.response.status, played.response.headers.getall("www-authenticate")) == (401, [INVALID])
    assert reason.encode() not in played.body
    assert stage.access_log.lines[-1]["because"] == f"token refused: {reason}"
    assert counted(stage)[reason] == before + 1
    return played


def opaque(header: str) -> str:
    return f"{header}.{part(claims())}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (token(number=1), "signature"),
        (token(header={"alg": "none"}), "algorithm"),
        (token(jku="https://evil.example/"), "header"),
        (token(typ="dpop+jwt"), "another type"),
        (token(payload=claims(iss="https://evil.example/")), "another issuer"),
        (token(payload=claims(aud="others")), "another audience"),
        (token(payload=claims(exp=1)), "expired"),
        (token(payload=claims(nbf=int(time.time()) + 900)), "not valid yet"),
        (token(payload=claims(exp=None)), "claims"),
        (token(payload=claims(org="a\nb")), "claims"),
        (token()[:-1] + "?", "malformed"),
        (opaque("b3BhcXVl"), "malformed"),
    ],
)
async def test_of_jwts(stage: Stage, text: str, reason: str):
    plugin = stage.make(JwtAuth, **options())
    await refused(stage, plugin, text, reason)
    await refused(stage, plugin, text, reason)  # though it is remembered to be wrong


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"active": False}, "not active"),
        ({**ACTIVE, "cnf": {}}, "bound to a key"),
        ({**ACTIVE, "token_type": "DPoP"}, "another type"),
        ({**ACTIVE, "exp": 1}, "expired"),
        ({**ACTIVE, "nbf": 9_999_999_999}, "not valid yet"),
        ({**ACTIVE, "exp": "soon"}, "claims"),
        ({**ACTIVE, "org": None}, "claims"),
        ({**ACTIVE, "iss": "https://evil.example"}, "another issuer"),
        ({**ACTIVE, "aud": "papers"}, "another audience"),
    ],
)
async def test_of_opaque_tokens(stage: Stage, answer: dict[str, Any], reason: str):
    server = AuthorizationServer()
    server.tokens["opaque"] = {"iss": "https://login.example", "aud": "books", **answer}
    plugin = introspecting(stage.services, server, issuer="https://login.example", audience="books")
    await refused(stage, plugin, "opaque", reason)
    await refused(stage, plugin, "opaque", reason)
    await refused(stage, plugin, "?", "malformed")
    assert server.asked == ["opaque"]


async def test_two_different_ones(stage: Stage):
    plugin = stage.make(JwtAuth, **options(query="token"))
    request = ask(f"/?token={token(payload=claims(n=1))}", authorization=f"Bearer {token()}")
    assert (await stage.play(plugin, request=request)).response.status == 401
    assert counted(stage) == {"several tokens": 1}


# Organizations that the control plane does not know


@pytest.fixture
async def edge(valkey: ValkeyServer, publisher: Publisher) -> AsyncIterator[Process]:
    async with process(valkey.url) as edge:
        yield edge


@pytest.fixture
async def following(tmp_path: Path, edge: Process) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, published=edge.published)
    yield stage
    await stage.close()


async def test_a_valid_token_of_nobodys_organization(following: Stage):
    server = AuthorizationServer()
    server.tokens["opaque"] = {**ACTIVE, "org": "nowhere"}
    bare, asking = following.make(JwtAuth, **options()), introspecting(following.services, server)
    together = following.make(AnyOf, plugins=[{"jwt_auth": {}}])
    together.parts = (bare, asking)
    text = token(payload=claims(org="nowhere"))
    for plugin in (bare, together):
        for _ in range(2):  # looked up, then known to be absent
            played = await refused(following, plugin, text, "organization")  # type: ignore[arg-type]
            assert played.exchange.consumer is None
    for plugin in (asking, together):
        await refused(following, plugin, "opaque", "organization")  # type: ignore[arg-type]


async def test_who_a_token_describes_is_let_in_only_as_its_organization_has_it(following: Stage):
    """What `any_of` passes on is not let in as it came either."""
    together = following.make(AnyOf, plugins=[{"jwt_auth": {}}])
    together.parts = (following.make(JwtAuth, **options(claims={"organization": "org", "roles": "roles"})),)
    text = token(payload=claims(org="acme", roles=["reader"]))
    chain = together, following.make(Authorize, permission="books:read")
    for _ in range(2):
        played = await following.play(*chain, request=ask(authorization=f"Bearer {text}"))
        assert (played.response.status, played.exchange.consumer.plan_version) == (200, "gold")


# Of tokens that only look like a JWT


@pytest.mark.parametrize(
    "text",
    [
        "2YotnFZ.FEjr1zC.sicMWpAA",
        opaque("b3BhcXVl"),
        ".".join([part({"alg": "dir", "enc": "A256GCM"}), "", encode(b"iv"), encode(b"text"), encode(b"tag")]),
        part({"id": 7}),
    ],
    ids=["two dots", "no header", "encrypted", "a JSON object"],
)
async def test_what_only_looks_like_a_jwt_is_left_for_introspection(stage: Stage, text: str):
    server = AuthorizationServer()
    server.tokens[text] = ACTIVE
    both = stage.make(AnyOf, plugins=[{"jwt_auth": {}}])
    both.parts = (stage.make(JwtAuth, **options()), introspecting(stage.services, server))
    for _ in range(2):
        played = await stage.play(both, request=ask(authorization=f"Bearer {text}"))
        assert (played.response.status, played.exchange.consumer.name) == (200, "anna")
    assert server.asked == [text]
    forged = token(number=1)
    server.tokens[forged] = ACTIVE
    assert (await stage.play(both, request=ask(authorization=f"Bearer {forged}"))).response.status == 401
    assert server.asked == [text]  # a JWT that is ours to judge is nobody else's
