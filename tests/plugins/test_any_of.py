from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from gateway.authentication import Authenticator
from gateway.config.composition import ConfigError, load
from gateway.config.description import describe
from gateway.config.diff import differences
from gateway.consumers import Consumer
from gateway.edge.runtime import Runtime
from gateway.exchange import Exchange, Request
from gateway.plugin import PluginConfig
from gateway.problem import StoreDown
from plugins.anonymous import Anonymous
from plugins.any_of import AnyOf
from plugins.basic_auth import BasicAuth
from plugins.key_auth import KeyAuth
from tests.fixtures.certificates import Authority, authority
from tests.fixtures.configuration import here
from tests.fixtures.lasting import lasting_in
from tests.play import KEY, Played, Stage, ask

__all__ = ["authority", "here"]

GUEST = {"organization": "public"}


def any_of(stage: Stage, *parts: Authenticator[Any]) -> AnyOf:
    plugin = stage.make(AnyOf, plugins=[{"key_auth": {}}])
    assert isinstance(plugin, AnyOf)
    plugin.parts = parts
    return plugin


def all_three(stage: Stage) -> AnyOf:
    return any_of(stage, stage.make(KeyAuth), stage.make(BasicAuth), stage.make(Anonymous, **GUEST))  # type: ignore[arg-type]


async def played(stage: Stage, request: Request) -> Played:
    return await stage.play(all_three(stage), request=request)


async def test_the_credential_that_is_there_decides(stage: Stage):
    assert (await played(stage, ask(x_api_key=KEY))).exchange.consumer.name == "bob"
    assert (await played(stage, ask())).exchange.consumer.name == "anonymous"
    assert (await played(stage, ask())).seen_upstream.identity == (  # type: ignore[union-attr]
        b"X-Tallygate-Consumer: anonymous\r\nX-Tallygate-Organization: public\r\n"
    )


@pytest.mark.parametrize(
    "request_",
    [
        ask(x_api_key=KEY[:-1]),
        ask(x_api_key=""),
        ask(authorization="Bearer tg_live_no"),
        ask(authorization="Basic YTpi"),
        ask(authorization="Basic"),
        ask(authorization="basic ?"),
        ask(authorization="Digest a=b"),
        ask(authorization="Bearer something.else"),
        ask(authorization=""),
        ask(x_api_key=KEY[:-1], authorization="Basic YTpi"),
    ],
)
async def test_what_is_not_valid_is_never_taken_for_nothing(stage: Stage, request_: Request):
    outcome = await played(stage, request_)
    assert outcome.response.status == 401
    assert outcome.seen_upstream is None
    assert outcome.exchange.consumer is None


async def test_the_first_in_the_list_that_finds_its_kind_decides(stage: Stage):
    keys_first = await played(stage, ask(x_api_key=KEY, authorization="Basic YTpi"))
    assert keys_first.exchange.consumer.name == "bob"
    basic_first = any_of(stage, stage.make(BasicAuth), stage.make(KeyAuth))  # type: ignore[arg-type]
    outcome = await stage.play(basic_first, request=ask(x_api_key=KEY, authorization="Basic YTpi"))
    assert outcome.response.status == 401


async def test_without_any_each_says_what_it_wants_in_a_field_of_its_own(stage: Stage):
    plugin = any_of(stage, stage.make(KeyAuth), stage.make(BasicAuth, realm="books"))  # type: ignore[arg-type]
    outcome = await stage.play(plugin, request=ask())
    assert outcome.response.status == 401
    assert outcome.response.headers.getall("www-authenticate") == [
        'Bearer realm="tallygate"',
        'Basic realm="books", charset="UTF-8"',
    ]


class Waiting(Authenticator[PluginConfig]):
    """Has to wait before it knows: `answer` is a consumer, nothing, or what goes wrong."""

    answer: Consumer | Exception | None = None

    def authenticate(self, exchange: Exchange) -> Awaitable[Consumer | None]:
        return self._wait()

    async def _wait(self) -> Consumer | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_one_that_has_to_wait_takes_its_turn(stage: Stage):
    first, second = stage.make(Waiting), stage.make(Waiting)
    assert isinstance(first, Waiting)
    assert isinstance(second, Waiting)
    plugin = any_of(stage, first, second, stage.make(KeyAuth))  # type: ignore[arg-type]
    assert (await stage.play(plugin, request=ask(x_api_key=KEY))).exchange.consumer.name == "bob"
    assert (await stage.play(plugin, request=ask())).response.status == 401
    second.answer = Consumer("eve", "acme")
    assert (await stage.play(plugin, request=ask(x_api_key=KEY))).exchange.consumer.name == "eve"
    first.answer = StoreDown()
    assert (await stage.play(plugin, request=ask(x_api_key=KEY))).response.status == 503


