"""Keys as they are written: JWK (RFC 7517, RFC 7518 §6), PEM, and secrets. What is unsafe to use is refused here, and
numbers are looked at before anything is computed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from plugins.jwt_auth.compact import LONGEST_KID, decode_part
from plugins.jwt_auth.key import Key, Material, signatures_of

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
    "secp256k1": (ec.SECP256K1(), 32),
}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_LEAST_RSA_BITS: Final = 2048
_MOST_RSA_BITS: Final = 8192
_EXPONENTS: Final = range(65537, 2**32, 2)
"""Smaller ones are weak where padding is checked carelessly, larger ones are only there to keep us computing."""


class UnusableKey(ValueError):
    """A key that is not for verifying tokens here. The text says why, and repeats nothing of it."""


def key_from_jwk(jwk: Mapping[str, Any], allowed: frozenset[str], *, secret: bool = False) -> Key:
    """A key from its JWK, for the algorithms `allowed`. Raises UnusableKey; for a symmetric one unless `secret`."""
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("its `use` is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKey("its `key_ops` have no verify")
    if not _PRIVATE.isdisjoint(jwk):
        raise UnusableKey("it is a private key, which belongs to the issuer alone: write the public one")
    kid = jwk.get("kid")
    if "kid" in jwk and not (isinstance(kid, str) and 0 < len(kid) <= LONGEST_KID):
        raise UnusableKey(f"its `kid` is not text of 1 to {LONGEST_KID} characters")
    match jwk.get("kty"):
        case "RSA":
            material: Material = _rsa(jwk)
        case "EC":
            material = _elliptic(jwk)
        case "OKP":
            material = _edwards(jwk)
        case "oct" if secret:
            material = _bytes(jwk, "k")
        case "oct":
            raise UnusableKey("it is a secret, and secrets are not published")
        case _:
            raise UnusableKey("its `kty` is not RSA, EC or OKP")
    if "alg" in jwk:
        allowed &= {str(jwk["alg"])}
    return _key(kid, material, allowed)


def key_from_pem(text: str, allowed: frozenset[str], kid: str | None = None) -> Key:
    """A key from PEM: a public key or a certificate. Raises UnusableKey."""
    if "PRIVATE KEY" in text:
        raise UnusableKey("it is a private key, which belongs to the issuer alone: write the public one")
    try:
        raw = text.encode("ascii")
        public = load_pem_x509_certificate(raw).public_key() if "CERTIFICATE" in text else load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(
            "not a public key or certificate in PEM: write -----BEGIN PUBLIC KEY----- and so on"
        ) from None
    if isinstance(public, rsa.RSAPublicKey):
        _check_rsa(public.public_numbers())
    elif not isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        raise UnusableKey("it is not a key for signatures of tokens: RSA, EC, Ed25519 and Ed448 are")
    return _key(kid, public, allowed)


def key_from_secret(secret: bytes, allowed: frozenset[str], kid: str | None = None) -> Key:
    """A key from the secret that the issuer has too. Raises UnusableKey."""
    if b"-----BEGIN" in secret or secret.startswith((b"ssh-", b"ecdsa-", b'{"')):
        raise UnusableKey("it looks like a public key, which everybody knows: write it as `pem` or `jwk`")
    return _key(kid, secret, allowed)


def _key(kid: str | None, material: Material, allowed: frozenset[str]) -> Key:
    possible = signatures_of(material)
    signatures = {name: size for name, size in possible.items() if name in allowed}
    if isinstance(material, bytes):
        if len(material) < 32:
            raise UnusableKey("a secret of less than 32 bytes can be guessed: make one with `openssl rand -base64 64`")
        written = b"secret" + material
    else:
        written = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not signatures:
        names = ", ".join(possible) or "no algorithm of JWT"
        raise UnusableKey(f"it is for {names}, of which none is among the algorithms allowed for it")
    return Key(kid, sha256(written).digest(), signatures, material)


def _bytes(jwk: Mapping[str, Any], name: str, most: int = 1024) -> bytes:
    """A member in base64url. Raises UnusableKey, before it is decoded if it is too long."""
    text = jwk.get(name)
    if not isinstance(text, str) or len(text) > (most * 4 + 2) // 3:
        raise UnusableKey(f"its `{name}` is missing or too long")
    try:
        return decode_part(text)
    except ValueError as error:
        raise UnusableKey(f"its `{name}` is {error}") from None


def _rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = _bytes(jwk, "n", _MOST_RSA_BITS // 8 + 1), _bytes(jwk, "e", 8)
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    _check_rsa(numbers)
    return numbers.public_key()


def _check_rsa(numbers: rsa.RSAPublicNumbers) -> None:
    if not _LEAST_RSA_BITS <= numbers.n.bit_length() <= _MOST_RSA_BITS or numbers.n % 2 == 0:
        raise UnusableKey(f"an RSA key has {_LEAST_RSA_BITS} to {_MOST_RSA_BITS} bits and is odd")
    if numbers.e not in _EXPONENTS:
        raise UnusableKey("its exponent is not odd, from 65537 to 32 bits")


def _elliptic(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    curve, size = _CURVES.get(str(jwk.get("crv")), (None, 0))
    if curve is None:
        raise UnusableKey("its curve is not P-256, P-384, P-521 or secp256k1")
    x, y = _bytes(jwk, "x", size), _bytes(jwk, "y", size)
    if len(x) != size or len(y) != size:
        raise UnusableKey("its coordinates are not as long as the curve wants them")
    try:
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return numbers.public_key()
    except ValueError:
        raise UnusableKey("it is not a point on its curve") from None


def _edwards(jwk: Mapping[str, Any]) -> ed25519.Ed25519PublicKey | ed448.Ed448PublicKey:
    public = _bytes(jwk, "x", 57)
    try:
        match jwk.get("crv"):
            case "Ed25519":
                return ed25519.Ed25519PublicKey.from_public_bytes(public)
            case "Ed448":
                return ed448.Ed448PublicKey.from_public_bytes(public)
    except ValueError:
        raise UnusableKey("it is not as long as its curve wants it") from None
    raise UnusableKey("its curve is not Ed25519 or Ed448")
