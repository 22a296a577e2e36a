"""Tokens as Supabase, Auth0, Keycloak and Entra make them, taken with the examples that are there for them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.config.configuration import load
from plugins.jwt_auth import Config, JwtAuth
from tests.fixtures.issuer import SECRET, pem, token
from tests.house.tree import ROOT
from tests.play import Stage, ask

NOW = int(time.time())
USER = "b6d5f2b8-54c4-4a52-9d3a-0b6f6d1b1c11"
SESSION = "0c5ea4d5-8a3b-4c93-bb1a-6f6ad8f3d1f4"
TENANT, APPLICATION = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"

SUPABASE = {
    "aal": "aal1",
    "amr": [{"method": "password", "timestamp": NOW}],
    "app_metadata": {"provider": "email", "providers": ["email"], "organization_id": "acme", "roles": ["reader"]},
    "aud": "authenticated",
    "email": "bob@example.com",
    "exp": NOW + 3600,
    "iat": NOW,
    "is_anonymous": False,
    "iss": "https://project.supabase.co/auth/v1",
    "phone": "",
    "role": "authenticated",
    "session_id": SESSION,
    "sub": USER,
    "user_metadata": {"email_verified": True, "full_name": "Bøb", "organization_id": "globex"},
}
AUTH0 = {
    "iss": "https://tenant.eu.auth0.com/",
    "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    "aud": ["https://api.example.com", "https://tenant.eu.auth0.com/userinfo"],
    "iat": NOW,
    "exp": NOW + 86400,
    "azp": "my_client_id",
    "scope": "openid profile read:books",
    "org_id": "org_9ybsU1dN2dKfDkBi",
    "permissions": ["read:books", "create:books"],
    "https://api.example.com/roles": ["editor"],
}
KEYCLOAK = {
    "exp": NOW + 3000,
    "iat": NOW,
    "auth_time": NOW - 10,
    "jti": "onrtac:1f2b6f2e-2a1c-4b0e-9d6b-4f7a5ce2d0f3",
    "iss": "https://sso.example.com/realms/books",
    "aud": ["books-api", "account"],
    "sub": USER,
    "typ": "Bearer",
    "azp": "books-web",
    "sid": SESSION,
    "acr": "1",
    "allowed-origins": ["https://books.example.com"],
    "realm_access": {"roles": ["offline_access", "uma_authorization"]},
    "resource_access": {"books-api": {"roles": ["reader"]}, "account": {"roles": ["manage-account"]}},
    "scope": "openid email profile organization:acme",
    "email_verified": True,
    "organization": ["acme"],
    "preferred_username": "bob",
    "name": "Bob Björk",
}
ENTRA = {
    "aud": APPLICATION,
    "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 4500,
    "aio": "AXQAi/8TAAAA",
    "azp": "99999999-aaaa-bbbb-cccc-dddddddddddd",
    "azpacr": "1",
    "name": "Bob Björk",
    "oid": USER,
    "preferred_username": "bob@example.com",
    "rh": "0.AXYA.",
    "roles": ["Books.Read"],
    "scp": "access_as_user books.read",
    "sid": SESSION,
    "sub": "Uz0pairwise-of-this-application",
    "tid": TENANT,
    "uti": "fqiBqXLPj0eQa82S-IYFAA",
    "ver": "2.0",
}
ENTRA_PROGRAM = {name: value for name, value in ENTRA.items() if name not in ("preferred_username", "scp", "name")}


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
