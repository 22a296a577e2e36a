"""Router: it finds what trying every route by hand would find."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.chain import Chain
from gateway.clock import Clock
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.problem import BadRequest, MethodNotAllowed, NoRoute
from gateway.route import MatchOptions, Route, RouteOptions
from gateway.router import Router

Found = tuple[str, dict[str, str]] | str

calmly = settings(max_examples=250, deadline=None, derandomize=True)

UNRESERVED = set((string.ascii_letters + string.digits + "-._~").encode())


def routes_of(*matches: Mapping[str, Any]) -> list[Route]:
    clock = Clock()
    options = [RouteOptions(name=f"r{n}", upstream="u", match=MatchOptions(**m)) for n, m in enumerate(matches)]
    return [Route(each, Chain([]), cast("Any", None), clock) for each in options]


def asked(target: str, method: str = "GET", host: str = "a", fields: Mapping[str, str] | None = None) -> Request:
    request = Request(method, target, Headers(fields or {}))
    request.host = host
    return request


def answer(router: Router, request: Request) -> Found:
    """The name of the route and its parameters, or the refusal in words."""
    try:
        route, parameters = router.find(request)
    except MethodNotAllowed as refusal:
        return f"405 {refusal.headers['allow']}"
    except NoRoute:
        return "404"
    except BadRequest:
        return "400"
    return route.name, dict(parameters)


# The oracle: every route is tried, and those that match are ranked as the docstring of router.py says.


def plain(segment: str) -> str:
    """A segment with the escapes of unreserved characters undone and the others in capitals (RFC 3986 §6.2.2)."""
    parts = re.split("(%[0-9A-Fa-f]{2})", segment)
    return "".join(
        (chr(code) if (code := int(part[1:], 16)) in UNRESERVED else part.upper()) if part[:1] == "%" else part
        for part in parts
    )


def resolved(target: str) -> list[str] | None:
    """The segments of a target's path, by the letter of RFC 3986 §5.2.4; None for what is to be refused."""
    path = target.partition("?")[0]
    if re.search("%(?![0-9A-Fa-f]{2})|%00", path):
        return None
    remaining, output = "/".join(map(plain, path.split("/"))), ""
    decoded = re.sub("%2F|%5C", "/", remaining)
    if "/../" in decoded + "/" and (decoded != remaining or "//" in remaining):
        return None  # some servers decode or merge slashes before they climb, and some after
    if re.search(r"/\.\.?(;|%3B)", decoded):
        return None  # some servers take the parameters of a segment off before they climb
    while remaining:
        if remaining.startswith("/./"):
            remaining = remaining[2:]
        elif remaining == "/.":
            remaining = "/"
        elif remaining.startswith("/../") or remaining == "/..":
            if not output:
                return None
            remaining, output = "/" + remaining[4:], output[: output.rindex("/")]
        else:
            end = remaining.find("/", 1)
            end = end if end > 0 else len(remaining)
            output, remaining = output + remaining[:end], remaining[end:]
    return output[1:].split("/")


def matched(pattern: str, segments: list[str]) -> tuple[tuple[int, ...], dict[str, str]] | None:
    """How special a pattern is, segment by segment, and what its parameters stand for; None if it does not match."""
    below = pattern.endswith("/*")
    wanted = pattern.removesuffix("/*")[1:].split("/") if pattern != "/*" else []
    if len(segments) < len(wanted) or (len(segments) > len(wanted) and not below):
        return None
    rank: list[int] = []
    values: dict[str, str] = {}
    for want, segment in zip(wanted, segments, strict=False):
        if want.startswith("{"):
            if not segment:
                return None
            values[want[1:-1]] = unquote_to_bytes(segment).decode("utf-8", "replace")
        elif plain(want) != segment:
            return None
        rank.append(1 if want.startswith("{") else 0)
    return (*rank, 2 if below else 0), values


def host_rank(wanted: str | None, authority: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d*)?", authority)
    assert match is not None
    host = match[1].lower().rstrip(".")
    if wanted is None:
        return 2, 0
    if wanted.startswith("*."):
        return (1, -len(wanted)) if host.endswith(wanted[1:].lower()) else None
    return (0, 0) if host == wanted.lower() else None


def by_hand(routes: list[Route], request: Request) -> Found:
    segments = resolved(request.target)
    if segments is None:
        return "400"
    candidates: list[tuple[tuple[Any, ...], str, dict[str, str]]] = []
    allowed: set[str] = set()
    for place, route in enumerate(routes):
        wanted = route.match
        host = host_rank(wanted.host, request.host)
        path = matched(wanted.path, segments)
        fields = all((name.lower(), value) in lowered(request.headers) for name, value in wanted.headers.items())
        if host is None or path is None or not fields:
            continue
        if wanted.methods is not None and request.method not in wanted.methods:
            allowed |= set(wanted.methods)
            continue
        rank = (host, path[0], -len(wanted.headers), wanted.methods is None, place)
        candidates.append((rank, route.name, path[1]))
    if candidates:
        _, name, values = min(candidates)
        return name, values
    return f"405 {', '.join(sorted(allowed))}" if allowed else "404"


