"""Keys: their form, their checksum, and the digest they are known by."""

from __future__ import annotations

import hashlib
import re
import string
from typing import Literal
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import digest, looks_valid, new_key

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


@given(place=st.integers(0, 45), character=st.sampled_from(DIGITS + "_-é"))
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    key = "tg_test_DemoDemoDemoDemoDemoDemoDemoDemo1vk0aW"
    wrong = key[:place] + character + key[place + 1 :]
    assert looks_valid(wrong) == (wrong == key)


@given(st.text())
def test_anything_else_is_no_key(text: str) -> None:
    assert not looks_valid(text)
    assert not looks_valid("tg_live_" + text)


def test_the_digest_is_sha256() -> None:
    assert digest("tg_test_x") == hashlib.sha256(b"tg_test_x").digest()
