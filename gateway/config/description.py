"""Description: what a configuration says, part by part, in words that anybody may read.

A value from the environment or a file is shown as it is written, `${NAME}`; what is written out and looks like a secret
is not shown. Two descriptions can be compared wherever they come from (`config_diff.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

from gateway.config.configuration import GatewayConfig
from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source, Steps, descend
from gateway.downstream.listener import ListenerOptions
from gateway.log import redact
from gateway.options import Options, Unit, fields_by_key, lists_plugins, unit_of, write_amount
from gateway.route import UNMATCHED
from gateway.upstream.options import UpstreamOptions

Part: TypeAlias = dict[str, str]
"""Options by their way in the part, such as `match.path`, each as it would be written in the file."""
Description: TypeAlias = dict[str, Part]
"""The parts: `route api`, `route api, plugin cors`, `upstream demo`, `gateway` for what is in none, and so on."""

NONE: Final = "none"
GUARDED_BY: Final = "guarded by "
"""Begins an option that says what guards a part, such as the plugins of a route; the rest of it says what for."""
_HIDDEN: Final = "(hidden)"
_SUBSTITUTION: Final = re.compile(r"(?<!\$)\$\{(?!method\})[^{}]*\}")
_SECRET: Final = re.compile(r"(?i)secret|pass(?:w|phrase)|token|credential|private|api_?key|argon2id|\bsalt\b")
_DESCRIBED_APART: Final = ("listeners", "upstreams", "routes", "consumers", "plugins")
_LABELS: Final = ("name", "url", "id", "bind", "upstream")
"""Options that tell the blocks of a list apart."""


class Option(NamedTuple):
    """One option: its way from the root of the file, its name in its part, its value and what that is measured in."""

    steps: Steps
    name: str
    value: Any
    unit: Unit | None


def describe(config: GatewayConfig) -> Description:
    """The whole of a configuration that was read from a file."""
    return _Description(config.source).of(config)


def match_of(config: GatewayConfig, place: int) -> dict[str, Any]:
    """What the route at this place matches, as far as it says so; the values of header fields as they may be shown."""
    shown = _Description(config.source).shown
    match = config.routes[place].match.model_dump(exclude_defaults=True)
    for name, value in match.get("headers", {}).items():
        match["headers"][name] = shown(("routes", place, "match", "headers", name), value)
    return match


def veiled(text: str, source: Source, blocks: Iterable[Steps]) -> str:
    """A text that tells of these blocks, with what is written in the file in place of what came from elsewhere."""
    for steps in blocks:
        for there, written in source.written.items():
            if there[: len(steps)] == steps:
                for value, place in _put_in(str(source.at(there)), written):
                    text = text.replace(value, place)
    return redact(text)


def _put_in(value: str, written: str) -> Iterator[tuple[str, str]]:
    """What was put into a value, the longest first, and what stands in its place."""
    places = _SUBSTITUTION.findall(written)
    read = (piece.replace("${method}", "{method}").replace("$${", "${") for piece in _SUBSTITUTION.split(written))
    match = re.fullmatch("(.*)".join(map(re.escape, read)), value, re.DOTALL)
    if match is not None:
        found = {each: place for each, place in zip(match.groups(), places, strict=True) if each}
        yield from sorted(found.items(), key=lambda item: -len(item[0]))


def options_of(block: Any, source: Source, steps: Steps) -> Iterator[Option]:
    """All options of a block that stands at `steps`, and of the blocks in it."""
    return _Description(source).options(block, steps)


class _Description:
    """Knows what may be shown, because it knows what was written."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._as_written = source.as_written() if source.written else source.value

    def of(self, config: GatewayConfig) -> Description:
        described: Description = {"gateway": {}}
        for name, field in type(config).model_fields.items():
            if name not in _DESCRIBED_APART:
                options = self.options(getattr(config, name), (name,), name, unit_of(field.metadata))
                described["gateway"] |= {option.name: self._text(option) for option in options}
        for name, section in config.sections().items():
            described[f"section {name}"] = self._part(section, (name,))
        for place, listener in enumerate(config.listeners):
            bind = self.shown(("listeners", place, "bind"), listener.bind)
            described[f"listener {bind}"] = self._part(listener, ("listeners", place)) | _guards_of_listener(listener)
        for name, upstream in config.upstreams.items():
            described[f"upstream {name}"] = self._part(upstream, ("upstreams", name)) | _guards_of_upstream(upstream)
        for place, route in enumerate(config.routes):
            described[f"route {route.name}"] = self._part(route, ("routes", place))
            self._add_plugins(described, f"route {route.name}", config.plugins_of(route))
        described[f"route {UNMATCHED}"] = {}
        self._add_plugins(described, f"route {UNMATCHED}", config.plugins_of(None))
        for place, consumer in enumerate(config.consumers):
            described[f"consumer {consumer.name}"] = self._part(consumer, ("consumers", place))
        return described

    def _add_plugins(self, described: Description, route: str, specs: Iterable[PluginSpec]) -> None:
        part = described[route]
        part["plugins"] = ", ".join(spec.name for spec in specs) or NONE
        for spec in specs:
            self._add_plugin(described, f"{route}, plugin {spec.name}", spec)
            if spec.guards:
                guards = part.get(GUARDED_BY + spec.guards)
                part[GUARDED_BY + spec.guards] = f"{guards}, {spec.name}" if guards else spec.name

    def _add_plugin(self, described: Description, name: str, spec: PluginSpec) -> None:
        part = described[name] = self._part(spec.config, spec.steps)
        if spec.parts:
            part["plugins"] = ", ".join(inner.name for inner in spec.parts)
        for place, inner in enumerate(spec.parts):
            again = any(other.name == inner.name for other in spec.parts[:place])
            self._add_plugin(described, f"{name}, plugin {inner.name}{f' ({place + 1})' if again else ''}", inner)

    def _part(self, block: Any, steps: Steps) -> Part:
        return {option.name: self._text(option) for option in self.options(block, steps)}

    def options(self, block: Any, steps: Steps, name: str = "", unit: Unit | None = None) -> Iterator[Option]:
        prefix = f"{name}." if name else ""
        if isinstance(block, Options):
            for key, attribute in fields_by_key(type(block)).items():
                field = type(block).model_fields[attribute]
                if lists_plugins(field):
                    continue  # parts of their own
                value = getattr(block, attribute)
                yield from self.options(value, (*steps, key), prefix + key, unit_of(field.metadata))
        elif isinstance(block, dict) and block:
            for key, value in block.items():
                yield from self.options(value, (*steps, str(key)), f"{prefix}{key}")
        elif isinstance(block, list) and any(isinstance(item, Options) for item in block):
            for place, item in enumerate(block):
                yield from self.options(item, (*steps, place), f"{name}[{self._label(item, (*steps, place))}]")
        else:
            yield Option(steps, name, block, unit)

    def _label(self, item: Any, steps: Steps) -> str:
        """What an item of a list is called: its name, itself where it has no options, or its place."""
        if not isinstance(item, Options):
            return self.shown(steps, _written(item, None))
        for label in _LABELS:
            if isinstance(value := getattr(item, label, None), str):
                return self.shown((*steps, label), value)
        return str(steps[-1])

    def _text(self, option: Option) -> str:
        key = str(option.steps[-1])
        if key == "sha256":
            return self.shown(option.steps, f"{option.value[:8]}…")
        if isinstance(option.value, str) and option.value and _SECRET.search(key):
            return self.shown(option.steps, _HIDDEN)
        return self.shown(option.steps, _written(option.value, option.unit))

    def shown(self, steps: Steps, text: str) -> str:
        """The text, or where something in it was put in for something else, what is written there."""
        for there in self._source.written:
            if there[: len(steps)] == steps or steps[: len(there)] == there:
                return redact(_written(descend(self._as_written, min(there, steps, key=len)), None))
        return redact(text)