def lowered(headers: Headers) -> set[tuple[str, str]]:
    return {(name.lower(), value) for name, value in headers.items()}


# Few words, so that patterns and targets meet.
WORDS = st.sampled_from(["a", "b", "A", "", "a%2Fb", "%7e", "~", "%2e", "...", "%C3%A4", "%c3%a4"])
PARAMETERS = st.permutations(["{x}", "{y}", "{z}"])


@st.composite
def patterns(draw: st.DrawFn) -> str:
    names = list(draw(PARAMETERS))
    segments = [names.pop() if draw(st.booleans()) and names else draw(WORDS) for _ in range(draw(st.integers(0, 3)))]
    end = draw(st.sampled_from(["", "/*"]))
    return "/" + "/".join(segments) if segments and not end else "".join(f"/{each}" for each in segments) + (end or "/")


METHODS = st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "PURGE"])
HOSTS = st.none() | st.sampled_from(["a.example", "A.Example", "b.a.example", "*.example", "*.A.example", "[::1]"])
CONDITIONS = st.dictionaries(st.sampled_from(["X-Kind", "x-other"]), st.sampled_from(["1", "2"]), max_size=2)
MATCHES = st.fixed_dictionaries(
    {"path": patterns()},
    optional={
        "host": HOSTS,
        "methods": st.none() | st.lists(METHODS, min_size=1, max_size=2, unique=True),
        "headers": CONDITIONS,
    },
)
DOTS = [".", "..", "%2E", "%2e%2E", ".%2e", "..;", ".;v=1", "..%3b"]
ODD = st.sampled_from([*DOTS, "%61", "%2f", "%25", "%2561", "%FF", "%", "%4", "%00", "%zz"])
TARGETS = st.builds(
    "/{}{}".format,
    st.lists(WORDS | ODD, max_size=5).map("/".join),
    st.sampled_from(["", "", "?", "?a/../b", "?%00", "?x=/a?y"]),
)
AUTHORITIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["a.example", "A.EXAMPLE", "b.a.example", "c.b.A.example", "xa.example", "example", "[::1]", "a"]),
    st.just(""),
    st.sampled_from(["", "", ":80", ":"]),
) | st.sampled_from(["a.example.", "b.A.example.:8080", "example.", ""])
FIELDS = st.dictionaries(st.sampled_from(["x-kind", "X-Other"]), st.sampled_from(["1", "2", "3"]), max_size=2)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    matches=st.lists(MATCHES, min_size=1, max_size=8),
    requests=st.lists(st.tuples(TARGETS, METHODS, AUTHORITIES, FIELDS), min_size=1, max_size=8),
)
def test_the_router_finds_what_trying_every_route_finds(
    matches: list[dict[str, Any]], requests: list[tuple[str, str, str, dict[str, str]]]
) -> None:
    routes = routes_of(*matches)
    router = Router(routes)
    for target, method, host, fields in requests:
        request = asked(target, method, host, fields)
        assert answer(router, request) == by_hand(routes, request)
        assert request.target == target, "what goes upstream stays byte for byte what came"


@calmly
@given(matches=st.lists(MATCHES, min_size=1, max_size=5), target=TARGETS, host=AUTHORITIES)
def test_asking_again_changes_nothing(matches: list[dict[str, Any]], target: str, host: str) -> None:
    router = Router(routes_of(*matches))
    request = asked(target, "GET", host)
    first = answer(router, request)
    for method in ("POST", "GET"):
        answer(router, asked(target, method, host))
    assert answer(router, request) == first


@calmly
@given(value=st.text(min_size=1, max_size=8).filter(lambda text: text not in (".", "..") and "\0" not in text))
def test_a_parameter_is_what_the_client_meant(value: str) -> None:
    try:
        escaped = "".join(f"%{byte:02x}" for byte in value.encode())
    except UnicodeEncodeError:
        return
    router = Router(routes_of({"path": "/before/{what}/after"}))
    assert answer(router, asked(f"/before/{escaped}/after")) == ("r0", {"what": value})


