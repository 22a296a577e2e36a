"""The options of `introspection`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.authentication import Realm
from gateway.claims import ClaimPaths, ClaimsOptions, OneOrMore
from gateway.options import Duration, Options, Size, UpstreamName
from gateway.plugin import PluginConfig


class CacheOptions(Options):
    """What is remembered of tokens, in each process, by a keyed digest."""

    active: Duration = Field(default=60.0, ge=0, le=86400)
    """How long a token that is active is not asked about again; never beyond its `exp`. So long a token that has been
    revoked is still taken."""
    inactive: Duration = Field(default=10.0, ge=0, le=3600)
    """How long a token that is not active is not asked about again."""
    max_staleness: Duration = Field(default=0.0, ge=0, le=86400)
    """How much longer an active token is taken, at most until its `exp`, while its issuer does not answer or too many
    tokens are asked about."""
    max_tokens: int = Field(default=10_000, ge=1, le=1_000_000)
    """Active tokens that are remembered, and as many others; the one not seen for longest makes room."""


class TokenClaimsOptions(ClaimsOptions):
    __doc__ = ClaimsOptions.__doc__

    name: ClaimPaths = ["sub", "client_id"]
    """Who calls, as it appears in logs and upstream. A token without it is refused."""


class Config(PluginConfig):
    """Who is asked, as whom, and what the answer says about a caller."""

    upstream: UpstreamName
    """The upstream that is asked. Who can listen in on it has all tokens: give it `https` targets. Its `tls` names the
    authority that they are of, and a certificate of ours where they ask for one."""
    path: str = Field(pattern=r"^/[!-\"$->@-~]*$")
    """The path of its introspection endpoint, such as `/oauth2/introspect`."""
    client_id: str = Field(min_length=1, max_length=256)
    """Who we are there."""
    client_secret: str = Field(min_length=1, max_length=1024)
    """Our secret there; best as `${file:path}`."""
    client_authentication: Literal["basic", "post"] = "basic"
    """Where id and secret go: in the field Authorization, or in the body (RFC 6749 §2.3.1)."""
    issuer: OneOrMore | None = None
    """What `iss` must say, to the letter, or one of several; null for anything."""
    audience: OneOrMore | None = None
    """What `aud` must name, or one of several. null takes tokens that the issuer made for others too."""
    claims: TokenClaimsOptions
    """What the answer says about a caller."""
    timeout: Duration = Field(default=2.0, gt=0, le=30)
    """How long the answer may take."""
    cache: CacheOptions = CacheOptions()
    """What is remembered of tokens."""
    max_in_flight: int = Field(default=64, ge=1, le=10_000)
    """Tokens that are asked about at a time; further ones are refused (503)."""
    max_size: Size = Field(default=4096, ge=16, le=64 * 1024)
    """The longest token."""
    forward: bool = False
    """Leave the token in the request that goes upstream."""
    realm: Realm = "tallygate"
    """What a refusal calls the protected area."""
