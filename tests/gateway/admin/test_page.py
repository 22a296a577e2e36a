"""Page: what it says over HTTP, and that nothing which comes from outside becomes a part of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.page import PLOT_HEIGHT, PLOT_WIDTH, amount, clock, duration, latency, outline, size
from gateway.admin.status import (
    MOST_ROUTES,
    SAMPLES,
    DestinationStatus,
    PluginStatus,
    ProcessStatus,
    Routes,
    RouteStatus,
    TargetStatus,
    Traffic,
    UpstreamStatus,
)
from tests.fixtures.operated import Served, served, status

__all__ = ["served"]

HOSTILE = "</code><script src=//evil.example></script>\"'><img src=x onerror=hacked()>{{ 7 * 7 }}&amp;"
VOID = {"meta", "link", "line", "polyline", "polygon", "img"}


class Read(HTMLParser):
    """A page taken apart: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        self.text += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


async def shown(served: Served, **more: Any) -> Read:
    served.node.now = status(**more)
    code, _, body = await served.ask("/")
    assert code == 200
    return Read(body.decode())


async def test_it_says_how_everything_is(served: Served) -> None:
    page = await shown(served)
    words = " ".join(page.text.split())
    for said in (
        "serving 2 of 2 processes ready, listening on 127.0.0.1:8080",
        "edge-1 did not say in time how its targets are",
        "as of 2026-01-31 10:31:07 UTC",
        "any method /books/*",
        "key_auth on_request",
        "shelves 75 % new 25 % else 503 10 % mirrored to trial",
        "books ejected failures in a row open 12 ms 3 1",
        "circuit of all targets half-open",
        "too few targets are available: all are called by edge-0",
        "edge-0 ready 41 3 min 20 s 64 MiB 0 2",
        "edge-1 ready 42 9 s – 2 –",
        "3.0 MiB in 2 segments",
        "3 of 12 entries",
        "down for 1 min 1 s failures in a row",
        "refused 2026-01-31 10:30:00 UTC failures in a row",
    ):
        assert said in words, f"{said!r} in {words}"


async def test_it_plots_requests_and_errors_on_one_scale(served: Served) -> None:
    page = await shown(served)
    _, route = page.all("svg")
    assert route["role"] == "img"
    assert route["aria-label"] == (
        "books: 12 requests and 0.5 errors a second now, at most 40 requests a second in the last 5 min"
    )
    requests, errors = page.all("polyline")[-2:]
    assert requests["points"] == outline([0.0, 40.0, 12.0], 40.0)
    assert errors["points"] == outline([0.0, 4.0, 0.5], 40.0)


STATES: list[tuple[dict[str, Any], str]] = [
    ({}, "serving"),
    ({"ready": False}, "not ready"),
    ({"ready": False, "draining": True}, "draining"),
]


@pytest.mark.parametrize(("more", "title"), STATES)
async def test_the_title_says_the_state(served: Served, more: dict[str, Any], title: str) -> None:
    assert f"{title} · Tallygate" in (await shown(served, **more)).text


async def test_what_is_not_known_yet_is_a_dash(served: Served) -> None:
    page = await shown(
        served, traffic={}, configuration={"generation": 1, "fingerprint": "4f"}, stores={}, listeners=[]
    )
    words = " ".join(page.text.split())
    assert "not measured yet" in words
    assert "Last reload none yet" in words
    assert "listening on nothing" in words


async def test_of_very_many_routes_the_first_are_shown(served: Served) -> None:
    routes = [RouteStatus(f"r{number}", {}, [], DestinationStatus({"u": 1})) for number in range(MOST_ROUTES + 7)]
    page = await shown(served, routes=Routes(routes, [], []), traffic={})
    assert f"r{MOST_ROUTES - 1} " in page.text.replace("\n", " ")
    assert f"r{MOST_ROUTES} " not in page.text.replace("\n", " ")
    assert "7 more routes" in page.text


async def test_a_route_without_an_upstream_says_who_answers(served: Served) -> None:
    route = RouteStatus("robots", {"path": "/robots.txt"}, [], DestinationStatus({}))
    page = await shown(served, routes=Routes([route], [], []), traffic={})
    assert "a plugin answers" in " ".join(page.text.split())


