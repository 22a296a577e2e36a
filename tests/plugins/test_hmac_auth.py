from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.exchange import Request
from tests.fixtures.signer import (
    CONSUMER,
    SECRET,
    WITH_BODY,
    get,
    now,
    other,
    play,
    post,
    refused,
    request_of,
    signed,
    stage,
)
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process
from tests.play import Stage

__all__ = ["other", "stage", "valkey", "valkey_process"]


@pytest.mark.parametrize(
    "covered",
    [
        ("@method", "@target-uri"),
        ("@method", "@authority", "@path", "@query"),
        ("@method", "@authority", "@request-target"),
        ("@scheme", "@query", "@path", "@authority", "@method", "host"),
    ],
)
async def test_a_signed_request_is_let_in(stage: Stage, covered: tuple[str, ...]):
    played = await play(stage, get(stage, covered=covered))
    consumer = played.exchange.consumer
    assert (consumer.name, consumer.organization, consumer.key) == ("nightly", "library", "nightly")
    assert played.seen_upstream is not None
    assert "signature" not in played.seen_upstream.headers
    assert "signature-input" not in played.seen_upstream.headers


async def test_a_body_that_was_signed_goes_on(stage: Stage):
    request = post(stage)
    played = await play(stage, request)
    assert played.response.status == 200
    assert request.body.take() == (b'{"n":1}', True)


async def test_the_signature_goes_upstream_when_asked_to(stage: Stage):
    played = await play(stage, get(stage), forward=True)
    assert played.seen_upstream is not None
    assert "signature" in played.seen_upstream.headers


async def test_without_a_signature_it_is_another_kind(stage: Stage):
    await refused(stage, request_of("GET", "/"))
    request = request_of("GET", "/", authorization="Bearer abc")
    await refused(stage, request)
    assert request.headers["authorization"] == "Bearer abc"


async def test_a_label_picks_one_of_several(stage: Stage):
    request = get(stage)
    request.headers["signature-input"] += ', proxy=("@method");created=1;keyid="p"'
    request.headers["signature"] += ", proxy=:AAAA:"
    await refused(stage, signed_again(stage, request))
    assert (await play(stage, request, label="sig1")).response.status == 200
    await refused(stage, get(stage), label="sig2")


def signed_again(stage: Stage, like: Request) -> Request:
    request = get(stage)
    for field in ("signature-input", "signature"):
        request.headers[field] += "," + like.headers[field].partition(",")[2]
    return request


async def test_a_tag_says_what_it_is_for(stage: Stage):
    assert (await play(stage, get(stage, more=';nonce="n-000001";tag="books"'), tag="books")).response.status == 200
    await refused(stage, get(stage, more=';nonce="n-000002";tag="papers"'), tag="books")
    await refused(stage, get(stage), tag="books")


async def test_what_else_must_be_signed(stage: Stage):
    with_type = (*WITH_BODY, "content-type")
    assert (await play(stage, post(stage, covered=with_type), components=["content-type"])).response.status == 200
    await refused(stage, post(stage), components=["content-type"])


# Attacks


Change = Callable[[Request], None]


def field(name: str, value: str) -> Change:
    def change(request: Request) -> None:
        request.headers[name] = value

    return change


def replaced(name: str, old: str, new: str) -> Change:
    def change(request: Request) -> None:
        assert old in request.headers[name]
        request.headers[name] = request.headers[name].replace(old, new)

    return change


def attribute(name: str, value: Any) -> Change:
    return lambda request: setattr(request, name, value)


@pytest.mark.parametrize(
    "change",
    [
        attribute("method", "DELETE"),
        attribute("target", "/orders?a=c"),
        attribute("target", "/orders"),
        attribute("target", "/orders?a=b&a=c"),
        attribute("target", "//orders?a=b"),
        attribute("host", "b.example"),
        attribute("scheme", "https"),
        replaced("signature-input", "nightly", "nightlY"),
        replaced("signature-input", "nonce-", "nonce+"),
        replaced("signature-input", "created=1", "created=2"),
        replaced("signature-input", "@target-uri", "@target-urj"),
        replaced("signature-input", '"@method" ', ""),
        replaced("signature-input", ");", ');alg="none";'),
        replaced("signature-input", ");", ');alg="hmac-sha256";'),
        replaced("signature-input", "sig1=", "sig2="),
        replaced("signature", "=:", "=:AAAA"),
        field("signature", "sig1=::"),
        field("signature", "sig1=:AAAA:"),
        field("signature", 'sig1="text"'),
        field("signature", "sig1"),
        field("signature", "\xe9"),
        field("signature", ""),
        field("signature-input", ""),
        field("signature-input", "sig1"),
        field("signature-input", "sig1=1"),
        field("signature-input", "sig1=();created=1"),
        field("signature-input", "sig1=(" + '"a" ' * 70 + ")"),
        field("signature-input", "sig1=" + "(" * 1000),
        field("signature-input", 'sig1=("@method");keyid="nightly";created="1"'),
        field("signature-input", 'sig1=("@method");keyid=nightly;created=1'),
        field("signature-input", "x" * 20_000),
        lambda request: request.headers.take("signature"),
        lambda request: request.headers.take("signature-input"),
        lambda request: request.headers.add("Signature", request.headers["signature"]),
        lambda request: request.headers.add("Signature-Input", request.headers["signature-input"]),
    ],
)
async def test_whatever_is_changed_the_signature_does_not_count(stage: Stage, change: Change):
    request = get(stage)
    change(request)
    await refused(stage, request)


