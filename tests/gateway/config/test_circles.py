"""Redirects that lead to each other are refused, with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.composition import ConfigError, load

HEAD = """\
listeners: [{bind: "127.0.0.1:0"}]
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes:
"""


def complaints(tmp_path: Path, *routes: str) -> list[str]:
    path = tmp_path / "gateway.yaml"
    lines = (f"  - {{name: r{place}, upstream: u, {route}}}\n" for place, route in enumerate(routes))
    path.write_text(HEAD + "".join(lines))
    try:
        load(path, {})
    except ConfigError as error:
        return [line.partition("gateway.yaml:")[2] for line in error.errors]
    return []


def sent(path: str, to: str, more: str = "") -> str:
    return f"match: {{path: {path}{more}}}, plugins: [redirect: {{to: '{to}'}}]"


@pytest.mark.parametrize(
    ("routes", "circles"),
    [
        ([sent("/a", "/b"), sent("/b", "/a")], ["4: /b → /a → /b", "5: /a → /b → /a"]),
        ([sent("/a", "/b/1?x=1"), sent("/b/*", "/a")], ["4: /b/1?x=1 → /a → /b/1?x=1", "5: /a → /b/1?x=1 → /a"]),
        (
            [sent("/in", "/a"), sent("/a", "/b"), sent("/b", "/a")],
            ["4: /a → /b → /a", "5: /b → /a → /b", "6: /a → /b → /a"],
        ),
        (
            [sent("/a", "/b", ", host: '*.example.com'"), sent("/b", "/a", ", host: x.example.com"), sent("/b", "/a")],
            ["4: /b → /a → /b", "5: /a → /b → /a"],
        ),
        ([sent("/a", "/b", ", methods: [POST]"), sent("/b", "/a", ", methods: [GET]")], []),
        ([sent("/a", "/b"), sent("/b", "/c")], []),
        ([sent("/*", "/new")], []),
        ([sent("/a", "/b"), sent("/b", "/a{target}")], []),
    ],
    ids=["two", "below", "into one", "a host", "other methods", "to an end", "who is there", "a template"],
)
def test_who_follows_must_arrive(tmp_path: Path, routes: list[str], circles: list[str]) -> None:
    found = [
        line.replace(f" routes[{place}].plugins.redirect: leads in a circle:", "")
        for line in complaints(tmp_path, *routes)
        for place in [int(line.partition(":")[0]) - 4]
    ]
    assert found == circles
