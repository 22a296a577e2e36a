"""Bodies of signed requests, what the configuration says of secrets, and signed requests on the wire."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from gateway.body import Body
from gateway.config.composition import ConfigError
from gateway.config.description import describe
from gateway.exchange import Request
from plugins.hmac_auth import HmacAuth
from tests.fixtures.configuration import HEAD, ROUTES, here, loaded
from tests.fixtures.conversation import Scripted, calling, serving
from tests.fixtures.signer import SECRET, WITH_BODY, digest_of, now, play, post, refused, request_of, signed, stage
from tests.fixtures.valkey import valkey, valkey_process
from tests.fixtures.wire import Target
from tests.play import Stage

__all__ = ["here", "stage", "valkey", "valkey_process"]


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


@pytest.mark.parametrize("component", ["Content-Type", "", "@", "a b", "@methdo", "@status", "@signature-params"])
def test_what_no_request_has_cannot_be_asked_for(component: str) -> None:
    with pytest.raises(ValueError, match=r"not a component: .*or one of @method, @authority, .*, @query-param"):
        HmacAuth.config_type.model_validate({"components": [component]})


async def test_what_can_be_asked_for_can_be_signed(stage: Stage):
    components = ("@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", "@query", "host")
    request = signed(request_of("GET", "/a?b=c"), now(stage), covered=components)
    assert (await play(stage, request, components=list(components))).response.status == 200
    HmacAuth.config_type.model_validate({"components": ["@query-param", "content-type", "x_1"]})


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
