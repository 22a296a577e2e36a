"""Page: how a node is, for people: written here whole, so that it says everything without a script.

The script asks for the page again every two seconds and changes what differs, so that there is one way in which things
are shown. Whatever comes from a configuration or from a target is escaped by the template; the policy that goes with
the page lets a browser take style and script from this listener and nothing from anywhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Final

import aiohttp_jinja2
from aiohttp import web
from jinja2 import PackageLoader, StrictUndefined

from gateway.admin.status import MOST_ROUTES, SAMPLES, Status

SECURITY: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PLOT_WIDTH: Final = 240
PLOT_HEIGHT: Final = 32
_ASSETS: Final = {"page.css": "text/css", "page.js": "text/javascript"}


def add_page(application: web.Application) -> None:
    """Make an application able to show the page, with its style and its script."""
    aiohttp_jinja2.setup(
        application,
        loader=PackageLoader("gateway.admin"),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        default_helpers=False,
    ).filters.update(amount=amount, clock=clock, duration=duration, latency=latency, outline=outline, size=size)
    for name, kind in _ASSETS.items():
        application.router.add_get(f"/{name}", _asset(name, kind))


def page(request: web.Request, status: Status) -> web.Response:
    """The page that shows this."""
    traffic = list(status.traffic.values())
    totals = {
        "requests": _sums([each.requests for each in traffic]),
        "errors": _sums([each.errors for each in traffic]),
        "in_flight": sum(target.in_flight for upstream in status.routes.upstreams for target in upstream.targets),
    }
    box = {"width": PLOT_WIDTH, "height": PLOT_HEIGHT, "samples": SAMPLES}
    context = {"status": status, "totals": totals, "most_routes": MOST_ROUTES, **box}
    response = aiohttp_jinja2.render_template("page.html", request, context)
    response.headers.update(SECURITY)
    return response


def _asset(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = (files("gateway.admin") / "templates" / name).read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"cache-control": "no-cache"})

    return answer


def _sums(rows: Sequence[Sequence[float]]) -> list[float]:
    """The sum of each sample over all routes; one that began later has no early samples."""
    longest = max(map(len, rows), default=0)
    padded = [[0.0] * (longest - len(row)) + list(row) for row in rows]
    return [sum(sample) for sample in zip(*padded, strict=True)]


def outline(values: Sequence[float], peak: float) -> str:
    """The points of an SVG polyline in a box of PLOT_WIDTH by PLOT_HEIGHT: the latest value at the right edge, `peak`
    at the top, with room for all SAMPLES from edge to edge.
    """
    step = PLOT_WIDTH / (SAMPLES - 1)
    begin = PLOT_WIDTH - step * (len(values) - 1)
    room = PLOT_HEIGHT - 2  # so that no line is cut in half at an edge
    points = [
        f"{begin + place * step:.1f},{PLOT_HEIGHT - 1 - room * (value / peak if peak else 0.0):.1f}"
        for place, value in enumerate(values)
    ]
    return " ".join(points)


def amount(value: float | None) -> str:
    """A number with as many digits as say something: 0, 0.02, 3.4, 56, 1,234."""
    if value is None:
        return "–"
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def latency(seconds: float | None) -> str:
    """A short time: 0.4 ms, 12 ms, 3.4 s."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def duration(seconds: float | None) -> str:
    """A long time, in its two largest units: 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
    if seconds is None:
        return "–"
    parts = []
    rest = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        parts.append((number, unit))
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"


def size(value: float | None) -> str:
    """Bytes: 512 B, 1.5 KiB, 48 MiB."""
    if value is None:
        return "–"
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    place = 0
    while value >= 1024 and place < len(units) - 1:
        value /= 1024
        place += 1
    return f"{value:.1f} {units[place]}" if 0 < value < 10 and place else f"{value:.0f} {units[place]}"


def clock(moment: str) -> str:
    """When something was, as a person writes it: 2026-01-31 10:31:07 UTC."""
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%S} UTC"
