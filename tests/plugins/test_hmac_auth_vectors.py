"""The examples of RFC 9421, appendix B.2: the text that is signed must be the one that their signatures are of.

Only B.2.5 is made with an HMAC. The others show, with the keys of appendix B.1, that the text is right.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.body import Body
from gateway.consumers import ConsumerOptions
from gateway.exchange import Request
from gateway.headers import Headers
from plugins.hmac_auth import HmacAuth
from plugins.hmac_auth.digest import holds, read_digests
from plugins.hmac_auth.signature import covers_request, read_signature, signed_text
from tests.play import Stage

BODY = b'{"hello": "world"}'
DIGEST = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
CREATED = 1618884473

RSA_PSS = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
"""
ED25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
SECRET = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="

MINIMAL = f'sig-b21=();created={CREATED};keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"'
MINIMAL_SIGNATURE = (
    "sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckz"
    "XaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c"
    "0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5N"
    "yt8C8ssinQ98Xw9Q==:"
)
SELECTIVE = (
    'sig-b22=("@authority" "content-digest" "@query-param";name="Pet")'
    f';created={CREATED};keyid="test-key-rsa-pss";tag="header-example"'
)
SELECTIVE_SIGNATURE = (
    "sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSow"
    "OB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s"
    "7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3"
    "/XaVe4bXTugEjHSw==:"
)
FULL = (
    'sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length")'
    f';created={CREATED};keyid="test-key-rsa-pss"'
)
FULL_SIGNATURE = (
    "sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768Z"
    "rCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/C"
    "CoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5"
    "fTIztsDZKEgM4cUA==:"
)
HMAC = f'sig-b25=("date" "@authority" "content-type");created={CREATED};keyid="test-shared-secret"'
HMAC_SIGNATURE = "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:"
EDWARDS = (
    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
    f';created={CREATED};keyid="test-key-ed25519"'
)
EDWARDS_SIGNATURE = "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"


def example(inputs: str, signatures: str) -> Request:
    """The request `test-request` of appendix B.2, as it arrives."""
    fields = {
        "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "Content-Type": "application/json",
        "Content-Digest": DIGEST,
        "Signature-Input": inputs,
        "Signature": signatures,
    }
    body = Body(length=len(BODY))
    body.feed(BODY)
    body.finish()
    request = Request("POST", "/foo?param=Value&Pet=dog", Headers(fields), body)
    request.host = "example.com"
    return request


def signed_by_rsa(text: bytes, signature: bytes) -> None:
    key = load_pem_public_key(RSA_PSS.encode())
    assert isinstance(key, RSAPublicKey)
    key.verify(signature, text, PSS(MGF1(SHA512()), 64), SHA512())


def signed_by_edwards(text: bytes, signature: bytes) -> None:
    key = load_pem_public_key(ED25519.encode())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(signature, text)


def signed_by_secret(text: bytes, signature: bytes) -> None:
    assert hmac.digest(b64decode(SECRET), text, "sha256") == signature


@pytest.mark.parametrize(
    ("inputs", "signatures", "verify"),
    [
        (MINIMAL, MINIMAL_SIGNATURE, signed_by_rsa),
        (SELECTIVE, SELECTIVE_SIGNATURE, signed_by_rsa),
        (FULL, FULL_SIGNATURE, signed_by_rsa),
        (HMAC, HMAC_SIGNATURE, signed_by_secret),
        (EDWARDS, EDWARDS_SIGNATURE, signed_by_edwards),
    ],
    ids=["B.2.1", "B.2.2", "B.2.3", "B.2.5", "B.2.6"],
)
def test_the_text_is_the_one_that_was_signed(inputs, signatures, verify):
    request = example(inputs, signatures)
    signature = read_signature(request.headers, None)
    assert signature.created == CREATED
    verify(signed_text(signature, request), signature.value)


def test_of_several_one_is_picked_by_its_label():
    request = example(f"{MINIMAL}, {HMAC}", f"{HMAC_SIGNATURE}, {MINIMAL_SIGNATURE}")
    signature = read_signature(request.headers, "sig-b25")
    signed_by_secret(signed_text(signature, request), signature.value)
    with pytest.raises(ValueError, match="not one signature"):
        read_signature(request.headers, None)


def test_a_component_of_a_response_is_none_of_a_request():
    """B.2.4 signs a response."""
    inputs = f'sig-b24=("@status" "content-type");created={CREATED};keyid="test-key-ecc-p256"'
    request = example(inputs, "sig-b24=:AAAA:")
    with pytest.raises(ValueError, match="not a component"):
        signed_text(read_signature(request.headers, None), request)


def test_the_digest_is_that_of_the_body():
    request = example(MINIMAL, MINIMAL_SIGNATURE)
    assert holds(read_digests(request.headers), BODY)
    assert not holds(read_digests(request.headers), BODY + b"\n")


async def test_none_of_the_examples_covers_enough_to_be_let_in(tmp_path: Path):
    """B.2.5 is old, has no nonce, and says nothing of method and target: it would be good for any request."""
    keys = [{"id": "test-shared-secret", "secret": SECRET}]
    consumer = ConsumerOptions.model_validate({"name": "a", "organization": "b", "hmac_keys": keys})
    stage = Stage(tmp_path / "journal", consumers=[consumer])
    request = example(HMAC, HMAC_SIGNATURE)
    assert not covers_request(read_signature(request.headers, None), request)
    played = await stage.play(stage.make(HmacAuth, nonce=False), request=request)
    assert played.response.status == 401
    await stage.close()
