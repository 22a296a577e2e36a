"""Let pages of other origins call this API from browsers (the Fetch standard, §3.2 "CORS protocol")."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from gateway.exchange import Exchange, Response
from gateway.header_options import FieldName
from gateway.headers import Headers, vary
from gateway.options import Duration
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import OriginRefused
from gateway.services import Services

# As browsers write it (RFC 6454 §6.2): no path, and no port that is the scheme's own.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_OWN_PORT: Final = re.compile(r"http://.*:80|https://.*:443")
_LABELS: Final = r"(?:[a-z0-9_-]++\.)+"


class Config(PluginConfig):
    """Who may call, and with what."""

    origins: list[str] = Field(min_length=1)
    """`https://app.example.com`, `https://*.example.com` for its subdomains, `null`, or `*` alone for all."""
    methods: list[Annotated[str, Field(pattern=r"^(\*|[A-Z]+(-[A-Z]+)*)$")]] = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    ]
    """Methods that pages may use. The route must match them, and OPTIONS too if it lists its methods."""
    headers: list[FieldName] = ["Authorization", "Content-Type", "X-Api-Key"]
    """Header fields that pages may send, beside those that any may; `*` for all but Authorization."""
    expose: list[FieldName] = []
    """Header fields of the answer that pages may read, beside those that any may; `*` for all."""
    credentials: bool = False
    """Pages may send cookies and client certificates. Every `*` must be a name then."""
    max_age: Duration = 600.0
    """How long a browser remembers the answer to its question; browsers allow 2h at most, or 24h."""
    private_network: bool = False
    """Public pages may call this API on a private network (Private Network Access)."""

    @field_validator("origins")
    @classmethod
    def _origins_are_origins(cls, value: list[str]) -> list[str]:
        origins = [origin.lower() for origin in value]
        if "*" in origins and len(origins) > 1:
            raise ValueError("`*` stands for all origins: list it alone")
        for origin in origins:
            match = _ORIGIN.fullmatch(origin)
            if origin not in ("*", "null") and (match is None or _OWN_PORT.fullmatch(origin)):
                raise ValueError(f"not an origin: {origin!r} (write https://app.example.com, as browsers do)")
            if match is not None and match[1] and "." not in match[2] and match[2] != "localhost":
                raise ValueError(f"{origin!r} would be anybody's")
        return origins

    @model_validator(mode="after")
    def _credentials_go_to_names(self) -> Config:
        if self.credentials:
            for option in ("origins", "methods", "headers", "expose"):
                if "*" in getattr(self, option):
                    raise ValueError(f"with `credentials`, browsers do not take `*` for all: name the {option}")
            if "null" in self.origins:
                raise ValueError("with `credentials`, `null` would let in any page, in a sandboxed frame")
        return self


class Cors(Plugin[Config]):
    """Lets pages of other origins call from browsers (the Fetch standard's CORS protocol).

    Preflights are answered here; other answers, refusals as well, tell the browser what the page may read. It is
    browsers that keep pages from reading, nothing keeps other programs from calling. What the upstream says about all
    this is taken out. List it before authentication: a browser asks first, without credentials.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._all = config.origins == ["*"]
        wild = [origin for origin in config.origins if "*." in origin]
        self._wild = re.compile("|".join(map(_pattern, wild))) if wild else None
        credentials = {"Access-Control-Allow-Credentials": "true"} if config.credentials else {}
        exposed = {"Access-Control-Expose-Headers": ", ".join(config.expose)} if config.expose else {}
        self._permission = credentials | exposed
        self._private_network = config.private_network
        self._preflight = Headers(
            {
                "Access-Control-Allow-Methods": ", ".join(config.methods),
                "Access-Control-Allow-Headers": ", ".join(config.headers),
                "Access-Control-Max-Age": str(int(config.max_age)),
                **credentials,
                **({} if self._all else {"Vary": "Origin"}),
            }
        )
        # Made once: `Headers.once` knows them again.
        self._tell_nobody = self._tell
        self._tell_named = {origin: partial(self._tell, origin=origin) for origin in {*config.origins} - {*wild}}

    def on_request(self, exchange: Exchange) -> Response | None:
        request = exchange.request
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        origin = request.headers.get("origin")
        if origin is None:
            return None
        if not (self._all or origin in self._tell_named or self._is_below(origin)):
            raise OriginRefused(headers={"vary": "Origin"})
        headers = self._preflight.copy()
        headers["Access-Control-Allow-Origin"] = "*" if self._all else origin
        if self._private_network and request.headers.get("access-control-request-private-network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return Response(204, headers)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        headers = response.headers
        origin = "*" if self._all else exchange.request.headers.get("origin")
        tell = self._tell_named.get(origin) if origin is not None else None
        if tell is not None:
            headers.once(tell)
        elif origin is not None and self._is_below(origin):
            self._tell(headers, origin)
        else:
            headers.once(self._tell_nobody)

    def _tell(self, headers: Headers, origin: str | None = None) -> None:
        """Say what pages of this origin may do, and nothing else; None is an origin that may not, or that none named.

        Caches must know that it depends on the origin, even where none was named.
        """
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            headers.update(self._permission)
        if origin != "*":
            vary(headers, "Origin")

    def _is_below(self, origin: str) -> bool:
        return self._wild is not None and self._wild.fullmatch(origin) is not None


def _pattern(origin: str) -> str:
    """The regular expression for `https://*.example.com`: one subdomain or more, then the rest to the letter."""
    scheme, _, rest = origin.partition("*.")
    return re.escape(scheme) + _LABELS + re.escape(rest)
