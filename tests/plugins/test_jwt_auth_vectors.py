"""Signatures and tokens that others have made up to find mistakes, and our own attacks where they meet real sockets.

The signatures are a selection of Project Wycheproof's: r and s that are 0, too large or of the wrong length, paddings
that only look right, signatures of other hashes, and valid ones that careless arithmetic gets wrong.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.jwt_auth import JwtAuth
from plugins.jwt_auth.compact import decode_part
from plugins.jwt_auth.key_reading import key_from_jwk
from plugins.jwt_auth.strict_json import read_object
from tests.fixtures.conversation import calling, serving
from tests.fixtures.issuer import EVERY, options
from tests.fixtures.wire import Target
from tests.house.tree import ROOT
from tests.play import Stage
from tests.plugins.test_jwt_auth_attacks import ACCEPTED, ATTACKS

VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "fixtures" / "signatures.json").read_text())
NAMES = sorted({group["name"] for group in VECTORS["groups"]})


def of(name: str) -> list[tuple[dict[str, Any], str, int, bytes, bytes, bool]]:
    return [
        (group["jwk"], group["algorithm"], number, decoded(message), decoded(signature), valid)
        for group in VECTORS["groups"]
        if group["name"] == name
        for number, message, signature, valid in group["signatures"]
    ]


def decoded(text: str) -> bytes:
    return decode_part(text) if text else b""


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_is_right_or_wrong_as_the_vectors_say(name: str):
    found = of(name)
    assert {valid for *_, valid in found} == {True, False}
    wrong = [
        number
        for jwk, algorithm, number, message, signature, valid in found
        if key_from_jwk(jwk, frozenset({algorithm})).verifies(algorithm, message, signature) is not valid
    ]
    assert wrong == []


def test_there_are_vectors_of_every_kind():
    assert {group["algorithm"] for group in VECTORS["groups"]} >= {"ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"}
    assert sum(len(group["signatures"]) for group in VECTORS["groups"]) > 400


@pytest.mark.parametrize("example", VECTORS["tokens"], ids=lambda example: example["name"])
def test_the_cookbook_of_jose_is_read(example: dict[str, Any]):
    header, payload, signature = example["token"].split(".")
    algorithm = read_object(decode_part(header))["alg"]
    key = key_from_jwk(example["jwk"], frozenset({algorithm}))
    assert key.verifies(algorithm, f"{header}.{payload}".encode(), decode_part(signature))
    assert not key.verifies(algorithm, f"{header}.{payload[:-1]}".encode(), decode_part(signature))


# On the wire


def asking(text: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {text}\r\n\r\n".encode("latin-1")


async def test_every_attack_is_refused_on_the_wire_and_every_valid_token_let_in(stage: Stage):
    target = Target()
    async with serving(target, stage.make(JwtAuth, **options(*EVERY))) as edge:
        async with calling(edge) as caller:
            for name, text in ACCEPTED.items():
                await caller.say(asking(text))
                assert (await caller.answer()).startswith(b"HTTP/1.1 200 "), name
            heard = target.text
            for kind, attacks in ATTACKS.items():
                for name, text in attacks.items():
                    await caller.say(asking(text))
                    assert (await caller.answer()).startswith(b"HTTP/1.1 401 "), f"{kind}: {name}"
        assert heard.count(b"X-Tallygate-Consumer: bob\r\n") == len(ACCEPTED)
        assert target.text == heard
