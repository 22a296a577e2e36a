"""Keys: their form, their checksum, and the digest they are known by."""

from __future__ import annotations

import hashlib
import re
import string
from typing import Literal
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.keys import digest, looks_valid, new_key

steady = settings(derandomize=True)
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_new_key_has_the_documented_form(mode: Literal["live", "test"]) -> None:
    key = new_key(mode)
    assert re.fullmatch(rf"tg_{mode}_[0-9A-Za-z]{{32}}[0-9A-Za-z]{{6}}", key)
    assert looks_valid(key)


def test_the_checksum_is_crc32_to_the_base_62() -> None:
    key = new_key("live")
    number = 0
    for character in key[40:]:
        number = number * 62 + DIGITS.index(character)
    assert number == crc32(key[:40].encode())


def test_no_two_keys_are_alike() -> None:
    assert len({new_key("live") for _ in range(1000)}) == 1000


@st.composite
def keys(draw: st.DrawFn) -> str:
    """Any key that could be made."""
    body = draw(st.sampled_from(["tg_live_", "tg_test_"])) + draw(st.text(DIGITS, min_size=32, max_size=32))
    number = crc32(body.encode())
    return body + "".join(DIGITS[number // 62**place % 62] for place in range(5, -1, -1))


OTHER_CHARACTERS = st.sampled_from(DIGITS + "_-é\0 ") | st.characters()


@steady
@given(key=keys(), place=st.integers(0, 45), character=OTHER_CHARACTERS)
def test_one_wrong_character_is_noticed(key: str, place: int, character: str) -> None:
    assert looks_valid(key)
    wrong = key[:place] + character + key[place + 1 :]
    assert looks_valid(wrong) == (wrong == key)


@steady
@given(key=keys(), place=st.integers(0, 46), character=OTHER_CHARACTERS)
def test_one_character_too_many_or_too_few_is_noticed(key: str, place: int, character: str) -> None:
    assert not looks_valid(key[:place] + character + key[place:])
    assert not looks_valid(key[: place % 46] + key[place % 46 + 1 :])


@steady
@given(key=keys(), place=st.integers(0, 44))
def test_two_neighbours_the_wrong_way_round_are_noticed(key: str, place: int) -> None:
    wrong = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert looks_valid(wrong) == (wrong == key)


@steady
@given(key=keys(), other=keys())
def test_the_beginning_of_one_key_and_the_end_of_another_are_no_key(key: str, other: str) -> None:
    for place in range(8, 46):
        mixed = key[:place] + other[place:]
        assert looks_valid(mixed) == (mixed in (key, other))


@given(st.text())
def test_anything_else_is_no_key(text: str) -> None:
    assert not looks_valid(text)
    assert not looks_valid("tg_live_" + text)


def test_the_digest_is_sha256() -> None:
    assert digest("tg_test_x") == hashlib.sha256(b"tg_test_x").digest()
