"""The commands of the control plane: running it, and keeping organizations, users, roles, keys and subscriptions.

The verbs of each kind of thing, and their options, are made of the shapes that its API checks by.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Sequence
from types import UnionType
from typing import Any, Final, TypeAlias, get_args, get_origin
from urllib.parse import quote

import msgspec
from pydantic.fields import FieldInfo

from gateway import projection
from gateway.cli.config import takes_config
from gateway.cli.control_client import ControlClient, ControlRefused
from gateway.cli.process import run_service, run_to_end, takes_place
from gateway.config.composition import load
from gateway.control import service
from gateway.control.collection import COLLECTIONS, KEYS, Collection
from gateway.options import alternatives
from gateway.stores.address import redis_url
from gateway.stores.redis import Redis

_NOUNS: Final = {
    "org": ("organization",),
    "department": ("department",),
    "team": ("team",),
    "user": ("user_account",),
    "service-account": ("service_account",),
    "membership": ("membership",),
    "role": ("role", "global_role"),
    "key": ("api_key",),
    "subscription": ("subscription",),
    "revocation": ("token_revocation",),
}
"""Each noun of the command line and its collections: in an organization, and, where there is another, in all."""
_OF_A_CHANGE: Final = ("at", "actor", "action", "kind", "organization", "name")
Act: TypeAlias = Callable[[ControlClient, Namespace, Collection], None]
_BY_KIND: Final = {collection.kind: collection for collection in COLLECTIONS}


def add_commands(commands: Any) -> None:
    """`tallygate control`, and a command for each kind of thing."""
    control = commands.add_parser("control", help="run the control plane: its API, and publishing to the edge")
    takes_config(control)
    takes_place(control)
    control.add_argument(
        "what", nargs="?", choices=["project"], help="`project`: have everything written to Redis anew"
    )
    control.set_defaults(run=_control)
    for noun, kinds in _NOUNS.items():
        _add_noun(commands, noun, [_BY_KIND[kind] for kind in kinds])


def _control(options: Namespace) -> int:
    if options.what == "project":
        return run_to_end(_project(options))
    return run_service(options, "control", service.run)


async def _project(options: Namespace) -> int:
    """Takes away the mark that Redis holds everything; the publisher notices within a second."""
    redis = Redis(redis_url(load(options.config, os.environ).stores))
    try:
        await redis.hash_delete(projection.STATE, ["generation"])
    finally:
        await redis.close()
    print("everything is written to Redis anew, if a control plane runs")
    return 0


def _add_noun(commands: Any, noun: str, collections: list[Collection]) -> None:
    said = collections[0].name.replace("-", " ")
    verbs = commands.add_parser(noun, help=f"keep {said}").add_subparsers(metavar="verb", required=True)
    of = collections[0]
    _add_verb(verbs, "list", f"all {said}", collections, _list)
    _add_verb(verbs, "show", "everything about one", collections, _show, named=True)
    adding = _add_verb(verbs, "add", "make one", collections, _add)
    _takes_members(adding, of, of.shape.model_fields, made=True)
    setting = _add_verb(verbs, "set", "change one", collections, _set, named=True)
    _takes_members(setting, of, of.patch.model_fields, made=False)
    if of.removable:
        _add_verb(verbs, "remove", "remove one", collections, _remove, named=True)
    if of is KEYS:
        rotating = _add_verb(
            verbs, "rotate", "give it a new secret, which is shown once", collections, _rotate, named=True
        )
        rotating.add_argument("--grace-seconds", type=int, default=86400, help="how long the one before works on")
        _add_verb(verbs, "revoke", "refuse it from now on, for ever", collections, _revoke, named=True)


def _add_verb(
    verbs: Any, verb: str, text: str, collections: list[Collection], act: Act, *, named: bool = False
) -> ArgumentParser:
    parser: ArgumentParser = verbs.add_parser(verb, help=text)
    takes_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    if not collections[0].of_the_platform:
        everywhere = " (without: those of all organizations)" if len(collections) > 1 else ""
        parser.add_argument("--org", required=not everywhere, help=f"the organization{everywhere}")
    if named:
        parser.add_argument("name")
    parser.set_defaults(run=lambda options: _with_client(options, collections, act))
    return parser


def _takes_members(parser: ArgumentParser, of: Collection, members: dict[str, FieldInfo], *, made: bool) -> None:
    for name, field in members.items():
        told = field.description or of.shape.model_fields[name].description
        if made and name == "name":
            parser.add_argument("name", nargs=None if field.is_required() else "?", help=told)
            continue
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"member_{name}",
            default=None,
            required=made and field.is_required(),
            help=told,
            **_how(field.annotation),
        )


def _how(annotation: Any) -> dict[str, Any]:
    """How a member is written on the command line: a switch, a list with commas, JSON, or text."""
    kinds = [kind for kind in _kinds(annotation) if kind is not type(None)]
    if kinds == [bool]:
        return {"action": BooleanOptionalAction}
    if get_origin(kinds[0]) is list:
        if isinstance((inner := next(iter(alternatives(get_args(kinds[0])[0])))), type) and inner is not str:
            return {"type": _json, "metavar": "JSON"}
        return {"type": _listed, "metavar": "A,B|JSON"}
    return {"type": str, "metavar": "TEXT"}


def _kinds(annotation: Any) -> Iterable[Any]:
    if isinstance(annotation, UnionType):
        return [kind for arm in get_args(annotation) for kind in alternatives(arm)]
    return alternatives(annotation)


def _listed(text: str) -> Any:
    """`null`, a list in JSON (what has commas in it needs one), or what stands between commas."""
    if text == "null" or text.startswith("["):
        return text if text == "null" else _json(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from None


def _with_client(options: Namespace, collections: list[Collection], act: Act) -> int:
    of = collections[0] if getattr(options, "org", None) is not None or len(collections) == 1 else collections[1]
    act(ControlClient(load(options.config, os.environ).control, os.environ), options, of)
    return 0


def _path(options: Namespace, of: Collection, *, one: bool = True) -> str:
    name = getattr(options, "name", None) or ""
    names = {"organization": getattr(options, "org", None) or name, "name": name}
    return (of.path if one else of.collection_path).format(**{key: quote(each, safe="") for key, each in names.items()})


def _members(options: Namespace) -> dict[str, Any]:
    given = {name.removeprefix("member_"): value for name, value in vars(options).items() if name.startswith("member_")}
    return {name: None if value == "null" else value for name, value in given.items() if value is not None}


def _list(client: ControlClient, options: Namespace, of: Collection) -> None:
    items = [item for page in client.pages(_path(options, of, one=False)) for item in page]
    if options.json:
        print(msgspec.json.encode(items).decode())
    elif items:
        print("\n".join(table_of(items, list(of.shape.model_fields))))
    else:
        print(f"no {of.name.replace('-', ' ')}")


def _show(client: ControlClient, options: Namespace, of: Collection) -> None:
    document, _ = client.ask("GET", _path(options, of))
    _print_one(options, document)


def _add(client: ControlClient, options: Namespace, of: Collection) -> None:
    members = _members(options) | ({"name": options.name} if options.name is not None else {})
    document, _ = client.ask("POST", _path(options, of, one=False), members)
    _print_one(options, document)


def _set(client: ControlClient, options: Namespace, of: Collection) -> None:
    members = _members(options)
    if not members:
        raise ControlRefused(f"nothing to change: say what (one or more of {', '.join(_switches(of))})")
    _print_one(options, client.change("PATCH", _path(options, of), members))


def _switches(of: Collection) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in of.patch.model_fields]


def _remove(client: ControlClient, options: Namespace, of: Collection) -> None:
    client.change("DELETE", _path(options, of))
    print(f"{options.name} is removed")


def _rotate(client: ControlClient, options: Namespace, of: Collection) -> None:
    body = {"grace_seconds": options.grace_seconds}
    document, _ = client.ask("POST", f"{_path(options, of)}/rotate", body)
    _print_one(options, document)


def _revoke(client: ControlClient, options: Namespace, of: Collection) -> None:
    document, _ = client.ask("POST", f"{_path(options, of)}/revoke")
    _print_one(options, document)


def _print_one(options: Namespace, document: dict[str, Any]) -> None:
    if options.json:
        print(msgspec.json.encode(document).decode())
        return
    told = {name: text for name, value in document.items() if (text := shown(value))}
    width = max(map(len, told))
    print("\n".join(f"{name:{width}}  {text}" for name, text in told.items()))
    if document.get("secret"):
        print("\nThe secret is not kept anywhere: give it to its owner now.")


def table_of(items: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """The lines of a table; columns in which nothing stands are left out."""
    filled = [column for column in columns if any(item[column] not in (None, "", [], False) for item in items)]
    rows = [filled, *([shown(item[column]) for column in filled] for item in items)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(filled))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(value: Any) -> str:
    """A member, for people."""
    match value:
        case None | "" | []:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(shown(each) for each in value)
        case dict():
            return " ".join(f"{name}={shown(each)}" for name, each in value.items() if each is not None)
    return str(value)
