from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.claims import ClaimMapping, ClaimsOptions, is_for, moment_of, steps_of
from gateway.consumers import Consumer

# What tokens of these look like, cut down to what is mapped.
SUPABASE = {"sub": "u1", "user_metadata": {"organization_id": "acme"}, "app_metadata": {"roles": ["admin"]}}
KEYCLOAK = {"sub": "u1", "org": "acme", "realm_access": {"roles": ["a", "b"]}, "scope": "books:read openid"}
AUTH0 = {"sub": "u1", "https://acme.dev/org": "acme", "permissions": ["books:read"]}


def consumer(claims: dict[str, Any], **options: Any) -> Consumer:
    return ClaimMapping(ClaimsOptions(**options)).claimed(claims).described


def test_claims_are_found_by_their_paths():
    found = consumer(SUPABASE, organization="user_metadata.organization_id", roles="app_metadata.roles")
    assert (found.name, found.organization, found.user, found.roles) == ("u1", "acme", "u1", frozenset({"admin"}))
    found = consumer(KEYCLOAK, organization="org", roles=["realm_access.roles", "groups"])
    assert (found.roles, found.scopes) == (frozenset("ab"), frozenset({"books:read", "openid"}))
    found = consumer(AUTH0, organization=r"https://acme\.dev/org", permissions="permissions")
    assert (found.organization, found.permissions) == ("acme", ("books:read",))


def test_the_first_path_that_leads_anywhere_counts():
    assert consumer({"b": 7, "sub": "x"}, organization=["a.b", "b"]).organization == "7"
    assert consumer({"a": "", "b": "acme", "sub": "x"}, organization=["a", "b"]).organization == "acme"


def test_a_number_is_a_place_in_a_list():
    claims = {"groups": ["acme", {"name": "red"}], "sub": "x"}
    found = consumer(claims, organization="groups.0", attributes={"team": "groups.1.name", "none": "groups.2"})
    assert (found.organization, found.attributes) == ("acme", {"team": "red"})


def test_attributes_are_facts():
    claims = {"sub": "x", "o": "acme", "staff": True, "level": 1.5, "team": {"name": "red"}}
    paths = {"staff": "staff", "level": "level", "team": "team.name", "none": "nothing"}
    found = consumer(claims, organization="o", attributes=paths)
    assert found.attributes == {"staff": "true", "level": "1.5", "team": "red"}


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "x"},
        {"sub": "x", "o": ""},
        {"sub": "x", "o": "a\r\nX-Admin: 1"},
        {"sub": "x", "o": "a\0b"},
        {"sub": "ü", "o": "acme"},
        {"sub": "x" * 129, "o": "acme"},
        {"sub": True, "o": "acme"},
        {"sub": ["x"], "o": "acme"},
        {"sub": "x", "o": {"a": 1}},
        {"sub": "x", "o": "acme", "scope": 7},
        {"sub": "x", "o": "acme", "scope": ["a", 7]},
        {"sub": "x", "o": "acme", "scope": "a " * 501},
        {"sub": "x", "o": "acme", "scope": "a" * 257},
    ],
)
def test_claims_that_cannot_stand_where_they_go_are_refused(claims):
    with pytest.raises(ValueError, match=r".+"):
        consumer(claims, organization="o", scopes="scope")


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("sub", ("sub",)),
        ("user_metadata.organization_id", ("user_metadata", "organization_id")),
        (r"https://books\.example/org", ("https://books.example/org",)),
        (r"resource_access.books\.api.roles", ("resource_access", "books.api", "roles")),
    ],
)
def test_a_path_has_steps(path: str, steps: tuple[str, ...]):
    assert steps_of(path) == steps


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a.", ".".join("a" * 17)])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="not the path of a claim"):
        steps_of(path)


@pytest.mark.parametrize("moment", ["5", True, None, -1, 253402300800, [5], float("inf")])
def test_a_moment_is_a_number_of_seconds(moment):
    with pytest.raises(ValueError, match="not a moment"):
        moment_of({"exp": moment}, "exp")
    assert moment_of({}, "exp") is None
    assert moment_of({"exp": 5}, "exp") == 5.0


def test_an_audience_is_a_text_or_a_list_of_texts():
    ours = frozenset({"books"})
    assert is_for({"aud": "books"}, ours)
    assert is_for({"aud": ["papers", "books"]}, ours)
    assert not is_for({"aud": ["papers"]}, ours)
    assert not is_for({}, ours)
    assert is_for({}, None)
    for aud in ({"a": 1}, [7], 7, None):
        with pytest.raises(ValueError, match="aud"):
            is_for({"aud": aud}, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from(["sub", "o", "scope", "roles", "a"]), JSON))
def test_whatever_claims_say_a_consumer_or_a_value_error_comes_of_it(claims):
    try:
        found = consumer(claims, organization="o", roles="roles", attributes={"a": "a.b"})
    except ValueError:
        return
    assert found.identity.count(b"\r\n") == len(found.identity.split(b"\r\n")) - 1 == 2 + bool(found.user)
