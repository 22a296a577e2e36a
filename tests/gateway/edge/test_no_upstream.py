"""Routes without an upstream: their plugins answer, after a reload too; one that does not keep its word is at fault."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.gateway import gateway_before
from tests.fixtures.plugin_folder import Write
from tests.fixtures.wire import Target

ROUTE = "routes: [{{name: r, {destination} plugins: [{plugin}]}}]\n"
UPSTREAM = 'upstreams: {books: {targets: ["<books>"]}}\n'
REPLY = "reply: {status: 299}"
LAST_HOP = b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"
LIAR = '''
"""Says that it answers, and does not."""

from gateway.plugin import Plugin, PluginConfig


class Config(PluginConfig):
    """None."""


class Liar(Plugin[Config]):
    """Lets everything through."""

    answers = True

    def on_request(self, exchange):
        return None
'''


async def test_a_plugin_answers_before_and_after_there_is_an_upstream(here: Path) -> None:
    alone = ROUTE.format(destination="", plugin=REPLY)
    async with gateway_before(here / "journal", alone, books=Target()) as gateway:
        assert [await gateway.status(), await gateway.status(LAST_HOP)] == [299, 299]
        await gateway.take(UPSTREAM + ROUTE.format(destination="upstream: books,", plugin="request_id: "))
        assert await gateway.status() == 200
        await gateway.take(alone)
        assert await gateway.status() == 299


async def test_what_is_let_through_all_the_same_is_a_fault_of_ours(here: Path, write_plugin: Write) -> None:
    write_plugin("liar", LIAR)
    async with gateway_before(here / "journal", ROUTE.format(destination="", plugin="liar: ")) as gateway:
        answer = await gateway.answer()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"/internal-error" in answer
