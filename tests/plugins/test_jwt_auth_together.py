"""Several issuers on one route: servers that publish keys behind a private authority, and callers on real sockets.

Every token is judged by the one issuer that it names, and by nobody if it names none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.config.composition import load
from plugins.anonymous import Anonymous
from plugins.any_of import AnyOf
from plugins.jwt_auth import Config, JwtAuth
from plugins.key_auth import KeyAuth
from tests.fixtures.certificates import Authority, authority, server_context
from tests.fixtures.conversation import serving
from tests.fixtures.issuer import IssuerServer, claims, issuer_server, jwk, token
from tests.fixtures.shapes import AUTH0, ENTRA, KEYCLOAK, SUPABASE, TENANT, USER
from tests.fixtures.wire import Edge, Target
from tests.house.tree import ROOT
from tests.play import KEY, Stage

__all__ = ["authority"]

SHAPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "supabase": (SUPABASE, "ES256", "acme"),
    "auth0": (AUTH0, "RS256", "org_9ybsU1dN2dKfDkBi"),
    "keycloak": (KEYCLOAK, "RS256", "acme"),
    "entra": (ENTRA, "RS256", TENANT),
}
NUMBERS = {name: number for number, name in enumerate(SHAPES)}


@dataclass
class Issuers:
    """The four, each with a key of its own: `urls` are what their tokens say of them."""

    servers: dict[str, IssuerServer]
    urls: dict[str, str]
    authority: Authority

    def token(self, name: str, *, by: str | None = None, **others: Any) -> str:
        """A token as this issuer makes them; `by` another one's key."""
        shape, algorithm, _ = SHAPES[name]
        if by is not None:
            algorithm = SHAPES[by][1]
        payload = shape | {"iss": self.urls[name]} | others
        return token(algorithm, payload=payload, kid=by or name, number=NUMBERS[by or name])

    def options(self, name: str, **others: Any) -> dict[str, Any]:
        """The options of the example for this issuer, at the place where it is here."""
        config = load(ROOT / "config" / "examples" / f"jwt_auth_{name}.yaml", {})
        (spec,) = config.plugins_of(config.routes[0])
        assert isinstance(spec.config, Config)
        keys = {"discovery": True, "tls": {"ca": str(self.authority.path)}, "timeout": 2.0}
        return spec.config.model_dump() | {"issuer": self.urls[name], "keys": keys} | others

    def make(self, stage: Stage, name: str, **others: Any) -> JwtAuth:
        return stage.make(JwtAuth, **self.options(name, **others))  # type: ignore[return-value]


@pytest.fixture
async def issuers(authority: Authority) -> AsyncIterator[Issuers]:
    shown = authority.issue("localhost", ["localhost"])
    async with AsyncExitStack() as stack:
        servers, urls = {}, {}
        for name, (shape, algorithm, _) in SHAPES.items():
            server = servers[name] = await stack.enter_async_context(issuer_server(server_context(shown)))
            path = "/" + str(shape["iss"]).removeprefix("https://").partition("/")[2]
            urls[name] = server.url + path
            server.publish(jwk(algorithm, name, NUMBERS[name]))
            document = {"issuer": urls[name], "jwks_uri": f"{server.url}/keys"}
            server.answers[path.rstrip("/") + "/.well-known/openid-configuration"] = document
        yield Issuers(servers, urls, authority)


def beside(stage: Stage, *parts: Any) -> AnyOf:
    plugin = stage.make(AnyOf, plugins=[{"jwt_auth": {}}])
    assert isinstance(plugin, AnyOf)
    plugin.parts = parts
    return plugin


async def all_of_them(stage: Stage, issuers: Issuers, **others: Any) -> AnyOf:
    parts = [issuers.make(stage, name, **others) for name in SHAPES]
    for part in parts:
        await part.start()
    guest = stage.make(Anonymous, organization="public")
    return beside(stage, *parts, stage.make(KeyAuth), guest)


async def status(edge: Edge, *lines: str, path: str = "/") -> int:
    back = await edge.ask(
        "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *lines, "", ""]).encode()
    )
    assert b"detail" not in back
    return int(back.split(b" ")[1])


def bearer(text: str) -> str:
    return f"Authorization: Bearer {text}"


