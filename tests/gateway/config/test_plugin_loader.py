"""The plugin loader: a name leads to a module, and whatever is wrong with the module is one clear sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.config.plugin_loader import PluginError, UnknownPlugin, load_plugin, load_shared, plugin_names
from tests.fixtures.plugin_folder import STAMP, Write

HEAD = "from gateway.plugin import Plugin, PluginConfig\n"
CONFIG = HEAD + "class Config(PluginConfig): ...\n"


def test_a_plugin_is_found_by_its_name(write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    plugin = load_plugin("stamp")
    assert plugin.__name__ == "Stamp"
    assert set(plugin.config_type.model_fields) == {"text", "ink", "burst"}
    assert "stamp" in plugin_names()


def test_a_dotted_name_is_a_module_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_company_of_this_test").mkdir()
    (tmp_path / "my_company_of_this_test" / "stamp.py").write_text(STAMP)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_plugin("my_company_of_this_test.stamp").__name__ == "Stamp"
    for name in [name for name in sys.modules if name.startswith("my_company_of_this_test")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_module_of_your_own_may_lie_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/beside_of_this_test", "here/json", "elsewhere/nowhere_of_this_test"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "stamp.py").write_text(STAMP)
    before = sys.path.copy()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", before.copy())
        assert load_plugin("beside_of_this_test.stamp", tmp_path / "here").__name__ == "Stamp"
        assert sys.path == [*before, str(tmp_path / "here")]
        patch.setattr(sys, "path", before.copy())
        for name in ("json.stamp", "nowhere_of_this_test.stamp"):  # one that Python has comes first
            with pytest.raises(UnknownPlugin):
                load_plugin(name, tmp_path / "here")
        assert sys.path == before
    for name in [name for name in sys.modules if name.startswith("beside_of_this_test")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_section_of_a_plugin_is_its_shared_class(write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    write_plugin("plain", CONFIG + "class Plain(Plugin[Config]): ...\n")
    shared = load_shared("stamp")
    assert shared is not None
    assert set(shared.model_fields) == {"pads"}
    assert load_shared("plain") is None
    assert load_shared("no_such_plugin") is None


@pytest.mark.parametrize(
    "name", ["nosuch", "no.such.module", "", "Stamp", "../stamp", "stamp-it", "os.", "1", "é", "a b"]
)
def test_an_unknown_name_is_told_from_a_broken_plugin(name: str) -> None:
    with pytest.raises(UnknownPlugin):
        load_plugin(name)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def (", "cannot be loaded: SyntaxError: invalid syntax"),
        ("import no_such_module_anywhere", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module"),
        ("raise RuntimeError('not today')", "cannot be loaded: RuntimeError: not today"),
        ("raise SystemExit", "cannot be loaded: SystemExit"),
        (CONFIG, "must hold exactly one subclass of Plugin, found none"),
        (
            CONFIG + "class A(Plugin[Config]): ...\nclass B(Plugin[Config]): ...\n",
            "must hold exactly one subclass of Plugin, found A, B",
        ),
        (HEAD + "class A(Plugin[PluginConfig]): ...\n", "has no class Config (a PluginConfig)"),
        (HEAD + "class Config: ...\nclass A(Plugin[PluginConfig]): ...\n", "has no class Config (a PluginConfig)"),
        (CONFIG + "class A(Plugin[PluginConfig]): ...\n", "A is not a Plugin[Config]"),
        (CONFIG + "class A(Plugin): ...\n", "A is not a Plugin[Config]"),
        (
            CONFIG + "class A(Plugin[Config]):\n    async def on_finish(self, exchange): ...\n",
            "on_finish must be a plain function, not async",
        ),
        (
            CONFIG + "class A(Plugin[Config]):\n    async def on_chunk(self, exchange, chunk, last): ...\n",
            "on_chunk must be a plain function, not async",
        ),
    ],
)
def test_a_broken_plugin_is_one_sentence_that_names_it(write_plugin: Write, source: str, sentence: str) -> None:
    write_plugin("broken", source)
    with pytest.raises(PluginError, match=r'^plugin "broken"') as caught:
        load_plugin("broken")
    assert sentence in str(caught.value)
    assert not isinstance(caught.value, UnknownPlugin)
    assert "\n" not in str(caught.value)


def test_a_plugin_that_was_only_imported_does_not_count(write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    write_plugin("other", "from plugins.stamp import Stamp\n" + CONFIG + "class Other(Plugin[Config]): ...\n")
    assert load_plugin("other").__name__ == "Other"


def test_a_plugin_may_be_a_folder(write_plugin: Write) -> None:
    write_plugin("stamps/stamp", STAMP)
    write_plugin("stamps/__init__", "from plugins.stamps.stamp import Config, Stamp\n")
    assert load_plugin("stamps").__name__ == "Stamp"