@pytest.mark.parametrize(
    "covered",
    [
        (),
        ("@target-uri",),
        ("@method", "@path"),
        ("@method", "@authority", "@path"),  # the query could be changed
        ("@method", "@authority", "@query"),
        ("@method", "@request-target"),
        ("@method", "host", "@request-target"),
        ("@method", "@target-uri", "@status"),
        ("@method", "@target-uri", "missing"),
        ("@method", "@target-uri", "@signature-params"),
        ("@method", "@target-uri", "@method"),
        ("@method", "@target-uri", "host;bs"),
        ("@method", "@target-uri", "host;sf"),
        ("@method;req", "@target-uri"),
        ("@METHOD", "@target-uri"),
    ],
)
async def test_a_signature_over_too_little_or_what_is_not_known_does_not_count(stage: Stage, covered: tuple[str, ...]):
    await refused(stage, get(stage, covered=covered))


@pytest.mark.parametrize(
    ("created", "more"),
    [
        (-120, None),
        (-61, None),
        (30, None),
        (0, ';expires=1;nonce="n-000001"'),
        (0, ""),
        (0, ';nonce="short"'),
        (0, ";nonce=abcdefghij"),
    ],
)
async def test_one_that_is_too_old_too_new_or_has_no_nonce_does_not_count(stage: Stage, created: int, more: str | None):
    await refused(stage, signed(request_of("GET", "/"), now(stage) + created, more=more))


@pytest.mark.parametrize("secret", [b"", bytes(32), SECRET[:-1], SECRET + b"\1"])
async def test_another_secret_does_not_count(stage: Stage, secret: bytes):
    await refused(stage, get(stage, secret=secret))


async def test_nobodys_key_does_not_count(stage: Stage):
    await refused(stage, get(stage, key_id="nobody"))


async def test_what_was_signed_counts_once_in_all_processes(stage: Stage, other: Stage):
    def again() -> Request:
        return signed(request_of("GET", "/"), moment, more=';nonce="the same one"')

    moment = now(stage)
    assert (await play(stage, again())).response.status == 200
    await refused(stage, again())
    await refused(other, again())
    repeats = await asyncio.gather(*(play(place, get_with(place, moment)) for place in (stage, other) * 10))
    assert sorted(played.response.status for played in repeats) == [200] + [401] * 19


def get_with(stage: Stage, moment: float) -> Request:
    return signed(request_of("GET", "/"), moment, more=';nonce="another one"')


async def test_a_process_whose_clock_is_behind_takes_nothing_twice(stage: Stage, other: Stage):
    """What is too old for the one is not for the other: the store must remember it for both."""
    told = other.clock.nanos
    other.clock.nanos = lambda: told() - 3 * 10**9  # type: ignore[method-assign]
    request = get(stage)
    again = request_of("GET", request.target)
    for name in ("signature", "signature-input"):
        again.headers[name] = request.headers[name]
    assert (await play(stage, request, max_age="1s")).response.status == 200
    await asyncio.sleep(2.2)
    await refused(other, again, max_age="1s", leeway="0s")


async def test_a_nonce_is_not_used_up_by_who_cannot_sign(stage: Stage):
    nonce = ';nonce="guessed by others"'
    await refused(stage, get(stage, more=nonce, secret=bytes(32)))
    assert (await play(stage, get(stage, more=nonce))).response.status == 200


async def test_the_store_forgets_a_nonce_when_its_signature_is_too_old_anyway(stage: Stage, valkey: ValkeyServer):
    await play(stage, get(stage), max_age="2s")
    keys = await stage.services.redis.run(
        "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do out[#out+1] = redis.call('PTTL', key) end "
        "return out",
        [],
    )
    assert len(keys) == 1
    assert 30_000 < keys[0] <= 37_100


async def test_without_nonces_a_signature_may_be_repeated_and_the_store_is_not_asked(tmp_path: Path):
    stage = Stage(tmp_path / "nowhere", consumers=[CONSUMER])
    for _ in range(2):
        assert (await play(stage, get(stage, more=""), nonce=False)).response.status == 200
    await refused(stage, get(stage), status=503)  # with them nobody can tell
    await stage.close()


async def test_a_store_that_hangs_is_no_reason_to_refuse_for_good(stage: Stage, valkey: ValkeyServer):
    valkey.pause()
    played = await play(stage, get(stage))
    valkey.resume()
    assert (played.response.status, played.response.headers["retry-after"]) == (503, "1")
    assert played.exchange.consumer is None
