"""Parameters that a route's path does not have: nothing that asks for one could ever be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.composition import ConfigError
from tests.fixtures.configuration import HEAD, loaded


def written(path: str, *plugins: str, top: str = "") -> str:
    lines = "".join(f"      - {plugin}\n" for plugin in ("key_auth:", *plugins))
    shared = f"plugins:\n  - key_auth:\n  - {top}\n" if top else ""
    route = f"  - name: books\n    match: {{path: {path!r}}}\n    upstream: demo\n    plugins:\n{lines}"
    return f"{HEAD}{shared}routes:\n{route}"


def complaints(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, **environment)
    return caught.value.errors


PLUGINS = [
    ("authorize: {permission: 'books/{param.NAME}:{action}'}", "authorize.permission"),
    ("authorize: {any: ['books:read', 'books/{param.NAME}:{action}']}", "authorize.any[1]"),
    ("authorize: {all: ['books/{param.NAME}:{action}']}", "authorize.all[0]"),
    ("authorize: {when: \"user == 'u' or not (hour < 3 and param.NAME == user)\"}", "authorize.when"),
    ("authorize: {when: \"'x' == param.NAME\"}", "authorize.when"),
    ("set_headers: {request: {set: {X-A: '{client}', X-Book: 'a{param.NAME}'}}}", "set_headers.request.set.X-Book"),
    ("rewrite: {path: '/v2/{param.NAME}'}", "rewrite.path"),
    ("redirect: {to: '/v2/{param.NAME}'}", "redirect.to"),
]


@pytest.mark.parametrize(("plugin", "place"), PLUGINS)
def test_what_the_path_does_not_have(here: Path, plugin: str, place: str) -> None:
    loaded(written("/books/{book}", plugin.replace("NAME", "book")))
    near = complaints(written("/books/{book}", plugin.replace("NAME", "boook")))
    said = f"routes[0].plugins.{place}: the path of this route has no {{boook}}"
    assert near == [f'gateway.yaml:9: {said} (did you mean "book"?)']
    assert complaints(written("/books", plugin.replace("NAME", "boook"))) == [f"gateway.yaml:9: {said}"]


@pytest.mark.parametrize(("plugin", "place"), PLUGINS)
def test_of_what_runs_everywhere_some_path_has_it(here: Path, plugin: str, place: str) -> None:
    other = "  - {name: others, match: {path: '/others/{other}'}, upstream: demo}\n"
    loaded(written("/books/{book}", top=plugin.replace("NAME", "other")) + other)
    (line,) = complaints(written("/books/{book}", top=plugin.replace("NAME", "zz")) + other)
    assert line == f"gateway.yaml:5: plugins.{place}: the path of no route has a {{zz}}"


OWN = """\
from gateway.authentication import Authenticator
from gateway.conditions import ConditionText
from gateway.plugin import PluginConfig
class Config(PluginConfig):
    when: ConditionText
class Own(Authenticator[Config]):
    challenge = "Own"
"""


def test_what_another_plugin_lists_is_looked_at_too(here: Path) -> None:
    (here / "shelf_of_ann").mkdir()
    (here / "shelf_of_ann" / "own.py").write_text(OWN)
    listed = "any_of: {plugins: [shelf_of_ann.own: {when: 'param.x == user'}]}"
    loaded(written("/books/{x}", listed))
    (line,) = complaints(written("/books", listed))
    assert line.endswith("plugins.shelf_of_ann.own.when: the path of this route has no {x}")


def test_a_name_from_the_environment_is_not_repeated(here: Path) -> None:
    (line,) = complaints(written("/books", "authorize: {when: '${SECRET}'}"), SECRET="param.hush == user")
    assert "hush" not in line
    assert line.endswith("authorize.when: the path of this route has no {${SECRET}}")