def _guards_of_listener(listener: ListenerOptions) -> Part:
    if listener.tls is None:
        return {}
    guards = {f"{GUARDED_BY}TLS": f"{listener.tls.min_version} or newer"}
    if listener.tls.client_ca is not None and listener.tls.client_auth == "required":
        guards[f"{GUARDED_BY}client certificates"] = "required"
    return guards


def _guards_of_upstream(upstream: UpstreamOptions) -> Part:
    verified = upstream.secure and (upstream.tls is None or upstream.tls.verify)
    return {f"{GUARDED_BY}verification of targets": "on"} if verified else {}


def _written(value: Any, unit: Unit | None) -> str:
    """A value as it would be written in the file."""
    match value:
        case None:
            return NONE
        case bool():
            return "true" if value else "false"
        case set() | frozenset() if all(isinstance(item, int) for item in value):
            return ", ".join(_ranges(value)) or NONE
        case dict() if not value:
            return NONE
        case list() | tuple() | set() | frozenset():
            return ", ".join(_written(item, None) for item in value) or NONE
    return write_amount(value, unit)


def _ranges(numbers: Iterable[int]) -> Iterator[str]:
    """`200-399` rather than each number."""
    ordered = sorted(numbers)
    gaps = [place for place, (one, next_) in enumerate(pairwise(ordered), 1) if next_ != one + 1]
    for first, end in pairwise([0, *gaps, len(ordered)]):
        yield str(ordered[first]) if end - first == 1 else f"{ordered[first]}-{ordered[end - 1]}"
