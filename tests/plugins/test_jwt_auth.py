"""jwt_auth: where a token is looked for, what becomes of it, what is remembered, and what can be revoked."""

from __future__ import annotations

import time
from collections.abc import Callable
from timeit import timeit
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.exchange import Exchange, Request
from gateway.options import FROM_FILE
from plugins.jwt_auth import Config, JwtAuth
from tests.fixtures.issuer import SECRET, claims, encode, options, pem, token
from tests.fixtures.wire import Edge, Target
from tests.play import KEY, Stage, ask

VALID = token()
OTHER = token(payload=claims(sub="alice"))
INVALID = token(number=1)
EVERYWHERE = {"header": "X-Token", "cookie": "session", "query": "token"}


def bearer(text: str) -> str:
    return f"Bearer {text}"


def bearing(text: str) -> Request:
    return ask(authorization=bearer(text))


@pytest.mark.parametrize(
    "make",
    [
        lambda text: ask(authorization=f"Bearer {text}"),
        lambda text: ask(authorization=f"bEARER  {text}"),
        lambda text: ask(x_token=text),
        lambda text: ask(cookie=f"a=1; session={text}; b=2"),
        lambda text: ask(f"/p?a=1&token={text}&b=2"),
        lambda text: ask(f"/p?token={text}", authorization=f"Bearer {text}", x_token=text),
    ],
    ids=["bearer", "spelled otherwise", "header", "cookie", "query", "everywhere"],
)
async def test_a_token_is_found_wherever_it_may_be_and_goes_no_further(stage: Stage, make: Callable[[str], Request]):
    for text, status in ((VALID, 200), (INVALID, 401), (VALID, 200)):
        played = await stage.play(stage.make(JwtAuth, **options(**EVERYWHERE)), request=make(text))
        assert played.response.status == status
        if played.seen_upstream is not None:
            assert played.exchange.consumer.name == "bob"
            seen = played.seen_upstream
            assert VALID not in seen.target + repr(seen.headers)
            assert seen.identity.startswith(b"X-Tallygate-Consumer: bob\r\nX-Tallygate-Organization: acme\r\n")
    request = make(VALID)
    before = request.target, list(request.headers.items())
    played = await stage.play(stage.make(JwtAuth, **options(**EVERYWHERE, forward=True)), request=request)
    assert played.seen_upstream is not None
    assert (played.seen_upstream.target, list(played.seen_upstream.headers.items())) == before


async def test_other_cookies_and_parameters_stay(stage: Stage):
    request = ask(f"/p?a=%20&token={VALID}&b", cookie=f"a=1; session={VALID};b=2")
    played = await stage.play(stage.make(JwtAuth, **options(**EVERYWHERE)), request=request)
    assert played.seen_upstream is not None
    assert played.seen_upstream.target == "/p?a=%20&b"
    assert played.seen_upstream.headers["cookie"] == "a=1; b=2"


@pytest.mark.parametrize(
    "request_",
    [
        ask(x_token=VALID, authorization=bearer(OTHER)),
        ask(f"/?token={VALID}&token={OTHER}"),
        ask(f"/?token={OTHER}", authorization=bearer(VALID)),
        ask(cookie=f"session={VALID}; session={OTHER}"),
    ],
)
async def test_two_tokens_are_one_too_many(stage: Stage, request_: Request):
    played = await stage.play(stage.make(JwtAuth, **options(**EVERYWHERE)), request=request_)
    assert played.response.status == 401


@pytest.mark.parametrize("others", [bearer(VALID), bearer(OTHER), "Basic YTpi", ""])
async def test_several_authorization_lines_are_refused(stage: Stage, others: str):
    request = bearing(VALID)
    request.headers.add("Authorization", others)
    played = await stage.play(stage.make(JwtAuth, **options()), request=request)
    assert played.response.status == 401


@pytest.mark.parametrize(
    "credential",
    [bearer(KEY), "Basic YTpi", "Bearer", "Bearer ", bearer("opaque"), "Token x.y.z"],
    ids=["key", "Basic", "nothing", "a space", "opaque", "another scheme"],
)
async def test_what_is_no_jwt_is_left_for_others(stage: Stage, credential: str):
    request = ask(authorization=credential)
    exchange = Exchange(request, stage.clock)
    assert stage.make(JwtAuth, **options()).authenticate(exchange) is None
    assert request.headers["authorization"] == credential.strip()
    played = await stage.play(stage.make(JwtAuth, **options()), request=request)
    assert played.response.status == 401
    assert played.response.headers["www-authenticate"] == 'Bearer realm="tallygate"'


