"""Ways around authorization, tried over the wire: each ends in a refusal, or means what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.consumers import Consumer
from plugins.authorize import Authorize
from tests.fixtures.callers import Known, caller
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target
from tests.play import Stage

SMUGGLED = [
    "X-Tallygate-Consumer: root",
    "X-Tallygate-Organization: other",
    "X-Tallygate-User: root",
    "x_tallygate_user: root",
    "X_Tallygate-User: root",
    "X-Tallygate-Roles: admin",
    "X-Roles: admin",
    "Roles: admin",
    "X-User: root",
]


async def sent(edge_port: int, request: str) -> int:
    """The status that a request gets on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge_port)
    writer.write(request.encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return int(line.split()[1])


async def attacked(stage: Stage, consumer: Consumer, request: str, match: str, **options: Any) -> tuple[int, bytes]:
    """The status, and what the upstream heard."""
    target = Target()
    plugins = Known(consumer), stage.make(Authorize, **options)
    async with serving(target, *plugins, route={"match": {"path": match}}) as edge:
        return await sent(edge.port, request), target.text


def head(target: str = "/books/7", method: str = "GET", *fields: str) -> str:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""])


@pytest.mark.parametrize("field", SMUGGLED)
@pytest.mark.parametrize(
    "options", [{"roles": ["admin"]}, {"permission": "books:read"}, {"when": "user == 'root' or 'admin' in roles"}]
)
async def test_no_header_field_makes_anybody_more(stage: Stage, field: str, options: dict[str, Any]) -> None:
    status, heard = await attacked(stage, caller(), head("/books/7", "GET", field), "/*", **options)
    assert (status, heard) == (403, b"")


@pytest.mark.parametrize("field", SMUGGLED[:5])
async def test_who_a_caller_claims_to_be_never_reaches_the_upstream(stage: Stage, field: str) -> None:
    nobody = Consumer("job", "acme", permissions=("books:read",))  # without a user of its own
    status, heard = await attacked(stage, nobody, head("/books/7", "GET", field), "/*", permission="books:read")
    assert status == 200
    assert b"root" not in heard
    assert b"other" not in heard
    assert b"X-Tallygate-Consumer: job\r\n" in heard


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/books/mine", 200),
        ("/books/%6dine", 200),  # the same, spelled otherwise
        ("/books/MINE", 403),
        ("/books/mine%2F..%2Fhers", 400),
        ("/books/hers%2Fmine", 403),
        ("/books/mine%2Fhers", 403),
        ("/books/mine%3Aread", 403),
        ("/books/mine%5Chers", 403),
        ("/books/mine%00", 400),
        ("/books/mine%0d%0a", 403),
        ("/books/*", 403),
        ("/books/%2A", 403),
        ("/books/mine;x=1", 403),
        ("/books/%C3%BC", 403),
        ("/books/" + "m" * 300, 403),
        ("/books/./mine", 200),
        ("/books/hers/../mine", 200),
        ("/books/mine/../hers", 403),
    ],
)
async def test_a_parameter_is_one_segment_and_nothing_else(stage: Stage, target: str, status: int) -> None:
    consumer = caller("books/mine:read", "books/mine/hers:read", "books/hers/mine:read")
    options = {"permission": "books/{param.id}:read"}
    assert (await attacked(stage, consumer, head(target), "/books/{id}", **options))[0] == status


@pytest.mark.parametrize("target", ["/books/a%2Fb", "/books/*", "/books/a:b", "/books/%21a", "/books/a%20b"])
async def test_even_who_may_everything_names_one_thing(stage: Stage, target: str) -> None:
    options = {"permission": "books/{param.id}:read"}
    assert (await attacked(stage, caller("*"), head(target), "/books/{id}", **options))[0] == 403


@pytest.mark.parametrize("target", ["/books/secret", "/books/SECRET", "/books/Secret", "/books/%53ecret"])
async def test_no_spelling_escapes_a_denial(stage: Stage, target: str) -> None:
    consumer = caller("books/*:read", "!books/secret:read")
    options = {"permission": "books/{param.id}:read"}
    assert (await attacked(stage, consumer, head(target), "/books/{id}", **options))[0] == 403


@pytest.mark.parametrize("method", ["DELETE", "delete", "Delete", "dElEtE"])
@pytest.mark.parametrize("permission", ["books:{method}", "books:{action}"])
async def test_no_spelling_of_a_method_makes_it_another(stage: Stage, method: str, permission: str) -> None:
    consumer = caller("books:get", "books:read", "books:create", "books:*", "!books:delete")
    status, heard = await attacked(stage, consumer, head("/books/7", method), "/*", permission=permission)
    assert status in (400, 403, 405, 501)
    assert heard == b""


@pytest.mark.parametrize(
    "field",
    [
        *("X-HTTP-Method-Override", "x-http-method", "X-METHOD-OVERRIDE"),
        # To CGI, WSGI and the like these are the same.
        *("X_HTTP_Method_Override", "x-http_method-override", "X_METHOD-OVERRIDE", "x_http_method"),
    ],
)
async def test_a_method_in_a_field_is_passed_on_only_if_it_may(stage: Stage, field: str) -> None:
    request = head("/books/7", "POST", f"{field}: DELETE", "Content-Length: 0")
    for options in ({"permission": "books:{action}"}, {"when": "method != 'DELETE'"}):
        assert await attacked(stage, caller("*"), request, "/*", **options) == (422, b"")
    status, heard = await attacked(stage, caller("*"), request, "/*", permission="books:use", method_override=True)
    assert (status, b"DELETE" in heard) == (200, True)
