"""Change the target of a request before it goes upstream: take off a prefix, put one on, replace, or make it anew.

What is changed is the path as routes read it: dot segments resolved and needless escapes undone (`%7E` is `~`), so that
no spelling slips past a rule or climbs out of a prefix. All else stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Annotated, Any, Final

import re2
from pydantic import AfterValidator, Field, model_validator

from gateway.exchange import Exchange
from gateway.options import Options
from gateway.path import normalized_path
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import BadRequest
from gateway.services import Services
from gateway.template import Template, UrlTemplate, compiled

MOST_REMEMBERED: Final = 4096
"""Paths whose new form is remembered; the one that was needed least recently is forgotten."""
LONGEST_REMEMBERED: Final = 256
"""Characters of a path whose new form is remembered."""
MOST_INSTRUCTIONS: Final = 256
"""Instructions of a compiled pattern: what one character of a path may cost. Usual ones have less than 50."""
# What the gateway itself would accept as the path of a request, and no reader could resolve to another.
_PATH: Final = re.compile(r"/(?:[!\"$&->@-\[\]-~]|%(?!00)[0-9A-Fa-f]{2})*")
_WORDS: Final = re.compile(r"[\w/~-]*")
_DOT_SEGMENT: Final = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


def _prefix(value: str) -> str:
    if not _is_path(value) or value.endswith("/") or "//" in value:
        raise ValueError(f"not a prefix of a path: {value!r} (write /api/v1)")
    return normalized_path(value)


def _path_template(value: str) -> str:
    if not value.startswith(("/", "{path}")) or any(part in value for part in ("?", "#", "{query}", "{target}")):
        raise ValueError(f"not a path: {value!r} (write /books/{{param.id}}; what follows ? is for `query`)")
    return value


def _query_template(value: str) -> str:
    if "#" in value:
        raise ValueError(f"not a query: {value!r} (a fragment never goes to a server)")
    return value


Prefix = Annotated[str, AfterValidator(_prefix)]


class Replace(Options):
    """A part of the path, and what takes its place."""

    pattern: str = Field(min_length=1)
    """A regular expression in the syntax of RE2; the first part of the path that it matches is replaced."""
    with_: str = Field(alias="with")
    """What takes its place: `{0}` is all that matched, `{1}` its first group, `{name}` the group `(?P<name>…)`."""

    @model_validator(mode="after")
    def _does_something(self) -> Replace:
        _, form, groups = self.parts()
        literal = form % tuple("" for _ in groups)
        if not _PATH.fullmatch("/" + literal):
            raise ValueError(f"not a part of a path: {self.with_!r}")
        if (form, groups) == ("%s", [0]) or (_WORDS.fullmatch(literal) and literal == self.pattern.strip("^$")):
            raise ValueError("replaces a part of the path with itself")
        return self

    def parts(self) -> tuple[Any, str, list[int]]:
        """The pattern; `with` as a form for Python's `%`; and the number of the group for each of its places.

        Raises ValueError.
        """
        if not self.pattern.isascii():
            raise ValueError("a path is ASCII: write other characters percent-encoded, as they come")
        options = re2.Options()
        options.log_errors = False
        options.encoding = re2.Options.Encoding.LATIN1
        try:
            regex = re2.compile(self.pattern.encode(), options)
        except re2.error as error:
            said = error.args[0].decode("utf-8", "replace")
            raise ValueError(f"not a pattern of RE2 (which has no look-around, no back-reference): {said}") from None
        if regex.programsize > MOST_INSTRUCTIONS:
            raise ValueError(f"too large a pattern: {regex.programsize} steps, at most {MOST_INSTRUCTIONS} are taken")
        names = {name.decode(): number for name, number in regex.groupindex.items()}

        def number_of(name: str) -> int:
            number = int(name) if name.isascii() and name.isdigit() else names.get(name, -1)
            if not 0 <= number <= regex.groups:
                raise ValueError(f"the pattern has no group {{{name}}}")
            return number

        return regex, *compiled(self.with_, number_of)


class Config(PluginConfig):
    """What becomes of the target."""

    strip_prefix: Prefix | None = None
    """Whole segments to take off, such as `/api/v1`; a path without them stays as it is."""
    replace: Replace | None = None
    """A part to replace."""
    add_prefix: Prefix | None = None
    """Whole segments to put on, such as `/internal`."""
    path: Annotated[UrlTemplate, AfterValidator(_path_template)] | None = None
    """A new path, as a template: `/books/{param.id}/pages`."""
    query: Annotated[UrlTemplate, AfterValidator(_query_template)] | None = None
    """A new query, as a template: `lang=en&{query}`. Without it the query stays, empty it goes."""

    @model_validator(mode="after")
    def _does_something(self) -> Config:
        steps = [self.strip_prefix, self.replace, self.add_prefix]
        if self.path is not None and any(steps):
            raise ValueError("`path` is the whole new path: nothing is left to strip, replace or add")
        if self.path == "{path}" or self.query == "{query}" or not any((*steps, self.path, self.query is not None)):
            raise ValueError("changes nothing (set `strip_prefix`, `replace`, `add_prefix`, `path` or `query`)")
        if self.strip_prefix is not None and steps == [self.add_prefix, None, self.strip_prefix]:
            raise ValueError("puts on the prefix that it takes off")
        return self


class Rewrite(Plugin[Config]):
    """Changes path and query before the request goes upstream: a prefix goes, a part is replaced, a prefix comes.

    Rules see the path as routes do, dot segments resolved and needless escapes undone; all else stays byte for byte. A
    path whose new form is not valid, or climbs, is answered 400. Patterns are RE2's, so that none takes for ever. The
    access log shows the target as it went upstream.
    """

    @classmethod
    def explain(cls, config: Config, exchange: Exchange) -> Iterator[str]:
        try:
            _Rewriting(config).apply(exchange)
        except BadRequest as refusal:
            if exchange.consumer is not None:
                raise
            yield f"the target is not known: {refusal.detail}"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._rewriting = _Rewriting(config)

    def on_request(self, exchange: Exchange) -> None:
        self._rewriting.apply(exchange)


class _Rewriting:
    """What is done to a target."""

    def __init__(self, config: Config) -> None:
        self._steps = list(_steps(config))
        self._path = Template(config.path, url=True) if config.path is not None else None
        self._query = Template(config.query, url=True) if config.query is not None else None
        self._remembered = lru_cache(MOST_REMEMBERED)(self._changed)

    def apply(self, exchange: Exchange) -> None:
        """Change the request's target. Raises BadRequest."""
        request = exchange.request
        if request.target == "*":
            return  # OPTIONS of the server as a whole has no path
        path, mark, query = request.target.partition("?")
        if self._query is not None:
            query = self._query.render(exchange)
            mark = "?" if query else ""
        if self._path is not None:
            path = _checked(self._path.render(exchange))
        elif self._steps:
            path = self._remembered(path) if len(path) <= LONGEST_REMEMBERED else self._changed(path)
        request.target = path + mark + query

    def _changed(self, path: str) -> str:
        """The new form of a path, which is the old one where no step changed anything. Raises BadRequest."""
        old = new = normalized_path(path)
        for step in self._steps:
            new = step(new)
        return path if new == old else _checked(new)


def _steps(config: Config) -> Iterator[Callable[[str], str]]:
    """What is done to a path, in order."""
    if config.strip_prefix is not None:
        yield partial(_without_prefix, config.strip_prefix)
    if config.replace is not None:
        yield partial(_replaced, *config.replace.parts())
    if config.add_prefix is not None:
        yield config.add_prefix.__add__


def _without_prefix(prefix: str, path: str) -> str:
    rest = path.removeprefix(prefix)
    return rest or "/" if rest[:1] in ("", "/") else path


def _replaced(regex: Any, form: str, groups: list[int], path: str) -> str:
    match = regex.search(path.encode("ascii"))
    if match is None:
        return path
    values = [(match[group] or b"").decode("ascii") for group in groups]
    return path[: match.start()] + form % tuple(values) + path[match.end() :]


def _is_path(path: str) -> bool:
    return _PATH.fullmatch(path) is not None and _DOT_SEGMENT.search(path) is None


def _checked(path: str) -> str:
    if not _is_path(path):
        raise BadRequest("The path has no valid form for the upstream.")
    return path
