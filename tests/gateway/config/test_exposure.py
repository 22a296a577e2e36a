"""Warnings about listeners where callers show secrets without TLS: one for each, and none where all is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.configuration import here, loaded

__all__ = ["here"]

TEXT = """\
listeners:
  - {bind: "%s"%s}
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
%s
routes:
  - {name: books, match: {path: /books/*}, upstream: demo, plugins: [%s]}
  - {name: open, match: {path: /open/*}, upstream: demo}
"""
BASIC = "basic_auth: {}"
JWT = (
    "jwt_auth: {issuer: https://i.example, audience: a, algorithms: [ES256], keys: {discovery: true}, "
    "claims: {organization: org}}"
)
INTROSPECTION = "introspection: {upstream: demo, path: /i, client_id: a, client_secret: b, claims: {organization: org}}"


def warnings(plugins: str, bind: str = "0.0.0.0:8080", listener: str = "", more: str = "") -> list[str]:
    return loaded(TEXT % (bind, listener, more, plugins), serving=True).warnings


@pytest.mark.parametrize(
    ("plugins", "who"),
    [
        (BASIC, "basic_auth (route books)"),
        ("key_auth: {query: key}", "key_auth (route books)"),
        (JWT, "jwt_auth (route books)"),
        (INTROSPECTION, "introspection (route books)"),
        (
            f"any_of: {{plugins: [key_auth: {{}}, {JWT}, {JWT}, anonymous: {{organization: o}}]}}",
            "key_auth (route books), jwt_auth (route books)",
        ),
    ],
)
def test_what_can_be_read_on_the_way_is_warned_of(here: Path, plugins: str, who: str) -> None:
    said = f"gateway.yaml:2: this listener has no TLS, whoever listens in can use what callers show to {who}: "
    assert warnings(plugins) == [said + "give it `tls`, or name `trusted_proxies` that do"]


@pytest.mark.parametrize("bind", ["127.0.0.1:8080", "127.8.9.1:8080", "[::1]:8080", "localhost:8080"])
def test_who_listens_on_this_machine_alone_needs_no_tls(here: Path, bind: str) -> None:
    assert warnings(BASIC, bind) == []


@pytest.mark.parametrize("bind", ["[::]:8080", "10.0.0.7:8080", "edge.internal:8080"])
def test_any_other_address_can_be_reached(here: Path, bind: str) -> None:
    assert len(warnings(BASIC, bind)) == 1


def test_what_is_no_secret_needs_none(here: Path) -> None:
    assert warnings("hmac_auth: {}") == []
    assert warnings("anonymous: {organization: o}") == []
    assert warnings("cors: {origins: ['*']}") == []


def test_where_tls_ends_before_us_or_is_on_its_way_nothing_is_said(here: Path) -> None:
    assert warnings(BASIC, more="trusted_proxies: [10.0.0.0/8]") == []
    assert warnings(BASIC, listener=", redirect_to_https: true") == []


def test_many_routes_are_one_warning(here: Path) -> None:
    routes = "\n".join(f"  - {{name: r{n}, match: {{path: /{n}}}, upstream: demo}}" for n in range(6))
    text = (TEXT % ("0.0.0.0:8080", "", "plugins: [basic_auth: {}]", "")).partition("  - {name: books")[0] + routes
    text = text.replace("upstreams:", '  - {bind: "0.0.0.0:8081"}\nupstreams:')
    first, second = loaded(text, serving=True).warnings
    assert "basic_auth (routes r0, r1, r2 and 3 more)" in first
    assert first.startswith("gateway.yaml:2: ")
    assert second.startswith("gateway.yaml:3: ")
    assert loaded(text).warnings == []  # who only bills has no listener