async def test_each_token_is_judged_by_the_issuer_that_it_names(stage: Stage, issuers: Issuers):
    target = Target()
    async with serving(target, await all_of_them(stage, issuers)) as edge:
        for name, (_, _, organization) in SHAPES.items():
            for _ in range(2):  # fetched keys, then what is remembered
                made, before = issuers.token(name), len(target.text)
                assert await status(edge, bearer(made)) == 200, name
                assert f"X-Tallygate-Organization: {organization}\r\n".encode() in target.text[before:]
                assert made.encode() not in target.text
        assert f"X-Tallygate-User: {USER}\r\n".encode() in target.text  # Entra's `oid`
        assert [server.asked[-1] for server in issuers.servers.values()] == ["/keys"] * 4


async def test_nobodys_token_is_refused_and_never_taken_for_none(stage: Stage, issuers: Issuers):
    target = Target()
    async with serving(target, await all_of_them(stage, issuers, cookie="session", query="token")) as edge:
        assert await status(edge) == 200  # a guest
        before = target.text
        foreign = token("RS256", payload=claims(iss="https://evil.example/"), kid="auth0", number=NUMBERS["auth0"])
        for name in SHAPES:
            other = next(each for each in SHAPES if each != name)
            for made in (
                foreign,
                issuers.token(name, by=other),
                issuers.token(name)[:-6],
                issuers.token(name, exp=1),
                issuers.token(name, iss=None),
                issuers.token(name, iss=[issuers.urls[name]]),
                issuers.token(name, iss=issuers.urls[name].rstrip("/") + "//"),
                issuers.token(name, iss=issuers.urls[other]),
            ):
                assert await status(edge, bearer(made)) == 401
                assert await status(edge, f"Cookie: session={made}") == 401
                assert await status(edge, path=f"/?token={made}") == 401
        assert target.text == before


async def test_a_token_that_nobody_knows_says_what_it_would_take(stage: Stage, issuers: Issuers):
    made = token("RS256", payload=claims(iss="https://evil.example/"))
    async with serving(Target(), await all_of_them(stage, issuers)) as edge:
        back = await edge.ask(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{bearer(made)}\r\n\r\n".encode())
    assert b'www-authenticate: bearer realm="tallygate", error="invalid_token"\r\n' in back.lower()


async def test_a_key_counts_beside_a_token_that_is_for_the_upstream(stage: Stage, issuers: Issuers):
    foreign, target = token("RS256", payload=claims(iss="https://other.example/")), Target()
    async with serving(target, await all_of_them(stage, issuers)) as edge:
        assert await status(edge, bearer(foreign), f"X-Api-Key: {KEY}") == 200
        assert foreign.encode() in target.text
        assert await status(edge, bearer(foreign), f"X-Api-Key: {KEY[:-1]}") == 401
        assert await status(edge, bearer(issuers.token("auth0")[:-6]), f"X-Api-Key: {KEY}") == 401


async def test_an_issuer_that_is_down_takes_nobody_elses_callers_along(stage: Stage, issuers: Issuers):
    issuers.servers["keycloak"].answers.clear()
    async with serving(Target(), await all_of_them(stage, issuers)) as edge:
        assert await status(edge, bearer(issuers.token("keycloak"))) == 503
        for name in ("supabase", "auth0", "entra"):
            assert await status(edge, bearer(issuers.token(name))) == 200


async def test_two_for_one_issuer_and_one_for_all_others(stage: Stage, issuers: Issuers):
    """One that takes any issuer judges whatever comes to it: it belongs at the end."""
    anybody = issuers.options("auth0", issuer=None) | {"keys": {"jwks": issuers.servers["auth0"].url + "/keys"}}
    anybody["keys"]["tls"] = {"ca": str(issuers.authority.path)}
    last = stage.make(JwtAuth, **anybody)
    first = issuers.make(stage, "entra")
    for part in (first, last):
        await part.start()
    async with serving(Target(), beside(stage, first, last)) as edge:
        assert await status(edge, bearer(issuers.token("entra"))) == 200
        assert await status(edge, bearer(issuers.token("auth0"))) == 200
        assert await status(edge, bearer(issuers.token("auth0", iss="https://elsewhere.example/"))) == 200
        assert await status(edge, bearer(issuers.token("entra", by="auth0"))) == 401


async def test_what_other_issuers_made_is_remembered_within_bounds(stage: Stage, issuers: Issuers):
    plugin: Any = issuers.make(stage, "auth0", cache={"verified": 3})
    foreign = plugin._verifier.foreign
    for number in range(9):
        made = token("ES256", payload=claims(iss="https://other.example/", n=number))
        async with serving(Target(), plugin) as edge:
            assert await status(edge, bearer(made)) == 401
    size = stage.metrics.gauge("tallygate_jwt_foreign_remembered", "Tokens in memory that are for others to judge.")
    assert (len(foreign.known), size.value) == (3, 3)
    await plugin.stop()
    assert size.value == 0
