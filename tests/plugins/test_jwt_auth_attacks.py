"""Tokens that somebody made up, damaged or bent: each is refused with 401, and every valid one is accepted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from plugins.jwt_auth import JwtAuth
from tests.fixtures.issuer import EVERY, SECRET, claims, encode, jwk, options, part, pem, private_key, sign, token
from tests.play import Stage, ask

NOW = int(time.time())
VALID = token()
HEADER, PAYLOAD, SIGNATURE = VALID.split(".")
USUAL_HEADER = {"alg": "ES256", "typ": "JWT", "kid": "ES256"}
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def signed(header: Any = None, payload: Any = None) -> str:
    """A token of the issuer's own key, whatever it says."""
    return token(header=USUAL_HEADER if header is None else header, payload=payload)


def unsigned(header: Any, signature: str = "") -> str:
    return f"{part(header)}.{part(claims())}.{signature}"


def text_of(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def with_key_of(secret: bytes, algorithm: str = "HS256", kid: str = "RS256") -> str:
    return token(algorithm, key=secret, kid=kid)


def flipped(place: int) -> str:
    raw = bytearray(sign(f"{HEADER}.{PAYLOAD}", "ES256", private_key("ES256")))
    raw[place] ^= 1
    return f"{HEADER}.{PAYLOAD}.{encode(bytes(raw))}"


def last_bits() -> str:
    """The same signature, written with bits that are left over set: a sloppy reader takes it for the same."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return VALID[:-1] + alphabet[alphabet.index(VALID[-1]) ^ 1]


def bare(r: int, s: int) -> str:
    return f"{HEADER}.{PAYLOAD}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def der() -> str:
    from jwt.utils import raw_to_der_signature  # noqa: PLC0415 - needed nowhere else

    key = private_key("ES256")
    return f"{HEADER}.{PAYLOAD}.{encode(raw_to_der_signature(sign(f'{HEADER}.{PAYLOAD}', 'ES256', key), key.curve))}"


def nested(depth: int) -> str:
    return text_of(claims())[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}"


def said(name: str, written: str) -> str:
    """Claims with one of them written in this very way."""
    return text_of(claims(**{name: None}))[:-1] + f',"{name}":{written}}}'


OTHER_SIGNATURE = token(number=1).split(".")[2]
RSA_SIGNED = token("RS256")
PUBLIC_PEM = pem("RS256")
NONES = ["none", "None", "NONE", "nOnE", " none", "none ", "n\u006fne\u0000"]
ALGORITHMS = ["es256", "ES256 ", "Es256", "", "ES256K", "HS256K", "RS1", "dir", "A128KW", "ECDH-ES", "HMAC", "SHA256"]

ATTACKS: dict[str, dict[str, str]] = {
    "no signature": {
        **{f"alg {name!r}": unsigned({"alg": name}) for name in NONES},
        **{f"alg {name!r} with a signature": unsigned({"alg": name, "kid": "ES256"}, SIGNATURE) for name in NONES[:3]},
        "an empty signature": f"{HEADER}.{PAYLOAD}.",
        "alg is missing": signed({"typ": "JWT", "kid": "ES256"}),
        "alg is null": signed({"alg": None}),
        "alg is a list": signed({"alg": ["ES256"]}),
        "alg is an object": signed({"alg": {"ES256": 1}}),
        "alg is true": signed({"alg": True}),
        "alg is a number": signed({"alg": 256}),
    },
    "algorithms": {f"alg {name!r}": signed({**USUAL_HEADER, "alg": name}) for name in ALGORITHMS}
    | {f"ES256 called {name}": signed({**USUAL_HEADER, "alg": name}) for name in EVERY if name != "ES256"},
    "key confusion": {
        "HS256 with the RSA key's PEM": with_key_of(PUBLIC_PEM.encode()),
        "HS256 with the PEM stripped": with_key_of(PUBLIC_PEM.strip().encode()),
        "HS256 with the PEM's base64": with_key_of("".join(PUBLIC_PEM.split("\n")[1:-2]).encode()),
        "HS512 with the RSA key's PEM": with_key_of(PUBLIC_PEM.encode(), "HS512"),
        "HS256 with the EC key's PEM": with_key_of(pem("ES256").encode(), kid="ES256"),
        "HS256 with the PEM, no kid": with_key_of(PUBLIC_PEM.encode(), kid=None),
        "HS256 with the PEM, kid of the secret": with_key_of(PUBLIC_PEM.encode(), kid="HS256"),
        "HS256 with the key as JWK": with_key_of(text_of(jwk("RS256")).encode()),
        "HS256 with an empty secret": with_key_of(b"\0" * 32),
        "ES256 with the RSA key's kid": token(kid="RS256"),
        "RS256 with the EC key's kid": token("RS256", kid="ES256"),
        "PS256 signed as RS256": token("RS256", header={"alg": "PS256", "kid": "RS256"}),
        "RS256 signed as PS256": token("PS256", header={"alg": "RS256", "kid": "RS256"}),
        "ES384 with the key of ES256": token(header={"alg": "ES384", "kid": "ES256"}),
        "EdDSA with the key of ES256": token("EdDSA", kid="ES256"),
        "ES256K": token("ES256K", kid="ES256"),
    },
    "keys of the attacker's": {
        "another key": token(number=1),
        "another RSA key": token("RS256", number=1),
        "another secret": token("HS256", number=1),
        "another Ed25519 key": token("EdDSA", number=1),
        "its own jwk": token(number=1, jwk=jwk("ES256", number=1)),
        "its own jwk and kid": token(number=1, jwk=jwk("ES256", "ES256", number=1)),
        "jku": token(number=1, jku="https://evil.example/keys"),
        "jku, signed rightly": token(jku="https://evil.example/keys"),
        "x5u": token(number=1, x5u="https://evil.example/chain"),
        "x5c": token(number=1, x5c=["MIIB"]),
        "a jwk that is an oct": token("HS256", key=b"k" * 32, jwk={"kty": "oct", "k": encode(b"k" * 32)}),
    },
    "kid": {
        f"kid {kid!r}"[:40]: token(kid=kid, number=1)
        for kid in (
            *("../../../../dev/null", "/dev/null", "' OR 1=1 --", "x' UNION SELECT 'AAAA", "| cat /etc/passwd", "\0"),
            *("ES256\0", "es256", "unknown", "ES256/../ES256", "https://evil.example/key", "${jndi:ldap://evil}"),
        )
    }
    | {f"kid is {kid!r}"[:40]: token(kid=kid) for kid in (1, True, ["ES256"], {"a": 1}, "", "k" * 257)}
    | {
        "kid is null": signed({**USUAL_HEADER, "kid": None}),
        "HS256 of /dev/null": with_key_of(b"\0", kid="/dev/null"),
    },
    "header": {
        "crit": token(crit=["exp"], exp=NOW + 10),
        "crit that is empty": token(crit=[]),
        "crit that is no list": token(crit="exp"),
        "crit of b64": token(crit=["b64"], b64=True),
        "b64 false": token(crit=["b64"], b64=False),
        "b64 without crit": token(b64=False),
        "zip": token(zip="DEF"),
        "enc": token(enc="A128GCM"),
        "typ of another use": token(typ="logout+jwt"),
        "typ that is no text": token(typ=["JWT"]),
        "typ that is empty": token(typ=""),
        "typ of events": token(typ="application/secevent+jwt"),
        "cty: a token inside": token(cty="JWT"),
        "cty: a token inside, in small letters": token(cty="application/jwt"),
        "cty that is no text": token(cty=1),
        "alg twice": signed('{"alg":"none","alg":"ES256","kid":"ES256"}'),
        "alg twice, the other way round": signed('{"alg":"ES256","kid":"ES256","alg":"none"}'),
        "kid twice": signed('{"alg":"ES256","kid":"x","kid":"ES256"}'),
        "alg twice, one escaped": signed('{"alg":"ES256","\\u0061lg":"ES256","kid":"ES256"}'),
        "a list": signed('[{"alg":"ES256"}]'),
        "a text": signed('"ES256"'),
        "null": signed("null"),
        "empty": signed("{}"),
        "nothing": f".{PAYLOAD}.{SIGNATURE}",
        "not JSON": signed("alg=ES256"),
        "Python's JSON": signed("{'alg':'ES256','kid':'ES256'}"),
        "a comment": signed('{"alg":"ES256",/**/"kid":"ES256"}'),
        "trailing bytes": signed(text_of(USUAL_HEADER) + "x"),
        "two objects": signed(text_of(USUAL_HEADER) * 2),
        "a trailing NUL": signed(text_of(USUAL_HEADER) + "\0"),
        "a comma too many": signed('{"alg":"ES256","kid":"ES256",}'),
        "NaN": signed('{"alg":"ES256","kid":"ES256","x":NaN}'),
    },
    "encoding": {
        f"{place} in {name}": signed(**{place: text_of(value).encode(name)})
        for place, value in (("header", USUAL_HEADER), ("payload", claims()))
        for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig")
    }
    | {
        "latin-1": signed(payload=text_of(claims())[:-1].encode() + b',"name":"J\xfcrgen"}'),
        "overlong UTF-8": signed(payload=text_of(claims()).encode().replace(b"bob", b"\xc1\xa2ob")),
        "surrogates in UTF-8": signed(payload=text_of(claims()).encode().replace(b"bob", b"\xed\xa0\x80")),
        "half of a character": signed(payload=said("name", '"\\ud800"')),
        "half of a character as a name": signed(payload=text_of(claims())[:-1] + ',"\\udc00":1}'),
        "a control character": signed(payload=said("name", '"a\nb"')),
    },
    "base64url": {
        "padding": f"{HEADER}.{PAYLOAD}.{SIGNATURE}==",
        "padding of the header": signed({"alg": "ES256", "kid": "ES256", "x": ""}).replace(".", "=.", 1),
        "bits left over": last_bits(),
        "plus and slash": VALID[:-4] + "+/+/",
        "a space inside": f"{HEADER}.{PAYLOAD}. {SIGNATURE}",
        "a tab inside": f"{HEADER}.\t{PAYLOAD}.{SIGNATURE}",
        "something ignored inside": f"{HEADER}.{PAYLOAD[:9]}!{PAYLOAD[9:]}.{SIGNATURE}",
        "a letter too many": f"{HEADER}.{PAYLOAD}.{SIGNATURE}AAA",
        "percent encoding": VALID.replace(".", "%2E", 1) + ".",
        "not ASCII": f"{HEADER}.{PAYLOAD}.{SIGNATURE}é",
        "a superscript": f"{HEADER}.{PAYLOAD}.{SIGNATURE}²",
    },
    "parts": {
        "one": HEADER,
        "two": f"{HEADER}.{PAYLOAD}",
        "four": f"{VALID}.{SIGNATURE}",
        "five, as encrypted": f"{HEADER}..{PAYLOAD}.{SIGNATURE}.{SIGNATURE}",
        "a dot at the end": VALID + ".",
        "a dot at the beginning": "." + VALID,
        "only dots": "..",
        "no payload": f"{HEADER}..{SIGNATURE}",
        "cut short": VALID[:-10],
        "cut in the payload": f"{HEADER}.{PAYLOAD[:-8]}.{SIGNATURE}",
        "two tokens": f"{VALID}, {VALID}",
        "two tokens with a space": f"{VALID} {VALID}",
        "too long": signed(payload=claims(filling="x" * 20_000)),
        "detached": f"{HEADER}..{SIGNATURE}",
    },
    "signature": {
        **{f"byte {place} changed": flipped(place) for place in (0, 1, 31, 32, 33, 62, 63)},
        "of another token": f"{HEADER}.{PAYLOAD}.{OTHER_SIGNATURE}",
        "payload changed": f"{HEADER}.{part(claims(org='globex'))}.{SIGNATURE}",
        "header changed": f"{part({**USUAL_HEADER, 'a': 1})}.{PAYLOAD}.{SIGNATURE}",
        "r and s are 0": bare(0, 0),
        "r is 0": bare(0, 1),
        "s is 0": bare(1, 0),
        "r and s are 1": bare(1, 1),
        "r and s are the order": bare(ORDER, ORDER),
        "r is 1 more than the order": bare(ORDER + 1, 1),
        "r and s are as large as can be": bare(2**256 - 1, 2**256 - 1),
        "in DER": der(),
        "a byte too long": f"{HEADER}.{PAYLOAD}.{encode(bytes(65))}",
        "a byte too short": f"{HEADER}.{PAYLOAD}.{encode(bytes(63))}",
        "as long as the one of ES384": f"{HEADER}.{PAYLOAD}.{encode(bytes(96))}",
        "RSA: all zero": f"{RSA_SIGNED.rpartition('.')[0]}.{encode(bytes(256))}",
        "RSA: 1": f"{RSA_SIGNED.rpartition('.')[0]}.{encode(bytes(255) + bytes([1]))}",
        "RSA: larger than the modulus": f"{RSA_SIGNED.rpartition('.')[0]}.{encode(bytes([255]) * 256)}",
        "RSA: zeros before it": f"{RSA_SIGNED.rpartition('.')[0]}.{encode(bytes(257))}",
        "RSA: cut short": f"{RSA_SIGNED.rpartition('.')[0]}.{encode(bytes(255))}",
        "HMAC: cut short": token("HS256")[:-8],
        "HMAC: all zero": f"{token('HS256').rpartition('.')[0]}.{encode(bytes(32))}",
        "HMAC: of the header alone": f"{HEADER}.{PAYLOAD}.{encode(sign(HEADER, 'HS256', SECRET))}",
        "Ed25519: all zero": f"{token('EdDSA').rpartition('.')[0]}.{encode(bytes(64))}",
        "Ed25519: cut short": token("EdDSA")[:-4],
    },
    "time": {
        "expired": token(payload=claims(exp=NOW - 60)),
        "expired long ago": token(payload=claims(exp=0)),
        "not valid yet": token(payload=claims(nbf=NOW + 80_000)),
        "issued in the future": token(payload=claims(iat=NOW + 80_000)),
        "no exp": token(payload=claims(exp=None)),
        **{
            f"{name} {written}": signed(payload=said(name, written))
            for name in ("exp", "nbf", "iat")
            for written in ("true", "null", "-1", "1e300", "[]", "{}")
        },
        **{
            f"exp {written}": signed(payload=said("exp", written))
            for written in ("NaN", "Infinity", "-Infinity", "1e400", "9" * 30, "9" * 5000, "-0.5", "1e12", '"never"')
        },
        "exp twice": signed(payload=text_of(claims())[:-1] + f',"exp":{NOW + 999}}}'),
        **{f"{name} as text": signed(payload=claims(**{name: str(claims()["iat"])})) for name in ("nbf", "iat")},
        "exp as text": signed(payload=claims(exp=str(NOW + 80_000))),
        "exp in milliseconds": signed(payload=claims(exp=(NOW + 80_000) * 1000)),
    },
    "claims": {
        "another issuer": token(payload=claims(iss="https://evil.example/")),
        "the issuer without its slash": token(payload=claims(iss="https://issuer.example")),
        "the issuer in a list": token(payload=claims(iss=["https://issuer.example/"])),
        "no issuer": token(payload=claims(iss=None)),
        "another audience": token(payload=claims(aud="films")),
        "no audience": token(payload=claims(aud=None)),
        "an empty list of audiences": token(payload=claims(aud=[])),
        "an audience that begins alike": token(payload=claims(aud="bookshop")),
        "an audience in an object": token(payload=claims(aud={"books": True})),
        "an audience in a list in a list": token(payload=claims(aud=[["books"]])),
        "an audience beside a number": token(payload=claims(aud=["books", 1])),
        "a subject that is a number": token(payload=claims(sub=7)),
        "a jti that is an object": token(payload=claims(jti={"a": 1})),
        "a jti of any length": token(payload=claims(jti="j" * 300)),
        "no organization": token(payload=claims(org=None)),
        "an empty organization": token(payload=claims(org="")),
        "an organization that is a list": token(payload=claims(org=["acme"])),
        "an organization that is true": token(payload=claims(org=True)),
        "no name": token(payload=claims(sub=None)),
        **{
            f"{name} {value!r}"[:40]: token(payload=claims(**{name: value}))
            for name in ("org", "sub")
            for value in ("a\r\nX-Admin: 1", "a\nb", "a\0b", "Jürgen", "a" * 129, " a", "\u202eacme", "a\x7f")
        },
        "sub twice": signed(payload=text_of(claims())[:-1] + ',"sub":"alice"}'),
        "a member twice, deep inside": signed(payload=text_of(claims())[:-1] + ',"a":[{"b":1,"b":2}]}'),
        "nested 33 levels": signed(payload=nested(33)),
        "nested 4000 levels": signed(payload=nested(4000)),
        "a list": signed(payload=[claims()]),
        "a text": signed(payload='"claims"'),
        "a number": signed(payload="1"),
        "null": signed(payload="null"),
        "a token": signed(payload=VALID),
        "nothing": signed(payload="{}"),
        "trailing bytes": signed(payload=text_of(claims()) + "}"),
    },
}
CASES = [pytest.param(made, id=f"{kind}: {name}") for kind, cases in ATTACKS.items() for name, made in cases.items()]


@pytest.fixture
def guard(stage: Stage) -> JwtAuth:
    return stage.make(JwtAuth, **options(*EVERY))  # type: ignore[return-value]


@pytest.mark.parametrize("attack", CASES)
async def test_an_attack_is_refused_like_any_other(stage: Stage, guard: JwtAuth, attack: str):
    for _ in range(2):  # once more, for what was remembered
        played = await stage.play(guard, request=ask(authorization=f"Bearer {attack}"))
        assert played.response.status == 401
        assert played.response.headers["www-authenticate"].startswith('Bearer realm="tallygate"')
        assert played.seen_upstream is None
        assert played.exchange.consumer is None
        assert b"detail" not in played.body


ACCEPTED = {
    **{name: token(name) for name in EVERY},
    **{f"{name} without kid": token(name, kid=None) for name in EVERY},
    "without typ": token(typ=None),
    "typ in small letters": token(typ="jwt"),
    "typ in full": token(typ="application/at+JWT"),
    "cty of something else": token(cty="json"),
    "members that nobody knows": token(nonce="x", x5t="abc", **{"x5t#S256": "abc"}),
    "white space in JSON": signed(b'\r\n{"alg" : "ES256",\t"kid":"ES256"}\n', payload=f" {text_of(claims())}\r\n"),
    "escapes in JSON": signed('{"\\u0061lg":"ES256","kid":"\\u0045S256"}'),
    "several audiences": token(payload=claims(aud=["films", "books"])),
    "fractions of seconds": token(payload=claims(exp=NOW + 80_000.5, nbf=NOW - 0.5, iat=NOW - 1.25)),
    "names beyond ASCII where they do no harm": token(payload=claims(given_name="Jürgen 🐘")),
    "a number as organization": token(payload=claims(org=4711)),
    "nested 30 levels": signed(payload=nested(30)),
}


@pytest.mark.parametrize("valid", list(ACCEPTED.values()), ids=list(ACCEPTED))
async def test_every_valid_token_is_accepted(stage: Stage, guard: JwtAuth, valid: str):
    for _ in range(2):
        played = await stage.play(guard, request=ask(authorization=f"Bearer {valid}"))
        assert played.response.status == 200
        assert played.exchange.consumer.name == "bob"
