"""What a bad configuration is told: each error at its line, in plain words, all of them at once, and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.composition import ConfigError
from gateway.config.configuration import GatewayConfig
from tests.fixtures.configuration import HEAD, ROUTES, loaded
from tests.fixtures.plugin_folder import STAMP, Write

SECRET = "hunter2-hunter2"


def complaints(text: str, **environment: str) -> list[str]:
    """Every line of complaint about a file with this text; at least one."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, **environment)
    assert caught.value.errors == str(caught.value).split("\n")
    return caught.value.errors


TEN = """\
listeners:
  - {bind: 127.0.0.1:8080, hed_timeout: 3s}
  - {bind: 127.0.0.1}
processes: many
drain_timeout: 5
upstreams:
  demo:
    targets: [ftp://x]
    balancer: round_robbin
routes:
  - name: one
    upstream: demmo
    max_body: 10 MB
    plugins:
      - stamp: {text: x, brust: 3}
  - name: two
    match: {path: /two}
"""
TEN_LINES = [
    'gateway.yaml:2: listeners[0]: unknown key "hed_timeout" (did you mean "head_timeout"?)',
    "gateway.yaml:3: listeners[1].bind: not an address to listen on: '127.0.0.1' (write 0.0.0.0:8080 or [::1]:8080)",
    "gateway.yaml:4: processes: must be `auto` or a whole number",
    "gateway.yaml:5: drain_timeout: not a duration: 5 (write 250ms, 30s, 5m, 1h or 7d)",
    (
        "gateway.yaml:8: upstreams.demo.targets[0]: not a target: 'ftp://x' (write http://host:port or "
        "https://host:port, without a path)"
    ),
    (
        "gateway.yaml:9: upstreams.demo.balancer: not a balancer: 'round_robbin' (write round_robin, weighted, "
        "least_connections, ip_hash, consistent_hash, adaptive)"
    ),
    'gateway.yaml:12: routes[0].upstream: unknown upstream "demmo" (did you mean "demo"?)',
    "gateway.yaml:13: routes[0].max_body: not a size: '10 MB' (write 512B, 64KiB or 10MB)",
    'gateway.yaml:15: routes[0].plugins.stamp: unknown key "brust" (did you mean "burst"?)',
    (
        "gateway.yaml:16: routes[1]: a route goes to one upstream or to several: write one of `upstream` and `split`, "
        "or a plugin that answers by itself, such as `reply`"
    ),
]


