from __future__ import annotations

import asyncio
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.composition import ConfigError
from gateway.consumers import ConsumerOptions
from gateway.exchange import Exchange, Request
from gateway.passwords import hash_password
from gateway.plugin import AnyPlugin
from plugins.basic_auth import BasicAuth, read_credentials
from tests.fixtures.configuration import HEAD, ROUTES, here, loaded
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target
from tests.play import Played, Stage, ask

__all__ = ["here"]

ANNA = hash_password("grüße: 7")
CONSUMER = ConsumerOptions.model_validate(
    {"name": "reader", "organization": "library", "passwords": [{"id": "p1", "user": "änna", "argon2id": ANNA}]}
)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "journal", consumers=[CONSUMER])
    yield stage
    await stage.close()


def basic(text: str, scheme: str = "Basic", client: str = "192.0.2.1") -> Request:
    request = ask(authorization=f"{scheme} {b64encode(text.encode()).decode()}")
    request.client = client
    return request


RIGHT = "änna:grüße: 7"


def wrong(stage: Stage) -> float:
    return stage.metrics.counter("tallygate_basic_auth_wrong_total", "Passwords that were wrong, of anybody's.").value


@pytest.mark.parametrize(
    "request_", [basic(RIGHT), basic(RIGHT, "bAsIc"), basic(RIGHT, "Basic "), basic("a\u0308nna:gru\u0308ße: 7")]
)
async def test_a_right_password_is_let_in(stage: Stage, request_: Request):
    played = await stage.play(stage.make(BasicAuth), request=request_)
    consumer = played.exchange.consumer
    assert (consumer.name, consumer.organization, consumer.key) == ("reader", "library", "p1")
    assert played.seen_upstream is not None
    assert "authorization" not in played.seen_upstream.headers


async def test_it_goes_upstream_when_asked_to(stage: Stage):
    played = await stage.play(stage.make(BasicAuth, forward=True), request=basic(RIGHT))
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers["authorization"].startswith("Basic ")


