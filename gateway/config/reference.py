"""The reference of all options and the JSON Schema for editors, both made from the option classes.

What a person reads about an option is the docstring beside the code that uses it; nothing is written down twice.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from gateway.config.configuration import GatewayConfig
from gateway.config.plugin_loader import load_plugin, load_shared, plugin_names
from gateway.options import Options, alternatives, fields_by_key, is_options, unit_of, write_amount
from gateway.template import NAMES

REFERENCE_FILE: Final = "reference.md"
SCHEMA_FILE: Final = "gateway.schema.json"

_HEAD: Final = """\
# Configuration reference

Written by `tallygate reference` from the option classes: to change a text, change the docstring beside the option.

- A **duration** is written `250ms`, `30s`, `5m`, `1h` or `7d`, a **size** `512B`, `64KiB` or `10MB`; a bare number
  is an error.
- `${NAME}` and `${NAME:-default}` come from the environment, `${file:path}` from a file, relative to the file that
  names it. One that cannot be resolved is an error. Between braces put it in quotes. `$${` is a literal `${`.
  `${method}` alone is the request's method: the same as `{method}`.
- `!include path` puts another YAML file in place of a value, relative to the file that includes it.
- An unknown key is an error. `tallygate check` names every error with its line.
"""
_TEMPLATE_NAMES: Final = ", ".join(f"`{{{name}}}`" for name in NAMES)
_PLUGINS_HEAD: Final = f"""\
## Plugins

A plugin is listed under `plugins` at the top, where it runs on every route, or under a route's `plugins`. They run in
the order of the list, except that those that must know who calls wait for the plugin that finds out. A dotted name,
such as `- my_company.plugins.stamp:`, loads a module of your own, wherever Python finds it, or from the directory of
the configuration.

