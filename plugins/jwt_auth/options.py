"""The options of `jwt_auth`: whose tokens are taken, by which keys, and what their claims say about a caller."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from gateway.authentication import Realm
from gateway.claims import ClaimPath, ClaimsOptions, OneOrMore
from gateway.cookie import CookieName
from gateway.header_options import FieldName
from gateway.options import Duration, Options, Size
from gateway.plugin import PluginConfig
from gateway.tls.client import UpstreamTlsOptions
from plugins.jwt_auth.compact import LONGEST_KID
from plugins.jwt_auth.key import Algorithm, Key
from plugins.jwt_auth.key_reading import key_from_jwk, key_from_pem, key_from_secret
from plugins.jwt_auth.strict_json import read_object

_URL: Final = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?(\?[^\s#]*)?")


def _url(url: str) -> str:
    if not _URL.fullmatch(url):
        raise ValueError(f"not an address to fetch keys from: {url!r} (write https://host/path)")
    return url


class StaticKeyOptions(Options):
    """A key that the configuration holds: `pem`, `jwk` or `secret`, whichever it is written as."""

    id: Annotated[str, Field(min_length=1, max_length=LONGEST_KID)] | None = None
    """The `kid` of its tokens; without one it is tried for all tokens that name no other key. A `jwk` has its own."""
    pem: str | None = None
    """A public key or a certificate in PEM: `${file:keys/issuer.pem}`."""
    jwk: str | None = None
    """A key as JWK, in JSON; `oct` for a secret."""
    secret: str | None = None
    """The secret that the issuer signs with (HS256, HS384, HS512), of at least 32 bytes."""
    encoding: Literal["text", "base64", "hex"] = "text"
    """What `secret` is: the secret itself, or a writing of its bytes. Supabase signs with the text as it stands."""

    def key(self, allowed: frozenset[str]) -> Key:
        """The key, for those of the algorithms that suit it. Raises ValueError."""
        if self.pem is not None:
            return key_from_pem(self.pem, allowed, self.id)
        if self.jwk is not None:
            return key_from_jwk(read_object(self.jwk.encode()), allowed, secret=True)
        return key_from_secret(self._secret(), allowed, self.id)

    def _secret(self) -> bytes:
        text = self.secret or ""
        try:
            match self.encoding:
                case "base64":
                    return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
                case "hex":
                    return bytes.fromhex(text)
        except (ValueError, binascii.Error):
            raise ValueError(f"`secret` is not {self.encoding}") from None
        return text.encode()

    @model_validator(mode="after")
    def _is_one_key(self) -> StaticKeyOptions:
        if [self.pem, self.jwk, self.secret].count(None) != 2:
            raise ValueError("a key is exactly one of `pem`, `jwk` and `secret`")
        if self.jwk is not None and self.id is not None:
            raise ValueError("a `jwk` has its own `kid`: leave `id` out")
        return self


class KeysOptions(Options):
    """Where keys come from: the configuration, the issuer, or both."""

    static: list[StaticKeyOptions] = []
    """Keys that the configuration holds."""
    jwks: Annotated[str, AfterValidator(_url)] | None = None
    """The address of the issuer's JWK set."""
    discovery: bool = False
    """Ask the issuer for the address of its JWK set: `<issuer>/.well-known/openid-configuration`. That document must
    name the same issuer, to the letter."""
    allow_http: bool = False
    """Fetch keys without TLS too. Whoever is on the way can then let anybody in."""
    tls: UpstreamTlsOptions | None = None
    """TLS towards the issuer, such as the `ca` of one that has its certificate of an authority of your own."""
    timeout: Duration = Field(default=5.0, gt=0, le=60)
    """How long fetching may take. A request waits for it only if its key is not known."""
    refresh: Duration = Field(default=600.0, ge=60)
    """Keys are fetched anew at least this often; sooner if the answer's Cache-Control says so, but at most once a
    minute."""
    refetch: Duration = Field(default=10.0, ge=1)
    """The least time between two fetches because of tokens with a key that is not known."""
    stale: Duration = 86400.0
    """How long keys go on to be used when the issuer does not answer. Later its tokens are answered with 503."""

    @property
    def fetched(self) -> bool:
        """Whether the issuer is asked for keys."""
        return self.discovery or self.jwks is not None