async def test_a_password_that_was_right_is_not_checked_again(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    plugin, other = stage.make(BasicAuth), stage.make(BasicAuth, forward=True)
    await stage.play(plugin, request=basic(RIGHT))

    async def no_more(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(stage.workers, "run", no_more)
    assert (await stage.play(plugin, request=basic(RIGHT))).response.status == 200
    assert (await stage.play(other, request=basic(RIGHT))).response.status == 200  # another route remembers with it


async def test_it_is_checked_again_after_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    plugin = stage.make(BasicAuth, remember="0s")
    checked = 0
    run = stage.workers.run

    async def counted(*arguments: Any) -> Any:
        nonlocal checked
        checked += 1
        return await run(*arguments)

    monkeypatch.setattr(stage.workers, "run", counted)
    for _ in range(2):
        assert (await stage.play(plugin, request=basic(RIGHT))).response.status == 200
    assert checked == 2


async def test_many_that_come_at_once_are_checked_once(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=1)
    played = await asyncio.gather(*(stage.play(plugin, request=basic(RIGHT)) for _ in range(40)))
    assert {one.response.status for one in played} == {200}


async def test_a_reload_goes_on_with_what_is_known(stage: Stage):
    plugin = stage.make(BasicAuth)
    assert isinstance(plugin, BasicAuth)
    await stage.play(plugin, request=basic(RIGHT))
    stage.services._joint.clear()  # as services of a new configuration are
    heir = stage.make(BasicAuth)
    assert isinstance(heir, BasicAuth)
    heir.inherit(plugin)
    assert heir.authenticate(_exchange(stage, basic(RIGHT))) is not None
    assert not asyncio.iscoroutine(heir.authenticate(_exchange(stage, basic(RIGHT))))


def _exchange(stage: Stage, request: Request) -> Any:
    return Exchange(request, stage.clock)


# Attacks


async def refusal(stage: Stage, plugin: AnyPlugin, request: Request) -> Played:
    played = await stage.play(plugin, request=request)
    assert played.seen_upstream is None
    assert played.exchange.consumer is None
    return played


@pytest.mark.parametrize(
    "said",
    [
        "Basic",
        "Basic ",
        "Basic ?",
        "Basic YTpi YTpi",
        "Basic YTpi\tx",
        "Basic YTpi====",
        "Basic YTpiYR==",  # bits that stand for nothing
        "Basic YTo",  # no padding
        "Basic " + b64encode(b"nocolon").decode(),
        "Basic " + b64encode(b"a:\xff\xfe").decode(),  # not UTF-8
        "Basic " + b64encode("a:b".encode("utf-16")).decode(),
        "Basic " + b64encode("änna:grüße: 7".encode("latin-1")).decode(),
        "Basic " + b64encode(b"a\0:b").decode(),
        "Basic " + b64encode(b"a:b\r\n").decode(),
        "Basic " + b64encode(b"a:" + b"b" * 5000).decode(),
        "Basic " + b64encode(b":").decode(),
    ],
)
async def test_what_is_malformed_is_refused(stage: Stage, said: str):
    played = await refusal(stage, stage.make(BasicAuth), ask(authorization=said))
    assert played.response.status == 401
    assert played.response.headers["www-authenticate"] == 'Basic realm="tallygate", charset="UTF-8"'
    assert b"detail" not in played.body


@pytest.mark.parametrize(
    "text", ["änna:", "änna:grüße: 8", "änna:grüße", "ÄNNA:grüße: 7", "nobody:grüße: 7", ":", "p1:x"]
)
async def test_wrong_ones_look_alike(stage: Stage, text: str):
    played = await refusal(stage, stage.make(BasicAuth), basic(text))
    nothing = await refusal(stage, stage.make(BasicAuth), ask())
    assert (played.response.status, list(played.response.headers.items())) == (
        nothing.response.status,
        list(nothing.response.headers.items()),
    )


async def test_two_fields_are_refused_even_if_one_is_right(stage: Stage):
    request = basic(RIGHT)
    request.headers.add("Authorization", "Basic YTpi")
    assert (await refusal(stage, stage.make(BasicAuth), request)).response.status == 401


async def test_another_scheme_is_left_alone(stage: Stage):
    played = await refusal(stage, stage.make(BasicAuth), ask(authorization="Bearer abc"))
    assert played.exchange.request.headers["authorization"] == "Bearer abc"


async def test_time_does_not_tell_who_is_known(stage: Stage):
    """Both cost the one hash, which is nearly all the time there is."""
    plugin = stage.make(BasicAuth, max_failures=10_000)

    async def fastest(user: str) -> float:
        times = []
        for n in range(8):
            began = time.perf_counter()
            await refusal(stage, plugin, basic(f"{user}:{n}"))
            times.append(time.perf_counter() - began)
        return min(times)

    known, unknown = await fastest("änna"), await fastest("nobody")
    assert wrong(stage) == 16
    assert 0.5 < known / unknown < 2.0


async def test_guessing_ends_soon_and_a_remembered_password_still_counts(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=3, failure_window="1h")
    assert (await stage.play(plugin, request=basic(RIGHT))).response.status == 200
    statuses = [(await refusal(stage, plugin, basic(f"änna:{n}"))).response.status for n in range(6)]
    assert statuses == [401, 401, 401, 429, 429, 429]
    assert wrong(stage) == 3
    assert (await stage.play(plugin, request=basic(RIGHT))).response.status == 200
    elsewhere = await refusal(stage, plugin, basic("änna:0", client="192.0.2.2"))
    assert elsewhere.response.status == 401


async def test_guesses_that_come_at_once_are_counted_before_they_are_checked(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=3, failure_window="1h")
    played = await asyncio.gather(*(refusal(stage, plugin, basic(f"änna:{n}")) for n in range(20)))
    statuses = sorted(one.response.status for one in played)
    assert statuses == [401] * 3 + [429] * 17
    assert played[-1].response.headers["retry-after"] == "3600"


async def test_whoever_leaves_before_the_answer_has_guessed_all_the_same(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=1, failure_window="1h")
    leaving = asyncio.create_task(stage.play(plugin, request=basic("änna:0")))
    await asyncio.sleep(0.001)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert (await refusal(stage, plugin, basic("änna:1"))).response.status == 429


async def test_one_network_of_ipv6_is_one_client(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=1, failure_window="1h")
    assert (await refusal(stage, plugin, basic("änna:0", client="2001:db8::1"))).response.status == 401
    assert (await refusal(stage, plugin, basic("änna:0", client="2001:db8::ffff"))).response.status == 429


async def test_too_many_at_once_are_refused_and_not_held_against_them(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=1, failure_window="1h")
    gate = threading.Event()
    busy = [asyncio.create_task(stage.workers.run(gate.wait)) for _ in range(66)]
    await asyncio.sleep(0)
    played = await refusal(stage, plugin, basic(RIGHT))
    assert (played.response.status, played.response.headers["retry-after"]) == (503, "1")
    gate.set()
    await asyncio.gather(*busy)
    assert (await stage.play(plugin, request=basic(RIGHT))).response.status == 200


async def test_the_event_loop_goes_on_meanwhile(stage: Stage):
    plugin = stage.make(BasicAuth, max_failures=1000)
    checking = asyncio.gather(*(refusal(stage, plugin, basic(f"änna:{n}")) for n in range(10)))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    await checking
    assert turns > 500  # a hash that held the interpreter would leave a few for each


@pytest.mark.parametrize("said", ["YTpiYR==", "YTpiYW=="[:-1], "YTpiYQ", "YTpi\n", "YTpiYQ==="])
def test_a_credential_has_one_writing(said: str):
    assert read_credentials("YTpiYQ==") == ("a", b"ba")
    with pytest.raises(ValueError, match=r".+"):
        read_credentials(said)


@given(st.text(max_size=40))
def test_whatever_is_written_is_read_or_a_value_error(said: str):
    try:
        user, password = read_credentials(said)
    except ValueError:
        return
    assert b64encode(f"{user}:".encode() + password).decode() == said or not (user + password.decode()).isascii()


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=":"), max_size=30),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30),
)
def test_what_a_client_writes_is_what_is_read(user: str, password: str):
    said = b64encode(f"{user}:{password}".encode()).decode()
    found = read_credentials(said)
    again = read_credentials(b64encode(f"{found[0]}:".encode() + found[1]).decode())
    assert again == found


