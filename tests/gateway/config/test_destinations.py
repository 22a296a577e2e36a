"""Where routes go: what cannot be meant is refused at its line, and what can be is shown as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.admin.status import DestinationStatus
from gateway.config.composition import ConfigError
from gateway.config.description import describe
from gateway.config.diff import differences
from gateway.explanation import explain, request_of
from tests.fixtures.configuration import loaded

UPSTREAMS = """\
listeners: [{bind: "127.0.0.1:8080"}]
upstreams:
  books: {targets: ["http://127.0.0.1:1"]}
  books-next: {targets: ["http://127.0.0.1:2"]}
  trial: {targets: ["http://127.0.0.1:3"]}
routes:
"""
SPLIT = "split: [{upstream: books, weight: 95}, {upstream: books-next, weight: 5}]"

NEITHER = "routes[0]: a route goes to one upstream or to several: write one of `upstream` and `split`"


def route(text: str) -> str:
    return f"{UPSTREAMS}  - {{name: r, {text}}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "split: [{upstream: boks, weight: 1}]",
            'routes[0].split[0].upstream: unknown upstream "boks" (did you mean "books"?)',
        ),
        (
            "upstream: books, mirror: {upstream: book-next}",
            'routes[0].mirror.upstream: unknown upstream "book-next" (did you mean "books-next"?)',
        ),
        (
            "upstream: books, fallback: {upstream: nobody}",
            'routes[0].fallback.upstream: unknown upstream "nobody"',
        ),
        (
            f"upstream: books, {SPLIT}",
            NEITHER,
        ),
        (
            "max_body: 1KiB",
            f"{NEITHER}, or a plugin that answers by itself, such as `reply`",
        ),
        (
            "plugins: [request_id: ]",
            f"{NEITHER}, or a plugin that answers by itself, such as `reply`",
        ),
        *(
            (
                f"plugins: [reply: ], {name}: {value}",
                f"routes[0]: `{name}` is about an upstream, and none is named (write `upstream`, or leave it out)",
            )
            for name, value in {
                "mirror": "{upstream: books}",
                "fallback": "{upstream: books}",
                "bulkhead": "{max_in_flight: 1}",
                "websocket": "{}",
            }.items()
        ),
        (
            "split: [{upstream: books, weight: 0}]",
            "routes[0].split: nothing is sent anywhere (give one upstream a weight above 0)",
        ),
        ("split: []", "routes[0].split: nothing is sent anywhere (give one upstream a weight above 0)"),
        (
            "split: [{upstream: books, weight: 1}, {upstream: books, weight: 2}]",
            "routes[0].split: upstream 'books' is listed twice (add its weights up)",
        ),
        ("split: [{upstream: books, weight: -1}]", "routes[0].split[0].weight: must be at least 0"),
        ("split: [{upstream: books}]", 'routes[0].split[0]: missing key "weight"'),
        (
            "upstream: books, split_by: {cookie: session}",
            "routes[0]: `split_by` says how a `split` is made (write the `split`, or leave it out)",
        ),
        (
            f"{SPLIT}, split_by: {{cookie: a, consumer: true}}",
            "routes[0].split_by: needs exactly one key (write `header: name`, `cookie: name` or `consumer: true`)",
        ),
        (
            "upstream: books, mirror: {upstream: books}",
            "routes[0]: mirrors to 'books', which answers anyway (name another upstream)",
        ),
        (
            f"{SPLIT}, mirror: {{upstream: books-next}}",
            "routes[0]: mirrors to 'books-next', which answers anyway (name another upstream)",
        ),
        (
            "upstream: books, fallback: {upstream: books}",
            "routes[0]: falls back to 'books', the one that failed (name another upstream)",
        ),
        (
            "upstream: books, fallback: {}",
            "routes[0].fallback: a fallback is another upstream or a reply: write one of `upstream` and `reply`",
        ),
        (
            "upstream: books, fallback: {reply: {body: a, json: 1}}",
            "routes[0].fallback.reply: takes one of `body`, `body_file` and `json`",
        ),
        ("upstream: books, bulkhead: {max_in_flight: 0}", "routes[0].bulkhead.max_in_flight: must be at least 1"),
        ("upstream: books, mirror: {upstream: books-next, share: 0%}", "routes[0].mirror.share: must be greater than"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_line(here: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(route(text))
    (error,) = refused.value.errors
    assert error.startswith(f"gateway.yaml:7: {said}")


@pytest.mark.parametrize("block", ["{lag: 0s}", "{interval: 100ms}", "{max_share: 0%}"])
def test_shedding_that_cannot_work_is_refused(here: Path, block: str) -> None:
    with pytest.raises(ConfigError, match=r"^gateway.yaml:8: shedding\.\w+: must be "):
        loaded(f"{route('upstream: books')}shedding: {block}\n")


@pytest.mark.parametrize(
    "text",
    [
        f"{SPLIT}, fallback: {{upstream: books}}",
        "upstream: books, mirror: {upstream: books-next}, fallback: {upstream: books-next}",
        "split: [{upstream: books, weight: 1}, {upstream: books-next, weight: 0}], mirror: {upstream: books-next}",
    ],
)
def test_what_only_looks_odd_is_taken(here: Path, text: str) -> None:
    loaded(route(text))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (SPLIT.replace("95", "90"), ["  route r: split[books].weight 95 → 90"]),
        (
            SPLIT.replace("}]", "}, {upstream: trial, weight: 1}]"),
            ["  route r: split[trial] added"],
        ),
        (f"{SPLIT}, mirror: {{upstream: trial, share: 10%}}", ["  route r: mirror.upstream none → trial"]),
        (f"{SPLIT}, bulkhead: {{max_in_flight: 5}}", ["  route r: bulkhead.max_in_flight none → 5"]),
    ],
)
def test_a_change_is_said_in_the_words_of_the_file(here: Path, after: str, said: list[str]) -> None:
    before, now = (describe(loaded(route(text))) for text in (SPLIT, after))
    assert set(said) <= {str(line) for line in differences(before, now)}


def test_operators_are_shown_what_is_behind_a_route(here: Path) -> None:
    block = "mirror: {upstream: trial, share: 10%}, fallback: {reply: {json: {a: 1}}}, bulkhead: {max_in_flight: 5}"
    (options,) = loaded(route(f"{SPLIT}, {block}")).routes
    assert DestinationStatus.of(options) == DestinationStatus({"books": 95, "books-next": 5}, 200, "trial", 0.1, 5)
    (options,) = loaded(route("upstream: books, fallback: {upstream: trial}")).routes
    assert DestinationStatus.of(options) == DestinationStatus({"books": 1}, "trial")


def test_a_route_whose_plugin_answers_needs_no_upstream(here: Path) -> None:
    alone = loaded(route("plugins: [reply: ]"))
    assert DestinationStatus.of(alone.routes[0]) == DestinationStatus({})
    loaded(route("max_body: 1KiB") + "plugins: [reply: ]\n")
    before, now = (describe(config) for config in (loaded(route("plugins: [reply: ], upstream: books")), alone))
    assert [str(line) for line in differences(before, now)] == ["  route r: upstream books → none"]
    explained = explain(alone, request_of("GET", "/x", []))
    assert (explained.route, explained.upstreams, explained.status) == ("r", [], 0)


def test_nothing_is_said_of_an_upstream_where_something_else_is_wrong(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(route("upstrem: books, plugins: [request_id: ]"))
    assert caught.value.errors == [
        'gateway.yaml:7: routes[0]: unknown key "upstrem" (did you mean "upstream"?)',
    ]


def test_the_salt_of_a_cookie_is_not_shown(here: Path) -> None:
    text = route("upstream: books").replace(':1"]', ':1"], sticky: {cookie: a, salt: pepper}', 1)
    assert describe(loaded(text))["upstream books"]["sticky.salt"] == "(hidden)"
