"""Single flight: many ask for the same thing at once, one goes and gets it, and all have what it brought."""

from __future__ import annotations

from asyncio import Task, wait
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from gateway.background import Background
from gateway.problem import Overloaded, retry_after

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """At most `most` things are being fetched at a time; who asks for another one is refused."""

    def __init__(self, name: str, background: Background, most: int) -> None:
        self._name = name
        self._background = background
        self._most = most
        self._flights: dict[bytes, Task[T | Exception]] = {}

    async def join(self, key: bytes, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` brings, or what another call's with the same key does that is under way.

        Nobody who leaves meanwhile ends it for the others. Raises what it raises, and Overloaded.
        """
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._most:
                raise Overloaded(headers=retry_after(1))
            flight = self._flights[key] = self._background.start(_outcome(work()), self._name)
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        await wait({flight})
        outcome = flight.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def _outcome(work: Coroutine[Any, Any, T]) -> T | Exception:
    """An error too: it is for those who ask, not for the log."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - raised again where it was asked for
        return error