# Its options

TEXT = """\
listeners: [{bind: 127.0.0.1:8080}]
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes:
  - name: one
    upstream: demo
    plugins:
      - any_of:
          plugins:
"""


def loaded(*lines: str, listener: str = "") -> Any:
    text = TEXT.replace(":8080", f":8080{listener}")
    Path("gateway.yaml").write_text(text + "".join(f"            - {line}\n" for line in lines))
    return load("gateway.yaml", {"SECRET": "hunter2" * 5})


def complaints(*lines: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*lines)
    return caught.value.errors


def test_what_is_wrong_inside_is_said_with_its_line(here: Path) -> None:
    assert complaints(
        "key_auth: {headr: x}",
        "compress:",
        "basic_auth: {remember: 5}",
        "any_of: {plugins: [key_auth: {}]}",
        "key_oath:",
        "key_auth",
        "anonymous:",
    ) == [
        'gateway.yaml:9: routes[0].plugins.any_of.plugins.key_auth: unknown key "headr" (did you mean "header"?)',
        (
            "gateway.yaml:10: routes[0].plugins.any_of.plugins.compress: does not say who calls: "
            "any_of takes authenticators"
        ),
        (
            "gateway.yaml:11: routes[0].plugins.any_of.plugins.basic_auth.remember: not a duration: 5 "
            "(write 250ms, 30s, 5m, 1h or 7d)"
        ),
        (
            "gateway.yaml:12: routes[0].plugins.any_of.plugins.any_of: any_of inside any_of says no more than one list "
            "does: list these plugins in the outer one"
        ),
        (
            'gateway.yaml:13: routes[0].plugins.any_of.plugins.key_oath: unknown plugin "key_oath" '
            '(did you mean "key_auth"?)'
        ),
        "gateway.yaml:14: routes[0].plugins.any_of.plugins[5]: a plugin is an entry with a colon: `- key_auth:`",
        'gateway.yaml:15: routes[0].plugins.any_of.plugins.anonymous: missing key "organization"',
    ]


def test_a_list_of_plugins_is_a_list_and_not_empty(here: Path) -> None:
    Path("gateway.yaml").write_text(TEXT.replace("\n          plugins:", " {plugins: }"))
    with pytest.raises(ConfigError, match=r"any_of.plugins: must be a list, not empty"):
        load("gateway.yaml", {})
    Path("gateway.yaml").write_text(TEXT.replace("\n          plugins:", " {plugins: []}"))
    with pytest.raises(ConfigError, match=r"any_of.plugins: needs at least 1 item"):
        load("gateway.yaml", {})


def test_one_that_does_more_than_say_who_calls_stands_on_its_own() -> None:
    class Chatty(Authenticator[PluginConfig]):
        def on_finish(self, exchange: Exchange) -> None: ...

    class Wilful(Authenticator[PluginConfig]):
        def on_request(self, exchange: Exchange) -> None: ...

    for kind in (Chatty, Wilful):
        assert "on its own" in (AnyOf.refuses_part((kind, PluginConfig()), []) or "")
    assert AnyOf.refuses_part((Waiting, PluginConfig()), []) is None


JWT = (
    "jwt_auth: {issuer: a, audience: b, algorithms: [HS256], keys: {static: [{id: k, secret: %s}]},"
    " claims: {organization: o}%s}"
)
ASKING = "introspection: {upstream: demo, path: /i, client_id: a, client_secret: b, claims: {organization: o}}"
GUESTS = "anonymous: {organization: o}"
BEHIND_ANYBODY = "stands behind one that lets anybody in, which belongs at the end: list it before"
BEHIND_BEARERS = "stands behind one that decides about all bearer tokens, and hears of none: list it before"


def jwt(more: str = "") -> str:
    return JWT % ("x" * 40, more)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([GUESTS, "key_auth:"], f"key_auth: {BEHIND_ANYBODY}"),
        (["key_auth:", GUESTS, GUESTS], f"anonymous: {BEHIND_ANYBODY}"),
        ([ASKING, jwt()], f"jwt_auth: {BEHIND_BEARERS}"),
        ([ASKING, "key_auth:", ASKING], f"introspection: {BEHIND_BEARERS}"),
    ],
)
def test_what_would_never_be_asked_is_refused(here: Path, lines: list[str], why: str) -> None:
    place = f"gateway.yaml:{8 + len(lines)}: routes[0].plugins.any_of.plugins"
    assert complaints(*lines) == [f"{place}.{why}"]


