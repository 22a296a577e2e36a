from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import uuid_text
from gateway.exchange import Exchange, Outcome, Request, Response
from gateway.plugin import AnyPlugin
from plugins.key_auth import KeyAuth
from plugins.trace import Trace
from plugins.trace.context import KEY, read_state, with_member
from tests.play import KEY as API_KEY
from tests.play import Played, Stage, ask

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def parent(flags: str = "01") -> str:
    return f"00-{TRACE}-{SPAN}-{flags}"


def sent(played: Played) -> tuple[str, str, int]:
    """Trace id, parent id and flags that the upstream heard."""
    assert played.seen_upstream is not None
    version, trace_id, span_id, flags = played.seen_upstream.headers["traceparent"].split("-")
    assert version == "00"
    return trace_id, span_id, int(flags, 16)


async def test_a_trace_that_begins_here_has_the_request_id(stage: Stage):
    played = await stage.play(stage.make(Trace))
    trace_id, span_id, _ = sent(played)
    assert trace_id == uuid_text(played.exchange.id).replace("-", "")
    assert span_id == trace_id[16:]


async def test_of_a_trace_that_goes_on_the_span_has_the_second_half_of_it(stage: Stage):
    played = await stage.play(stage.make(Trace), request=ask(traceparent=parent()))
    assert sent(played)[:2] == (TRACE, played.exchange.id.hex()[16:])


@pytest.mark.parametrize(
    ("trust", "sample", "claim", "sampled"),
    [
        (True, "0%", "01", 1),
        (True, "100%", "00", 0),
        (False, "0%", "01", 0),
        (False, "100%", "00", 1),
        (True, "100%", None, 1),
        (True, "0%", None, 0),
    ],
)
async def test_who_decides(stage: Stage, trust: bool, sample: str, claim: str | None, sampled: int):
    request = ask() if claim is None else ask(traceparent=parent(claim))
    played = await stage.play(stage.make(Trace, trust=trust, sample=sample), request=request)
    assert sent(played)[2] & 1 == sampled


class FixedClock:
    """A clock whose ids end as a test says."""

    def __init__(self, stage: Stage, end: int) -> None:
        self._clock = stage.clock
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def uuid7(self) -> bytes:
        return self._clock.uuid7()[:9] + self._end.to_bytes(7, "big")