def test_ten_errors_are_ten_lines(here: Path, write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    assert complaints(TEN) == TEN_LINES


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("12", "gateway.yaml:1: must be a block of `key: value` lines, not a number"),
        ("[]", "gateway.yaml:1: must be a block of `key: value` lines, not a list"),
        ("~", "gateway.yaml:1: must be a block of `key: value` lines, not empty"),
        (HEAD, 'gateway.yaml:1: missing key "routes"'),
        (HEAD + "routes: []", "gateway.yaml:3: routes: needs at least 1 item"),
        (HEAD + "routes: all", "gateway.yaml:3: routes: must be a list, not text"),
        (HEAD + ROUTES + "rutes: []", 'gateway.yaml:4: unknown key "rutes" (did you mean "routes"?)'),
        (HEAD + ROUTES + "quota: []", 'gateway.yaml:4: unknown key "quota"'),
        (HEAD + ROUTES + "processes: 0", "gateway.yaml:4: processes: must be at least 1"),
        (HEAD + ROUTES + "processes: 1.5", "gateway.yaml:4: processes: must be `auto` or a whole number"),
        (HEAD + ROUTES + "processes: true", "gateway.yaml:4: processes: must be a number, not `true` or `false`"),
        (HEAD + ROUTES + "admin:", "gateway.yaml:4: admin: must be a block of `key: value` lines, not empty"),
        (HEAD + ROUTES + "drain_timeout: 5.5", "gateway.yaml:4: drain_timeout: not a duration: 5.5 (write 250ms"),
        (HEAD + ROUTES + "drain_timeout: 5 s", "gateway.yaml:4: drain_timeout: not a duration: '5 s' (write 250ms"),
        (HEAD + ROUTES + "usage: {journal: {budget: 5}}", "gateway.yaml:4: usage.journal.budget: not a size: 5 (write"),
        (
            HEAD + ROUTES + "usage: {journal: {segment: 1KiB}}",
            "gateway.yaml:4: usage.journal.segment: must be at least 64KiB",
        ),
        (
            HEAD + ROUTES + "usage: {journal: {sync: dsk}}",
            'gateway.yaml:4: usage.journal.sync: must be `os` or `disk` (did you mean "disk"?)',
        ),
        (HEAD + ROUTES + "billing: {batch: 0}", "gateway.yaml:4: billing.batch: must be at least 1"),
        (HEAD + ROUTES + "billing: {bach: 1}", 'gateway.yaml:4: billing: unknown key "bach" (did you mean "batch"?)'),
        (
            HEAD + ROUTES + "trusted_proxies: [10.0.0.1/8]",
            "gateway.yaml:4: trusted_proxies[0]: not an address or network",
        ),
        (HEAD + ROUTES + "trusted_proxies: [7]", "gateway.yaml:4: trusted_proxies[0]: not an address or network"),
        (HEAD + ROUTES + "admin: {bind: 0.0.0.0:8080}", "gateway.yaml:4: admin.bind: port 8080 is taken (first in gat"),
        (HEAD + ROUTES + "consumers: [{name: a}]", 'gateway.yaml:4: consumers[0]: missing key "organization"'),
        (
            HEAD + "routes: [{name: 7, upstream: demo}]",
            "gateway.yaml:3: routes[0].name: must be text, not a number (put it in quotes)",
        ),
        (HEAD + "routes: [{name: a b, upstream: demo}]", "gateway.yaml:3: routes[0].name: must be text of the form ^"),
        (HEAD + "routes: [{name: a, upstream: 7}]", "gateway.yaml:3: routes[0].upstream: must be text, not a number"),
        (
            HEAD + "routes: [{name: a, upstream: demo, match: {methods: [get]}}]",
            "gateway.yaml:3: routes[0].match.methods[0]: not a method: 'get' (write GET, POST, …)",
        ),
        (
            HEAD + "routes: [{name: a, upstream: demo, match: {methods: []}}]",
            "gateway.yaml:3: routes[0].match.methods: no method at all (leave `methods` out: then any method will do)",
        ),
        (
            HEAD + "routes: [{name: a, upstream: demo, match: {host: '*'}}]",
            "gateway.yaml:3: routes[0].match.host: `*` alone is no host (leave `host` out: then any host will do)",
        ),
        (
            HEAD + "routes: [{name: a, upstream: demo, match: {host: 'a.com:80'}}]",
            "gateway.yaml:3: routes[0].match.host: not a host: 'a.com:80' (write api.example.com or *.example.com",
        ),
        (
            HEAD + ROUTES + "stores: {redis: 'redis://h:notaport'}",
            "gateway.yaml:4: stores.redis: what follows the host is no port (write redis://host:6379)",
        ),
        (
            HEAD + ROUTES + "stores: {postgres: 'postgresql://u:p@a:1,b:70000/x'}",
            "gateway.yaml:4: stores.postgres: what follows the host is no port (write postgresql://host:5432/name)",
        ),
        (HEAD + ROUTES + "billing: {poll: 0s}", "gateway.yaml:4: billing.poll: must be greater than 0s"),
        (
            HEAD.replace("8080", '8080", idle_timeout: "0s') + ROUTES,
            "gateway.yaml:1: listeners[0].idle_timeout: must be greater than 0s",
        ),
        (
            HEAD.replace("]}}", "], timeouts: {total: 0s}}}") + ROUTES,
            "gateway.yaml:2: upstreams.demo.timeouts.total: must be greater than 0s",
        ),
        (
            HEAD + ROUTES + "plugins: [key_auth: {header: null, bearer: false}]",
            "gateway.yaml:4: plugins.key_auth: a key has no place (name a `header` or a `query` parameter",
        ),
        (
            HEAD + "routes: [{name: a, upstream: demo, match: {path: books}}]",
            "gateway.yaml:3: routes[0].match.path: not a path: a path begins with /",
        ),
        (
            HEAD + "routes:\n  - {name: a, upstream: demo}\n  - {name: b, upstream: demo}",
            "gateway.yaml:5: routes[1]: matches what an earlier route takes (first in gateway.yaml:4)",
        ),
        (
            HEAD + "routes:\n  - {name: a, upstream: demo}\n  - {name: a, upstream: demo, match: {path: /a}}",
            'gateway.yaml:5: routes[1].name: name "a" is taken (first in gateway.yaml:4)',
        ),
        (
            HEAD + "  demo: {}",
            "gateway.yaml:3: not valid YAML: the indentation does not fit the lines above",
        ),
        (
            HEAD + ROUTES + "admin: {bind: 127.0.0.1:1}\nadmin: {}",
            'gateway.yaml:5: duplicate key "admin" (first in gateway.yaml:4)',
        ),
        (
            HEAD + ROUTES + "plugins: [nosuch]",
            "gateway.yaml:4: plugins[0]: a plugin is an entry with a colon: `- nosuch:`",
        ),
        (
            HEAD + ROUTES + "plugins: [7]",
            "gateway.yaml:4: plugins[0]: must be a block of `key: value` lines, not a number",
        ),
        (HEAD + ROUTES + "plugins: stamp", "gateway.yaml:4: plugins: must be a list, not text"),
        (HEAD + ROUTES + "plugins: [{}]", "gateway.yaml:4: plugins[0]: an entry names one plugin (indent its options"),
        (HEAD + ROUTES + "plugins:\n  - stamp:\n    text: x", "gateway.yaml:5: plugins[0]: an entry names one plugin"),
        (
            HEAD + ROUTES + "plugins:\n  - stmp:",
            'gateway.yaml:5: plugins.stmp: unknown plugin "stmp" (did you mean "stamp"?)',
        ),
        (HEAD + ROUTES + "plugins:\n  - no.such:", 'gateway.yaml:5: plugins.no.such: unknown plugin "no.such"'),
        (HEAD + ROUTES + "plugins:\n  - stamp:", 'gateway.yaml:5: plugins.stamp: missing key "text"'),
        (
            HEAD + ROUTES + "plugins:\n  - stamp: 7",
            "gateway.yaml:5: plugins.stamp: must be a block of `key: value` lines",
        ),
        (
            HEAD + ROUTES + "plugins:\n  - stamp: {text: x}\n  - stamp: {text: y}",
            "gateway.yaml:6: plugins.stamp: this plugin is listed twice",
        ),
        (
            HEAD + ROUTES + "plugins:\n  - stamp:\n      text: x\n      ink:\n        color: red",
            'gateway.yaml:8: plugins.stamp.ink: unknown key "color" (did you mean "colour"?)',
        ),
        (
            HEAD + ROUTES + "plugins:\n  - stamp: {text: x, burst: many}",
            "gateway.yaml:5: plugins.stamp.burst: must be a whole number or `unlimited`",
        ),
        (
            HEAD + ROUTES + "stamp: {pads: [{dries: 1}]}",
            "gateway.yaml:4: stamp.pads[0].dries: not a duration: 1 (write",
        ),
        (HEAD + ROUTES + "stamp: {pad: []}", 'gateway.yaml:4: stamp: unknown key "pad" (did you mean "pads"?)'),
        (
            HEAD + ROUTES + "plugins:\n  - broken:",
            'gateway.yaml:5: plugins.broken: plugin "broken" cannot be loaded: RuntimeError: not today',
        ),
        (
            HEAD + ROUTES + "broken: {}",
            'gateway.yaml:4: broken: plugin "broken" cannot be loaded: RuntimeError: not today',
        ),
        (
            HEAD + ROUTES + "plugins:\n  - touchy:",
            "gateway.yaml:5: plugins.touchy: cannot be checked: its own check failed with ZeroDivisionError",
        ),
    ],
)
def test_one_error_is_one_line(here: Path, write_plugin: Write, text: str, line: str) -> None:
    write_plugin("stamp", STAMP)
    write_plugin("broken", "raise RuntimeError('not today')")
    write_plugin("touchy", TOUCHY)
    found = complaints(text)
    assert len(found) == 1
    assert found[0].startswith(line)


