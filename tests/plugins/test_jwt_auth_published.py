"""Tokens where a control plane publishes: what is revoked, and what the organization they name makes of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.projection import OrganizationRecord
from plugins.authorize import Authorize
from plugins.introspection import Introspection
from plugins.jwt_auth import JwtAuth
from tests.fixtures.authorization_server import AuthorizationServer, introspecting
from tests.fixtures.directory import Process, process, publisher, until
from tests.fixtures.issuer import claims, options, token
from tests.fixtures.publishing import Publisher
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process
from tests.play import Stage, ask

__all__ = ["publisher", "redis", "valkey", "valkey_process"]


@pytest.fixture
async def edge(valkey: ValkeyServer, publisher: Publisher) -> AsyncIterator[Process]:
    async with process(valkey.url) as edge:
        yield edge


@pytest.fixture
async def stage(tmp_path: Path, edge: Process) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, published=edge.published)
    yield stage
    await stage.close()


async def status(stage: Stage, plugins: tuple[JwtAuth | Introspection | Authorize, ...], text: str) -> int:
    return (await stage.play(*plugins, request=ask(authorization=f"Bearer {text}"))).response.status


@pytest.mark.parametrize("revoked", ["jti:j1", "session:s1", "subject:bob"])
async def test_a_revoked_token_is_refused_though_it_is_remembered(stage: Stage, publisher: Publisher, revoked: str):
    plugin = stage.make(JwtAuth, **options())
    made = token(payload=claims(jti="j1", sid="s1"))
    fresh = token(payload=claims(jti="j1", sid="s1", n=1))
    assert await status(stage, (plugin,), made) == 200
    await publisher.revoke({f"{revoked}-another": int(time.time()) + 600})
    assert await status(stage, (plugin,), made) == 200
    await publisher.revoke({revoked: int(time.time()) + 600})

    async def is_refused() -> bool:
        return await status(stage, (plugin,), made) == 401

    assert await until(is_refused) < 1
    assert await status(stage, (plugin,), fresh) == 401


async def test_what_a_token_is_revoked_by_is_where_the_issuer_says_it(stage: Stage, publisher: Publisher):
    """Entra's tokens have neither `jti` nor the same `sub` everywhere."""
    mapping = {"organization": "org", "token_id": "uti", "session": "entra.session", "subject": ["oid", "sub"]}
    plugin = stage.make(JwtAuth, **options(claims=mapping))
    made = {
        kind: token(payload=claims(uti=f"{kind} u", entra={"session": f"{kind} s"}, oid=f"{kind} o", jti="j", sid="s"))
        for kind in ("jti", "session", "subject", "none")
    }
    assert [await status(stage, (plugin,), text) for text in made.values()] == [200] * 4
    ends = int(time.time()) + 600
    # What other issuers say it by revokes nothing here, nor does the name of another kind.
    await publisher.revoke(dict.fromkeys(("jti:j", "session:s", "subject:bob", "jti:none o", "subject:none u"), ends))
    await publisher.revoke({"jti:jti u": ends, "session:session s": ends, "subject:subject o": ends})

    async def are_refused() -> bool:
        return [await status(stage, (plugin,), text) for text in made.values()] == [401, 401, 401, 200]

    assert await until(are_refused) < 1


async def test_an_opaque_token_is_revoked_whatever_its_issuer_says(stage: Stage, publisher: Publisher):
    server = AuthorizationServer()
    server.tokens["opaque"] = {"active": True, "sub": "bob", "org": "acme", "jti": "j7"}
    plugin = introspecting(stage.services, server)
    assert await status(stage, (plugin,), "opaque") == 200
    await publisher.revoke({"jti:j7": int(time.time()) + 600})

    async def is_refused() -> bool:
        return await status(stage, (plugin,), "opaque") == 401

    assert await until(is_refused) < 1
    server.down = True
    assert await status(stage, (plugin,), "opaque") in (401, 503)  # and nothing is left to go on with
    assert len(server.asked) == 2


async def test_the_organization_says_what_a_role_may_do(stage: Stage, publisher: Publisher):
    chain = (
        stage.make(JwtAuth, **options(claims={"organization": "org", "roles": "roles"})),
        stage.make(Authorize, permission="books:read"),
    )
    reader = token(payload=claims(org="acme", roles=["reader"]))
    assert await status(stage, chain, reader) == 200
    assert await status(stage, chain, token(payload=claims(org="acme", roles=["nobody"]))) == 403
    assert await status(stage, chain, token(payload=claims(org="nowhere", roles=["reader"]))) == 401

    async def answers(wanted: int) -> bool:
        return await status(stage, chain, reader) == wanted

    for changed, wanted in (
        (OrganizationRecord(name="acme", roles={"reader": ("maps:read",)}), 403),
        (OrganizationRecord(name="acme", roles={"reader": ("books:*",)}), 200),
        (OrganizationRecord(name="acme", disabled=True), 401),
    ):
        publisher.organizations["acme"] = changed
        await publisher.put_organization("acme")
        assert await until(lambda wanted=wanted: answers(wanted)) < 1  # type: ignore[misc]
