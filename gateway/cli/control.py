"""The commands of the control plane: running it, and keeping organizations, users, roles, keys and subscriptions.

The verbs of each kind of thing, and their options, are made of the shapes that its API checks by.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from functools import partial
from typing import Any, Final

import msgspec

from gateway import projection
from gateway.cli import verbs
from gateway.cli.config import takes_config
from gateway.cli.control_client import ControlClient
from gateway.cli.process import run_service, run_to_end, takes_place
from gateway.cli.verbs import Asked, Verb
from gateway.config.composition import load
from gateway.control import service
from gateway.control.collection import COLLECTIONS, KEYS, Collection
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
_HELP: Final = {"key": "keep API keys of the control plane (those of fixed consumers, in the file: `keys new`)"}
"""What is said of a noun where `keep …` does not say enough."""
_MEMBER: Final = "member_"
"""What stands before the names of members among the options of a command."""
_BY_KIND: Final = {collection.kind: collection for collection in COLLECTIONS}


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


_TEXT: Final[dict[str, Any]] = {"metavar": "TEXT"}
_SWITCH: Final[dict[str, Any]] = {"action": BooleanOptionalAction}
_LIST: Final[dict[str, Any]] = {"type": _listed, "metavar": "A,B|JSON"}
_WRITTEN: Final = {
    "operator": _SWITCH,
    "disabled": _SWITCH,
    "roles": _LIST,
    "permissions": _LIST,
    "routes": _LIST,
    "networks": _LIST,
    "limits": {"type": _json, "metavar": "JSON"},
}
"""How a member is written on the command line, if not as a text."""


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
    of = collections[0]
    said = of.name.replace("-", " ")
    parser = commands.add_parser(noun, help=_HELP.get(noun, f"keep {said}"))
    adding = partial(_add_verb, parser.add_subparsers(metavar="verb", required=True), collections)
    adding("list", verbs.list_all, f"all {said}")
    adding("show", verbs.show, "everything about one", named=True)
    _takes_members(adding("add", verbs.add, "make one"), of, made=True)
    _takes_members(adding("set", verbs.change, "change one", named=True), of, made=False)
    if of.removable:
        adding("remove", verbs.remove, "remove one", named=True)
    if of is KEYS:
        rotating = adding("rotate", verbs.rotate, "give it a new secret, which is shown once", named=True)
        rotating.add_argument("--grace-seconds", type=int, default=86400, help="how long the one before works on")
        adding("revoke", verbs.revoke, "refuse it from now on, for ever", named=True)


def _add_verb(
    nouns_verbs: Any, collections: list[Collection], word: str, verb: Verb, text: str, *, named: bool = False
) -> ArgumentParser:
    parser: ArgumentParser = nouns_verbs.add_parser(word, help=text)
    takes_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    if not collections[0].of_the_platform:
        everywhere = " (without: those of all organizations)" if len(collections) > 1 else ""
        parser.add_argument("--org", required=not everywhere, help=f"the organization{everywhere}")
    if named:
        parser.add_argument("name")
    parser.set_defaults(org=None, name=None, grace_seconds=0, run=lambda options: _ask(options, collections, verb))
    return parser


def _takes_members(parser: ArgumentParser, of: Collection, *, made: bool) -> None:
    """Takes the members of what is made, or those that can be changed."""
    for name, field in (of.shape if made else of.patch).model_fields.items():
        told = of.shape.model_fields[name].description
        if name == "name":
            parser.add_argument("name", nargs=None if field.is_required() else "?", help=told)
            continue
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=_MEMBER + name,
            default=None,
            required=made and field.is_required(),
            help=told,
            **_WRITTEN.get(name, _TEXT),
        )


def _ask(options: Namespace, collections: list[Collection], verb: Verb) -> int:
    given = {name.removeprefix(_MEMBER): value for name, value in vars(options).items() if name.startswith(_MEMBER)}
    verb(
        Asked(
            client=ControlClient(load(options.config, os.environ).control, os.environ),
            of=collections[0] if options.org is not None or len(collections) == 1 else collections[1],
            organization=options.org,
            name=options.name,
            members={name: None if value == "null" else value for name, value in given.items() if value is not None},
            grace_seconds=options.grace_seconds,
            json=options.json,
        )
    )
    return 0