TOUCHY = """
from pydantic import model_validator

from gateway.plugin import Plugin, PluginConfig


class Config(PluginConfig):
    @model_validator(mode="after")
    def _check(self):
        raise ZeroDivisionError("secret")


class Touchy(Plugin[Config]): ...
"""


def test_all_that_is_wrong_with_a_list_is_said_at_once(here: Path) -> None:
    routes = "routes: [{name: a, upstream: demo, match: {methods: [get, GET, FETCH ME, GET]}}]\n"
    assert complaints(HEAD + routes) == [
        "gateway.yaml:3: routes[0].match.methods[0]: not a method: 'get' (write GET, POST, …)",
        "gateway.yaml:3: routes[0].match.methods[2]: not a method: 'FETCH ME' (write GET, POST, …)",
        'gateway.yaml:3: routes[0].match.methods[3]: method "GET" is listed twice',
    ]


METERS = """
plugins:
  - metering:
      meters:
        - requests
        - {name: tokens, from: response_json, pth: usage}
        - {name: Units, from: response_header, header: x-units, estimate: -1}
        - {name: cost, from: response_body, header: x}
        - {name: requests, from: response_header, header: x}
        - requsts
        - requests
"""


def test_a_meter_is_told_only_what_is_wrong_with_its_kind(here: Path) -> None:
    place = "plugins.metering.meters"
    assert complaints(HEAD + ROUTES + METERS) == [
        f'gateway.yaml:9: {place}[1]: missing key "path"',
        f'gateway.yaml:9: {place}[1]: unknown key "pth" (did you mean "path"?)',
        f"gateway.yaml:10: {place}[2].name: must be text of the form ^[a-z][a-z0-9_]{{0,63}}$",
        f"gateway.yaml:10: {place}[2].estimate: must be at least 0",
        (
            f"gateway.yaml:11: {place}[3]: where does the quantity come from? "
            "(write `from: response_header` or `from: response_json`)"
        ),
        f'gateway.yaml:12: {place}[4]: meter "requests" is listed twice',
        (
            f"gateway.yaml:12: {place}[4].name: requests is counted by the gateway itself "
            "(write `- requests`, or give this meter another name)"
        ),
        (
            f"gateway.yaml:13: {place}[5]: must be `requests`, `bytes_in`, `bytes_out`, "
            '`messages_in` or `messages_out` (did you mean "requests"?)'
        ),
        f'gateway.yaml:14: {place}[6]: meter "requests" is listed twice',
    ]