@pytest.mark.parametrize(
    "lines",
    [
        [jwt(), jwt(), ASKING, "key_auth:", "basic_auth:", GUESTS],
        [ASKING, jwt(", bearer: false, cookie: session")],
        ["key_auth:", ASKING],
    ],
)
def test_what_has_its_turn_is_not(here: Path, lines: list[str]) -> None:
    loaded(*lines)


# In a row


def in_a_row(*lines: str) -> Any:
    head, _, _ = TEXT.partition("      - any_of")
    Path("gateway.yaml").write_text(head + "".join(f"      - {line}\n" for line in lines))
    return load("gateway.yaml", {})


BEARER_KEYS = "key_auth: {header: null}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (jwt(), ASKING),
        (ASKING, jwt()),
        (BEARER_KEYS, "basic_auth:"),
        ("basic_auth: {forward: true}", jwt()),
        (GUESTS, "basic_auth:"),
        ("basic_auth:", GUESTS),
    ],
)
def test_two_that_no_request_gets_past_are_refused(here: Path, first: str, second: str) -> None:
    names = [line.partition(":")[0] for line in (first, second)]
    with pytest.raises(ConfigError) as caught:
        in_a_row(first, "cors: {origins: [https://a.example]}", second)
    (error,) = caught.value.errors
    assert error == (
        f"gateway.yaml:9: routes[0].plugins.{names[1]}: no request gets past both {names[0]} and this: what each wants"
        " of the one field Authorization keeps the other from it (list them in `any_of` if either is enough)"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("key_auth:", "basic_auth:"),
        ("basic_auth:", "hmac_auth:"),
        (jwt(", cookie: session"), "basic_auth:"),
        (jwt(", forward: true"), ASKING),
        ("key_auth:", GUESTS),
    ],
)
def test_two_credentials_may_be_asked_for(here: Path, first: str, second: str) -> None:
    in_a_row(first, second)


def test_the_same_kind_may_stand_there_twice_and_secrets_are_not_shown(here: Path) -> None:
    described = describe(loaded(JWT % ("literal" * 5, ""), JWT % ('"${SECRET}"', ""), GUESTS))
    assert described["route one, plugin any_of"] == {"plugins": "jwt_auth, jwt_auth, anonymous"}
    assert described["route one, plugin any_of, plugin jwt_auth"]["keys.static[k].secret"] == "(hidden)"
    assert described["route one, plugin any_of, plugin jwt_auth (2)"]["keys.static[k].secret"] == "${SECRET}"
    assert "hunter2" not in repr(described)
    assert "literal" not in repr(described)


def test_letting_strangers_in_takes_authentication_away(here: Path) -> None:
    guarded, opened = describe(loaded("key_auth:")), describe(loaded("key_auth:", "anonymous: {organization: o}"))
    assert guarded["route one"]["guarded by authentication"] == "any_of"
    assert "! route one: authentication removed (it was any_of)" in map(str, differences(guarded, opened))


async def test_what_one_part_alone_can_know_is_believed_of_nobody(
    here: Path, tmp_path: Path, authority: Authority
) -> None:
    shown = authority.issue("localhost", ["localhost"])
    tls = f", tls: {{certificate: {shown.certificate}, key: {shown.key}, client_ca: {authority.path}}}"
    async with lasting_in(tmp_path / "journal") as lasting:
        runtime = await Runtime.build(loaded("mtls_auth:", "anonymous: {organization: o}", listener=tls), lasting)
        plugin = next(placed.plugin for placed in runtime._plugins.values() if isinstance(placed.plugin, AnyOf))
        exchange = Exchange(ask(client_cert="x", x_other="y"), lasting.clock)
        assert plugin.authenticate(exchange).name == "anonymous"  # type: ignore[union-attr]
        assert list(exchange.request.headers) == ["x-other"]
        await runtime.stop(list)


async def test_its_parts_begin_end_and_inherit_like_any_plugin(here: Path, tmp_path: Path) -> None:
    async with lasting_in(tmp_path / "journal") as lasting:
        config = loaded("key_auth:", "basic_auth:")
        first = await Runtime.build(config, lasting)
        second = await Runtime.build(config, lasting, first)
        before, after = (
            next(placed.plugin for placed in runtime._plugins.values() if isinstance(placed.plugin, BasicAuth))
            for runtime in (first, second)
        )
        assert after is not before
        assert after._logins._right is before._logins._right  # type: ignore[attr-defined]
        assert after._logins._right._users == 2  # type: ignore[attr-defined]
        await first.stop(lambda: [second])
        assert after._logins._right._users == 1  # type: ignore[attr-defined]
        await second.stop(list)
