"""The reference and the editor's schema: complete, in the words of the docstrings, and in step with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.config import reference
from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from tests.fixtures.plugin_folder import STAMP, Write

ROOT = Path(__file__).parents[3]


def test_what_is_committed_is_up_to_date() -> None:
    assert reference.outdated(ROOT / "config") == [], "run `tallygate reference`"


def test_every_option_of_a_plugin_is_there(write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    text = reference.reference()
    plugin = text[text.index("### plugin `stamp`") :]
    assert "Stamps every response.\n\nHooks: `on_request`, `on_chunk`." in plugin
    assert "| `text` | text | required | What is stamped. |" in plugin
    assert "| `ink` | block | see below | The ink. |" in plugin
    assert "| `burst` | whole number or `unlimited` | `20` | How many stamps at once. |" in plugin
    assert "### `stamp.ink`\n\nWhat the stamp is made with." in plugin
    assert "| `colour` | `black` or `blue` | `black` | Colour of the ink. |" in plugin
    assert "| `dries` | duration | `2s` | How long it stays wet. |" in plugin
    assert "### section `stamp`" in plugin
    assert "### `stamp.pads[]`" in plugin


def test_every_block_of_the_core_is_there() -> None:
    headings = set(re.findall(r"^## `(.*)`$", reference.reference(), re.MULTILINE))
    assert {"listeners[]", "admin", "stores", "usage.journal", "billing", "consumers[].keys[]"} <= headings
    assert {"upstreams.<name>", "upstreams.<name>.targets[]", "upstreams.<name>.timeouts", "routes[].match"} <= headings


def test_every_option_of_the_core_is_documented() -> None:
    empty = re.findall(r"^\| .* \|  \|$", reference.reference(), re.MULTILINE)
    assert empty == []


def test_the_schema_knows_every_key() -> None:
    schema = reference.schema()
    assert set(GatewayConfig.model_fields) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)))
    assert references == set(schema["$defs"])


def test_the_schema_knows_plugins_and_their_sections(write_plugin: Write) -> None:
    write_plugin("stamp", STAMP)
    schema = reference.schema()
    entry = schema["$defs"]["PluginEntry"]["properties"]["stamp"]["anyOf"][0]
    options = schema["$defs"][entry["$ref"].removeprefix("#/$defs/")]
    assert options["required"] == ["text"]
    section = schema["$defs"][schema["properties"]["stamp"]["$ref"].removeprefix("#/$defs/")]
    assert set(section["properties"]) == {"pads"}
    for block in (schema, schema["$defs"]["RouteOptions"]):
        assert block["properties"]["plugins"]["items"] == {"$ref": "#/$defs/PluginEntry"}


def test_the_schema_knows_plugins_in_the_options_of_others() -> None:
    schema = reference.schema()["$defs"]
    entry = schema["PluginEntry"]["properties"]["any_of"]["anyOf"][0]
    inner = schema[entry["$ref"].removeprefix("#/$defs/")]["properties"]["plugins"]
    assert inner["items"] == {"$ref": "#/$defs/PluginEntry"}
    assert inner["description"]


def test_the_schema_writes_units_and_lets_substitutions_pass() -> None:
    listener = reference.schema()["$defs"]["ListenerOptions"]["properties"]
    assert listener["idle_timeout"]["default"] == "75s"
    assert listener["max_head"]["default"] == "32KiB"
    assert {"$ref": "#/$defs/Substitution"} in listener["max_connections"]["anyOf"]


def test_nothing_of_pydantic_shows() -> None:
    schema = json.dumps(reference.schema())
    assert "x-unit" not in schema
    assert "factory" not in schema


@pytest.mark.parametrize(
    "file", [ROOT / "gateway.yaml", *sorted((ROOT / "config" / "examples").glob("*.yaml"))], ids=str
)
def test_what_we_show_loads_and_names_its_schema(file: Path) -> None:
    config = load(file, {})
    assert config.routes
    first, _, _ = file.read_text().partition("\n")
    schema = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads(schema.read_text())["title"] == "gateway.yaml"


def test_the_running_example_meters_what_its_comments_say() -> None:
    config = load(ROOT / "gateway.yaml", {"REDIS_URL": "redis://127.0.0.1:1"})
    chains: dict[str, Any] = {route.name: [spec.name for spec in config.plugins_of(route)] for route in config.routes}
    assert chains == {
        "open": ["request_id", "access_log"],
        "ai": ["request_id", "access_log", "key_auth", "metering"],
        "api": ["request_id", "access_log", "key_auth", "metering"],
    }
    assert config.stores.redis == "redis://127.0.0.1:1"
    assert config.stores.postgres == "embedded"