def test_a_broken_plugin_is_said_once(here: Path, write_plugin: Write) -> None:
    write_plugin("broken", "raise RuntimeError('not today')")
    routes = "routes:\n" + "".join(
        f"  - {{name: r{n}, upstream: demo, match: {{path: /{n}}}, plugins: [broken: {{}}]}}\n" for n in range(5)
    )
    assert len(complaints(HEAD + routes)) == 1


def test_an_upstream_that_a_plugin_names_must_exist(here: Path) -> None:
    plugins = "plugins:\n  - trace: {export: {upstream: demmo}}\n"
    assert complaints(HEAD + plugins + ROUTES) == [
        'gateway.yaml:4: plugins.trace.export.upstream: unknown upstream "demmo" (did you mean "demo"?)'
    ]


def test_a_key_belongs_to_one_consumer(here: Path) -> None:
    hashed = "ab" * 32
    text = f"""
consumers:
  - {{name: a, organization: x, keys: [{{id: one, sha256: "{hashed}"}}, {{id: one, sha256: "{"cd" * 32}"}}]}}
  - {{name: b, organization: y, keys: [{{id: one, sha256: "{hashed.upper()}"}}, {{id: two, sha256: short}}]}}
"""
    assert complaints(HEAD + ROUTES + text) == [
        'gateway.yaml:6: consumers[0].keys[1].id: id "one" is taken (first in gateway.yaml:6)',
        f'gateway.yaml:7: consumers[1].keys[0].sha256: key "{hashed.upper()}" is taken (first in gateway.yaml:6)',
        (
            "gateway.yaml:7: consumers[1].keys[1].sha256: not a SHA-256 in hexadecimal: 64 digits are needed "
            "(`tallygate keys new` prints one)"
        ),
    ]


