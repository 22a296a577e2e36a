"""What is said of keys: whether one opens anything now, what ends it, what was not found."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.keys import looks_valid
from tests.fixtures.control import Client
from tests.fixtures.postgres import fetch

HOME = "/v1/organizations/acme"
PAST, FUTURE = "2020-01-01T00:00:00Z", "2040-01-01T00:00:00Z"


async def state(client: Client) -> Any:
    (item,) = (await client.get(f"{HOME}/keys")).document["items"]
    assert item["state"] == (await client.get(f"{HOME}/keys/k")).document["state"]
    return item["state"]


@pytest.mark.parametrize(
    ("path", "members", "said"),
    [
        (f"{HOME}/keys/k", {"expires_at": PAST}, "expired"),
        (f"{HOME}/keys/k", {"expires_at": FUTURE}, "active"),
        (f"{HOME}/users/u", {"disabled": True}, "cut_off"),
        (HOME, {"disabled": True}, "cut_off"),
        ("/v1/organizations/above", {"disabled": True}, "cut_off"),
    ],
)
async def test_whether_it_opens_anything(client: Client, path: str, members: dict[str, Any], said: str) -> None:
    await client.make("/v1/organizations", name="above")
    await client.make("/v1/organizations", name="acme", parent="above")
    await client.make(f"{HOME}/users", name="u")
    await client.make(f"{HOME}/keys", name="k", user="u")
    assert await state(client) == "active"
    assert (await client.change(path, **members)).status == 200
    assert await state(client) == said
    await client.ask("POST", f"{HOME}/keys/k/revoke")
    assert await state(client) == "revoked"


async def test_one_of_a_service_account(acme: Client) -> None:
    await acme.make(f"{HOME}/service-accounts", name="s")
    await acme.make(f"{HOME}/keys", name="k", service_account="s")
    await acme.change(f"{HOME}/service-accounts/s", disabled=True)
    assert await state(acme) == "cut_off"


async def test_what_has_ended_is_not_made(acme: Client) -> None:
    revocation = {"kind": "jti", "token": "t"}
    for path, members in ((f"{HOME}/keys", {}), ("/v1/revocations", revocation)):
        told = await acme.ask("POST", path, {**members, "expires_at": PAST})
        assert told.status == 422
        assert told.document["errors"] == [{"pointer": "/expires_at", "detail": "That is in the past."}]
        await acme.make(path, **members, expires_at=FUTURE)


async def test_which_of_them_there_is_not(acme: Client) -> None:
    for path, said in (
        ("/v1/organizations/none/keys/k", "There is no organization of this name within reach."),
        (f"{HOME}/keys/k", "There is no key of this name."),
        (f"{HOME}/service-accounts/s", "There is no service account of this name."),
        ("/v1/roles/r", "There is no role of this name."),
    ):
        told = await acme.get(path)
        assert (told.status, told.document["detail"]) == (404, said)


async def test_a_secret_is_said_once_and_kept_nowhere(acme: Client, database_url: str) -> None:
    """A title that looks like its end changes nothing."""
    headers, body = {"idempotency-key": "a"}, {"name": "k", "title": '"secret":null}'}
    first, again = [await acme.ask("POST", f"{HOME}/keys", body, headers) for _ in range(2)]
    assert looks_valid(first.document["secret"])
    assert again.document == first.document | {"secret": None}
    rows = await fetch(database_url, "select headers::text || body from idempotent_answer")
    assert first.document["secret"] not in str(rows)
