"""What turns measurements into figures: a benchmark that reads its instruments wrongly is worse than none."""

from __future__ import annotations

import pytest

from benchmarks import paced, wrk
from benchmarks.budgets import broken
from benchmarks.machine import parse_busy, share_out
from benchmarks.peers import HERE, fill
from benchmarks.programs import ProgramFailed
from benchmarks.reloads import changed
from benchmarks.report import table
from benchmarks.soak import slope

WRK_REPORT = """Running 3s test @ http://127.0.0.1:9008/x
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.35ms  402.11us  12.02ms   88.91%
    Req/Sec    47.91k     1.02k   49.40k    73.33%
  Latency Distribution
     50%  812.00us
     75%    1.48ms
     90%    1.70ms
     99%    2.31ms
  143022 requests in 3.00s, 45.02MB read
Requests/sec:  47663.18
Transfer/sec:     15.00MB
"""


def test_wrk_report_is_read():
    assert wrk.parse(WRK_REPORT) == wrk.Load(rate=47663.18, p50=0.812, p99=2.31, requests=143_022)


@pytest.mark.parametrize(
    "line",
    [
        "  Non-2xx or 3xx responses: 12",
        "  Socket errors: connect 0, read 3, write 0, timeout 0",
        "  Socket errors: connect 0, read 0, write 0, timeout 10",
    ],
)
def test_failed_requests_are_not_counted_as_fast_ones(line):
    with pytest.raises(ProgramFailed, match="requests failed"):
        wrk.parse(WRK_REPORT + line + "\n")


def test_a_report_that_is_none_is_refused():
    with pytest.raises(ProgramFailed, match="not understood"):
        wrk.parse("unable to connect")


@pytest.mark.parametrize(("origin", "load", "valid"), [(0.9, 0.9, True), (0.91, 0.2, False), (0.2, 0.91, False)])
def test_a_round_is_valid_only_if_the_proxy_was_the_limit(origin, load, valid):
    made = wrk.Round(wrk.Load(1, 1, 1, 1), 64, proxy_busy=1.0, origin_busy=origin, load_busy=load, stores_busy=1.0)
    assert made.valid is valid


def test_busy_time_leaves_out_idle_and_waiting_for_disk():
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 1 5 70 4 2 3 5 0 0\nintr 5\n"
    assert parse_busy(text) == {0: (26, 100)}


def test_with_four_cores_nobody_shares():
    cores = share_out([3, 1, 0, 2])
    assert (cores.proxy, cores.origin, cores.load, cores.stores) == ({0}, {1}, {2}, {3})
    assert not cores.shared


@pytest.mark.parametrize("available", [[0, 1], [0, 1, 2]])
def test_with_fewer_the_proxy_is_still_alone(available):
    cores = share_out(available)
    assert cores.shared
    assert not cores.proxy & cores.others


def test_one_core_is_not_enough():
    with pytest.raises(ValueError, match="two cores"):
        share_out([0])


def test_slope_is_that_of_the_line_through_the_samples():
    assert slope([(float(x), 7.0 + 3 * x) for x in range(10)]) == pytest.approx(3.0)


def test_each_reload_has_something_to_change_in_every_part():
    original = (HERE / "edge.yaml").read_text()
    first, second = changed(original, 1), changed(original, 2)
    new = [set(text.splitlines()) - set(original.splitlines()) for text in (first, second)]
    assert [len(lines) for lines in new] == [3, 3], "an upstream, a route and an option of a plugin"
    assert not new[0] & new[1]


def test_percentiles_are_in_milliseconds():
    found = paced.summary([n / 1000 for n in range(1, 1001)], seconds=2.0)
    assert (found.rate, found.p50, found.p99) == (500.0, 501.0, 991.0)


def test_a_response_head_is_measured_or_refused():
    assert paced.content_length(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 42") == 42
    for head in (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1", b"HTTP/1.1 200 OK\r\nServer: x"):
        with pytest.raises(ConnectionError):
            paced.content_length(head)


def test_budgets_hold_or_are_named():
    text = "[a.at_least]\nspeed = 2\n[a.at_most]\nsize = 3\n"
    assert broken("a", {"speed": 2, "size": 3}, text) == []
    assert broken("a", {"speed": 1.9, "size": 3.1}, text) == [
        "speed is 1.9, the budget is at least 2",
        "size is 3.1, the budget is at most 3",
    ]
    with pytest.raises(KeyError):
        broken("a", {"speed": 5}, text)


def test_templates_keep_what_is_nginx_s_own():
    assert fill("listen ${PORT_2}; set $http_host;", {"PORT_2": "80"}) == "listen 80; set $http_host;"
    with pytest.raises(KeyError):
        fill("${UNKNOWN}", {})


def test_tables_line_up():
    assert table([("case", "n"), ("a", "1,000")]) == "case      n\n-----------\na     1,000"
