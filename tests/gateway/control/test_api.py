"""The API: each kind of thing is made, listed, read, changed and removed, and what cannot be is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.keys import looks_valid
from tests.fixtures.control import Client, serving, tenant
from tests.fixtures.postgres import run_sql

HOME = "/v1/organizations/acme"

# Of each collection: where it is, what is made, a change, and what cannot be.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "organization": ("/v1/organizations", {"name": "other"}, {"title": "The others"}, {"name": "a/b"}),
    "global role": (
        "/v1/roles",
        {"name": "reader", "permissions": ["books:read"]},
        {"permissions": ["books:*", "!books:delete"]},
        {"name": "r", "permissions": ["Books"]},
    ),
    "revocation": (
        "/v1/revocations",
        {"name": "r1", "kind": "jti", "token": "t1", "expires_at": "2030-01-01T00:00:00+00:00"},
        {"expires_at": "2031-01-01T00:00:00+02:00"},
        {"kind": "token", "token": "t", "expires_at": "2030-01-01T00:00:00Z"},
    ),
    "department": (f"{HOME}/departments", {"name": "sales"}, {"title": "Sales"}, {"name": "x", "title": "a\nb"}),
    "team": (f"{HOME}/teams", {"name": "north"}, {"title": "North"}, {"name": "x", "department": "none"}),
    "role": (
        f"{HOME}/roles",
        {"name": "writer", "permissions": ["books:write"]},
        {"permissions": []},
        {"name": "x", "permissions": ["books:read"], "scope": "everywhere"},
    ),
    "user": (f"{HOME}/users", {"name": "ada@example.com"}, {"email": "ada@example.com"}, {"name": "x", "email": "x"}),
    "service account": (
        f"{HOME}/service-accounts",
        {"name": "importer"},
        {"disabled": True},
        {"name": "x", "roles": ["nobody-knows"]},
    ),
    "membership": (
        f"{HOME}/memberships",
        {"name": "m", "user": "bob", "roles": []},
        {"roles": ["r"]},
        {"user": "eve", "roles": []},
    ),
    "subscription": (
        f"{HOME}/subscriptions",
        {"name": "s", "plan": "gold"},
        {"ended_at": "2026-01-01T00:00:00Z"},
        {"plan": ""},
    ),
    "key": (
        f"{HOME}/keys",
        {"name": "k", "networks": ["192.0.2.0/24"]},
        {"routes": ["api"]},
        {"networks": ["192.0.2.1/24"]},
    ),
}


@pytest.fixture
async def acme(client: Client) -> Client:
    await client.make("/v1/organizations", name="acme")
    await client.make(f"{HOME}/users", name="bob")
    await client.make(f"{HOME}/roles", name="r", permissions=["books:read"])
    return client


@pytest.mark.parametrize("kind", KINDS)
async def test_a_life(acme: Client, kind: str) -> None:
    where, made, change, _ = KINDS[kind]
    told = await acme.ask("POST", where, made)
    assert told.status == 201, told.body
    assert {**told.document, **made} == told.document
    path = told.headers["location"]
    assert path == f"{where}/{made['name']}"
    assert made["name"] in [item["name"] for item in (await acme.get(where)).document["items"]]

    read = await acme.get(path)
    assert (read.status, read.headers["etag"], read.document["version"]) == (200, '"1"', 1)
    assert (await acme.ask("POST", where, made)).status == 409
    changed = await acme.ask("PATCH", path, change, read.etag)
    assert (changed.status, changed.headers["etag"]) == (200, '"2"'), changed.body
    member, value = next(iter(change.items()))
    assert changed.document[member] == value or member.endswith("_at")
    unchanged = set(read.document) - set(change) - {"version", "updated_at"}
    assert {name: changed.document[name] for name in unchanged} == {name: read.document[name] for name in unchanged}

    if kind != "key":
        assert (await acme.ask("DELETE", path, headers=read.etag)).status == 412
        gone = await acme.ask("DELETE", path, headers=changed.etag)
        assert (gone.status, gone.body) == (204, b"")
        assert (await acme.get(path)).status == 404
        assert (await acme.ask("DELETE", path, headers=changed.etag)).status == 404


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_is_refused(acme: Client, kind: str) -> None:
    where, made, _, wrong = KINDS[kind]
    for body in (wrong, {**made, "colour": "red"}, {**made, "name": 7}, {}, {**made, "version": 1}):
        told = await acme.ask("POST", where, body)
        assert told.status == 422 or (told.status, body) == (201, {}), told.body
        if told.status == 422:
            assert told.headers["content-type"] == "application/problem+json"
            assert told.document["type"] == "https://tallygate.dev/problems/invalid-values"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_never_changes(acme: Client, kind: str) -> None:
    where, made, _, _ = KINDS[kind]
    path = (await acme.ask("POST", where, made)).headers["location"]
    told = await acme.change(path, name="another")
    assert (told.status, told.document["errors"][0]["pointer"]) == (422, "/name")


async def test_a_change_names_the_version_it_changes(acme: Client) -> None:
    assert (await acme.ask("PATCH", HOME, {"title": "x"})).status == 428
    assert (await acme.ask("PATCH", HOME, {"title": "x"}, {"if-match": '"2"'})).status == 412
    for wrong in ("*", 'W/"1"', '"1", "2"', "1", '"0"', '"01"', '"\u0661"', '"1"x', '""', '"-1"', '"9999999999"'):
        assert (await acme.ask("PATCH", HOME, {"title": "x"}, {"if-match": wrong})).status == 400
    changes = [acme.ask("PATCH", HOME, {"title": f"t{n}"}, {"if-match": '"1"'}) for n in range(8)]
    statuses = sorted(told.status for told in await asyncio.gather(*changes))
    assert statuses == [200, *[412] * 7]
    assert (await acme.get(HOME)).document["version"] == 2


async def test_pages_show_everything_once(acme: Client) -> None:
    names = [f"team-{n:02}" for n in range(7)]
    for name in names:
        await acme.make(f"{HOME}/teams", name=name)
    found: list[str] = []
    query = "?limit=3"
    while query:
        page = (await acme.get(f"{HOME}/teams{query}")).document
        found += [item["name"] for item in page["items"]]
        query = f"?limit=3&after={page['next']}" if page["next"] else ""
    assert found == names


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "after=%00", "after=!!", "sort=name", "limit=1&limit=2"]
)
async def test_a_query_that_means_nothing(acme: Client, query: str) -> None:
    assert (await acme.get(f"{HOME}/teams?{query}")).status == 400
    assert (await acme.get(f"{HOME}?{query}")).status == 400


async def test_a_cursor_of_another_list(acme: Client) -> None:
    await acme.make(f"{HOME}/teams", name="a")
    await acme.make(f"{HOME}/teams", name="b")
    cursor = (await acme.get(f"{HOME}/teams?limit=1")).document["next"]
    assert (await acme.get(f"{HOME}/audit?after={cursor}")).status == 400


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b'{"name": "a", "name": "b"}', 400),
        (b'{"name": NaN}', 400),
        (b"\xff\xfe{\x00}\x00", 400),
        (b'{"name": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        (b'{"name": "\\ud800"}', 422),
        (b'{"name": "a\\u0000b"}', 422),
        (b'{"name": "x", "title": "' + b"x" * 300_000 + b'"}', 413),
    ],
)
async def test_a_body_that_is_none(acme: Client, raw: bytes, status: int) -> None:
    told = await acme.ask("POST", f"{HOME}/teams", raw=raw, headers={"content-type": "application/json"})
    assert told.status == status, told.body


async def test_a_body_of_another_type(acme: Client) -> None:
    told = await acme.ask("POST", f"{HOME}/teams", {"name": "x"}, {"content-type": "text/plain"})
    assert told.status == 415
    for coding in ("gzip", "deflate", "br", "x"):  # nothing is unpacked, so nothing can be larger than it looks
        fields = {"content-type": "application/json", "content-encoding": coding}
        assert (await acme.ask("POST", f"{HOME}/teams", raw=b"no such thing", headers=fields)).status == 415


@pytest.mark.parametrize("sign", ["\x1b", "\n", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\u2066"])
async def test_what_a_terminal_would_obey(acme: Client, sign: str) -> None:
    """Titles are written by customers and read by operators."""
    for path, members in (
        ("teams", {"name": "t", "title": f"a{sign}b"}),
        ("users", {"name": "u", "email": f"a{sign}@b"}),
    ):
        assert (await acme.ask("POST", f"{HOME}/{path}", members)).status == 422
    await acme.make(f"{HOME}/teams", name="t", title="Équipe 北 \u05d0")


async def test_what_there_is_not(acme: Client) -> None:
    assert (await acme.get("/v1/nothing")).document["type"].endswith("/no-route")
    told = await acme.ask("PUT", HOME)
    assert (told.status, told.headers["allow"]) == (405, "DELETE, GET, PATCH")
    for path in ("/v1/organizations/none", "/v1/organizations/none/teams", f"{HOME}/teams/none", f"{HOME}/teams/%00"):
        assert (await acme.get(path)).status == 404


async def test_there_are_only_so_many_roles(acme: Client, database_url: str) -> None:
    """Every edge process keeps them in memory."""
    many = "insert into role (organization, name, title, scope, permissions)"
    await run_sql(database_url, f"{many} select 'acme', 'n' || n, '', 'team', '{{}}' from generate_series(1, 998) n")
    await acme.make(f"{HOME}/roles", name="last", permissions=[])
    told = await acme.ask("POST", f"{HOME}/roles", {"name": "one-more", "permissions": []})
    assert (told.status, told.document["detail"]) == (409, "There are 1000 roles.")


async def test_what_is_in_use_stays(acme: Client) -> None:
    await acme.make(f"{HOME}/service-accounts", name="robot", roles=["r"])
    told = await acme.ask("DELETE", f"{HOME}/roles/r", headers={"if-match": '"1"'})
    assert (told.status, told.document["detail"]) == (409, "It is given to service account robot.")
    assert (await acme.ask("DELETE", HOME, headers={"if-match": '"1"'})).status == 409


async def test_one_subscription_counts(acme: Client) -> None:
    await acme.make(f"{HOME}/subscriptions", name="first", plan="silver")
    assert (await acme.ask("POST", f"{HOME}/subscriptions", {"plan": "gold"})).status == 409
    assert (await acme.change(f"{HOME}/subscriptions/first", ended_at="2026-01-01T00:00:00Z")).status == 200
    second = await acme.make(f"{HOME}/subscriptions", plan="gold")
    assert second["name"].startswith("subscription-")
    assert (await acme.change(f"{HOME}/subscriptions/first", ended_at=None)).status == 409


async def test_a_role_for_teams_is_given_in_teams(acme: Client) -> None:
    await acme.make(f"{HOME}/teams", name="north")
    await acme.make(f"{HOME}/roles", name="lead", scope="team", permissions=["books:write"])
    alone = await acme.ask("POST", f"{HOME}/memberships", {"user": "bob", "roles": ["lead"]})
    assert (alone.status, alone.document["detail"]) == (422, "There is no role 'lead' that could be given here.")
    await acme.make(f"{HOME}/memberships", user="bob", team="north", roles=["lead"])
    assert (await acme.ask("POST", f"{HOME}/memberships", {"user": "bob", "team": "north", "roles": []})).status == 409


class TestKeys:
    async def test_a_secret_is_shown_once(self, acme: Client) -> None:
        made = await acme.make(f"{HOME}/keys", title="reports")
        assert looks_valid(made["secret"])
        assert made["name"].startswith("key-")
        shown = (await acme.get(f"{HOME}/keys/{made['name']}")).document
        assert "secret" not in shown
        assert [secret["prefix"] for secret in shown["secrets"]] == [made["secret"][:12]]
        assert made["secret"] not in (await acme.get(f"{HOME}/keys")).body.decode()
        assert made["secret"] not in (await acme.get(f"{HOME}/audit")).body.decode()

    async def test_after_a_rotation_two_work_and_after_another_still_two(self, acme: Client) -> None:
        admin = await tenant(acme, "other")
        path = "/v1/organizations/other/keys/admin"
        tokens = [admin.token]
        for grace, working in ((3600, 2), (3600, 2), (0, 1)):
            told = await acme.ask("POST", f"{path}/rotate", {"grace_seconds": grace})
            assert told.status == 200
            tokens.append(told.document["secret"])
            statuses = [(await acme.as_(token).get("/v1/identity")).status for token in tokens]
            assert statuses == [401] * (len(tokens) - working) + [200] * working
            assert len(told.document["secrets"]) == working
        assert (await acme.get(path)).document["version"] == 4

    async def test_no_clock_says_which_secret_is_the_current_one(self, acme: Client, database_url: str) -> None:
        """Rotations that waited for each other, or a clock that was set back."""
        await acme.make(f"{HOME}/keys", name="k")
        current = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {})).document["secret"]
        early = f"update api_secret set created_at = '2020-01-01' where prefix = '{current[:12]}'"
        await run_sql(database_url, early)
        newest = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {})).document["secret"]
        for secret in (current, newest):
            assert (await acme.as_(secret).get("/v1/identity")).status == 200
        shown = (await acme.get(f"{HOME}/keys/k")).document["secrets"]
        assert [each["prefix"] for each in shown] == [newest[:12], current[:12]]

    async def test_a_grace_ends(self, acme: Client) -> None:
        admin = await tenant(acme, "other")
        assert (await acme.ask("POST", "/v1/organizations/other/keys/admin/rotate", {"grace_seconds": 1})).status == 200
        async with asyncio.timeout(5):
            while (await admin.get("/v1/identity")).status == 200:
                await acme.get(HOME)

    async def test_a_revoked_key_is_refused_for_ever(self, acme: Client) -> None:
        admin = await tenant(acme, "other")
        path = "/v1/organizations/other/keys/admin"
        told = await acme.ask("POST", f"{path}/revoke")
        assert told.status == 200
        assert told.document["revoked_at"] is not None
        assert (await admin.get("/v1/identity")).status == 401
        assert (await acme.ask("POST", f"{path}/revoke")).document["revoked_at"] == told.document["revoked_at"]
        assert (await acme.ask("POST", f"{path}/rotate", {})).status == 409

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"user": "bob", "service_account": "robot"}, 422),
            ({"team": "north"}, 422),
            ({"user": "eve"}, 422),
            ({"limits": [{"meter": "requests", "amount": 0, "window_seconds": 60}]}, 422),
            ({"limits": [{"meter": "requests", "amount": 5, "window_seconds": 60}]}, 201),
            ({"expires_at": 1893456000}, 422),
            ({"expires_at": "2030-01-01T00:00:00"}, 422),
            ({"expires_at": "2030-01-01T00:00:00Z"}, 201),
        ],
    )
    async def test_what_a_key_can_be(self, acme: Client, body: dict[str, Any], status: int) -> None:
        told = await acme.ask("POST", f"{HOME}/keys", body)
        assert told.status == status, told.body


class TestIdempotency:
    async def test_a_repetition_gets_the_same_answer(self, acme: Client) -> None:
        headers = {"idempotency-key": "once"}
        first = await acme.ask("POST", f"{HOME}/subscriptions", {"plan": "gold"}, headers)
        again = await acme.ask("POST", f"{HOME}/subscriptions", {"plan": "gold"}, headers)
        assert (first.status, again.status) == (201, 201)
        assert again.body == first.body
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"

    async def test_many_at_once_make_one(self, acme: Client) -> None:
        headers = {"idempotency-key": "once"}
        told = await asyncio.gather(*[acme.ask("POST", f"{HOME}/keys", {}, headers) for _ in range(8)])
        assert {each.status for each in told} == {201}
        assert len({each.document["name"] for each in told}) == 1
        assert sorted(each.document["secret"] is None for each in told) == [False, *[True] * 7]

    async def test_for_another_request_it_is_refused(self, acme: Client) -> None:
        headers = {"idempotency-key": "once"}
        await acme.ask("POST", f"{HOME}/teams", {"name": "a"}, headers)
        told = await acme.ask("POST", f"{HOME}/teams", {"name": "b"}, headers)
        assert (told.status, told.document["type"].rsplit("/", 1)[1]) == (422, "idempotency-key-reused")

    async def test_what_was_refused_can_be_tried_again(self, acme: Client) -> None:
        headers = {"idempotency-key": "once"}
        body = {"name": "x", "department": "later"}
        assert (await acme.ask("POST", f"{HOME}/teams", body, headers)).status == 422
        await acme.make(f"{HOME}/departments", name="later")
        assert (await acme.ask("POST", f"{HOME}/teams", body, headers)).status == 201

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
    async def test_a_key_that_is_none(self, acme: Client, key: str) -> None:
        assert (await acme.ask("POST", f"{HOME}/teams", {"name": "a"}, {"idempotency-key": key})).status == 400

    async def test_two_callers_do_not_share_keys(self, acme: Client) -> None:
        other = await tenant(acme, "other")
        headers = {"idempotency-key": "once"}
        await acme.ask("POST", "/v1/organizations/other/teams", {"name": "a"}, headers)
        assert (await other.ask("POST", "/v1/organizations/other/teams", {"name": "a"}, headers)).status == 409


class TestTrouble:
    async def test_a_database_that_is_away_is_503(self, postgres_server: Any) -> None:
        async with serving("postgresql://postgres@127.0.0.1:1/none") as client:
            told = await client.get("/v1/organizations")
            assert (told.status, told.headers["retry-after"]) == (503, "1")
            assert "127.0.0.1" not in told.body.decode()

    async def test_no_room_is_503(self, database_url: str) -> None:
        async with serving(database_url, at_once=0) as client:
            assert (await client.get("/v1/organizations")).document["type"].endswith("/overloaded")

            assert (await client.get("/health")).status == 200

    async def test_a_body_that_does_not_come_is_408(self, database_url: str) -> None:
        async with serving(database_url, deadline=0.3) as client:
            assert b" 408 " in (await dawdle(client)).splitlines()[0]

    async def test_an_organization_that_dawdles_leaves_room_for_others(self, database_url: str) -> None:
        async with serving(database_url, deadline=2.0, at_once=8) as client:
            slow, other = await tenant(client, "slow"), await tenant(client, "other")
            dawdling = [asyncio.ensure_future(dawdle(slow)) for _ in range(8)]
            answers = [await each for each in asyncio.as_completed(dawdling[:8], timeout=5)]
            statuses = sorted(answer.split()[1] for answer in answers)
            assert statuses == [b"408"] * 2 + [b"503"] * 6
            dawdling = [asyncio.ensure_future(dawdle(slow)) for _ in range(2)]
            await asyncio.sleep(0.3)
            assert (await slow.get("/v1/identity")).status == 503
            assert (await other.get("/v1/identity")).status == 200
            assert (await client.get("/v1/identity")).status == 200
            await asyncio.gather(*dawdling)
            assert (await slow.get("/v1/identity")).status == 200


async def dawdle(client: Client) -> bytes:
    """The answer to a request whose body does not come, to its end: the connection is closed."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/organizations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
    writer.write(head.encode() + b"Content-Length: 10\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer
