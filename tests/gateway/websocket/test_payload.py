from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket.payload import Text, close_frame, judge_close, mask
from tests.fixtures.frames import CLOSE, Frame, frames

KEYS = st.binary(min_size=4, max_size=4)


@given(st.binary(max_size=300), KEYS, st.integers(0, 300))
def test_a_mask_is_the_same_wherever_the_payload_is_cut(data: bytes, key: bytes, place: int) -> None:
    whole = bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert mask(data, key) == whole
    assert mask(data[:place], key) + mask(data[place:], key, place) == whole


@given(st.binary(max_size=20), st.lists(st.integers(0, 20)))
def test_text_is_what_python_can_decode(data: bytes, places: list[int]) -> None:
    cuts = [0, *sorted(places), len(data)]
    text, goes_on = Text(), True
    for begin, end in pairwise(cuts):
        goes_on = goes_on and text.goes_on(data[begin:end], last=False)
    try:
        data.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert (goes_on and text.goes_on(b"", last=True)) is valid


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999])
def test_a_close_may_have_a_code_that_means_something(code: int) -> None:
    assert judge_close(code.to_bytes(2) + "für".encode()) is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_a_close_may_have_no_other_code(code: int) -> None:
    violation = judge_close(code.to_bytes(2))
    assert violation is not None
    assert violation.code == 1002


def test_a_close_may_say_nothing_but_not_half_a_code() -> None:
    assert judge_close(b"") is None
    violation = judge_close(b"\x03")
    assert violation is not None
    assert violation.code == 1002


def test_the_reason_of_a_close_is_text() -> None:
    violation = judge_close(b"\x03\xe8\xff")
    assert violation is not None
    assert violation.code == 1007


@pytest.mark.parametrize("masked", [False, True])
def test_a_close_of_ours_is_one(masked: bool) -> None:
    assert frames(close_frame(1001, "so long", masked=masked)) == [Frame(CLOSE, b"\x03\xe9so long", masked)]