# In the configuration


def complaint(passwords: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(HEAD + ROUTES + f"consumers: [{{name: a, organization: b, passwords: [{passwords}]}}]\n")
    return str(caught.value)


def test_what_is_wrong_with_passwords_is_said(here: Path) -> None:
    assert "gateway.yaml:4: consumers[0].passwords[0].argon2id: not an Argon2id hash" in complaint(
        "{id: a, argon2id: pw}"
    )
    assert "a user name has 1 to 128 characters" in complaint(f'{{id: "a:b", argon2id: "{ANNA}"}}')
    assert "a user name has 1 to 128 characters" in complaint(f'{{id: a, user: "b:c", argon2id: "{ANNA}"}}')
    twice = complaint(f'{{id: a, argon2id: "{ANNA}"}}, {{id: b, user: a, argon2id: "{ANNA}"}}')
    assert 'user "a" is taken (first in gateway.yaml:4)' in twice


# On the wire


async def test_on_the_wire(stage: Stage):
    async with serving(Target(), stage.make(BasicAuth)) as edge:
        said = b64encode(RIGHT.encode())
        ok = await edge.ask(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic " + said + b"\r\n\r\n", wait=1.0)
        assert ok.startswith(b"HTTP/1.1 200")
        assert b"X-Tallygate-Consumer: reader\r\n" in edge.target.text
        assert said not in edge.target.text
        refused = await edge.ask(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YTpi\r\n\r\n", wait=1.0)
        assert refused.startswith(b"HTTP/1.1 401")
        assert b'www-authenticate: Basic realm="tallygate", charset="UTF-8"\r\n' in refused
