"""What a chain costs: the benchmark measures plugins that do their work, and says so where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import chain
from gateway.problem import PermissionDenied


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "ROUNDS", 3)
    monkeypatch.setattr(chain, "REQUESTS", 50)
    monkeypatch.setattr(chain, "PUBLISHED", 10)


async def test_each_chain_is_measured(tmp_path: Path) -> None:
    found = await chain.measure(tmp_path)
    assert list(found) == ["nothing", "key_auth", "key_auth, authorize"]
    assert all(micros > 0 for micros in found.values())


async def test_a_caller_who_may_not_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chain._OPTIONS, "authorize", {"permission": "cars:{action}"})
    with pytest.raises(PermissionDenied):
        await chain.measure(tmp_path)
