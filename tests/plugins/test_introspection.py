from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.composition import ConfigError
from gateway.exchange import Request, Response
from gateway.plugin import AnyPlugin
from gateway.services import Services
from gateway.upstream.call import response_of
from tests.fixtures.authorization_server import (
    ACTIVE,
    AuthorizationServer,
    Hands,
    bearing,
    hands,
    made,
    server,
    services,
    status,
)
from tests.fixtures.configuration import HEAD, here, loaded
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target
from tests.play import KEY, Played, Stage, ask

__all__ = ["hands", "here", "server", "services"]


async def test_who_holds_a_token_is_asked_and_remembered(stage: Stage, services: Services, server: AuthorizationServer):
    plugin = made(services)
    for _ in range(3):
        played = await stage.play(plugin, request=bearing("good"))
        consumer = played.exchange.consumer
        assert (consumer.name, consumer.user, consumer.organization) == ("anna", "anna", "acme")
        assert (consumer.roles, consumer.scopes) == (frozenset({"admin"}), frozenset({"books:read", "books:write"}))
        assert played.seen_upstream is not None
        assert "authorization" not in played.seen_upstream.headers
    assert server.asked == ["good"]
    assert not asyncio.iscoroutine(plugin.authenticate(played.exchange))


async def test_how_it_is_asked(stage: Stage, services: Services, server: AuthorizationServer):
    await status(stage, made(services))
    request = server.requests[-1]
    said = b64encode(b"gateway:s3cret%3A+%C3%BC").decode()  # RFC 6749 §2.3.1 encodes before it joins
    assert (request.method, request.target, request.headers["authorization"]) == (
        "POST",
        "/introspect",
        f"Basic {said}",
    )
    assert await request.body.read(9999) == b"token=good&token_type_hint=access_token"
    services._joint.clear()
    await status(stage, made(services, client_authentication="post"))
    request = server.requests[-1]
    assert "authorization" not in request.headers
    assert b"&client_id=gateway&client_secret=s3cret%3A+%C3%BC" in await request.body.read(9999)


async def test_many_that_come_at_once_ask_once(stage: Stage, services: Services, server: AuthorizationServer):
    plugin = made(services)
    server.open.clear()
    playing = [asyncio.create_task(status(stage, plugin)) for _ in range(30)]
    await asyncio.sleep(0.01)
    playing[0].cancel()
    server.open.set()
    assert set(await asyncio.gather(*playing[1:])) == {200}
    assert server.asked == ["good"]


async def test_routes_that_ask_alike_remember_together(stage: Stage, services: Services, server: AuthorizationServer):
    assert [await status(stage, made(services)) for _ in range(2)] == [200, 200]
    assert server.asked == ["good"]


async def test_a_token_is_asked_about_again_after_a_while(
    stage: Stage, services: Services, server: AuthorizationServer, hands: Hands
):
    plugin = made(services, cache={"active": "1m", "inactive": "10s"})
    await status(stage, plugin)
    hands.seconds += 59
    await status(stage, plugin)
    assert len(server.asked) == 1
    del server.tokens["good"]  # revoked
    hands.seconds += 2
    assert await status(stage, plugin) == 401
    server.tokens["good"] = ACTIVE
    assert await status(stage, plugin) == 401
    assert len(server.asked) == 2
    hands.seconds += 11
    assert await status(stage, plugin) == 200


async def test_what_its_issuer_has_withdrawn_is_not_gone_back_to(
    stage: Stage, services: Services, server: AuthorizationServer, hands: Hands
):
    plugin = made(services, cache={"active": "1m", "inactive": "10s", "max_staleness": "1h"})
    assert await status(stage, plugin) == 200
    del server.tokens["good"]
    hands.seconds += 61
    assert await status(stage, plugin) == 401
    server.down = True
    hands.seconds += 11
    assert await status(stage, plugin) == 503


async def test_what_was_revoked_here_is_forgotten(stage: Stage, services: Services, server: AuthorizationServer):
    plugin = made(services)
    server.tokens["good"] = {**ACTIVE, "jti": "j1"}
    revoked: set[str] = set()
    plugin._tokens._is_revoked = lambda _, text: text in revoked
    assert await status(stage, plugin) == 200
    server.down = True
    revoked.add("j1")
    assert await status(stage, plugin) == 503
    revoked.clear()  # a revocation is kept for as long as the token may be valid, by the clock of whoever revoked it
    assert await status(stage, plugin) == 503