@pytest.mark.parametrize(("end", "sampled"), [(0, 0), (2**56 * 3 // 4 - 1, 0), (2**56 * 3 // 4, 1), (2**56 - 1, 1)])
@pytest.mark.parametrize("claim", [None, f"00-{'f' * 32}-{SPAN}-01"])
def test_the_last_7_bytes_of_our_own_id_decide(stage: Stage, end: int, sampled: int, claim: str | None):
    """Never those of the caller's, who could choose them."""
    request = ask() if claim is None else ask(traceparent=claim)
    stage.make(Trace, sample="25%").on_request(Exchange(request, FixedClock(stage, end)))  # type: ignore[arg-type]
    assert int(request.headers["traceparent"][-2:], 16) & 1 == sampled


def test_the_sampled_share_is_what_was_asked_for(stage: Stage):
    plugin = stage.make(Trace, sample="25%")
    sampled = 0
    for _ in range(4000):
        request = ask()
        plugin.on_request(Exchange(request, stage.clock))
        sampled += int(request.headers["traceparent"][-2:], 16) & 1
    assert 850 < sampled < 1150  # more than 5 standard deviations to either side


async def test_our_member_comes_first_and_once(stage: Stage):
    plugin = stage.make(Trace, tracestate="gw")
    request = ask(traceparent=parent(), tracestate="congo=1,gw=old,rojo=2")
    played = await stage.play(plugin, request=request)
    span_id = sent(played)[1]
    assert played.seen_upstream.headers.getall("tracestate") == [f"gw={span_id},congo=1,rojo=2"]
    played = await stage.play(plugin)
    assert played.seen_upstream.headers.getall("tracestate") == [f"gw={sent(played)[1]}"]


async def test_without_a_member_of_ours_tracestate_goes_on_as_it_came(stage: Stage):
    request = ask(traceparent=parent(), tracestate="congo=1 , ,\trojo=2")
    played = await stage.play(stage.make(Trace), request=request)
    assert played.seen_upstream.headers.getall("tracestate") == ["congo=1 , ,\trojo=2"]


members = st.lists(
    st.tuples(st.from_regex(KEY, fullmatch=True), st.text("ab ;:@/+-*", min_size=1, max_size=9).map(lambda v: v + "x")),
    max_size=32,
)


@given(members, st.sampled_from(["", " ", "\t", " \t "]), st.integers(1, 5))
def test_a_valid_tracestate_is_read_whole_and_in_order(pairs: list[tuple[str, str]], gap: str, lines: int):
    written = [f"{key}={value}" for key, value in pairs]
    several = [f"{gap},{gap}".join(written[start::lines]) for start in range(lines)]
    expected = [member for start in range(lines) for member in written[start::lines]]
    if len(written) + sum(not line for line in several) <= 32:
        assert read_state(several) == ",".join(expected)


@given(members, st.from_regex(KEY, fullmatch=True))
def test_ours_is_in_front_of_what_there_is_room_for(pairs: list[tuple[str, str]], key: str):
    others = [f"{name}={value}" for name, value in pairs if name != key]
    state = with_member(",".join(f"{name}={value}" for name, value in pairs), key, "1")
    assert state.split(",") == [f"{key}=1", *others][:32]
    assert read_state([state]) == state


@given(st.text(max_size=200))
def test_whatever_tracestate_says_reading_it_ends(text: str):
    assert read_state([text]) in ("", ",".join(part.strip(" \t") for part in text.split(",") if part.strip(" \t")))


def test_what_nobody_exports_is_not_looked_at_when_it_is_over(stage: Stage):
    assert Trace.hooks(Trace.config_type()) == ["on_request"]
    assert Trace.hooks(Trace.config_type(export={"upstream": "c"})) == ["on_request", "on_finish"]


@pytest.mark.parametrize("key", ["", "Gw", "@gw", "g w", "g=w", "g" * 257])
def test_a_member_needs_a_key(stage: Stage, key: str):
    with pytest.raises(ValueError, match="not a key"):
        stage.make(Trace, tracestate=key)


# Spans


def exporting(stage: Stage, **options: Any) -> AnyPlugin:
    return stage.make(Trace, export={"upstream": "collector"}, **options)


def attributes(span: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


async def test_a_span_tells_what_was_done(stage: Stage):
    request = Request("POST", "/books/1?api_key=secret&page=2", ask(x_api_key=API_KEY, user_agent="curl/8").headers)
    request.headers["traceparent"] = parent()
    request.headers["tracestate"] = "congo=1"
    request.host, request.peer, request.client = "api.example.com:8443", "10.0.0.1", "192.0.2.7"
    played = await stage.play(stage.make(KeyAuth), exporting(stage), request=request)
    (span,) = stage.spans.spans
    exchange = played.exchange
    assert (span["traceId"], span["spanId"], span["parentSpanId"]) == (TRACE, exchange.id.hex()[16:], SPAN)
    assert (span["name"], span["kind"], span["traceState"], span["flags"]) == ("POST r", 2, "congo=1", 1)
    assert int(span["startTimeUnixNano"]) == exchange.admitted_at * 1000
    assert int(span["endTimeUnixNano"]) > int(span["startTimeUnixNano"])
    assert "status" not in span
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/books/1",
        "url.query": "api_key=REDACTED&page=REDACTED",
        "server.address": "api.example.com",
        "server.port": "8443",
        "client.address": "192.0.2.7",
        "network.peer.address": "10.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
        "http.response.status_code": "200",
        "tallygate.request_id": uuid_text(exchange.id),
        "tallygate.route": "r",
        "tallygate.upstream": "u",
        "tallygate.consumer": "bob",
        "tallygate.organization": "acme",
    }


async def test_a_span_that_begins_a_trace_has_no_parent(stage: Stage):
    await stage.play(exporting(stage))
    (span,) = stage.spans.spans
    assert "parentSpanId" not in span
    assert "traceState" not in span


async def test_what_is_not_sampled_is_not_exported(stage: Stage):
    await stage.play(exporting(stage, sample="0%"))
    await stage.play(exporting(stage, trust=True), request=ask(traceparent=parent("00")))
    assert stage.spans.spans == []


@pytest.mark.parametrize(
    ("status", "outcome", "error"),
    [
        (200, None, None),
        (404, None, None),
        (500, None, "500"),
        (200, "client_gone", "client_gone"),
        (200, "upstream_error", "upstream_error"),
    ],
)
async def test_an_error_is_ours_or_of_who_broke_it_off(
    stage: Stage, status: int, outcome: Outcome | None, error: str | None
):
    await stage.play(exporting(stage), answer=Response(status, {}, b"x"), pieces=[b"a", b"b"], broken=outcome)
    (span,) = stage.spans.spans
    assert attributes(span).get("error.type") == error
    assert span.get("status") == ({"code": 2} if error else None)


async def test_a_strange_method_does_not_name_a_span(stage: Stage):
    await stage.play(exporting(stage), request=ask(method="BREW"))
    (span,) = stage.spans.spans
    assert span["name"] == "HTTP r"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "BREW"


async def test_what_a_client_says_at_length_is_cut(stage: Stage):
    await stage.play(exporting(stage), request=ask("/" + "a" * 9000 + "?" + "b" * 9000, user_agent="c" * 9000))
    found = attributes(stage.spans.spans[0])
    assert {len(found[key]) for key in ("url.path", "url.query", "user_agent.original")} == {512}


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("a", "a", None), ("a:80", "a", "80"), ("[::1]", "[::1]", None), ("[::1]:80", "[::1]", "80"), ("", None, None)],
)
async def test_the_server_is_whom_the_client_asked_for(stage: Stage, host: str, address: str | None, port: str | None):
    request = ask()
    request.host = host
    await stage.play(exporting(stage), request=request)
    found = attributes(stage.spans.spans[0])
    assert (found.get("server.address"), found.get("server.port")) == (address, port)


async def test_calling_the_upstream_is_an_event(stage: Stage):
    plugin = exporting(stage)
    exchange = Exchange(ask(), stage.clock)
    plugin.on_request(exchange)
    exchange.upstream = "books"
    exchange.upstream_sent_at = exchange.started_at + 0.001
    exchange.upstream_headed_at = exchange.started_at + 0.003
    exchange.finished_at = exchange.started_at + 0.004
    plugin.on_finish(exchange)
    (span,) = stage.spans.spans
    start = int(span["startTimeUnixNano"])
    attempt, head = span["events"]
    assert (attempt["name"], head["name"]) == ("upstream.attempt", "upstream.head")
    assert attempt["attributes"] == [{"key": "tallygate.upstream", "value": {"stringValue": "books"}}]
    after = [round((int(moment) - start) / 1e6) for moment in (attempt["timeUnixNano"], head["timeUnixNano"])]
    assert [*after, round((int(span["endTimeUnixNano"]) - start) / 1e6)] == [1, 3, 4]
