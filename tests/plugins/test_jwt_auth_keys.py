"""Keys as they are written: what is unsafe to verify with is not taken, and no key is for what it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.jwt_auth.compact import Token, decode_part
from plugins.jwt_auth.key import Key
from plugins.jwt_auth.key_reading import UnusableKey, key_from_jwk, key_from_pem, key_from_secret
from plugins.jwt_auth.key_set import MOST_TRIED, KeySet, read_key_set
from tests.fixtures.issuer import (
    ASYMMETRIC,
    EVERY,
    SECRET,
    encode,
    jwk,
    pem,
    private_key,
    rsa_key,
    token,
)

ALL = frozenset(EVERY)
RSA, EC = jwk("RS256", "k"), jwk("ES256", "k")


@pytest.mark.parametrize("name", [*ASYMMETRIC, "Ed448"])
def test_public_keys_are_read_as_jwk_and_pem(name: str):
    algorithm = "EdDSA" if name == "Ed448" else name
    made = token(name)
    signed, _, signature = made.rpartition(".")
    for key in (key_from_jwk(jwk(name, "k"), ALL), key_from_pem(pem(name), ALL, "k")):
        raw = decode_part(signature)
        assert key.verifies(algorithm, signed.encode(), raw)
        assert not key.verifies(algorithm, signed.encode() + b"x", raw)
    assert key_from_jwk(jwk(name, "k"), ALL) == key_from_pem(pem(name), ALL, "k")


def number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8 or 1, "big"))


N = private_key("RS256").public_key().public_numbers().n


@pytest.mark.parametrize(
    "written",
    [
        RSA | {"use": "enc"},
        RSA | {"use": 1},
        RSA | {"key_ops": ["encrypt"]},
        RSA | {"key_ops": []},
        RSA | {"key_ops": "verify"},
        RSA | {"alg": "RSA-OAEP"},
        RSA | {"alg": "ES256"},
        RSA | {"alg": None},
        RSA | {"d": "AQAB"},
        RSA | {"kid": 1},
        RSA | {"kid": ""},
        RSA | {"kid": "k" * 300},
        RSA | {"kty": "rsa"},
        RSA | {"kty": None},
        RSA | {"n": number(N)[:-4]},
        RSA | {"n": number(N * 2)},
        RSA | {"n": number(rsa_key(7, 1024).public_key().public_numbers().n)},
        RSA | {"n": encode(b"\xff" * 1025)},
        RSA | {"n": "A" * 100_000},
        RSA | {"n": RSA["n"] + "="},
        RSA | {"n": 1},
        RSA | {"e": number(1)},
        RSA | {"e": number(3)},
        RSA | {"e": number(65538)},
        RSA | {"e": number(2**32 + 1)},
        RSA | {"e": number(2**2000 + 1)},
        RSA | {"e": ""},
        EC | {"crv": "P-384"},
        EC | {"crv": "P-192"},
        EC | {"crv": ["P-256"]},
        EC | {"x": EC["y"], "y": EC["x"]},
        EC | {"x": encode(bytes(32)), "y": encode(bytes(32))},
        EC | {"x": EC["x"][:-2]},
        EC | {"y": encode(b"\0" + bytes(32))},
        EC | {"d": "AQAB"},
        jwk("ES256K", "k"),
        jwk("EdDSA", "k") | {"crv": "X25519"},
        jwk("EdDSA", "k") | {"crv": "Ed448"},
        jwk("EdDSA", "k") | {"x": "AAAA"},
        {"kty": "oct", "k": encode(SECRET)},
        {"kty": "oct"},
        {},
    ],
)
def test_a_published_key_that_is_unsafe_is_passed_over(written: dict[str, Any]):
    with pytest.raises(UnusableKey):
        key_from_jwk(written, ALL)
    good = jwk("ES256", "good")
    keys = read_key_set(json.dumps({"keys": [written, 1, good]}).encode(), ALL)
    assert [reason.partition(":")[0] for reason in keys.passed_over] == ["key 0", "key 1"]
    assert keys == KeySet([key_from_jwk(good, ALL)])


def test_a_key_is_for_the_algorithm_that_it_names_and_no_other():
    assert set(key_from_jwk(RSA | {"alg": "RS384"}, ALL).signatures) == {"RS384"}
    assert set(key_from_jwk(RSA, frozenset({"RS256", "PS256", "ES256"})).signatures) == {"RS256", "PS256"}
    assert set(key_from_jwk(EC, ALL).signatures) == {"ES256"}


def test_more_keys_than_anybody_has_are_no_key_set():
    with pytest.raises(ValueError, match="at most 100"):
        read_key_set(json.dumps({"keys": [{}] * 101}).encode(), ALL)


def test_a_secret_is_as_long_as_the_hash_at_least():
    assert set(key_from_secret(b"x" * 32, ALL).signatures) == {"HS256"}
    assert set(key_from_secret(b"x" * 63, ALL).signatures) == {"HS256", "HS384"}
    with pytest.raises(UnusableKey, match="can be guessed"):
        key_from_secret(b"x" * 31, ALL)


def test_no_public_key_is_taken_for_a_secret():
    for text in (pem("RS256"), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQDGk", json.dumps(RSA)):
        with pytest.raises(UnusableKey, match="everybody knows"):
            key_from_secret(text.encode(), ALL)


def test_keys_that_share_a_name_are_all_tried_but_not_without_end(monkeypatch: pytest.MonkeyPatch):
    twins = [key_from_jwk(jwk("ES256", "k", number), ALL) for number in range(2)]
    signed, _, signature = token(kid="k", number=1).rpartition(".")
    presented = Token("ES256", "k", {}, signed.encode(), decode_part(signature))
    assert KeySet(twins).signer(presented) == twins[1]
    tried: list[Key] = []
    monkeypatch.setattr(Key, "verifies", lambda key, *_: tried.append(key))
    crowd = KeySet([Key(None, bytes([number]), {"ES256": 64}, None) for number in range(9)])
    assert crowd.signer(presented) is None
    assert len(tried) == MOST_TRIED