@calmly
@given(target=TARGETS, change=st.randoms(use_true_random=False))
def test_spellings_of_one_path_find_one_route(target: str, change: Any) -> None:
    """Any character may be written as an escape, in small or capital digits, unless it is reserved."""
    path, question, query = target.partition("?")

    def written(match: re.Match[str]) -> str:
        text = match[0]
        if len(text) == 1 and ord(text) in UNRESERVED and change.random() < 0.5:
            return f"%{ord(text):02x}"
        return text.lower() if change.random() < 0.5 and text[:1] == "%" else text

    other = re.sub(r"%[0-9A-Fa-f]{2}|%.{0,2}|[^/]", written, path) + question + query
    router = Router(routes_of({"path": "/a/{x}"}, {"path": "/a/*"}, {"path": "/{x}/b"}, {"path": "/~"}, {"path": "/*"}))
    assert answer(router, asked(target)) == answer(router, asked(other))


@calmly
@given(depth=st.integers(0, 6), up=st.integers(0, 8), dots=st.sampled_from(["..", "%2e%2e", ".%2E", "%2E."]))
@example(depth=3, up=3, dots="%2e.")
def test_a_path_climbs_to_its_root_and_never_above(depth: int, up: int, dots: str) -> None:
    router = Router(routes_of({"path": "/books"}, {"path": "/open/*"}))
    found = answer(router, asked("/" + "d/" * depth + f"{dots}/" * up + "books"))
    assert found == ("400" if up > depth else ("r0", {}) if up == depth else "404")


def test_what_is_open_does_not_open_what_is_beside_it() -> None:
    router = Router(routes_of({"path": "/open/*"}, {"path": "/books", "methods": ["POST"]}))
    assert answer(router, asked("/open/../books")) == "405 POST"
    for target in ("/open/..%2Fbooks", "/open//../books", "/open/%2e%2e%5cbooks", "/open/x/..%2f..%2fbooks"):
        assert answer(router, asked(target)) == "400"
    assert answer(router, asked("/open/a%2Fb//c")) == ("r0", {})
    assert answer(router, asked("/open")) == ("r0", {})
    assert answer(router, asked("/opened")) == "404"


@pytest.mark.parametrize("target", ["/a%00b", "/%00", "/%", "/%1", "/%g0", "/a/%2", "/..", "/a/../..", "/%2e%2e/"])
def test_what_no_two_servers_would_read_alike_is_refused(target: str) -> None:
    assert answer(Router(routes_of({"path": "/*"})), asked(target)) == "400"


def test_a_nul_in_the_query_is_no_matter_of_routing() -> None:
    assert answer(Router(routes_of({"path": "/*"})), asked("/a?%00&/../..")) == ("r0", {})


def test_options_is_a_method_as_any_other() -> None:
    router = Router(routes_of({"path": "/a", "methods": ["GET", "PUT"]}, {"path": "/a", "methods": ["POST"]}))
    assert answer(router, asked("/a", "OPTIONS")) == "405 GET, POST, PUT"
    assert answer(router, asked("/b", "OPTIONS")) == "404"
    router = Router(routes_of({"path": "/a", "methods": ["OPTIONS"]}, {"path": "/*"}))
    assert answer(router, asked("/a", "OPTIONS")) == ("r0", {})
    assert answer(router, asked("*", "OPTIONS")) == ("r1", {})


def test_a_method_is_written_as_it_is() -> None:
    router = Router(routes_of({"path": "/a", "methods": ["GET"]}))
    assert answer(router, asked("/a", "get")) == "405 GET"


def test_the_longest_of_several_suffixes_is_the_most_specific() -> None:
    router = Router(routes_of({"host": "*.example"}, {"host": "*.b.example"}, {}, {"host": "c.b.example"}))
    assert answer(router, asked("/", host="C.b.example:80")) == ("r3", {})
    assert answer(router, asked("/", host="d.b.example")) == ("r1", {})
    assert answer(router, asked("/", host="b.example.")) == ("r0", {})
    assert answer(router, asked("/", host="example")) == ("r2", {})


@pytest.mark.parametrize(
    "spelled",
    [
        lambda number: f"/items/{number}/x",
        lambda number: f"/./items/{number}/gone/../x",
        lambda number: f"/items/{number}/x?n={number}",
        lambda number: f"/it%65ms/{number}/%78",
    ],
    ids=["plain", "dots", "query", "escapes"],
)
def test_ten_thousand_paths_later_every_answer_is_still_right(spelled: Callable[[int], str]) -> None:
    router = Router(
        routes_of(
            {"path": "/items/{id}/x"}, {"path": "/items/7/x", "methods": ["POST"]}, {"path": "/items/*", "host": "h"}
        )
    )
    for _ in range(2):
        for number in range(11_000):
            assert answer(router, asked(spelled(number))) == ("r0", {"id": str(number)})
        assert answer(router, asked(spelled(7), "POST")) == ("r1", {})
        assert answer(router, asked(spelled(8), host="h")) == ("r2", {})
        assert answer(router, asked("/items/7/y")) == "404"
        assert answer(router, asked("/items/../..")) == "400"
