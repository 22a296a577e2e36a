"""Control pipe: messages arrive whole and in order, descriptors with them, and an end is heard."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from gateway.edge.control_pipe import (
    Abort,
    Commit,
    Committed,
    ControlPipe,
    Drain,
    Failed,
    Message,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Report,
    Reported,
)
from gateway.upstream.report import TargetReport, UpstreamReport

Ends = tuple[ControlPipe, ControlPipe]
MESSAGES: list[Message] = [
    Ready(),
    Failed("why"),
    Drain(1.5),
    Prepared(2),
    Refused(2, ["one", "two"]),
    Commit(3),
    Committed(3),
    Abort(4),
    Report(5),
]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = ControlPipe.pair()
    pipes = ControlPipe(ours.detach()), ControlPipe(theirs.detach())
    yield pipes
    for pipe in pipes:
        pipe.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_every_message_arrives_in_order(ends: Ends) -> None:
    for message in MESSAGES:
        assert ends[0].say(message)
    assert [await ends[1].hear() for _ in MESSAGES] == MESSAGES


async def test_whoever_hears_waits_until_something_is_said(ends: Ends) -> None:
    hearing = asyncio.create_task(ends[1].hear())
    await asyncio.sleep(0.01)
    assert not hearing.done()
    ends[0].say(Ready())
    assert await hearing == Ready()
    hearing = asyncio.create_task(ends[1].hear())
    await asyncio.sleep(0.01)
    hearing.cancel()
    await asyncio.wait({hearing})
    ends[0].say(Drain(1.0))
    assert await ends[1].hear() == Drain(1.0)


async def test_descriptors_arrive_under_their_own_numbers(ends: Ends) -> None:
    before = open_descriptors()
    reading, writing = os.pipe()
    ends[0].say(Prepare(7, (reading,)))
    os.close(reading)
    heard = await ends[1].hear()
    assert isinstance(heard, Prepare)
    assert heard.generation == 7
    os.write(writing, b"through")
    assert os.read(heard.descriptors[0], 10) == b"through"
    assert not os.get_inheritable(heard.descriptors[0])
    for descriptor in (writing, *heard.descriptors):
        os.close(descriptor)
    assert open_descriptors() == before


async def test_a_report_may_be_longer_than_a_packet(ends: Ends) -> None:
    before = open_descriptors()
    targets = [TargetReport(f"http://target-{number}:80", 1, "healthy") for number in range(5000)]
    reports = [UpstreamReport("u", targets, "closed"), UpstreamReport("v", [])]
    said = Reported.of(3, reports)
    assert ends[0].say(said)
    said.close()
    heard = await ends[1].hear()
    assert isinstance(heard, Reported)
    assert heard.number == 3
    assert heard.read() == reports
    assert open_descriptors() == before


async def test_a_report_that_is_nonsense_is_an_error(ends: Ends) -> None:
    before = open_descriptors()
    descriptor = os.memfd_create("nonsense")
    os.write(descriptor, b"hello")
    ends[0].say(Reported(1, (descriptor,)))
    os.close(descriptor)
    heard = await ends[1].hear()
    assert isinstance(heard, Reported)
    with pytest.raises(msgspec.DecodeError):
        heard.read()
    assert open_descriptors() == before


async def test_descriptors_that_nobody_expects_are_closed(ends: Ends) -> None:
    before = open_descriptors()
    with socket.socket(fileno=os.dup(ends[0]._end.fileno())) as end:
        socket.send_fds(end, [b'{"type":"ready"}'], [end.fileno()] * 3)
        assert await ends[1].hear() == Ready()
        socket.send_fds(end, [b'{"type":"prepare","generation":1,"descriptors":[1]}'], [end.fileno()] * 2)
        assert await ends[1].hear() is None
    assert open_descriptors() == before


async def test_the_other_sides_end_is_heard_after_what_it_said(ends: Ends) -> None:
    ends[1].say(Abort(1))  # which the other side never hears
    ends[0].say(Failed("the journal is full"))
    ends[0].close()
    assert await ends[1].hear() == Failed("the journal is full")
    assert await ends[1].hear() is None
    assert not ends[1].say(Ready())


async def test_nonsense_is_as_good_as_an_end(ends: Ends) -> None:
    with socket.socket(fileno=os.dup(ends[0]._end.fileno())) as end:
        end.send(b"hello")
    assert await ends[1].hear() is None


async def test_who_never_listens_does_not_hold_up_the_speaker(ends: Ends) -> None:
    said = 0
    while ends[0].say(Refused(said, ["x" * 500])):
        said += 1
        assert said < 100_000
    assert said > 10
