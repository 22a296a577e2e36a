"""Sticky: a client's calls go to the target that answered its first one, which a cookie of ours remembers.

The balancer picks for whoever has no such cookie, or whose target is gone: so new clients are spread as it sees fit,
and a client moves only when it must. Nothing is signed, because a forged cookie gains nothing but another target. Its
value is a hash: it does not show the target's address. But addresses of private networks are few enough to be tried
one by one; `salt` is what keeps them from being found like that.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from gateway.cookie import CookieName, SameSite, read_cookie, write_cookie
from gateway.exchange import Request
from gateway.options import Duration, Options
from gateway.upstream.target import Target


class StickyOptions(Options):
    """Keeps a client at one target by a cookie that the gateway sets."""

    cookie: CookieName
    """Name of the cookie."""
    max_age: Annotated[Duration, Field(gt=0)] | None = None
    """How long the client keeps it; until its session ends if absent."""
    secure: bool = True
    """Only sent back over HTTPS. A client on plain HTTP is not kept at its target unless this is `false`."""
    same_site: SameSite = "lax"
    """Whether other sites' requests carry it: `strict`, `lax` or `none`."""
    salt: str = ""
    """Secret text, the same on all gateways, without which targets' addresses cannot be guessed from the cookie."""

    @model_validator(mode="after")
    def _browsers_would_keep_it(self) -> StickyOptions:
        if not self.secure and (self.same_site == "none" or self.cookie.startswith(("__Host-", "__Secure-"))):
            raise ValueError(
                "browsers drop this cookie unless it is secure (leave out `secure: false`, "
                "or write `same_site: lax` and a name without __Host- and __Secure-)"
            )
        return self

    @field_validator("max_age")
    @classmethod
    def _it_lives_for_a_while(cls, value: float | None) -> float | None:
        if value is not None and value < 1:
            raise ValueError("shorter than a second (write 1s or more, or leave it out)")
        return value

    @field_validator("salt")
    @classmethod
    def _salt_fits(cls, value: str) -> str:
        if len(value.encode()) > blake2b.MAX_KEY_SIZE:
            raise ValueError(f"holds more than {blake2b.MAX_KEY_SIZE} bytes")
        return value


class Sticky:
    """Which target a cookie means, and which cookie means a target."""

    def __init__(self, options: StickyOptions) -> None:
        self._options = options
        self._by_value: dict[str, Target] = {}
        self._cookies: dict[Target, tuple[str, str]] = {}  # value, and the whole Set-Cookie

    def use(self, targets: Iterable[Target]) -> None:
        """From now on these are available. One that is drained keeps the clients it has."""
        self._by_value = {self._value(target): target for target in targets}
        self._cookies = {target: (value, self._set_cookie(value)) for value, target in self._by_value.items()}

    def target(self, request: Request) -> Target | None:
        """The target that this client is kept at; None for a new client, or one whose target is not available."""
        value = read_cookie(request.headers, self._options.cookie)
        return self._by_value.get(value) if value is not None else None

    def set_cookie(self, request: Request, target: Target) -> str | None:
        """The Set-Cookie with which the client comes back to `target`, which answered; None if it needs none."""
        known = self._cookies.get(target)
        if known is None or read_cookie(request.headers, self._options.cookie) == known[0]:
            return None
        return known[1]

    def _value(self, target: Target) -> str:
        return blake2b(target.name.encode(), digest_size=16, key=self._options.salt.encode()).hexdigest()

    def _set_cookie(self, value: str) -> str:
        options = self._options
        return write_cookie(
            options.cookie, value, max_age=options.max_age, secure=options.secure, same_site=options.same_site
        )