Where a value is a template, names in braces stand for what the request brings: {_TEMPLATE_NAMES}.
`host` is without the port that `authority` has, `target` is path and query; `param.NAME` is a parameter of the route's
path, `header.NAME` a field of the request. `{{{{` and `}}}}` are braces themselves; text that begins with one needs
quotes in YAML. `${{NAME}}` is something else: it comes from the environment, when the file is read.
"""


def documents() -> dict[str, str]:
    """The content of each generated file, by file name."""
    return {REFERENCE_FILE: reference(), SCHEMA_FILE: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"}


def outdated(directory: Path) -> list[str]:
    """The names of generated files in `directory` that are missing or differ from what the code says now."""
    return [name for name, text in documents().items() if _content(directory / name) != text]


def write(directory: Path) -> None:
    """Write all generated files to `directory`. Raises OSError."""
    for name, text in documents().items():
        (directory / name).write_text(text, encoding="utf-8")


def reference() -> str:
    """`reference.md`: every option with its type, default and meaning."""
    parts = [_HEAD, *_sections("gateway.yaml", "", GatewayConfig), _PLUGINS_HEAD]
    for name in plugin_names():
        plugin = load_plugin(name)
        hooks = ", ".join(f"`{hook}`" for hook in plugin.hooks())
        words = f"{_words(plugin)}\n\nHooks: {hooks or 'none'}."
        parts += _sections(f"plugin `{name}`", name, plugin.config_type, words, level="###")
        if shared := load_shared(name):
            parts += _sections(f"section `{name}`", name, shared, level="###")
    return "\n".join(parts)


def _sections(title: str, path: str, kind: type[Options], words: str | None = None, level: str = "##") -> Iterator[str]:
    """The table of a block, then those of the blocks inside it."""
    lines = [f"{level} {title}", "", words or _words(kind), ""]
    fields = [(key, kind.model_fields[name]) for key, name in fields_by_key(kind).items()]
    if fields:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key, field) for key, field in fields]
    else:
        lines.append("No options.")
    yield "\n".join([*lines, ""])
    for key, field in fields:
        for inner, where in _blocks(field.annotation, f"{path}.{key}" if path else key):
            yield from _sections(f"`{where}`", where, inner, level=level)


def _row(key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    cells = (f"`{key}`", _type(field.annotation, field.metadata), _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _words(kind: type) -> str:
    """The docstring without its indentation, as paragraphs."""
    paragraphs = (kind.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _blocks(annotation: Any, path: str) -> Iterator[tuple[type[Options], str]]:
    """The option classes inside an annotation, each with the path of its block: `routes[]`, `upstreams.<name>`."""
    for kind in alternatives(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if is_options(kind):
            yield kind, path
        elif origin is dict:
            yield from _blocks(arguments[1], f"{path}.<name>")
        elif origin in (list, tuple, set, frozenset):
            yield from _blocks(arguments[0], f"{path}[]")


_NAMES: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Any: "anything",
}
_SEVERAL: Final = {"block": "blocks", "text": "texts"}


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type as one would say it: `list of blocks`, `` `auto` or whole number, at least 1``."""
    if get_origin(annotation) is Annotated:
        annotation, *inner_metadata = get_args(annotation)
        metadata = [*metadata, *inner_metadata]
    if get_origin(annotation) in (Union, types.UnionType):
        arms = [_type(arm) for arm in get_args(annotation) if arm is not type(None)]
        return " or ".join(dict.fromkeys(arms)) + _bounds(metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        name = " or ".join(f"`{word}`" for word in arguments)
    elif unit := unit_of(metadata):
        name = unit
    elif origin is dict:
        inner = _type(arguments[1])
        name = {"block": "named blocks", "anything": "block"}.get(inner, f"block of {_SEVERAL.get(inner, inner)}")
    elif origin in (list, tuple, set, frozenset):
        inner = _type(arguments[0])
        name = f"list of {_SEVERAL.get(inner, inner)}"
    else:
        name = "block" if is_options(annotation) else _NAMES.get(annotation, "text")
    return name + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    """`, at least 1KiB` and the like."""
    unit = unit_of(metadata)
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    limits = [
        (word, limit)
        for item in metadata
        for bound in (item.metadata if isinstance(item, FieldInfo) else (item,))
        for name, word in words.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    return "".join(f", {word} {write_amount(limit, unit)}" for word, limit in limits)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Options):
        return "see below"
    if value is None:
        return "none"
    if unit := unit_of(field.metadata):
        return f"`{write_amount(value, unit)}`"
    return f"`{json.dumps(value, default=str)}`" if not isinstance(value, str) else f"`{value}`" if value else "empty"


def schema() -> dict[str, Any]:
    """`gateway.schema.json`: what an editor needs to complete and check `gateway.yaml` while it is written."""
    plugins = {name: load_plugin(name).config_type for name in plugin_names()}
    sections = {name: shared for name in plugin_names() if (shared := load_shared(name))}
    kinds: list[type[Options]] = [GatewayConfig, *plugins.values(), *sections.values()]
    found, document = models_json_schema([(kind, "validation") for kind in kinds], by_alias=True)
    references = {kind: found[kind, "validation"] for kind in kinds}
    definitions: dict[str, Any] = {name: _tidy(block) for name, block in document["$defs"].items()}
    root = definitions.pop(references[GatewayConfig]["$ref"].rpartition("/")[2])
    entries = {"type": "array", "items": {"$ref": "#/$defs/PluginEntry"}}
    for block in (root, definitions["RouteOptions"]):
        block["properties"]["plugins"] = {"description": block["properties"]["plugins"]["description"], **entries}
    root["properties"] |= {name: references[kind] for name, kind in sections.items()}
    definitions["PluginEntry"] = _plugin_entry({name: references[kind] for name, kind in plugins.items()})
    definitions["Substitution"] = {
        "type": "string",
        "pattern": r"\$\{[^{}]+\}",
        "description": "From the environment or a file.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.yaml",
        **root,
        "$defs": definitions,
    }


def _plugin_entry(plugins: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "One plugin and its options; a dotted name loads a module of your own.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {name: {"anyOf": [options, {"type": "null"}]} for name, options in plugins.items()},
        "patternProperties": {r"\.": {"type": ["object", "null"]}},
        "additionalProperties": False,
    }


def _tidy(block: Any) -> Any:
    """pydantic's schema without titles that only repeat the key, with written units, and with room for `${…}`."""
    if isinstance(block, list):
        return [_tidy(item) for item in block]
    if not isinstance(block, dict):
        return block
    tidy = {key: _tidy(item) for key, item in block.items() if not (key == "title" and isinstance(item, str))}
    unit, default = tidy.pop("x-unit", None), tidy.get("default")
    if isinstance(default, dict) or default is None:
        tidy.pop("default", None)
    elif unit is not None:
        tidy["default"] = write_amount(default, unit)
    picky = {"pattern", "enum", "const"} & tidy.keys() if tidy.get("type") == "string" else True
    if picky and tidy.get("type") in ("string", "integer", "number", "boolean"):
        about = {key: tidy.pop(key) for key in ("description", "default") if key in tidy}
        return {**about, "anyOf": [tidy, {"$ref": "#/$defs/Substitution"}]}
    return tidy


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None
