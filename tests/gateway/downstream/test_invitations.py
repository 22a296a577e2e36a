"""Bodies that wait to be invited, and answers that come before a body was sent."""

from __future__ import annotations

import asyncio

import pytest

from gateway.exchange import Exchange, Response
from tests.fixtures.conversation import Line, Scripted, calling, eventually, serving, silence
from tests.fixtures.wire import OK, Alone, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
EXPECT = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


class Reading(Alone):
    """Reads the body before the upstream is called."""

    async def on_request(self, exchange: Exchange) -> Response | None:
        await exchange.request.body.read(2**20)
        return None


async def test_the_upstream_invites() -> None:
    invite = asyncio.Event()

    async def inviting(line: Line) -> None:
        await line.head()
        await invite.wait()
        await line.say(CONTINUE)
        await line.until(b"hello")
        await line.say(OK)

    target = Scripted(inviting)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(EXPECT)
        assert await eventually(lambda: target.text.endswith(b"\r\n\r\n"))
        assert b"\r\nExpect: 100-continue\r\n" in target.text
        assert await client.meanwhile(0.2) == b""
        invite.set()
        assert await client.hear(b"\r\n\r\n") == CONTINUE
        await client.say(b"hello")
        assert (await client.answer()).endswith(b"ok")


async def test_whoever_reads_the_body_here_invites_once() -> None:
    target = Target([CONTINUE + OK])
    async with serving(target, Reading()) as edge, calling(edge) as client:
        await client.say(EXPECT)
        assert await client.hear(b"\r\n\r\n") == CONTINUE
        await client.say(b"hello")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        assert b"xpect" not in target.text, "the expectation was met"
        assert target.text.endswith(b"\r\n\r\nhello")


async def test_a_client_that_does_not_wait_for_its_invitation_is_served() -> None:
    async with serving(Target([CONTINUE + OK])) as edge, calling(edge) as client:
        await client.say(EXPECT + b"hello")
        assert (await client.hear(b"ok")).endswith(b"\r\n\r\nok")
        assert edge.target.text.endswith(b"hello")


async def test_who_expects_no_invitation_gets_none() -> None:
    async with serving(Target([CONTINUE + OK])) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: 5\r\n\r\nhello")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_a_final_answer_instead_of_an_invitation_ends_the_connection_and_no_body_goes_on() -> None:
    async def refusing(line: Line) -> None:
        await line.head()
        await line.say(NO)
        await line.gone()

    target = Scripted(refusing)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(EXPECT)
        back = await client.answer()
        assert back.startswith(b"HTTP/1.1 403 ")
        assert b"\r\nConnection: close\r\n" in back
        await client.say(b"hello" + ASK)
        assert await client.rest() == b"<end>"
        assert b"hello" not in target.text
        assert len(target.heard) == 1


@pytest.mark.parametrize("sent", [EXPECT, EXPECT.replace(b"Expect: 100-continue\r\n", b"") + b"he"])
async def test_an_answer_before_the_body_gives_the_connection_to_the_upstream_free(sent: bytes) -> None:
    async def refusing(line: Line) -> None:
        if b"POST" in await line.head():
            await line.say(NO)
            await line.gone()
        await line.say(OK)
        await line.gone()

    target = Scripted(refusing)
    async with serving(target, upstream={"max_connections": 1, "wait_timeout": "500ms"}) as edge:
        async with calling(edge) as client:
            await client.say(sent)
            assert (await client.answer()).startswith(b"HTTP/1.1 403 ")
        async with calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_an_upstream_that_answers_and_takes_no_more_of_the_body_is_left() -> None:
    answer = asyncio.Event()

    async def deaf(line: Line) -> None:
        if b"POST" in await line.head():
            await answer.wait()
            await line.say(NO)
            await asyncio.sleep(60)
        await line.say(OK)
        await line.gone()

    many = 64 * 2**20
    async with serving(Scripted(deaf), upstream={"max_connections": 1, "wait_timeout": "1s"}) as edge:
        async with calling(edge) as client:
            await client.say(POST + b"Content-Length: %d\r\n\r\n" % many)
            assert await client.say_while_taken(b"a" * many) < many
            answer.set()
            assert (await client.answer()).startswith(b"HTTP/1.1 403 ")
        async with calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_interim_answers_are_relayed_in_order() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </%d>; rel=preload\r\n\r\n"
    async with serving(Target([hints % 1 + hints % 2 + OK])) as edge, calling(edge) as client:
        await client.say(ASK)
        assert await client.hear(b"\r\n\r\n") == hints % 1
        assert await client.hear(b"\r\n\r\n") == hints % 2
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_interim_answers_never_reach_a_client_of_http_1_0() -> None:
    target = Target([CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK])
    async with serving(target) as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        back = await client.rest()
        assert back.startswith(b"HTTP/1.1 200 ")
        assert back.count(b"HTTP/1.1") == 1


async def test_a_client_that_leaves_before_it_is_invited_ends_the_call() -> None:
    target = Scripted(silence)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(EXPECT)
        assert await eventually(lambda: b"\r\n\r\n" in target.text)
        client.close()
        assert await eventually(lambda: target.closed == 1)


async def test_an_interim_answer_says_no_length() -> None:
    """It has no body whatever it says; a client that believes it would lose the start of the answer (RFC 9110 §8.6)."""
    target = Target([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n" + OK])
    async with serving(target) as edge, calling(edge) as client:
        await client.say(ASK)
        hints = await client.hear(b"\r\n\r\n")
        assert hints.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n")
        assert b"content-length" not in hints.lower()