async def test_nothing_from_outside_becomes_markup(served: Served) -> None:
    def filled(text: str) -> dict[str, Any]:
        match = {"methods": [text], "host": text, "path": text, "headers": {text: text}}
        target = TargetStatus(text, 1, text, "ejected", text, 1, "open")
        return {
            "listeners": [text],
            "stores": {text: {"state": text, "since_seconds": 1.0, "reason": text}},
            "processes": [ProcessStatus(text, 41, True, 1, 2.0)],
            "routes": Routes(
                [
                    RouteStatus(
                        text, match, [PluginStatus(text, [text])], DestinationStatus({text: 1, "b": 1}, text, text)
                    )
                ],
                [UpstreamStatus(text, text, text, [text], [target])],
                [text],
            ),
            "traffic": {text: Traffic([1.0], [0.0], None)},
            "text": text,
        }

    plain, hostile = await shown(served, **filled("plain")), await shown(served, **filled(HOSTILE))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.text.count(HOSTILE) == plain.text.count("plain") == 26
    assert "49" not in hostile.text


async def test_a_browser_may_take_nothing_from_elsewhere_and_run_nothing_that_stands_in_the_page(
    served: Served,
) -> None:
    _, headers, body = await served.ask("/")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert all("unsafe" not in value and "http" not in value for value in policy.values())
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    page = Read(body.decode())
    (script,) = page.all("script")
    assert script["src"] == "page.js"
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
    places = [str(attributes.get(name, "")) for _, attributes in page.elements for name in ("src", "href")]
    assert not [place for place in places if re.match(r"(\w+:)?//", place)]


async def test_its_style_and_script_come_with_their_types(served: Served) -> None:
    for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
        code, headers, body = await served.ask(path)
        assert (code, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert b"http" not in body


async def test_a_reader_of_screens_finds_its_way(served: Served) -> None:
    page = await shown(served)
    assert page.all("html") == [{"lang": "en"}]
    ids = {str(attributes["id"]) for _, attributes in page.elements if "id" in attributes}
    assert len(ids) == len([True for _, attributes in page.elements if "id" in attributes])
    for _, attributes in page.elements:
        assert str(attributes.get("aria-labelledby", "routes-title")) in ids
    for link in page.all("a"):
        place = str(link["href"])
        assert not place.startswith("#") or place[1:] in ids
        if not place.startswith("#"):
            assert (await served.ask(f"/{place}"))[0] == 200
    assert all(cell.get("scope") in ("col", "row", "rowgroup") for cell in page.all("th"))
    assert all("tabindex" in each for tag, each in page.elements if each.get("class") == "scrolls")


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=SAMPLES))
def test_an_outline_stays_in_its_box(values: list[float]) -> None:
    points = [tuple(map(float, point.split(","))) for point in outline(values, max(values)).split()]
    assert len(points) == len(values)
    assert points[-1][0] == PLOT_WIDTH
    assert all(-0.1 <= x <= PLOT_WIDTH and 0 <= y <= PLOT_HEIGHT for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    if max(values):
        assert points[values.index(max(values))][1] == 1.0


def test_numbers_as_people_write_them() -> None:
    assert [amount(value) for value in (None, 0, 0.02, 0.5, 3.44, 7.0, 56.7, 1234.5)] == [
        "–", "0", "0.02", "0.5", "3.4", "7", "57", "1,234",
    ]  # fmt: skip
    assert [latency(value) for value in (None, 0.0, 0.00042, 0.0123, 0.9, 3.44)] == [
        "–", "0.0 ms", "0.4 ms", "12 ms", "900 ms", "3.4 s",
    ]  # fmt: skip
    assert [duration(value) for value in (None, 0.4, 42, 60, 200, 18720, 273600)] == [
        "–", "0 s", "42 s", "1 min", "3 min 20 s", "5 h 12 min", "3 d 4 h",
    ]  # fmt: skip
    assert [size(value) for value in (None, 0, 512, 1536, 48 * 2**20, 2.5 * 2**40, 2**60)] == [
        "–", "0 B", "512 B", "1.5 KiB", "48 MiB", "2.5 TiB", "1048576 TiB",
    ]  # fmt: skip
    assert clock("2026-01-31T10:31:07+00:00") == "2026-01-31 10:31:07 UTC"