async def test_a_refusal_says_that_and_nothing_more(stage: Stage):
    expired = token(payload=claims(exp=int(time.time()) - 60))
    plugin = stage.make(JwtAuth, **options(realm="books"))
    answers = []
    for text in (INVALID, expired, "eyJ.e30.", VALID[:-2], token(payload=claims(org="a\nb"))):
        played = await stage.play(plugin, request=bearing(text))
        answers.append((played.response.status, played.response.headers["www-authenticate"]))
        assert b"detail" not in played.body
    assert set(answers) == {(401, 'Bearer realm="books", error="invalid_token"')}


async def test_claims_become_the_consumer(stage: Stage):
    plugin = stage.make(
        JwtAuth,
        **options(
            claims={
                "organization": ["nothing.there", "meta.org"],
                "name": r"https://books\.example/name",
                "subscription": "meta.subscription",
                "roles": ["role", "realm.roles"],
                "scopes": "scope",
                "permissions": "permissions",
                "attributes": {"department": "meta.department", "verified": "email_verified", "missing": "x.y"},
            }
        ),
    )
    made = claims(
        org=None,
        meta={"org": 42, "subscription": "s-7", "department": "R&D"},
        realm={"roles": ["reader", "writer"]},
        role="book keeper",
        scope="read write  read",
        permissions=["books:read", "!books:delete"],
        email_verified=True,
        **{"https://books.example/name": "Bob B."},
    )
    consumer = (await stage.play(plugin, request=bearing(token(payload=made)))).exchange.consumer
    assert (consumer.name, consumer.organization, consumer.user) == ("Bob B.", "42", "bob")
    assert consumer.subscription == "s-7"
    assert consumer.roles == {"book keeper", "reader", "writer"}
    assert consumer.scopes == {"read", "write"}
    assert consumer.permissions == ("books:read", "!books:delete")
    assert dict(consumer.attributes) == {"department": "R&D", "verified": "true"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"meta": {"subscription": "a b"}},
        {"meta": {"subscription": 1.5}},
        {"roles": {"a": 1}},
        {"roles": ["a", 1]},
        {"scope": 1},
        {"permissions": ["x" * 257]},
        {"permissions": ["x"] * 501},
        {"meta": {"department": ["a"]}},
        {"meta": {"department": "x" * 257}},
    ],
)
async def test_a_claim_of_the_wrong_kind_makes_the_token_invalid(stage: Stage, wrong: dict[str, Any]):
    wanted = {
        "organization": "org",
        "subscription": "meta.subscription",
        "roles": "roles",
        "permissions": "permissions",
        "attributes": {"department": "meta.department"},
    }
    plugin = stage.make(JwtAuth, **options(claims=wanted))
    assert (await stage.play(plugin, request=bearing(token(payload=claims(**wrong))))).response.status == 401


@pytest.mark.parametrize(
    ("others", "payload", "status"),
    [
        ({"required": ["azp", "a.b"]}, {"azp": "x", "a": {"b": 0}}, 200),
        ({"required": ["azp", "a.b"]}, {"azp": "x", "a": {}}, 401),
        ({"require_expiry": False}, {"exp": None}, 200),
        ({"require_expiry": False}, {"exp": 1}, 401),
        ({"max_lifetime": 80_000.0}, {}, 200),
        ({"max_lifetime": 79_999.0}, {}, 401),
        ({"max_lifetime": 99_999.0}, {"iat": None}, 401),
        ({"max_lifetime": 99_999.0, "require_expiry": False}, {"exp": None}, 401),
        ({"leeway": 300.0}, {"exp": int(time.time()) - 100}, 200),
        ({"leeway": 300.0}, {"nbf": int(time.time()) + 100}, 200),
        ({"leeway": 0.0}, {"exp": int(time.time())}, 401),
        ({"audience": None}, {"aud": "others"}, 200),
        ({"audience": ["a", "b"]}, {"aud": ["b", "c"]}, 200),
        ({"issuer": ["https://a/", "https://b/"]}, {"iss": "https://b/"}, 200),
        ({"issuer": None}, {"iss": "anybody"}, 200),
    ],
)
async def test_rules_are_as_configured(stage: Stage, others: dict[str, Any], payload: dict[str, Any], status: int):
    plugin = stage.make(JwtAuth, **options(**others))
    made = token(payload=claims(**payload))
    assert (await stage.play(plugin, request=bearing(made))).response.status == status


