"""The configuration as a whole: what a good file becomes."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.fixtures.configuration import HEAD, ROUTES, loaded
from tests.fixtures.plugin_folder import STAMP, Write


def test_a_small_file_and_the_defaults(here: Path) -> None:
    config = loaded(HEAD + ROUTES)
    assert config.processes == "auto"
    assert config.admin.bind == "127.0.0.1:9090"
    assert config.drain_timeout == 30.0
    assert config.stores.redis == "embedded"
    assert config.usage.journal.budget == 2 * 2**30
    assert config.billing.retention == 400 * 86400.0
    assert config.upstreams["demo"].targets[0].url == "http://127.0.0.1:9001"
    assert config.plugins_of(config.routes[0]) == []
    assert config.plugins_of(None) == []


def test_values_arrive_as_what_the_options_want(here: Path) -> None:
    text = """
listeners:
  - {bind: "[::]:8080", head_timeout: 250ms, max_head: 64KiB, max_connections: "${MOST}"}
drain_timeout: 1.5m
processes: ${PROCESSES}
trusted_proxies: [10.0.0.0/8, 192.0.2.7, "fd00::/8"]
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes: [{name: all, upstream: demo, max_body: 10MB, match: {headers: {x-kind: books}}}]
"""
    config = loaded(text, MOST="9", PROCESSES="4")
    listener = config.listeners[0]
    assert (listener.head_timeout, listener.max_head, listener.max_connections) == (0.25, 65536, 9)
    assert (config.drain_timeout, config.processes) == (90.0, 4)
    assert config.trusted_proxies == [ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("fd00::/8")]
    assert config.routes[0].max_body == 10_000_000


def test_a_configuration_never_changes(here: Path) -> None:
    config = loaded(HEAD + ROUTES)
    with pytest.raises(ValidationError):
        config.processes = 3


def test_plugins_of_the_top_level_come_first(here: Path, write_plugin: Write) -> None:
    for name in ("first", "second", "third"):
        write_plugin(name, STAMP)
    config = loaded(
        HEAD
        + """
plugins:
  - first: {text: top}
  - second: {text: top}
routes:
  - {name: plain, match: {path: /plain}, upstream: demo}
  - name: own
    upstream: demo
    plugins:
      - third: {text: own}
      - first: {text: own, burst: unlimited}
"""
    )
    plain, own = ([(spec.name, spec.config.text) for spec in config.plugins_of(route)] for route in config.routes)
    assert plain == [("first", "top"), ("second", "top")]
    assert own == [("first", "own"), ("second", "top"), ("third", "own")]
    assert [spec.name for spec in config.plugins_of(None)] == ["first", "second"]
    assert config.plugins_of(config.routes[1])[0].plugin.__name__ == "Stamp"


def test_who_calls_is_known_before_what_depends_on_it(here: Path) -> None:
    """The order of the top level and of a route must not decide whether usage is billed."""
    config = loaded(
        HEAD
        + """
plugins:
  - metering: {meters: [requests]}
  - idempotency:
  - request_id:
routes:
  - {name: open, match: {path: /open}, upstream: demo}
  - {name: keyed, upstream: demo, plugins: [access_log: , key_auth: , compress: ]}
"""
    )
    open_, keyed = ([spec.name for spec in config.plugins_of(route)] for route in config.routes)
    assert open_ == ["metering", "idempotency", "request_id"]
    assert keyed == ["request_id", "access_log", "key_auth", "metering", "idempotency", "compress"]


def test_a_plugin_may_own_a_section(here: Path, write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    config = loaded(HEAD + ROUTES + "stamp: {pads: [{colour: blue, dries: 1m}]}\n")
    shared: Any = config.shared("stamp")
    assert [(pad.colour, pad.dries) for pad in shared.pads] == [("blue", 60.0)]
    assert loaded(HEAD + ROUTES).shared("stamp") is None
