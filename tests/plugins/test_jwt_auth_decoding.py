"""The strict readers: they raise nothing but their own refusal, agree with PyJWT about what is valid, and with RFCs."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.claims import ClaimMapping
from gateway.credentials import InvalidToken
from plugins.jwt_auth import JwtAuth
from plugins.jwt_auth.claims import ClaimRules, caller_of
from plugins.jwt_auth.compact import TokenReader, decode_part
from plugins.jwt_auth.key_reading import UnusableKey, key_from_jwk
from plugins.jwt_auth.key_set import read_key_set
from plugins.jwt_auth.options import Config
from plugins.jwt_auth.strict_json import DEEPEST, read_object
from tests.fixtures.issuer import EVERY, SECRET, encode, options, part, token
from tests.play import Stage, ask

ALL = frozenset(EVERY)
READER = TokenReader(EVERY, ["JWT"], 16_384)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=6)


@given(OBJECTS, st.booleans())
def test_json_is_read_as_it_was_written(written: dict[str, Any], escaped: bool):
    assert read_object(json.dumps(written, ensure_ascii=escaped).encode()) == written


@given(st.binary(max_size=60) | st.text('{}[]":,\\u0ade1- \nNaInfty.+', max_size=60).map(str.encode))
def test_bytes_are_an_object_or_no_json_at_all(raw: bytes):
    try:
        value = read_object(raw)
    except ValueError:
        return
    assert value == json.loads(raw.decode())  # nothing else has a meaning of its own


@given(st.integers(1, 80), st.sampled_from(['{"a":%s}', "[%s]"]))
def test_nesting_has_a_limit(depth: int, level: str):
    text = "1"
    for _ in range(depth):
        text = level % text
    raw = f'{{"a":{text}}}'.encode()
    if depth < DEEPEST:
        assert read_object(raw) == json.loads(raw)
    else:
        with pytest.raises(ValueError, match="nested too deeply"):
            read_object(raw)


@given(st.binary(min_size=1, max_size=50))
def test_base64url_has_one_writing(raw: bytes):
    assert decode_part(encode(raw)) == raw


@given(st.text("AZaz09-_+/= \n.é", max_size=12))
def test_any_other_writing_is_refused(text: str):
    try:
        raw = decode_part(text)
    except ValueError:
        return
    assert encode(raw) == text
    assert urlsafe_b64decode(text + "=" * (-len(text) % 4)) == raw


HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "none", "HS512", ""])},
    optional={
        "typ": st.sampled_from(["JWT", "jwt", "application/jwt", "at+jwt", 1]),
        "kid": st.sampled_from(["k", "", 1, None]),
        "crit": st.just(["exp"]),
        "cty": st.sampled_from(["JWT", "json"]),
        "x": VALUES,
    },
)


@given(HEADERS, OBJECTS)
def test_whatever_is_accepted_pyjwt_reads_alike(header: dict[str, Any], payload: dict[str, Any]):
    algorithm = header["alg"] if header["alg"] in ("HS256", "HS512") else "HS256"
    made = token(algorithm, header=header, payload=payload, key=SECRET)
    try:
        read = READER.read(made)
    except InvalidToken:
        return
    theirs = jwt.PyJWS().decode_complete(made, SECRET, algorithms=["HS256", "HS512"])
    assert theirs["header"] == header
    assert json.loads(theirs["payload"]) == read.claims
    assert (read.algorithm, read.kid) == (theirs["header"]["alg"], theirs["header"].get("kid"))
    assert read.signature == theirs["signature"]


@given(OBJECTS, st.sampled_from(EVERY))
def test_whatever_pyjwt_writes_is_accepted(payload: dict[str, Any], algorithm: str):
    made = jwt.PyJWS().encode(json.dumps(payload).encode(), SECRET, "HS256", {"kid": algorithm})
    assert READER.read(made).claims == json.loads(json.dumps(payload))


PARTS = st.text(max_size=20) | st.binary(max_size=20).map(encode) | OBJECTS.map(part) | HEADERS.map(part)


@given(st.lists(PARTS, max_size=5).map(".".join))
def test_any_text_is_a_token_or_refused(text: str):
    try:
        READER.read(text)
    except InvalidToken:
        return


CONFIG = Config.model_validate(
    options(claims={"organization": ["org", "a.b"], "roles": "roles", "scopes": "a", "attributes": {"x": "a.b.c"}})
    | {"issuer": None, "audience": None, "require_expiry": False, "required": ["sub"], "max_lifetime": 1e9}
)
RULES, MAPPING = ClaimRules(CONFIG), ClaimMapping(CONFIG.claims)
NAMED = st.dictionaries(
    st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "org", "roles", "scope", "sid", "a", "b", "c"]),
    VALUES | st.sampled_from([0, 1, 2**40, "acme", ["reader"], {"b": {"c": "d"}}]),
)


@given(NAMED)
def test_any_claims_are_valid_or_refused(claims: dict[str, Any]):
    try:
        RULES.check(claims, 1e9)
        caller = caller_of(claims, MAPPING)
    except InvalidToken:
        return
    assert b"\n" not in caller.consumer.identity.replace(b"\r\n", b"")


JWKS = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "k", "use", "key_ops", "alg", "kid"]),
    st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "AQAB", "ES256", ["verify"]])
    | st.binary(max_size=70).map(encode)
    | VALUES,
)


@given(JWKS)
def test_any_jwk_is_a_key_or_refused(written: dict[str, Any]):
    try:
        assert key_from_jwk(written, ALL).signatures
    except UnusableKey:
        return


@given(st.binary(max_size=40) | st.lists(VALUES, max_size=3).map(lambda keys: json.dumps({"keys": keys}).encode()))
def test_any_document_is_a_key_set_or_refused(document: bytes):
    try:
        read_key_set(document, ALL)
    except ValueError:
        return


# The examples of RFC 7515 (A.1 to A.4), RFC 7520 (4.4) and RFC 8037 (A.4).
JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
HS256 = (
    {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
    JOE,
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
)
RS256 = (
    {
        "kty": "RSA",
        "n": (
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
            "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
            "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
            "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
        ),
        "e": "AQAB",
    },
    "eyJhbGciOiJSUzI1NiJ9",
    JOE,
    (
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1"
        "dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDw"
        "usC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77R"
        "w"
    ),
)
ES256 = (
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    "eyJhbGciOiJFUzI1NiJ9",
    JOE,
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
)
ES512 = (
    {
        "kty": "EC",
        "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    },
    "eyJhbGciOiJFUzUxMiJ9",
    "UGF5bG9hZA",
    (
        "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX"
        "3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
    ),
)
COOKBOOK_HS256 = (
    {"kty": "oct", "k": "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"},
    "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9",
    (
        "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIG"
        "lmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4"
    ),
    "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
)
ED25519 = (
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    "eyJhbGciOiJFZERTQSJ9",
    "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
)
EXAMPLES = {
    "RFC 7515 A.1": HS256,
    "RFC 7515 A.2": RS256,
    "RFC 7515 A.3": ES256,
    "RFC 7515 A.4": ES512,
    "RFC 7520 4.4": COOKBOOK_HS256,
    "RFC 8037 A.4": ED25519,
}


@pytest.mark.parametrize("example", list(EXAMPLES.values()), ids=list(EXAMPLES))
def test_the_signatures_of_the_rfcs_are_right(example: tuple[dict[str, str], str, str, str]):
    written, header, payload, signature = example
    key, algorithm = key_from_jwk(written, ALL, secret=True), read_object(decode_part(header))["alg"]
    assert key.verifies(algorithm, f"{header}.{payload}".encode(), decode_part(signature))
    assert not key.verifies(algorithm, f"{header}.{payload}A".encode(), decode_part(signature))


@pytest.mark.parametrize("example", [HS256, RS256, ES256], ids=["RFC 7515 A.1", "RFC 7515 A.2", "RFC 7515 A.3"])
async def test_the_tokens_of_rfc_7515_are_accepted_in_their_time(stage: Stage, example: tuple[Any, str, str, str]):
    written, *parts = example
    seconds = [1300819000]
    stage.clock.nanos = lambda: seconds[0] * 10**9  # type: ignore[method-assign]
    described = options(
        issuer="joe",
        audience=None,
        algorithms=[read_object(decode_part(parts[0]))["alg"]],
        keys={"static": [{"jwk": json.dumps(written)}]},
        claims={"organization": "iss", "name": "iss"},
    )
    plugin = stage.make(JwtAuth, **described)
    request = ask(authorization=f"Bearer {'.'.join(parts)}")
    assert (await stage.play(plugin, request=request)).response.status == 200
    seconds[0] = 1300819400
    again = ask(authorization=f"Bearer {'.'.join(parts)}")
    assert (await stage.play(plugin, request=again)).response.status == 401
