"""Problem: the field that says when to come back."""

from __future__ import annotations

import pytest

from gateway.problem import retry_after


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (59.5, "60")])
def test_retry_after_is_whole_seconds_and_never_nothing(seconds: float, text: str) -> None:
    assert retry_after(seconds) == {"retry-after": text}