def test_an_error_in_an_included_file_names_that_file(here: Path) -> None:
    Path("parts").mkdir()
    Path("parts/routes.yaml").write_text("- name: all\n  upstrem: demo\n")
    assert complaints(HEAD + "routes: !include parts/routes.yaml") == [
        'parts/routes.yaml:2: routes[0]: unknown key "upstrem" (did you mean "upstream"?)',
    ]


def test_nothing_more_is_said_about_what_could_not_be_read(here: Path) -> None:
    assert complaints(HEAD + "routes: !include nowhere.yaml\ndrain_timeout: ${NOPE}") == [
        "gateway.yaml:3: routes: `!include nowhere.yaml`: cannot be read: No such file or directory",
        "gateway.yaml:4: drain_timeout: ${NOPE}: this environment variable is not set",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "listeners: [{bind: '${VALUE}'}]",
        "drain_timeout: ${VALUE}",
        "processes: ${VALUE}",
        "usage: {journal: {sync: '${VALUE}', budget: '${VALUE}'}}",
        "stores: {redis: '${VALUE}', postgres: 'x${VALUE}'}",
        "trusted_proxies: ['${VALUE}']",
        "upstreams: {demo: {targets: ['http://${VALUE}@example.com']}}",
        "upstreams: {demo: {targets: ['${VALUE}']}}",
        "upstreams: {demo: '${VALUE}'}",
        "routes: [{name: '${VALUE} x', upstream: '${VALUE}', match: {path: '${VALUE}', methods: ['${VALUE}']}}]",
        "plugins: ['${VALUE}']",
        "plugins: [stamp: '${VALUE}']",
        "plugins: [stamp: {text: '${VALUE}', burst: '${VALUE}', ink: {colour: '${VALUE}', dries: '${VALUE}'}}]",
        "consumers: [{name: '${VALUE}', organization: x}, {name: '${VALUE}', organization: x}]",
        "consumers: '${file:secret}'",
        "drain_timeout: ${file:secret}",
    ],
)
@pytest.mark.parametrize("other", ["", "drain_timeoot: 3s\n"])
def test_a_secret_is_never_repeated(here: Path, write_plugin: Write, text: str, other: str) -> None:
    write_plugin("stamp", STAMP)
    Path("secret").write_text(SECRET + "\n")
    found = complaints(text + "\n" + other, VALUE=SECRET)
    assert not any("hunter2" in line for line in found)
    place = text.split(":", maxsplit=1)[0]
    assert any(f" {place}" in line for line in found)


NAMES = st.sampled_from(
    [*GatewayConfig.model_fields, "name", "bind", "match", "targets", "stamp", "text", "journal", ""]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), NAMES, st.text(max_size=8))
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=st.dictionaries(NAMES, TREES, max_size=8))
def test_garbage_is_refused_in_words(here: Path, write_plugin: Write, tree: dict[str, Any]) -> None:
    write_plugin("stamp", STAMP)
    found = complaints(yaml.safe_dump(tree, allow_unicode=True))
    assert all(line.startswith("gateway.yaml") for line in found[:100])
    assert all(line.isprintable() for line in found)
