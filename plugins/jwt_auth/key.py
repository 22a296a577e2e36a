"""A key, and what it may verify: the algorithm of a token must be one of its key's, and the signature as long as the
algorithm makes it. So no token can have a key used for what it is not (RFC 8725 §3.1), an RSA key as a secret least
of all.

The one door to PyJWT: what it is asked for is the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

_Hmac: TypeAlias = Literal["HS256", "HS384", "HS512"]
_Rsa: TypeAlias = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
_Curve: TypeAlias = Literal["ES256", "ES384", "ES512", "ES256K", "EdDSA"]
Algorithm: TypeAlias = Literal[_Hmac, _Rsa, _Curve]
"""An `alg` that tokens may be signed with (RFC 7518 §3.1, RFC 8037, RFC 8812). There is no `none` to allow."""
Material: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

_HASH_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_BY_CURVE: Final = {
    "secp256r1": {"ES256": 64},
    "secp384r1": {"ES384": 96},
    "secp521r1": {"ES512": 132},
    "secp256k1": {"ES256K": 64},
}
_ALGORITHMS: Final = get_default_algorithms()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an issuer. `id` is its kid, `signatures` the bytes of a signature by the algorithm that makes it.

    Two are equal if they are the same key for the same algorithms: `fingerprint` stands for the material.
    """

    id: str | None
    fingerprint: bytes
    signatures: Mapping[str, int] = field(hash=False)
    material: Any = field(compare=False, repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether this key made the signature of these bytes with this algorithm."""
        if self.signatures.get(algorithm) != len(signature):
            return False
        return _ALGORITHMS[algorithm].verify(signed, self.material, signature)


def signatures_of(material: Material) -> dict[str, int]:
    """The algorithms that a key is for, and the bytes of their signatures; none for a key that is for none.

    A secret is at least as long as the hash (RFC 7518 §3.2), a curve has one algorithm (§3.4, RFC 8037, RFC 8812).
    """
    match material:
        case bytes():
            return {name: size for name, size in _HASH_BYTES.items() if len(material) >= size}
        case RSAPublicKey():
            return dict.fromkeys(get_args(_Rsa), (material.key_size + 7) // 8)
        case EllipticCurvePublicKey():
            return _BY_CURVE.get(material.curve.name, {})
        case Ed25519PublicKey():
            return {"EdDSA": 64}
        case Ed448PublicKey():
            return {"EdDSA": 114}