class CacheOptions(Options):
    """What is remembered of tokens, in each process, by their SHA-256."""

    verified: int = Field(default=10_000, ge=1, le=1_000_000)
    """Tokens that were verified; about 2 KiB each. The one not seen for longest makes room. As many that other issuers
    made are known again by their digest alone."""
    lifetime: Duration = Field(default=300.0, gt=0)
    """How long a verified token is remembered; never longer than it is valid, or than its key is."""
    refused: int = Field(default=1_000, ge=1, le=100_000)
    """Tokens whose signature was wrong, so that repeating them costs nothing."""


class Config(PluginConfig):
    """Whose tokens are taken, where they are, and what they say. `issuer`, `audience` and `algorithms` must be said."""

    issuer: OneOrMore | None
    """The `iss` of tokens, to the letter; several if all sign with the same keys; null for any."""
    audience: OneOrMore | None
    """The `aud` of tokens must hold one of these. null takes tokens that the issuer made for others too."""
    algorithms: list[Algorithm] = Field(min_length=1)
    """The algorithms that are allowed; each token must also suit its key."""
    keys: KeysOptions
    """Where keys come from."""
    claims: ClaimsOptions
    """What claims say about a caller."""
    types: list[str] = Field(default=["JWT", "at+jwt"], min_length=1)
    """The `typ` of tokens, without `application/`; one without `typ` is a JWT. `[at+jwt]` takes access tokens of
    RFC 9068 only."""
    leeway: Duration = Field(default=5.0, le=300)
    """By how much the clocks of issuer and gateway may differ."""
    require_expiry: bool = True
    """Refuse tokens without `exp`."""
    max_lifetime: Duration | None = None
    """The longest time between `iat` and `exp`; tokens without either are then refused."""
    required: list[ClaimPath] = []
    """Claims that must be there, whatever they say."""
    bearer: bool = True
    """Take tokens from `Authorization: Bearer <token>`."""
    header: FieldName | None = None
    """A header field that may hold the token instead."""
    cookie: CookieName | None = None
    """A cookie that may hold the token instead. Guard against forged requests from other sites then."""
    query: str | None = Field(default=None, min_length=1)
    """A query parameter that may hold the token instead. Tokens in URLs end up in logs: avoid it."""
    forward: bool = False
    """Leave the token in the request that goes upstream."""
    realm: Realm = "tallygate"
    """What a refusal calls the protected area."""
    max_size: Size = Field(default=16 * 1024, ge=256, le=2**20)
    """The longest token."""
    cache: CacheOptions = CacheOptions()
    """What is remembered of tokens."""

    @model_validator(mode="after")
    def _a_token_has_a_place(self) -> Config:
        if not self.bearer and self.header is None and self.cookie is None and self.query is None:
            raise ValueError("a token has no place (write `bearer: true`, or name a `header`, `cookie` or `query`)")
        return self

    @model_validator(mode="after")
    def _can_verify(self) -> Config:
        keys = self.keys
        if not keys.static and not keys.fetched:
            raise ValueError("`keys` needs `static`, `jwks` or `discovery`: without keys no token can be verified")
        if keys.tls is not None and not keys.fetched:
            raise ValueError("`keys.tls` is for keys that are fetched: there is neither `jwks` nor `discovery`")
        if keys.discovery and (not isinstance(self.issuer, str) or keys.jwks is not None):
            raise ValueError("`keys.discovery` asks one `issuer`, and then needs no `keys.jwks`")
        for url in (keys.jwks, self.issuer if keys.discovery else None):
            if isinstance(url, str) and not (_url(url).startswith("https:") or keys.allow_http):
                raise ValueError("keys are fetched by https; `keys.allow_http: true` allows http all the same")
        fetched = {name for name in self.algorithms if not name.startswith("HS")} if keys.fetched else set()
        usable = {name for key in self.static_keys() for name in key.signatures} | fetched
        if without := [name for name in self.algorithms if name not in usable]:
            raise ValueError(f"no key is for {', '.join(without)}: leave it out of `algorithms`")
        if keys.fetched and not fetched:
            raise ValueError("an issuer publishes no secrets: `algorithms` needs one that is not HS…")
        return self

    def static_keys(self) -> list[Key]:
        """The keys that the configuration holds. Raises ValueError for one that is of no use."""
        return [each.key(frozenset(self.algorithms)) for each in self.keys.static]

    def issuers(self) -> list[str] | None:
        """The issuers as a list; None for any."""
        return [self.issuer] if isinstance(self.issuer, str) else self.issuer

    def audiences(self) -> list[str] | None:
        """The audiences as a list; None for any."""
        return [self.audience] if isinstance(self.audience, str) else self.audience
