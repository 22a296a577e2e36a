"""Path: what the path of a request target means, whichever way it is spelled (RFC 3986 §6.2.2), and its query."""

from __future__ import annotations

import re
from typing import Final

from gateway.problem import BadRequest

_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_SLASH: Final = re.compile(r"%2F|%5C")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_CLIMBS_IN_DISGUISE: Final = re.compile(r"\.\.?(?:;|%3B)")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def path_pattern(pattern: str) -> tuple[list[str], bool]:
    """A route's path as normalized segments and whether it goes on below (`/*`). Raises ValueError."""
    if not pattern.startswith("/"):
        raise ValueError("a path begins with /")
    below = pattern.endswith("/*")
    segments = (pattern[:-2] if below else pattern)[1:].split("/") if pattern != "/*" else []
    names: set[str] = set()
    for segment in segments:
        if "*" in segment:
            raise ValueError("* stands only at the end, as /*")
        if "{" in segment or "}" in segment:
            if not re.fullmatch(r"\{[a-z_][a-z0-9_]*\}", segment):
                raise ValueError(f"a parameter is a whole segment such as {{name}}, not {segment!r}")
            if segment in names:
                raise ValueError(f"{segment} occurs twice")
            names.add(segment)
        elif segment in (".", "..") or not re.fullmatch(r"[!-\[\]-~]*", segment) or {"?", "#"} & set(segment):
            raise ValueError(f"{segment!r} cannot be part of a path")
    return [segment if segment[:1] == "{" else _normalized(segment) for segment in segments], below


def path_segments(path: str) -> list[str]:
    """A path in segments, unreserved escapes undone and dot segments resolved (RFC 3986 §6.2.2.2, §5.2.4).

    Raises BadRequest for a broken escape, a NUL, a path that climbs above its root, and one that not all servers read
    alike.
    """
    segments = path[1:].split("/")
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadRequest("The path contains an escape that is not valid.")
        segments = [_normalized(segment) for segment in segments]
    if ".." in path or "%" in path or "/.;" in path:
        _refuse_two_readings(segments)
    if "." in segments or ".." in segments:
        return _without_dots(segments)
    return segments


def normalized_path(path: str) -> str:
    """A path (without query) as routes read it; itself where there is nothing to undo. Raises BadRequest."""
    if "%" in path or "/." in path:
        return "/" + "/".join(path_segments(path))
    return path


def _normalized(segment: str) -> str:
    def undo(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(undo, segment)


def _refuse_two_readings(segments: list[str]) -> None:
    """`a//../b` and `a%2F../b` climb to different places, depending on who merges slashes or decodes them first; `..;x`
    climbs where parameters of a segment (RFC 3986 §3.3) are taken off before dots are resolved, as in servlets.
    """
    pieces = [piece for segment in segments for piece in _SLASH.split(segment)]
    if any(map(_CLIMBS_IN_DISGUISE.match, pieces)) or (
        ".." in pieces and (len(pieces) > len(segments) or "" in segments[:-1])
    ):
        raise BadRequest("The path climbs from a place that not all servers read alike.")


def _without_dots(segments: list[str]) -> list[str]:
    resolved: list[str] = []
    for segment in segments:
        if segment == "..":
            if not resolved:
                raise BadRequest("The path climbs above its root.")
            resolved.pop()
        elif segment != ".":
            resolved.append(segment)
    if segments[-1] in (".", ".."):
        resolved.append("")
    return resolved


def without_parameter(target: str, name: str) -> tuple[str, list[str]]:
    """A target without the query parameters of this name, all else byte for byte, and the values they had."""
    path, _, query = target.partition("?")
    kept: list[str] = []
    values: list[str] = []
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            values.append(value)
        else:
            kept.append(pair)
    if not values:
        return target, []
    return (f"{path}?{'&'.join(kept)}" if kept else path), values