async def test_no_longer_than_it_is_valid(stage: Stage, services: Services, server: AuthorizationServer, hands: Hands):
    server.tokens["good"] = {**ACTIVE, "exp": hands.nanos() // 10**9 + 5}
    plugin = made(services, cache={"active": "1h", "max_staleness": "1h"})
    assert await status(stage, plugin) == 200
    hands.seconds += 4
    assert await status(stage, plugin) == 200
    server.down = True
    hands.seconds += 2
    assert await status(stage, plugin) == 503
    assert len(server.asked) == 2


async def test_a_reload_goes_on_with_what_is_known(stage: Stage, services: Services, server: AuthorizationServer):
    before = made(services)
    await status(stage, before)
    services._joint.clear()
    heir = made(services)
    heir.inherit(before)
    assert await status(stage, heir) == 200
    assert server.asked == ["good"]


# Attacks


async def refused(stage: Stage, plugin: AnyPlugin, request: Request) -> Played:
    played = await stage.play(plugin, request=request)
    assert played.response.status == 401
    assert played.seen_upstream is None
    assert played.exchange.consumer is None
    assert b"detail" not in played.body
    return played


@pytest.mark.parametrize(
    "answer",
    [
        {"active": False, "sub": "anna", "org": "acme"},
        {**ACTIVE, "cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}},
        {**ACTIVE, "cnf": {}},
        {**ACTIVE, "token_type": "DPoP"},
        {**ACTIVE, "token_type": "refresh_token"},
        {**ACTIVE, "token_type": 7},
        {**ACTIVE, "exp": 1},
        {**ACTIVE, "exp": "9999999999"},
        {**ACTIVE, "exp": True},
        {**ACTIVE, "nbf": 9_999_999_999},
        {**ACTIVE, "iss": "https://evil.example"},
        {**ACTIVE, "iss": ["https://login.example"]},
        {**ACTIVE, "aud": "papers"},
        {**ACTIVE, "aud": {"books": 1}},
        {**ACTIVE, "aud": []},
        {**ACTIVE, "org": "a\r\nX-Tallygate-Organization: b"},
        {**ACTIVE, "org": None},
        {**ACTIVE, "sub": None},
        {**ACTIVE, "sub": "\u0430nna"},
        {**ACTIVE, "scope": 7},
    ],
)
async def test_tokens_that_are_not_for_us(
    stage: Stage, services: Services, server: AuthorizationServer, answer: dict[str, Any]
):
    server.tokens["good"] = {"iss": "https://login.example", "aud": ["books"], **answer}
    plugin = made(services, issuer="https://login.example", audience=["books", "magazines"])
    played = await refused(stage, plugin, bearing("good"))
    assert played.response.headers["www-authenticate"] == 'Bearer realm="tallygate", error="invalid_token"'
    await refused(stage, plugin, bearing("good"))
    assert len(server.asked) == 1  # and that is remembered
    server.tokens["better"] = {**ACTIVE, "iss": "https://login.example", "aud": "books", "token_type": "Bearer"}
    assert await status(stage, plugin, "better") == 200


@pytest.mark.parametrize(
    "said",
    ["Bearer", "Bearer ", "Bearer a b", "Bearer \xe9", "Bearer a\tb", 'Bearer "a"', "Bearer =", "Bearer " + "a" * 5000],
)
async def test_what_is_no_token_is_refused_without_a_question(
    stage: Stage, services: Services, server: AuthorizationServer, said: str
):
    await refused(stage, made(services), ask(authorization=said))
    assert server.asked == []


async def test_two_tokens_are_refused(stage: Stage, services: Services, server: AuthorizationServer):
    request = bearing("good")
    request.headers.add("Authorization", "Bearer good")
    await refused(stage, made(services), request)
    assert server.asked == []


@pytest.mark.parametrize("said", [f"Bearer {KEY}", "Basic YTpi", "Digest a=b"])
async def test_other_credentials_are_left_alone(
    stage: Stage, services: Services, server: AuthorizationServer, said: str
):
    played = await refused(stage, made(services), ask(authorization=said))
    assert played.response.headers["www-authenticate"] == 'Bearer realm="tallygate"'
    assert played.exchange.request.headers["authorization"] == said
    assert server.asked == []


async def test_a_flood_of_tokens_does_not_push_out_who_is_known(
    stage: Stage, services: Services, server: AuthorizationServer
):
    plugin = made(services, cache={"max_tokens": 10})
    await status(stage, plugin)
    for n in range(50):
        await status(stage, plugin, f"t{n}")
    server.down = True
    assert await status(stage, plugin) == 200
    assert len(plugin._tokens._inactive) == 10


calmly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


@calmly
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40))
async def test_whatever_is_presented_only_tokens_are_asked_about(
    stage: Stage, services: Services, server: AuthorizationServer, text: str
):
    plugin = made(services)
    if text.strip() != "good":
        await refused(stage, plugin, bearing(text))
    assert all(token.isascii() and " " not in token for token in server.asked)


def test_what_is_wrong_with_its_options_is_said(here) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(
            HEAD + "routes:\n  - name: a\n    upstream: demo\n    plugins:\n"
            "      - introspection: {upstream: demmo, path: x, client_id: a, client_secret: b, "
            "claims: {organization: a..b}}\n"
        )
    text = str(caught.value)
    assert "gateway.yaml:7: routes[0].plugins.introspection.path: must be text of the form" in text
    assert "introspection.claims.organization: not the path of a claim: 'a..b'" in text


async def test_on_the_wire(stage: Stage):
    """Both the caller's request and the question about its token go through real connections."""
    document = b'{"active":true,"sub":"anna","org":"acme"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    async with serving(Target(answers=[answer % (len(document), document)])) as login:

        async def forward(request: Request, _upstream: str) -> Response:
            return await response_of(lambda caller: login.upstream.call(request, caller))

        plugin = made(replace(stage.services, forward=forward))
        async with serving(Target(), plugin) as edge:
            for _ in range(2):
                ok = await edge.ask(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n\r\n")
                assert ok.startswith(b"HTTP/1.1 200")
            assert b"X-Tallygate-Organization: acme\r\nX-Tallygate-User: anna\r\n" in edge.target.text
            assert b"good" not in edge.target.text
            question = login.target.text
            assert question.startswith(b"POST /introspect HTTP/1.1\r\n")
            assert question.endswith(b"\r\n\r\ntoken=good&token_type_hint=access_token")  # once