@pytest.mark.parametrize(("typ", "status"), [("at+jwt", 200), ("application/at+jwt", 200), ("JWT", 401), (None, 401)])
async def test_the_type_of_tokens_can_be_held_to_one(stage: Stage, typ: str | None, status: int):
    plugin = stage.make(JwtAuth, **options(types=["at+jwt"]))
    assert (await stage.play(plugin, request=bearing(token(typ=typ)))).response.status == status


class Now:
    """The wall clock of a stage, which the test sets."""

    def __init__(self, stage: Stage) -> None:
        self.seconds = time.time()
        stage.clock.nanos = lambda: int(self.seconds * 1e9)  # type: ignore[method-assign]


def counted(stage: Stage, result: str) -> float:
    family = stage.metrics.counter(
        "tallygate_jwt_tokens_total", "Tokens by what became of them, repeated valid ones left out.", ("result",)
    )
    return family.labels(result).value


def remembered(stage: Stage) -> float:
    return stage.metrics.gauge("tallygate_jwt_tokens_remembered", "Verified tokens in memory.").value


async def test_a_token_is_verified_once_until_it_ends(stage: Stage):
    now = Now(stage)
    plugin = stage.make(JwtAuth, **options(leeway=0.0, cache={"lifetime": 1000.0}))
    made = token(payload=claims(iat=None, exp=int(now.seconds) + 100))
    for _ in range(3):
        assert (await stage.play(plugin, request=bearing(made))).response.status == 200
    assert counted(stage, "verified") == 1
    now.seconds += 101
    assert (await stage.play(plugin, request=bearing(made))).response.status == 401
    assert remembered(stage) == 0


async def test_a_token_is_verified_anew_after_a_while(stage: Stage):
    now = Now(stage)
    plugin = stage.make(JwtAuth, **options(cache={"lifetime": 60.0}))
    for later in (0, 59, 61):
        now.seconds += later
        assert (await stage.play(plugin, request=bearing(VALID))).response.status == 200
    assert counted(stage, "verified") == 2


async def test_what_is_remembered_is_bounded(stage: Stage):
    plugin = stage.make(JwtAuth, **options(cache={"verified": 3, "refused": 2}))
    made = [token(payload=claims(n=number)) for number in range(5)]
    for text in (made[0], made[1], made[2], made[0], made[3], made[4]):
        assert (await stage.play(plugin, request=bearing(text))).response.status == 200
    assert remembered(stage) == 3
    assert (await stage.play(plugin, request=bearing(made[0]))).response.status == 200  # seen a short while ago
    assert counted(stage, "verified") == 5
    for number in range(5):
        await stage.play(plugin, request=bearing(token(number=1, payload=claims(n=number))))
    refusals = stage.metrics.gauge("tallygate_jwt_refusals_remembered", "Tokens in memory whose signature was wrong.")
    assert refusals.value == 2
    await plugin.stop()
    assert remembered(stage) == 0


STATIC: dict[str, Any] = {"static": [{"pem": pem("ES256")}]}
FETCHED = {"jwks": "https://issuer.example/keys"}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["ES256", "RS256"]}, "no key is for RS256: leave it out"),
        ({"algorithms": ["HS256"]}, "of which none is among the algorithms"),
        ({"algorithms": ["HS256"], "keys": FETCHED}, "no key is for HS256"),
        ({"keys": {}}, "without keys no token can be verified"),
        ({"keys": {"static": [{}]}}, "exactly one of `pem`, `jwk` and `secret`"),
        ({"keys": {"static": [{"pem": pem("ES256"), "secret": "x"}]}}, "exactly one of"),
        ({"keys": {"static": [{"pem": "-----BEGIN PUBLIC KEY-----\nxx\n"}]}}, "not a public key or certificate in PEM"),
        ({"keys": {"static": [{"pem": "-----BEGIN PRIVATE KEY-----"}]}}, "belongs to the issuer alone"),
        ({"keys": {"static": [{"jwk": '{"kty":"EC","kty":"EC"}'}]}}, "a member occurs twice"),
        ({"keys": {"static": [{"jwk": '{"kty":"EC"}', "id": "k"}]}}, "leave `id` out"),
        ({"algorithms": ["HS256"], "keys": {"static": [{"secret": "short"}]}}, "can be guessed"),
        ({"algorithms": ["HS256"], "keys": {"static": [{"secret": "é", "encoding": "hex"}]}}, "is not hex"),
        ({"algorithms": ["HS256"], "keys": {"static": [{"secret": "é", "encoding": "base64"}]}}, "is not base64"),
        ({"algorithms": ["HS256"], "keys": {"static": [{"secret": pem("ES256")}]}}, "everybody knows"),
        ({"keys": {"jwks": "http://issuer.example/keys"}}, "fetched by https"),
        ({"keys": {"jwks": "issuer.example"}}, "not an address to fetch keys from"),
        ({"keys": {"discovery": True}, "issuer": ["https://a", "https://b"]}, "asks one `issuer`"),
        ({"keys": {"discovery": True}, "issuer": "http://a"}, "fetched by https"),
        ({"keys": {"discovery": True, **FETCHED}}, "needs no `keys.jwks`"),
        ({"keys": STATIC, "claims": {"organization": "a..b"}}, "not the path of a claim"),
        ({"keys": STATIC, "claims": {}}, "organization"),
        ({"keys": STATIC, "leeway": "10m"}, "leeway"),
        ({"keys": STATIC, "bearer": False}, "a token has no place"),
        ({"keys": STATIC, "realm": 'a"b'}, "not a realm"),
    ],
)
def test_what_cannot_work_is_refused_at_load(others: dict[str, Any], message: str):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(options() | {"leeway": "5s"} | others, context=FROM_FILE)
    assert message in str(caught.value)


