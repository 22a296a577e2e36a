from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.body import Body
from gateway.config.configuration import ConfigError
from gateway.config.description import describe
from gateway.consumers import ConsumerOptions
from gateway.exchange import Request
from plugins.hmac_auth import HmacAuth
from tests.fixtures.configuration import HEAD, ROUTES, here, loaded
from tests.fixtures.conversation import Scripted, calling, serving
from tests.fixtures.signer import SECRET, digest_of, request_of, signed
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process
from tests.fixtures.wire import Target
from tests.play import Played, Stage

__all__ = ["here", "valkey", "valkey_process"]

CONSUMER = ConsumerOptions.model_validate(
    {
        "name": "nightly",
        "organization": "library",
        "hmac_keys": [{"id": "nightly", "secret": b64encode(SECRET).decode()}],
    }
)
WITH_BODY = ("@method", "@target-uri", "content-digest")


@pytest.fixture
async def stage(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "one", valkey.url, consumers=[CONSUMER])
    yield stage
    await stage.close()


@pytest.fixture
async def other(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Stage]:
    """Another process: all that it shares with the first is the store."""
    stage = Stage(tmp_path / "two", valkey.url, consumers=[CONSUMER])
    yield stage
    await stage.close()


def now(stage: Stage) -> float:
    return stage.clock.nanos() / 1e9


def get(stage: Stage, target: str = "/orders?a=b", **how: Any) -> Request:
    return signed(request_of("GET", target), now(stage), **how)


def post(stage: Stage, body: bytes = b'{"n":1}', **how: Any) -> Request:
    request = request_of("POST", "/orders", body, content_digest=digest_of(body), content_type="application/json")
    return signed(request, now(stage), **{"covered": WITH_BODY, **how})


async def play(stage: Stage, request: Request, **options: Any) -> Played:
    return await stage.play(stage.make(HmacAuth, **options), request=request)


async def refused(stage: Stage, request: Request, status: int = 401, **options: Any) -> None:
    played = await play(stage, request, **options)
    assert played.response.status == status
    assert played.seen_upstream is None
    assert played.exchange.consumer is None
    if status == 401:
        assert played.response.headers["www-authenticate"] == 'Signature realm="tallygate"'
        assert b"detail" not in played.body


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
    plugin = stage.make(HmacAuth)
    assert isinstance(plugin, HmacAuth)
    await refused(stage, request_of("GET", "/"))


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
    assert 1000 < keys[0] <= 3100


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


# The body


@pytest.mark.parametrize(
    "digest",
    [
        digest_of(b"other"),
        "sha-256=:AAAA:",
        "md5=:AAAA:",
        "sha-256=text",
        "",
        f"{digest_of(b'{}')}, sha-512=:AAAA:",
        f"{digest_of(b'{}')}, {digest_of(b'{}')}",
    ],
)
async def test_a_body_that_its_digest_is_not_of_is_refused(stage: Stage, digest: str):
    request = request_of("POST", "/", b"{}", content_digest=digest)
    await refused(stage, signed(request, now(stage), covered=WITH_BODY))


async def test_a_body_without_a_digest_that_is_signed_is_refused(stage: Stage):
    await refused(stage, signed(request_of("POST", "/", b"{}"), now(stage)))
    await refused(stage, signed(request_of("POST", "/", b"{}", content_digest=digest_of(b"{}")), now(stage)))


async def test_a_digest_of_no_body_must_hold_too(stage: Stage):
    empty = request_of("GET", "/", content_digest=digest_of(b""))
    assert (await play(stage, signed(empty, now(stage), covered=WITH_BODY))).response.status == 200
    lying = request_of("GET", "/", content_digest=digest_of(b"x"))
    await refused(stage, signed(lying, now(stage), covered=WITH_BODY))


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(stage: Stage):
    body = Body(length=2**30)
    request = request_of("POST", "/", b"", content_digest=digest_of(b""))
    request.body = body
    await refused(stage, signed(request, now(stage), covered=WITH_BODY), status=413)
    growing = Body()
    growing.feed(b"x" * 2000)
    request = request_of("POST", "/", b"", content_digest=digest_of(b""))
    request.body = growing
    await refused(stage, signed(request, now(stage), covered=WITH_BODY), status=413, max_body="1KiB")


# In the configuration


def test_secrets_are_checked_and_never_shown(here: Path) -> None:
    def text(key: str) -> str:
        return HEAD + ROUTES + f"consumers: [{{name: a, organization: b, hmac_keys: [{key}]}}]\n"

    for secret, said in (("short", "not base64"), ("YWJj", "too short")):
        with pytest.raises(ConfigError) as caught:
            loaded(text(f"{{id: k, secret: {secret}}}"))
        assert f"gateway.yaml:4: consumers[0].hmac_keys[0].secret: {said}" in str(caught.value)
        assert secret not in str(caught.value)
    good = b64encode(SECRET).decode()
    described = describe(loaded(text(f"{{id: k, secret: {good}}}")))
    assert described["consumer a"]["hmac_keys[k].secret"] == "(hidden)"
    assert described == describe(loaded(text(f"{{id: k, secret: {good}}}")))
    twice = f"{{id: k, secret: {good}}}, {{id: k, secret: {good}}}"
    with pytest.raises(ConfigError, match='id "k" is taken'):
        loaded(text(twice))


@pytest.mark.parametrize("component", ["Content-Type", "", "@", "a b"])
def test_a_component_is_written_in_lower_case(component: str) -> None:
    with pytest.raises(ValueError, match="not a component"):
        HmacAuth.config_type.model_validate({"components": [component]})


# On the wire


def wire(request: Request, body: bytes = b"") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head = f"{request.method} {request.target} HTTP/1.1\r\nHost: {request.host}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{lines}\r\n".encode() + body


async def test_a_body_on_the_wire_goes_on_whole_or_not_at_all(stage: Stage):
    body = bytes(range(256)) * 1000
    async with serving(Target(), stage.make(HmacAuth)) as edge, calling(edge) as caller:
        good = post(stage, body)
        await caller.say(wire(good, body))
        assert (await caller.answer()).startswith(b"HTTP/1.1 200")
        assert edge.target.text.endswith(body)
        bad = post(stage, body)
        await caller.say(wire(bad, body[:-1] + b"!"))
        assert (await caller.answer()).startswith(b"HTTP/1.1 401")
        assert edge.target.text.count(b"POST /orders") == 1


async def test_a_head_that_covers_its_length_on_the_wire(stage: Stage):
    async def nobody(_line: Any) -> None:
        raise AssertionError

    request = request_of("POST", "/orders", b"{}", content_digest=digest_of(b"{}"))
    request.headers["content-length"] = "2"
    signed(request, now(stage), covered=(*WITH_BODY, "content-length"))
    del request.headers["content-length"]
    async with serving(Target(), stage.make(HmacAuth)) as edge:
        assert (await edge.ask(wire(request, b"{}"))).startswith(b"HTTP/1.1 200")
    async with serving(Scripted(nobody), stage.make(HmacAuth)) as edge:
        assert (await edge.ask(wire(request, b"{}"))).startswith(b"HTTP/1.1 401")  # a second time
