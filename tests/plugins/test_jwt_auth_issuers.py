"""Tokens as Supabase, Auth0, Keycloak and Entra make them, taken with the examples that are there for them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.composition import load
from plugins.jwt_auth import Config, JwtAuth
from tests.fixtures.issuer import SECRET, pem, token
from tests.fixtures.shapes import AUTH0, ENTRA, ENTRA_PROGRAM, KEYCLOAK, NOW, SUPABASE, TENANT, USER
from tests.house.tree import ROOT
from tests.play import Stage, ask


def example(name: str, algorithm: str) -> dict[str, Any]:
    """The options of an example, with this test's key in place of where the issuer has its own."""
    config = load(ROOT / "config" / "examples" / f"{name}.yaml", {})
    (spec,) = config.plugins_of(config.routes[0])
    assert isinstance(spec.config, Config)
    return spec.config.model_dump() | {"keys": {"static": [{"id": "key-1", "pem": pem(algorithm)}]}}


async def caller(stage: Stage, options: dict[str, Any], algorithm: str, payload: dict[str, Any], **header: Any) -> Any:
    plugin = stage.make(JwtAuth, **options)
    made = token(algorithm, payload=payload, kid="key-1", **header)
    return (await stage.play(plugin, request=ask(authorization=f"Bearer {made}"))).exchange.consumer


async def test_supabase(stage: Stage):
    options = example("jwt_auth_supabase", "ES256")
    bob = await caller(stage, options, "ES256", SUPABASE)
    assert (bob.name, bob.organization, bob.user) == ("bob@example.com", "acme", USER)
    assert bob.roles == {"authenticated", "reader"}
    assert dict(bob.attributes) == {"anonymous": "false", "assurance": "aal1"}
    visitor = await caller(stage, options, "ES256", SUPABASE | {"email": "", "is_anonymous": True})
    assert (visitor.name, visitor.attributes["anonymous"]) == (USER, "true")
    # The public key of older projects is a token as well, and nobody's.
    assert await caller(stage, options, "ES256", {"iss": "supabase", "role": "anon", "exp": NOW + 9}) is None
    # What users can write themselves can be mapped all the same.
    theirs = options | {"claims": {"organization": "user_metadata.organization_id"}}
    assert (await caller(stage, theirs, "ES256", SUPABASE)).organization == "globex"


async def test_supabase_with_its_older_secret(stage: Stage):
    secret = {"static": [{"secret": SECRET.decode()}]}
    options = example("jwt_auth_supabase", "ES256") | {"algorithms": ["HS256"], "keys": secret}
    assert (await caller(stage, options, "HS256", SUPABASE)).organization == "acme"


async def test_auth0(stage: Stage):
    options = example("jwt_auth_auth0", "RS256")
    bob = await caller(stage, options, "RS256", AUTH0)
    assert (bob.name, bob.organization) == ("auth0|5f7c8ec7c33c6c004bbafe82", "org_9ybsU1dN2dKfDkBi")
    assert bob.permissions == ("read:books", "create:books")
    assert bob.scopes == {"openid", "profile", "read:books"}
    assert bob.roles == {"editor"}
    other = {**AUTH0, "org_id": None, "https://api.example.com/organization": "acme"}
    assert (await caller(stage, options, "RS256", other, typ="at+jwt")).organization == "acme"
    assert await caller(stage, options, "RS256", AUTH0 | {"aud": "my_client_id"}) is None  # an ID token


async def test_keycloak(stage: Stage):
    options = example("jwt_auth_keycloak", "RS256")
    bob = await caller(stage, options, "RS256", KEYCLOAK)
    assert (bob.name, bob.organization, bob.user) == ("bob", "acme", USER)
    assert bob.roles == {"offline_access", "uma_authorization", "reader"}
    assert "organization:acme" in bob.scopes
    attribute = {**KEYCLOAK, "organization": [], "organization_id": "acme"}
    assert (await caller(stage, options, "RS256", attribute)).organization == "acme"
    assert await caller(stage, options, "RS256", KEYCLOAK | {"aud": "account"}) is None


@pytest.mark.parametrize("payload", [ENTRA, ENTRA_PROGRAM], ids=["user", "program"])
async def test_entra(stage: Stage, payload: dict[str, Any]):
    options = example("jwt_auth_entra", "RS256")
    found = await caller(stage, options, "RS256", payload, x5t="nonsense")
    assert (found.organization, found.user) == (TENANT, USER)
    assert found.name == payload.get("preferred_username", payload["azp"])
    assert found.roles == {"Books.Read"}
    assert found.scopes == set(payload.get("scp", "").split())
    other = payload | {"tid": "x", "iss": "https://login.microsoftonline.com/x/v2.0"}
    assert await caller(stage, options, "RS256", other) is None
