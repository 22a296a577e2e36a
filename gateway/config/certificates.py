"""Certificates in the configuration: files that can be used, or a fault with the line that names them.

What a block of options cannot know without looking at the disk is looked at here, even while something else is wrong.
What becomes of the files later is the business of `tls/renewal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from pydantic import ValidationError

from gateway.clock import Clock
from gateway.config.source import Source, Steps
from gateway.options import FROM_FILE, Options
from gateway.tls.certificate import Unusable
from gateway.tls.client import UpstreamTlsOptions, make_client_context
from gateway.tls.renewal import Made
from gateway.tls.server import ListenerTlsOptions, make_server_context

_KINDS: Final[dict[str, tuple[type[Options], Callable[[Any, Clock], Made]]]] = {
    "listeners": (ListenerTlsOptions, make_server_context),
    "upstreams": (UpstreamTlsOptions, make_client_context),
    "control": (ListenerTlsOptions, make_server_context),
}


def check_certificates(source: Source, of_plugins: Iterable[Steps], *, controlling: bool) -> list[str]:
    """Add a fault to the source for each file that cannot be used; returns warnings, each with its line.

    `of_plugins` is where the blocks stand that plugins have of their own: TLS towards servers that they ask.
    `controlling`: those of the control plane too, which may run on a machine of its own.
    """
    warnings: list[str] = []
    clock = Clock()
    blocks = {section: _blocks(source, section) for section in _KINDS if controlling or section != "control"}
    blocks["upstreams"] += of_plugins
    for section, places in blocks.items():
        kind, make = _KINDS[section]
        for steps in places:
            try:
                made = make(kind.model_validate(source.at(steps), context=FROM_FILE), clock)
            except ValidationError:
                continue  # said already
            except Unusable as error:
                source.fault((*steps, *error.option), error.text)
            else:
                warnings += [source.located(steps, warning) for warning in made.warnings]
    return warnings


def _blocks(source: Source, section: str) -> list[Steps]:
    """Where the blocks about TLS stand in a section, or in each of the listeners or upstreams that it has."""
    if section == "control":
        return [steps for steps in [(section, "tls")] if source.at(steps) is not None]
    value = source.at((section,))
    within = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [steps for key in within if source.at(steps := (section, key, "tls")) is not None]
