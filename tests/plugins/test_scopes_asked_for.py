"""What a refusal tells a client whose token lacks a scope (RFC 6750 §3.1), and whom it tells nothing."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from gateway.consumers import ConsumerOptions
from gateway.passwords import hash_password
from gateway.plugin import AnyPlugin
from plugins.any_of import AnyOf
from plugins.authorize import Authorize
from plugins.basic_auth import BasicAuth
from plugins.introspection import Introspection
from plugins.jwt_auth import JwtAuth
from plugins.key_auth import KeyAuth
from tests.fixtures.authorization_server import AuthorizationServer, introspecting
from tests.fixtures.conversation import serving
from tests.fixtures.issuer import claims, options, token
from tests.fixtures.wire import Target
from tests.play import KEY, Stage, ask

SCOPES = ["books:read", "books:write"]
WANTED = 'error="insufficient_scope", scope="books:read books:write"'
READER = ConsumerOptions.model_validate(
    {"name": "r", "organization": "o", "passwords": [{"id": "anna", "argon2id": hash_password("secret")}]}
)


@pytest.fixture
async def stage(tmp_path: Any) -> Any:
    stage = Stage(tmp_path, consumers=[READER])
    yield stage
    await stage.close()


def introspection(stage: Stage) -> Introspection:
    server = AuthorizationServer()
    server.tokens["opaque"] = {"active": True, "sub": "bob", "org": "acme", "scope": "books:read"}
    return introspecting(stage.services, server)


def every_kind(stage: Stage) -> AnyPlugin:
    plugin = stage.make(AnyOf, plugins=[{"key_auth": {}}])
    jwt_auth = stage.make(JwtAuth, **options(realm="books"))
    plugin.parts = (stage.make(KeyAuth), stage.make(BasicAuth), jwt_auth, introspection(stage))
    return plugin


async def asked_for(stage: Stage, said: str, **needed: Any) -> list[str]:
    chain = (every_kind(stage), stage.make(Authorize, **needed))
    played = await stage.play(*chain, request=ask(authorization=said))
    assert played.response.status == 403
    assert played.seen_upstream is None
    return played.response.headers.getall("www-authenticate")


@pytest.mark.parametrize("scope", [None, "", "books:read", "books:write books:readx"])
async def test_a_token_that_lacks_a_scope_is_asked_for_another(stage: Stage, scope: str | None):
    made = token(payload=claims(scope=scope))
    assert await asked_for(stage, f"Bearer {made}", scopes=SCOPES) == [f'Bearer realm="books", {WANTED}']


async def test_an_opaque_token_too(stage: Stage):
    assert await asked_for(stage, "Bearer opaque", scopes=SCOPES) == [f'Bearer realm="tallygate", {WANTED}']


@pytest.mark.parametrize("said", [f"Bearer {KEY}", f"Basic {b64encode(b'anna:secret').decode()}"])
async def test_who_came_without_a_token_is_asked_for_none(stage: Stage, said: str):
    assert await asked_for(stage, said, scopes=SCOPES) == []


@pytest.mark.parametrize("needed", [{"roles": ["admin"]}, {"permission": "books:read"}, {"when": '"staff" in roles'}])
async def test_what_no_scope_would_help_with_asks_for_none(stage: Stage, needed: dict[str, Any]):
    assert await asked_for(stage, f"Bearer {token()}", **needed) == []


async def test_on_the_wire(stage: Stage):
    chain = (stage.make(JwtAuth, **options()), stage.make(Authorize, scopes=SCOPES))
    async with serving(Target(), *chain) as edge:
        for scope, status in (("books:read", 403), ("books:write books:read other", 200), ("books:read", 403)):
            made = token(payload=claims(scope=scope))
            head = f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {made}\r\n\r\n"
            back = await edge.ask(head.encode())
            assert back.startswith(f"HTTP/1.1 {status}".encode())
            assert (f'www-authenticate: Bearer realm="tallygate", {WANTED}\r\n'.encode() in back) == (status == 403)
