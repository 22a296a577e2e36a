"""Options: the units a person writes, and what counts as a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.options import (
    FROM_FILE,
    Duration,
    Options,
    Rate,
    Size,
    alternatives,
    parse_duration,
    parse_rate,
    parse_size,
    parse_statuses,
    write_duration,
    write_rate,
    write_size,
    write_statuses,
)


class Sample(Options):
    whole: int = 1
    real: float = 1.0
    switch: bool = False
    either: int | bool = 1
    words: str | int = ""
    wait: Duration = 1.0
    room: Size = 1
    part: Rate = 0.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30.0), ("1.5m", 90.0), ("1h", 3600.0), ("7d", 604800.0), ("0s", 0.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5S", ".5s", "5s ", "1h30m", "9" * 400 + "d", 5, 5.0, None])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("64KiB", 65536), ("10MB", 10_000_000), ("2GiB", 2**31), ("1KB", 1000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5 B", "-5B", "5K", "5kb", "1.5MiB", "9" * 400 + "B", 5, None])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("0%", 0.0), ("0.5%", 0.005), ("50%", 0.5), ("33.3%", 0.333), ("125%", 1.25)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate
    assert write_rate(rate) == text


@pytest.mark.parametrize("text", ["", "50", "50 %", "-5%", ".5%", "%", "99999%", 0.5, 5, None])
def test_what_is_no_rate(text: Any) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        parse_rate(text)


@given(st.sets(st.integers(100, 599)))
def test_written_statuses_read_as_themselves(statuses: set[int]) -> None:
    assert parse_statuses(write_statuses(frozenset(statuses)).split(", ") if statuses else []) == statuses
    assert parse_statuses(list(statuses)) == statuses


def test_statuses_are_written_as_ranges() -> None:
    assert write_statuses(parse_statuses(["200-299", 404, "400-401"])) == "200-299, 400-401, 404"


@pytest.mark.parametrize("value", ["", "99", "600", "300-200", "2xx", "200-", None, ["200", "x"]])
def test_what_is_no_status(value: Any) -> None:
    with pytest.raises(ValueError, match="not a status"):
        parse_statuses(value)


@given(st.integers(0, 10**9))
def test_a_written_size_reads_as_itself(size: int) -> None:
    assert parse_size(write_size(size)) == size


@given(st.integers(0, 10**9))
def test_a_written_duration_reads_as_itself(millis: int) -> None:
    assert parse_duration(write_duration(millis / 1000)) == pytest.approx(millis / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.05, "50ms"), (1.5, "1500ms"), (90.0, "90s"), (300.0, "5m"), (86400.0, "1d")]
)
def test_a_duration_is_written_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1000, "1KB"), (1024, "1KiB"), (2**31, "2GiB"), (1500, "1500B")])
def test_a_size_is_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert write_size(size) == text


def test_a_file_needs_units_and_code_does_not() -> None:
    assert Sample(wait=0.5, room=7).wait == 0.5
    with pytest.raises(ValidationError, match="not a duration"):
        Sample.model_validate({"wait": 0.5}, context=FROM_FILE)
    with pytest.raises(ValidationError, match="not a size"):
        Sample.model_validate({"room": 7}, context=FROM_FILE)
    with pytest.raises(ValidationError, match="not a rate"):
        Sample.model_validate({"part": 0.5}, context=FROM_FILE)


@pytest.mark.parametrize("key", ["whole", "real", "words", "wait", "room", "part"])
def test_true_is_no_number(key: str) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({key: True})


def test_true_is_what_it_is_where_it_may_be() -> None:
    sample = Sample.model_validate({"switch": True, "either": True})
    assert (sample.switch, sample.either) == (True, True)


def test_alternatives_of_an_annotation() -> None:
    assert list(alternatives(Duration | list[int] | None)) == [float, list[int], type(None)]
