"""Chain: a route's plugins, sorted once into the four tuples that every request walks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from gateway.body import BodyTooLarge
from gateway.clock import uuid_text
from gateway.exchange import Exchange, Response
from gateway.plugin import AnyPlugin
from gateway.problem import ContentTooLarge, Problem

log = logging.getLogger(__name__)

Hook: TypeAlias = Callable[..., Any]
Stop: TypeAlias = tuple[int, Hook, bool]  # place in the chain, the hook, does it await
Entering: TypeAlias = Coroutine[Any, Any, Response | None]
"""What is left of the way in, and has to wait."""
Forward: TypeAlias = Callable[[Exchange], Awaitable[Response]]


def stops(plugins: Sequence[AnyPlugin], name: str, *, may_wait: bool) -> tuple[Stop, ...]:
    """The plugins that want this hook called, in listed order. Raises TypeError for an async hook that may not wait."""
    found: list[Stop] = []
    for place, plugin in enumerate(plugins):
        if name not in plugin.hooks(plugin.config):
            continue
        hook = getattr(plugin, name)
        waits = inspect.iscoroutinefunction(hook)
        if waits and not may_wait:
            raise TypeError(f"{hook.__qualname__} must be a plain def: nothing after the first byte may wait")
        found.append((place, hook, waits))
    return tuple(found)


def _checked(answer: object, hook: Hook) -> Response:
    """What a hook answered with. Raises TypeError if that is no response: a bug of the plugin, and not the client's."""
    if not isinstance(answer, Response):
        raise TypeError(f"{hook.__qualname__} returned {type(answer).__name__} instead of a Response")
    return answer


async def _waited(answer: object, hook: Hook) -> Response | None:
    """What a hook answered with, once it is there. Raises TypeError as above."""
    if inspect.isawaitable(answer):
        answer = await answer
    return None if answer is None else _checked(answer, hook)


def as_problem(error: Exception, exchange: Exchange) -> Problem:
    """A Problem is an answer; anything else is a bug of ours, logged with its traceback."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BodyTooLarge):
        return ContentTooLarge()
    log.error("request %s: a hook or the upstream call broke", uuid_text(exchange.id), exc_info=error)
    return Problem()


class Chain:
    """What stands between the client and the upstream on one route. Bound once; holds no state of a request."""

    __slots__ = (
        "length",
        "on_chunk",
        "on_finish",
        "on_request",
        "on_response",
        "on_sending",
        "on_upgrade",
        "plugins",
        "sees_body",
        "waits",
    )

    def __init__(self, plugins: Sequence[AnyPlugin]) -> None:
        self.plugins = tuple(plugins)
        self.length = len(plugins)
        self.on_request = stops(plugins, "on_request", may_wait=True)
        self.on_response = stops(plugins, "on_response", may_wait=True)[::-1]
        self.waits = any(waits for _, _, waits in self.on_request + self.on_response)
        self.on_upgrade = stops(plugins, "on_upgrade", may_wait=False)[::-1]
        self.on_chunk = stops(plugins, "on_chunk", may_wait=False)[::-1]
        self.on_sending = stops(plugins, "on_sending", may_wait=False)[::-1]
        self.sees_body = bool(self.on_chunk or self.on_sending)
        self.on_finish = stops(plugins, "on_finish", may_wait=False)[::-1]

    def enter(self, exchange: Exchange) -> Response | Entering | None:
        """Walk in: a response if a plugin answered, or None: call the upstream. Where a hook waits, now or on the way
        out, a coroutine does the rest, for `respond`, and has either.

        Raises what a hook raised.
        """
        if self.waits:
            return self._enter(exchange)
        for place, hook, _ in self.on_request:
            exchange.reached = place
            answer = hook(exchange)
            if answer is not None:
                return answer if isinstance(answer, Response) else self._go_on(exchange, hook, answer)
        exchange.reached = self.length
        return None

    def leave(self, exchange: Exchange, response: Response) -> Response:
        """Walk back out with a response, through a chain that never waits. Raises nothing."""
        for place, hook, _ in self.on_response:
            if place < exchange.reached:
                try:
                    other = hook(exchange, response)
                    if other is not None:
                        _checked(other, hook)
                except Exception as error:  # noqa: BLE001 - the border: what is no Problem becomes one, and is logged
                    other = as_problem(error, exchange).response(uuid_text(exchange.id))
                if other is not None and other is not response:
                    response.close()
                    response = other
        return response

    async def respond(self, exchange: Exchange, forward: Forward, entering: Entering | None = None) -> Response:
        """Walk in, call the upstream unless a plugin answered, walk back out, waiting where hooks do.

        `entering` is what `enter` left to do, if it was called. Raises nothing but CancelledError.
        """
        try:
            response = await (entering or self._enter(exchange))
            if response is None:
                response = await forward(exchange)
        except Exception as error:  # noqa: BLE001 - the border, as above
            response = as_problem(error, exchange).response(uuid_text(exchange.id))
        exchange.response = response
        for place, hook, waits in self.on_response:
            if place < exchange.reached:
                response = exchange.response = await self._pass_back(exchange, response, hook, waits)
        return response

    async def _go_on(self, exchange: Exchange, hook: Hook, answer: object) -> Response | None:
        """The rest of the way in, from a hook on whose answer it waits."""
        response = await _waited(answer, hook)
        return response if response is not None else await self._enter(exchange, exchange.reached + 1)

    async def _enter(self, exchange: Exchange, first: int = 0) -> Response | None:
        for place, hook, _ in self.on_request:
            if place >= first:
                exchange.reached = place
                response = await _waited(hook(exchange), hook)
                if response is not None:
                    return response
        exchange.reached = self.length
        return None

    @staticmethod
    async def _pass_back(exchange: Exchange, response: Response, hook: Hook, waits: bool) -> Response:
        try:
            other = (await hook(exchange, response)) if waits else hook(exchange, response)
            if other is not None:
                _checked(other, hook)
        except Exception as error:  # noqa: BLE001 - the border, as above
            other = as_problem(error, exchange).response(uuid_text(exchange.id))
        except BaseException:  # cancelled: nobody takes this response any more
            response.close()
            raise
        if other is None or other is response:
            return response
        response.close()
        return other  # type: ignore[no-any-return]

    def upgrade(self, exchange: Exchange) -> None:
        """The connection is about to become a tunnel to the upstream. Raises what a hook raised."""
        for _, hook, _ in self.on_upgrade:
            hook(exchange)

    def passes(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        """A piece of the body on its way out, through the plugins that stood before the response's maker.

        Those that may change it come first, then those that only count what is sent.
        """
        for place, hook, _ in self.on_chunk:
            if place < exchange.reached:
                chunk = hook(exchange, chunk, last)
        for place, hook, _ in self.on_sending:
            if place < exchange.reached:
                hook(exchange, len(chunk), last)
        return chunk

    def finish(self, exchange: Exchange) -> None:
        """It is over: sent, refused, broken off or cancelled. Called exactly once."""
        for place, hook, _ in self.on_finish:
            if place <= exchange.reached:
                try:
                    hook(exchange)
                except Exception:  # what is left to finish, metering among it, must not suffer from it
                    log.exception("request %s: %s failed", uuid_text(exchange.id), hook.__qualname__)
