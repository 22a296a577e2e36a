"""Route: which requests it matches, which plugins they walk through, and which upstream answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gateway.options import Options, Size


class MatchOptions(Options):
    """What a request must look like. Everything given must hold."""

    host: str | None = None
    """Host name, or `*.example.com` for its subdomains. Any host if absent."""
    path: str = "/*"
    """Path; `{name}` stands for one segment and is remembered, a final `/*` for the path itself and all below it."""
    methods: list[str] | None = None
    """Methods in capital letters. Any method if absent."""
    headers: dict[str, str] = {}
    """Header fields and the exact values they must have."""


class RouteOptions(Options):
    """One way through the gateway. Of the routes that match a request the most specific one takes it."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")
    """Name in logs, metrics and usage records."""
    match: MatchOptions = MatchOptions()
    """Which requests take this route."""
    upstream: str
    """Name of the upstream that answers."""
    plugins: list[dict[str, Any]] = []
    """Plugins of this route, after those of the top level, in order: `- name: {options}`."""
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    """When the client leaves early: `cancel` the upstream call, or `drain` it to the end so that its usage is known."""
    max_body: Size = 4 * 2**30
    """Largest request body; a larger one is answered 413."""
