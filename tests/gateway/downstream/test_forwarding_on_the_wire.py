"""Forwarding: what of a head goes on, what is taken out, and what is said anew, in both directions."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from gateway.exchange import Exchange, Response
from tests.fixtures.conversation import calling, serving
from tests.fixtures.heads import answered, asked, named
from tests.fixtures.wire import OK, Alone, Target

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
TRUSTED = {"trusted": [ip_network("127.0.0.1")]}

# Fields of one hop

ONE_HOP = [
    b"Connection: X-Mine",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authenticate: Basic",
    b"TE: gzip",
    b"Trailer: X-Sum",
    b"Upgrade: websocket",
]


@pytest.mark.parametrize("field", [*ONE_HOP, b"Proxy-Authorization: Basic eDp5", b"HTTP2-Settings: AAMAAABkAAQ"])
async def test_a_field_of_one_hop_does_not_reach_the_upstream(field: bytes) -> None:
    _, fields = await asked(GET + b"X-Kept: 1\r\n" + field + b"\r\n\r\n")
    assert named(fields, field.partition(b":")[0].lower()) == []
    assert named(fields, b"x-kept") == [b"1"]


@pytest.mark.parametrize("field", ONE_HOP)
async def test_a_field_of_one_hop_does_not_reach_the_client(field: bytes) -> None:
    _, fields = await answered(OK.replace(b"\r\n\r\n", b"\r\nX-Kept: 1\r\n" + field + b"\r\n\r\n"))
    assert named(fields, field.partition(b":")[0].lower()) == []
    assert named(fields, b"x-kept") == [b"1"]


async def test_fields_that_connection_names_do_not_reach_the_upstream() -> None:
    connection = b"Connection: x-one , X-Two;q=1\r\nConnection: close,, X-THREE\r\n"
    _, fields = await asked(GET + connection + b"X-One: 1\r\nx-two: 2\r\nX-Three: 3\r\nX-Four: 4\r\n\r\n")
    assert [field for field in fields if field.lower().startswith((b"x-one", b"x-two", b"x-three"))] == []
    assert named(fields, b"x-four") == [b"4"]


async def test_fields_that_connection_names_do_not_reach_the_client() -> None:
    _, fields = await answered(
        b"HTTP/1.1 200 OK\r\nX-One: 1\r\nConnection: X-One\r\nX-Two: 2\r\nContent-Length: 0\r\n\r\n"
    )
    assert named(fields, b"x-one") == []
    assert named(fields, b"x-two") == [b"2"]


@pytest.mark.parametrize("name", [b"Authorization", b"Content-Type", b"Cookie", b"Content-Encoding"])
async def test_naming_what_no_message_can_do_without_takes_nothing_out(name: bytes) -> None:
    _, fields = await asked(GET + b"Connection: Host, Content-Length, " + name + b"\r\n" + name + b": v\r\n\r\n")
    assert named(fields, name.lower()) == [b"v"]
    assert named(fields, b"host") == [b"a.example"]


async def test_naming_the_framing_does_not_change_it() -> None:
    sent = b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Content-Length, Transfer-Encoding\r\n"
    _, fields = await asked(sent + b"Content-Length: 5\r\n\r\nhello")
    assert named(fields, b"content-length") == [b"5"]
    _, fields = await asked(sent + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert named(fields, b"transfer-encoding") == [b"chunked"]
    _, fields = await answered(
        OK.replace(b"\r\n\r\n", b"\r\nConnection: Content-Length, Set-Cookie\r\nSet-Cookie: a\r\n\r\n")
    )
    assert named(fields, b"content-length") == [b"2"]
    assert named(fields, b"set-cookie") == [b"a"]


# Who the gateway says it is, and who it says the client is


@pytest.mark.parametrize(("version", "via"), [(b"1.1", b"1.1 tallygate"), (b"1.0", b"1.0 tallygate")])
async def test_via_goes_on_in_requests(version: bytes, via: bytes) -> None:
    sent = b"GET / HTTP/" + version + b"\r\n" + HOST + b"Via: 1.0 fred\r\nvia: 1.1 joe\r\n\r\n"
    _, fields = await asked(sent)
    assert named(fields, b"via") == [b"1.0 fred", b"1.1 joe", via]


async def test_via_goes_on_in_answers() -> None:
    _, fields = await answered(OK.replace(b"\r\n\r\n", b"\r\nVia: 1.0 fred\r\n\r\n"))
    assert named(fields, b"via") == [b"1.0 fred", b"1.1 tallygate"]


async def test_via_in_answers_says_the_version_that_the_upstream_spoke() -> None:
    _, fields = await answered(OK.replace(b"1.1", b"1.0"))
    assert named(fields, b"via") == [b"1.0 tallygate"]


CLAIMS = (
    b"X-Forwarded-For: 1.2.3.4\r\nX-FORWARDED-FOR: 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
    b"X-Forwarded-Port: 99\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-Prefix: /x\r\n"
    b"X-Forwarded-Scheme: https\r\nX-Forwarded-Server: evil\r\nX-Forwarded-Ssl: on\r\n"
)


async def test_what_a_stranger_claims_about_itself_is_replaced_by_what_its_socket_says() -> None:
    _, fields = await asked(b"GET / HTTP/1.1\r\nHost: a.example:81\r\n" + CLAIMS + b"\r\n")
    said = [field for field in fields if b"orward" in field or b"FORWARD" in field or b"Real" in field]
    assert said == [
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a.example:81",
        b"X-Forwarded-Port: 81",
        b'Forwarded: for=127.0.0.1;host="a.example:81";proto=http',
    ]


async def test_what_a_trusted_proxy_says_is_continued() -> None:
    forwarded = b"Forwarded: for=9.9.9.9;proto=https\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 10.0.0.1\r\n"
    _, fields = await asked(
        GET + forwarded + b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\n\r\n", **TRUSTED
    )
    assert named(fields, b"x-forwarded-for") == [b"9.9.9.9, 10.0.0.1, 127.0.0.1"]
    assert named(fields, b"x-forwarded-proto") == [b"https"]
    assert named(fields, b"x-forwarded-host") == [b"b.example"]
    assert named(fields, b"x-forwarded-port") == [b"443"]
    assert named(fields, b"forwarded") == [b"for=9.9.9.9;proto=https, for=127.0.0.1;host=a.example;proto=http"]


@pytest.mark.parametrize("field", [b"X-Forwarded-Port: 8443", b"X-Forwarded-Prefix: /shop"])
async def test_a_trusted_proxy_is_believed_its_other_fields_too(field: bytes) -> None:
    _, fields = await asked(GET + field + b"\r\n\r\n", **TRUSTED)
    name, value = field.split(b": ")
    assert named(fields, name.lower()) == [value]


async def test_nonsense_is_not_believed_from_a_trusted_proxy_either() -> None:
    sent = GET + b"X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\nX-Real-IP: 1.2.3.4\r\n"
    sent += b"X-Forwarded-Port: 65536\r\nX-Forwarded-Prefix: shop\r\n\r\n"
    _, fields = await asked(sent, **TRUSTED)
    assert named(fields, b"x-forwarded-port") == [b"80"]
    assert named(fields, b"x-forwarded-prefix") == []
    assert named(fields, b"x-forwarded-proto") == [b"http"]
    assert named(fields, b"x-forwarded-host") == [b"a.example"]
    assert named(fields, b"x-real-ip") == []


@pytest.mark.parametrize("theirs", [b'for="9.9.9.9', b"garbage;;", b"for=", b"for=a,,for=b", b'for="a\\"'])
async def test_what_is_no_list_of_hops_is_not_continued(theirs: bytes) -> None:
    sent = GET + b'Forwarded: for="[::1]:5";by=_x;Proto=http , for=9.9.9.9\r\nForwarded: ' + theirs + b"\r\n\r\n"
    _, fields = await asked(sent, **TRUSTED)
    assert named(fields, b"forwarded") == [
        b'for="[::1]:5";by=_x;Proto=http , for=9.9.9.9, for=127.0.0.1;host=a.example;proto=http'
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"X-Tallygate-Consumer",
        b"X-Tallygate-Organization",
        b"x_tallygate_consumer",
        b"X-Tallygate_Organization",
        b"X_Forwarded_For",
        b"X-Forwarded_For",
        b"x_forwarded-host",
        b"X_Real_IP",
        b"X_Request_Id",
        b"Content_Length",
        b"Transfer_Encoding",
        b"Proxy",
    ],
)
@pytest.mark.parametrize("options", [{}, TRUSTED], ids=["stranger", "trusted"])
async def test_a_name_that_an_upstream_might_trust_does_not_reach_it(name: bytes, options: dict[str, Any]) -> None:
    _, fields = await asked(GET + b"X_Kept: 1\r\n" + name + b": 7\r\n\r\n", **options)
    assert b"X_Kept: 1" in fields
    assert [field for field in fields if field.lower().startswith(name.lower() + b":")] == []


# Max-Forwards


@pytest.mark.parametrize(("method", "status"), [(b"OPTIONS", b"204"), (b"TRACE", b"405")])
async def test_at_the_last_hop_the_gateway_answers_itself(method: bytes, status: bytes) -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(method + b" / HTTP/1.1\r\n" + HOST + b"Cookie: secret\r\nMax-Forwards: 0\r\n\r\n")
        back = await client.answer()
        assert back.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nallow: " in back.lower()
        assert b"secret" not in back
        assert edge.target.heard == []


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
async def test_every_hop_counts_down(method: bytes) -> None:
    _, fields = await asked(method + b" / HTTP/1.1\r\n" + HOST + b"Max-Forwards: 10\r\n\r\n")
    assert named(fields, b"max-forwards") == [b"9"]


async def test_other_methods_do_not_count_hops() -> None:
    start, _ = await asked(GET + b"Max-Forwards: 0\r\n\r\n")
    assert start == b"GET / HTTP/1.1"


# Targets and hosts

TARGETS = [
    b"/",
    b"//",
    b"/a//b/./c",
    b"/a/../b",
    b"/%61%2Fb%2f%7e%C3%a4",
    b"/a;p=1,2/b:c@d!$&'()*+~",
    b"/a?",
    b"/a?x=%zz&y=%&z=%0",
    b'/a?q=/../?&[]{}|^`<>"',
]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_target_goes_upstream_byte_for_byte(target: bytes) -> None:
    start, _ = await asked(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert start == b"GET " + target + b" HTTP/1.1"


@pytest.mark.parametrize(
    ("sent", "start", "host"),
    [
        (b"GET http://b.example:8080/x?y HTTP/1.1", b"GET /x?y HTTP/1.1", b"b.example:8080"),
        (b"GET HTTP://b.example HTTP/1.1", b"GET / HTTP/1.1", b"b.example"),
        (b"GET http://b.example?y HTTP/1.1", b"GET /?y HTTP/1.1", b"b.example"),
        (b"OPTIONS http://b.example HTTP/1.1", b"OPTIONS * HTTP/1.1", b"b.example"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"a.example"),
    ],
)
async def test_the_other_forms_of_a_target_are_understood(sent: bytes, start: bytes, host: bytes) -> None:
    heard, fields = await asked(sent + b"\r\n" + HOST + b"\r\n")
    assert heard == start
    assert named(fields, b"host") == [host]
    assert named(fields, b"x-forwarded-host") == [host]


@pytest.mark.parametrize(
    ("rule", "host"), [("preserve", b"a.example"), ("target", b"127.0.0.1:"), ("api.example.com", b"api.example.com")]
)
async def test_the_upstream_hears_the_host_that_the_configuration_says(rule: str, host: bytes) -> None:
    _, fields = await asked(GET + b"\r\n", upstream={"host": rule})
    heard = named(fields, b"host")
    assert len(heard) == 1
    assert heard[0].rstrip(b"0123456789") == host if rule == "target" else heard == [host]
    assert named(fields, b"x-forwarded-host") == [b"a.example"]


async def test_who_names_no_host_is_given_that_of_the_target() -> None:
    _, fields = await asked(b"GET / HTTP/1.0\r\n\r\n")
    assert named(fields, b"host")[0].startswith(b"127.0.0.1:")
    assert named(fields, b"x-forwarded-host") == []


@pytest.mark.parametrize(("trusted", "scheme"), [([ip_network("127.0.0.0/8")], "https"), ([], "http")])
async def test_plugins_are_told_the_scheme_that_a_trusted_proxy_says(trusted: list[Any], scheme: str) -> None:
    class Seeing(Alone):
        """Answers with the scheme."""

        def on_request(self, exchange: Exchange) -> Response:
            return Response(200, {}, exchange.request.scheme.encode())

    async with serving(Target(), Seeing(), trusted=trusted) as edge, calling(edge) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n")
        assert (await client.answer()).endswith(b"\r\n\r\n" + scheme.encode())
