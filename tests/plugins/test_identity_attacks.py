"""Who a caller is, attacked on real sockets: identities that clients make up, keys in odd places and odd letters."""

from __future__ import annotations

import pytest

from plugins.anonymous import Anonymous
from plugins.any_of import AnyOf
from plugins.key_auth import KeyAuth
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target
from tests.play import KEY, OTHER_KEY, Stage

OURS = b"X-Tallygate-Consumer: bob\r\nX-Tallygate-Organization: acme\r\n"


def request(*lines: str, target: str = "/", method: str = "GET", body: str = "") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", *lines, "", ""]
    return ("\r\n".join(head) + body).encode("latin-1")


async def asked(stage: Stage, sent: bytes, **options: object) -> tuple[int, bytes]:
    """The status, and what the upstream heard."""
    target = Target()
    async with serving(target, stage.make(KeyAuth, **options)) as edge:
        return int((await edge.ask(sent)).split(b" ")[1]), target.text


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Tallygate-Consumer: evil"],
        ["x-tALLYGATE-oRGANIZATION: evil"],
        ["X_Tallygate_Consumer: evil", "X-Tallygate_Organization: evil", "x_tallygate-user: evil"],
        ["X-Tallygate-User: evil", "X-Tallygate-User: evil"],
        ["X-Tallygate-Mirror: evil"],
        ["Connection: X-Tallygate-Consumer, x-tallygate-organization", "X-Tallygate-User: evil"],
    ],
)
async def test_what_a_client_says_of_itself_never_arrives(stage: Stage, lines: list[str]):
    status, heard = await asked(stage, request(f"X-Api-Key: {KEY}", *lines))
    assert status == 200
    assert heard.lower().count(b"tallygate-") == 2
    assert OURS in heard
    assert b"evil" not in heard
    assert KEY.encode() not in heard


async def test_nor_does_what_comes_behind_the_body(stage: Stage):
    trailers = "X-Tallygate-Consumer: evil\r\nX_Tallygate_User: evil\r\nAuthorization: evil\r\n"
    lines = (f"X-Api-Key: {KEY}", "Transfer-Encoding: chunked", "TE: trailers")
    status, heard = await asked(stage, request(*lines, method="POST", body=f"1\r\na\r\n0\r\n{trailers}\r\n"))
    assert status == 200
    assert heard.endswith(b"1\r\na\r\n0\r\n\r\n")
    assert b"evil" not in heard


@pytest.mark.parametrize(
    "line",
    [
        "X-Tallygate-Consumer : evil",
        "X-A: b\r\n X-Tallygate-Consumer: evil",
        "X-A: b\nX-Tallygate-User: evil",
        "X-A: b\rX-Tallygate-User: evil",
        "X-Tallygate-User\0: evil",
        "X-Tallygate-User: e\0vil",
    ],
)
async def test_a_head_that_two_would_read_in_two_ways_is_refused(stage: Stage, line: str):
    assert await asked(stage, request(f"X-Api-Key: {KEY}", line)) == (400, b"")


def look_alike(key: str) -> str:
    return key.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("lines", "target"),
    [
        ([f"X-Api-Key: {KEY}", f"X-Api-Key: {OTHER_KEY}"], "/"),
        ([f"X-Api-Key: {KEY}, {KEY}"], "/"),
        ([f"X-Api-Key: {KEY}\xa0"], "/"),
        ([f"X-Api-Key: \xef\xbb\xbf{KEY}"], "/"),
        ([f"X-Api-Key: {look_alike(KEY.replace('t', 'ｔ', 1))}"], "/"),
        ([f"X-Api-Key: {look_alike(KEY.replace('a', 'а'))}"], "/"),
        ([f"X-Api-Key: {KEY.upper()}"], "/"),
        ([f"X_Api_Key: {KEY}"], "/"),
        ([f"Authorization: Bearer {KEY}\xa0"], "/"),
        ([f"Authorization: Bearer \x85{KEY}"], "/"),
        ([f"Authorization: Bearer\t{KEY}"], "/"),
        ([f"Authorization: Bearer {KEY}, Basic eA=="], "/"),
        ([f"Authorization: Bearer {KEY}", "Authorization: Basic eA=="], "/"),
        ([f"X-Api-Key: {KEY}", f"Authorization: Bearer {OTHER_KEY}"], "/"),
        ([], f"/?key={KEY}&key={OTHER_KEY}"),
        ([], f"/?key={KEY.replace('_', '%5F')}"),
        ([], f"/?k%65y={KEY}"),
        ([], f"/?a=1;key={KEY}"),
        ([], f"/?key={KEY}%00"),
        ([f"X-Api-Key: {KEY}"], f"/?key={OTHER_KEY}"),
        ([f"X-Api-Key: {KEY}"], "/?key="),
        (["X-Api-Key: "], f"/?key={KEY}"),
        ([f"X-Api-Key: {'a' * 20_000}"], "/"),
    ],
)
async def test_a_key_counts_only_as_it_was_given_out_and_alone(stage: Stage, lines: list[str], target: str):
    assert await asked(stage, request(*lines, target=target), query="key") == (401, b"")


@pytest.mark.parametrize(
    ("lines", "target"),
    [
        ([f"X-Api-Key: {KEY}", f"x-api-key: \t{KEY} "], "/?a=1"),
        ([f"Authorization: bEARER   {KEY}"], "/?a=1"),
        ([], f"/?key={KEY}&a=1&key={KEY}"),
        ([f"X-Api-Key: {KEY}"], f"/?key={KEY}&a=1"),
    ],
)
async def test_the_same_key_is_one_wherever_it_stands_and_goes_no_further(stage: Stage, lines: list[str], target: str):
    status, heard = await asked(stage, request(*lines, target=target), query="key")
    assert status == 200
    assert heard.startswith(b"GET /?a=1 HTTP/1.1\r\n")
    assert KEY.encode() not in heard


async def test_a_stranger_is_one_who_shows_nothing_at_all(stage: Stage):
    plugin = stage.make(AnyOf, plugins=[{"key_auth": {}}])
    plugin.parts = (stage.make(KeyAuth, query="key"), stage.make(Anonymous, organization="public"))
    target = Target()
    async with serving(target, plugin) as edge:
        for line in (f"X-Api-Key: {KEY[:-1]}", "X-Api-Key:", "Authorization:", "Authorization: Bearer\xa0x"):
            assert (await edge.ask(request(line))).startswith(b"HTTP/1.1 401 ")
        assert (await edge.ask(request(target="/?key="))).startswith(b"HTTP/1.1 401 ")
        assert target.text == b""
        assert (await edge.ask(request("X-Tallygate-Consumer: bob"))).startswith(b"HTTP/1.1 200 ")
        assert b"X-Tallygate-Consumer: anonymous\r\nX-Tallygate-Organization: public\r\n" in target.text
