"""What every test gets: uvloop, and a look around at its end for whatever it left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from hypothesis import settings

# The same examples in every run: a test that fails says something about a change, not about the day.
settings.register_profile("tallygate", derandomize=True, deadline=None)
settings.load_profile("tallygate")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> None:
    """An async test that leaves a task running or a connection open fails.

    Asked for first, so it ends last: what a fixture closes in its own end is not held against the test.
    """
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("_nothing_left_behind")


@pytest.fixture
async def _nothing_left_behind() -> AsyncIterator[None]:
    yield
    # A cancelled task and a closed transport need a turn or two of the loop to be gone.
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=0.1)
    names = sorted(repr(task.get_coro()) for task in left if not task.done())
    del left
    # An unclosed transport or socket warns when it is collected, and a warning is an error: collect it here, where
    # the error names the test that leaked.
    gc.collect(1)
    assert not names, f"the test left tasks running: {', '.join(names)}"
