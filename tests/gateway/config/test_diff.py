"""What differs between two configurations: in the words of the file, without secrets, loudly where it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.composition import load
from gateway.config.description import Description, describe
from gateway.config.diff import differences
from gateway.keys import digest
from tests.fixtures.plugin_folder import STAMP, Write

BEFORE = """\
listeners:
  - {bind: "127.0.0.1:8080", max_connections: 100}
drain_timeout: 30s
trusted_proxies: [10.0.0.0/8]
upstreams:
  books: {targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"], timeouts: {total: 5m}}
plugins:
  - request_id:
routes:
  - name: open
    match: {path: /open/*, methods: [GET, HEAD]}
    upstream: books
  - name: api
    upstream: books
    max_body: 1MiB
    plugins:
      - key_auth: {header: x-api-key}
      - metering: {meters: [requests, {name: units, from: response_header, header: x-units}], on_status: 200-299}
consumers:
  - {name: bob, organization: acme, keys: [{id: k1, sha256: %s}]}
""" % (64 * "a")


def description(text: str, **environment: str) -> Description:
    Path("gateway.yaml").write_text(text)
    return describe(load("gateway.yaml", environment))


def lines(*changes: tuple[str, str]) -> list[str]:
    """What is said about these replacements in the text."""
    after = BEFORE
    for old, new in changes:
        assert after.count(old) == 1, old
        after = after.replace(old, new)
    return [str(line) for line in differences(description(BEFORE), description(after))]


def test_a_configuration_does_not_differ_from_itself_written_otherwise(here: Path) -> None:
    assert lines(("30s", "0.5m"), ("max_body: 1MiB", "max_body: 1024KiB"), ("[10.0.0.0/8]", '["10.0.0.0/8"]')) == []
    assert lines(("  - request_id:\n", "  - request_id: {trust: false}\n")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("30s", "1m"), "  gateway: drain_timeout 30s → 1m"),
        (("[10.0.0.0/8]", "[]"), "  gateway: trusted_proxies 10.0.0.0/8 → none"),
        (("total: 5m", "total: 90s"), "  upstream books: timeouts.total 5m → 90s"),
        (("[GET, HEAD]", "[GET]"), "  route open: match.methods GET, HEAD → GET"),
        (("{header: x-api-key}", "{}"), "  route api, plugin key_auth: header x-api-key → X-Api-Key"),
        (("200-299", "[200, 202-299, 304]"), "  route api, plugin metering: on_status 200-299 → 200, 202-299, 304"),
        (("header: x-units", "header: x-u"), "  route api, plugin metering: meters[units].header x-units → x-u"),
        (("organization: acme", "organization: ajax"), "  consumer bob: organization acme → ajax"),
        ((64 * "a", 64 * "b"), "  consumer bob: keys[k1].sha256 aaaaaaaa… → bbbbbbbb…"),
        (("max_body: 1MiB", "max_body: 1KiB"), "  route api: max_body 1MiB → 1KiB"),
        (("9002", "9003"), "  upstream books: targets[http://127.0.0.1:9003] added"),
        (("name: units", "name: pages"), "  route api, plugin metering: meters[units] removed"),
    ],
)
def test_a_change_is_said_in_the_words_of_the_file(here: Path, change: tuple[str, str], said: str) -> None:
    assert said in lines(change)


def test_parts_come_and_go(here: Path) -> None:
    route = "  - {name: new, match: {path: /new}, upstream: books, plugins: [key_auth: ]}\nconsumers:"
    assert lines(("consumers:", route)) == ["  route new: added"]
    bare = "  - {name: new, match: {path: /new}, upstream: books}\nconsumers:"
    assert lines(("consumers:", bare)) == ["  route new: added, with nothing to guard it"]
    assert lines(("name: open", "name: public")) == [
        "  route open: removed",
        "  route public: added, with nothing to guard it",
    ]
    assert lines(("listeners:\n", 'listeners:\n  - {bind: "127.0.0.1:8081"}\n')) == [
        "  listener 127.0.0.1:8081: added",
    ]


def test_what_guarded_a_route_and_is_gone_comes_first(here: Path) -> None:
    assert lines(("      - key_auth: {header: x-api-key}\n", ""), ("30s", "1m")) == [
        "! route api: authentication removed (it was key_auth)",
        "  gateway: drain_timeout 30s → 1m",
        "  route api: plugins request_id, key_auth, metering → request_id, metering",
        "  route api, plugin key_auth: removed",
    ]


def test_another_plugin_that_guards_as_well_is_no_loss(here: Path, write_plugin: Write) -> None:
    write_plugin("stamp", STAMP.replace('    """Stamps every response."""\n', '    guards = "authentication"\n'))
    said = lines(("      - key_auth: {header: x-api-key}\n", "      - stamp: {text: x}\n"))
    assert [line for line in said if line.startswith("!")] == []
    assert "  route api, plugin stamp: added" in said


@pytest.mark.parametrize(
    ("change", "flagged"),
    [
        (("max_body: 1MiB", "max_body: 1GiB"), "! route api: max_body loosened, 1MiB → 1GiB"),
        (("    max_body: 1MiB\n", ""), "! route api: max_body loosened, 1MiB → 4GiB"),
        (
            ("max_connections: 100", "max_connections: 101"),
            "! listener 127.0.0.1:8080: max_connections loosened, 100 → 101",
        ),
        (
            ("max_connections: 100", "max_connections: 100, minimum_body_rate: 1B"),
            "! listener 127.0.0.1:8080: minimum_body_rate loosened, 240B → 1B",
        ),
    ],
)
def test_limits_that_are_loosened_are_flagged(here: Path, change: tuple[str, str], flagged: str) -> None:
    assert lines(change) == [flagged]


def with_tls(here: Path, *changes: tuple[str, str]) -> list[str]:
    """What is said about these replacements, where clients show certificates and a target is verified."""
    tls = "tls: {certificate: a.pem, key: a.key, passphrase: sesame, client_ca: ca.pem, min_version: 1.3}"
    secure = (
        ("max_connections: 100", f"max_connections: 100, {tls}"),
        ("http://127.0.0.1:9001", "https://127.0.0.1:9001"),
        ("timeouts: {total: 5m}", "timeouts: {total: 5m}, tls: {verify: true}"),
    )
    before = BEFORE
    for old, new in secure:
        before = before.replace(old, new)
    after = before
    for old, new in changes:
        assert after.count(old) == 1, old
        after = after.replace(old, new)
    return [str(line) for line in differences(description(before), description(after))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("client_ca: ca.pem, ", ""),
            "! listener 127.0.0.1:8080: client certificates removed (it was required)",
        ),
        (
            ("client_ca: ca.pem", "client_ca: ca.pem, client_auth: optional"),
            "! listener 127.0.0.1:8080: client certificates removed (it was required)",
        ),
        (("min_version: 1.3", "min_version: 1.2"), "! listener 127.0.0.1:8080: tls.min_version loosened, 1.3 → 1.2"),
        (("verify: true", "verify: false"), "! upstream books: verification of targets removed (it was on)"),
        (("sesame", "pepper"), None),
        (("client_ca: ca.pem", "client_ca: other.pem"), "  listener 127.0.0.1:8080: tls.client_ca ca.pem → other.pem"),
    ],
)
def test_what_protects_connections_is_watched_too(here: Path, change: tuple[str, str], said: str | None) -> None:
    found = with_tls(here, change)
    assert found[:1] == ([said] if said is not None else [])
    assert not any(word in line for line in found for word in ("sesame", "pepper"))


def test_a_listener_without_tls_any_more_comes_first(here: Path) -> None:
    tls = ", tls: {certificate: a.pem, key: a.key, passphrase: sesame, client_ca: ca.pem, min_version: 1.3}"
    found = with_tls(here, (tls, ""))
    assert found[0] == "! listener 127.0.0.1:8080: TLS removed (it was 1.3 or newer)"


def test_limits_of_a_plugin_are_watched_too(here: Path) -> None:
    def with_limit(plugin: str) -> Description:
        return description(BEFORE.replace("  - request_id:\n", f"  - request_id:\n{plugin}"))

    before = with_limit("  - body_limit: {size: 1KiB}\n  - ip_filter: {deny: [10.0.0.0/8]}\n")
    found = differences(before, with_limit("  - body_limit: {size: 2KiB}\n"))
    assert [str(line) for line in found if "route api" in line.text] == [
        "! route api: address filter removed (it was ip_filter)",
        "! route api, plugin body_limit: size loosened, 1KiB → 2KiB",
        (
            "  route api: plugins request_id, body_limit, ip_filter, key_auth, metering "
            "→ request_id, body_limit, key_auth, metering"
        ),
        "  route api, plugin ip_filter: removed",
    ]


def test_limits_of_a_plugin_of_ones_own_are_watched_too(here: Path, write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)

    def with_stamp(burst: str) -> Description:
        return description(BEFORE.replace("  - request_id:\n", f"  - stamp: {{text: x, burst: {burst}}}\n"))

    found = differences(with_stamp("20"), with_stamp("21"))
    assert {str(line) for line in found} == {
        f"! route {route}, plugin stamp: burst loosened, 20 → 21" for route in ("open", "api", "-")
    }
    assert not any(line.flagged for line in differences(with_stamp("20"), with_stamp("unlimited")))


SECRETIVE = """\
listeners: [{bind: "127.0.0.1:8080"}]
stores: {redis: "redis://user:hunter2@10.0.0.1:6379", postgres: "${DATABASE}"}
upstreams: {books: {targets: ["${BACKEND}", {url: "http://${HOST}:80"}]}}
plugins:
  - stamp: {text: "${file:text}", ink: {colour: "${COLOUR}"}, password: swordfish, api_key: sesame}
  - key_auth: {realm: "to ${NAME}"}
routes: [{name: all, upstream: books, match: {methods: ["${METHOD}"]}}]
consumers: [{name: bob, organization: acme, keys: [{id: k1, sha256: "${HASH}"}]}]
"""
VALUES = {
    "DATABASE": "postgresql://me:secretive@10.9.9.9/db",
    "BACKEND": "http://10.8.8.8:81",
    "HOST": "internal.example",
    "COLOUR": "blue",
    "NAME": "nowhereland",
    "METHOD": "BREW",
    "HASH": digest("tg_live_x").hex(),
}


def test_nothing_that_may_be_a_secret_is_said(here: Path, write_plugin: Write) -> None:
    options = '    text: str\n    """What is stamped."""\n'
    more = '    password: str = ""\n    """Opens the pad."""\n    api_key: str | None = None\n    """Another."""\n'
    write_plugin("stamp", STAMP.replace(options, options + more))
    Path("text").write_text("from a file")
    described = description(SECRETIVE, **VALUES)
    shown = json.dumps(described)
    for secret in ("hunter2", "swordfish", "sesame", "from a file", *VALUES.values()):
        assert secret not in shown, secret
    assert described["gateway"]["stores.redis"] == "redis://user:[redacted]@10.0.0.1:6379"
    assert described["gateway"]["stores.postgres"] == "${DATABASE}"
    assert described["upstream books"]["targets[${BACKEND}].url"] == "${BACKEND}"
    assert described["upstream books"]["targets[http://${HOST}:80].url"] == "http://${HOST}:80"
    assert described["route all"]["match.methods"] == "${METHOD}"
    assert described["route all, plugin stamp"]["password"] == "(hidden)"
    assert described["route all, plugin stamp"]["text"] == "${file:text}"
    assert described["route all, plugin key_auth"]["realm"] == "to ${NAME}"
    assert described["consumer bob"]["keys[k1].sha256"] == "${HASH}"


def test_values_from_elsewhere_are_compared_as_they_are_written(here: Path, write_plugin: Write) -> None:
    """Whoever asks for a difference sits in another environment than the gateway runs in."""
    write_plugin("stamp", STAMP)
    text = SECRETIVE.replace(", password: swordfish, api_key: sesame", "")
    Path("text").write_text("one")
    before = description(text, **VALUES)
    Path("text").write_text("two")
    assert differences(before, description(text, **{**VALUES, "NAME": "elsewhere"})) == []
    changed = description(text.replace("to ${NAME}", "${NAME}"), **VALUES)
    assert [line.text for line in differences(before, changed)] == [
        "route all, plugin key_auth: realm to ${NAME} → ${NAME}",
        "route -, plugin key_auth: realm to ${NAME} → ${NAME}",
    ]


def test_every_example_can_be_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    for path in Path("config/examples").glob("*.yaml"):
        described = describe(load(path, {}))
        assert described["gateway"]["admin.bind"]
        assert all(isinstance(text, str) for part in described.values() for text in part.values())