async def test_secrets_are_read_in_every_writing(stage: Stage):
    written = [
        {"secret": SECRET.decode()},
        {"secret": encode(SECRET) + "==" if len(SECRET) % 3 == 1 else encode(SECRET), "encoding": "base64"},
        {"secret": SECRET.hex(), "encoding": "hex"},
        {"jwk": f'{{"kty":"oct","k":"{encode(SECRET)}"}}'},
    ]
    for each in written:
        plugin = stage.make(JwtAuth, **options("HS256", keys={"static": [each]}))
        assert (await stage.play(plugin, request=bearing(token("HS256")))).response.status == 200


async def test_over_the_wire_between_a_client_and_an_upstream(stage: Stage):
    target = Target()
    edge = Edge(target, (stage.make(JwtAuth, **options()),))
    await edge.start()
    try:
        head = "GET / HTTP/1.1\r\nHost: a\r\nX-Tallygate-User: root\r\n"
        asked = f"{head}Authorization: Bearer {VALID}\r\n\r\n".encode()
        back = await edge.ask(asked + asked)
        assert back.count(b"HTTP/1.1 200 OK") == 2
        assert target.text.count(b"X-Tallygate-User: bob\r\n") == 2
        assert VALID.encode() not in target.text
        assert b"root" not in target.text
        for wrong in (INVALID, VALID + "=", VALID[:-1], ""):
            back = await edge.ask(f"{head}Authorization: Bearer {wrong}\r\n\r\n".encode())
            assert back.startswith(b"HTTP/1.1 401 ")
            assert b'Www-Authenticate: Bearer realm="tallygate"'.lower() in back.lower()
        twice = f"{head}Authorization: Bearer {VALID}\r\nauthorization: Bearer {VALID}\r\n\r\n".encode()
        assert (await edge.ask(twice)).startswith(b"HTTP/1.1 401 ")
        assert target.text.count(b"GET / ") == 2
    finally:
        await edge.stop()


async def test_a_repeated_token_costs_a_small_part_of_its_verification(stage: Stage):
    """The budget of a repeat is 2 µs where an RS256 verification takes about 70: here is held what noise allows."""
    plugin: Any = stage.make(JwtAuth, **options("RS256"))
    made = token("RS256")
    presented = plugin._in_fields(bearing(made).headers)
    assert plugin._verifier._verify(presented).described.name == "bob"
    fields = bearing(made).headers
    exchange = Exchange(Request("GET", "/", fields.copy()), stage.clock)

    def repeat() -> None:
        exchange.request.headers = fields.copy()
        assert plugin.on_request(exchange) is None

    repeated = min(timeit(repeat, number=500) for _ in range(5)) / 500
    verified = min(timeit(lambda: plugin._verifier._verify(presented), number=50) for _ in range(5)) / 50
    assert repeated < verified / 5


async def test_the_curve_of_bitcoin_is_there_for_those_who_ask(stage: Stage):
    plugin = stage.make(JwtAuth, **options("ES256K"))
    assert (await stage.play(plugin, request=bearing(token("ES256K")))).response.status == 200
    assert (await stage.play(plugin, request=bearing(VALID))).response.status == 401
