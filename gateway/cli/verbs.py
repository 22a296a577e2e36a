"""Verbs: what the commands ask the control plane for, and what they print of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from gateway.cli.control_client import ControlClient, ControlRefused
from gateway.cli.tables import shown, table_of
from gateway.control.collection import Collection

_TOO_WIDE: Final = frozenset({"secrets"})
"""What a table has no room for; `show` has it."""


@dataclass(frozen=True)
class Asked:
    """A command line, understood: of which kind of things it is, in which organization, which one, and what of it."""

    client: ControlClient
    of: Collection
    organization: str | None
    name: str | None
    members: dict[str, Any]
    grace_seconds: int
    json: bool

    @property
    def everything(self) -> str:
        """The path of all of them."""
        return self._filled(self.of.collection_path)

    @property
    def one(self) -> str:
        """The path of the one that is named."""
        return self._filled(self.of.path)

    def _filled(self, path: str) -> str:
        name = quote(self.name or "", safe="")
        return path.format(
            organization=name if self.organization is None else quote(self.organization, safe=""), name=name
        )

    def show(self, document: dict[str, Any]) -> None:
        """Prints one thing; a secret with a warning, as it is not to be seen again."""
        if self.json:
            print(msgspec.json.encode(document).decode())
            return
        told = {name: text for name, value in document.items() if (text := shown(value))}
        width = max(map(len, told))
        print("\n".join(f"{name:{width}}  {text}" for name, text in told.items()))
        if document.get("secret"):
            print("\nThe secret is not kept anywhere: give it to its owner now.")


Verb: TypeAlias = Callable[[Asked], None]


def list_all(asked: Asked) -> None:
    items = [item for page in asked.client.pages(asked.everything) for item in page]
    columns = [*asked.of.shape.model_fields, *(name for name in asked.of.derived if name not in _TOO_WIDE)]
    if asked.json:
        print(msgspec.json.encode(items).decode())
    elif items:
        print("\n".join(table_of(items, columns)))
    else:
        print(f"no {asked.of.name.replace('-', ' ')}")


def show(asked: Asked) -> None:
    document, _ = asked.client.ask("GET", asked.one)
    asked.show(document)


def add(asked: Asked) -> None:
    members = asked.members | ({"name": asked.name} if asked.name is not None else {})
    document, _ = asked.client.ask("POST", asked.everything, members)
    asked.show(document)


def change(asked: Asked) -> None:
    if not asked.members:
        switches = (f"--{name.replace('_', '-')}" for name in asked.of.patch.model_fields)
        raise ControlRefused(f"nothing to change: say what (one or more of {', '.join(switches)})")
    asked.show(asked.client.change("PATCH", asked.one, asked.members))


def remove(asked: Asked) -> None:
    asked.client.change("DELETE", asked.one)
    print(f"{asked.name} is removed")


def rotate(asked: Asked) -> None:
    document, _ = asked.client.ask("POST", f"{asked.one}/rotate", {"grace_seconds": asked.grace_seconds})
    asked.show(document)


def revoke(asked: Asked) -> None:
    document, _ = asked.client.ask("POST", f"{asked.one}/revoke")
    asked.show(document)
