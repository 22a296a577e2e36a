"""Every plugin is documented, has an example that loads, and a test of its behaviour."""

from __future__ import annotations

import pytest

from gateway.config.composition import load
from gateway.config.plugin_loader import load_plugin, load_shared, plugin_names
from tests.house.tree import ROOT


def test_there_are_plugins():
    assert plugin_names()


@pytest.mark.parametrize("name", plugin_names())
def test_its_options_are_documented(name):
    plugin = load_plugin(name)
    assert plugin.__doc__, "the reference prints the docstring of the class"
    for kind in filter(None, (plugin.config_type, load_shared(name))):
        undocumented = [option for option, field in kind.model_fields.items() if not field.description]
        assert undocumented == []


@pytest.mark.parametrize("name", plugin_names())
def test_its_example_loads_and_uses_it(name):
    config = load(ROOT / "config" / "examples" / f"{name}.yaml", {})
    used = {entry for route in config.routes for entry in names_of(config.plugins_of(route))}
    assert name in used


def names_of(specs) -> set[str]:
    """With those of plugins that stand in the options of others."""
    return {spec.name for spec in specs} | {name for spec in specs for name in names_of(spec.parts)}


@pytest.mark.parametrize("name", plugin_names())
def test_the_overview_names_it(name):
    assert f"[{name}](" in (ROOT / "plugins" / "README.md").read_text()


@pytest.mark.parametrize("name", plugin_names())
def test_its_behaviour_is_tested(name):
    path = ROOT / "tests" / "plugins" / f"test_{name}.py"
    assert path.exists()
    assert "def test_" in path.read_text()


def test_every_example_is_of_something():
    """No example outlives its plugin."""
    examples = {path.stem for path in (ROOT / "config" / "examples").glob("*.yaml")}
    assert set(plugin_names()) <= examples
    for name in examples:
        load(ROOT / "config" / "examples" / f"{name}.yaml", {})
