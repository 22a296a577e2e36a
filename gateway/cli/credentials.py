"""The commands that make credentials: what a caller shows, and what the configuration holds of it."""

from __future__ import annotations

import sys
from argparse import Namespace
from getpass import getpass
from typing import Any

from gateway import keys
from gateway.passwords import hash_password


def add_commands(commands: Any) -> None:
    """`tallygate keys new` and `tallygate passwords new`."""
    new_keys = commands.add_parser(
        "keys", help="make API keys of fixed consumers (those of the control plane: `key add`)"
    ).add_subparsers(metavar="command", required=True)
    new = new_keys.add_parser(
        "new",
        help="make a key; prints it and its SHA-256, and keeps neither",
        description="Makes a key of a fixed consumer, whose SHA-256 goes into the file. Keys of the control plane are"
        " made by `tallygate key add`.",
    )
    mode = new.add_mutually_exclusive_group()
    mode.add_argument("--live", dest="mode", action="store_const", const="live", help="for production (the default)")
    mode.add_argument("--test", dest="mode", action="store_const", const="test", help="for trying things out")
    new.set_defaults(run=new_key, mode="live")

    new_passwords = commands.add_parser("passwords", help="passwords").add_subparsers(metavar="command", required=True)
    hashing = new_passwords.add_parser(
        "new", help="ask for a password, or read a line of standard input; prints its Argon2id hash"
    )
    hashing.set_defaults(run=new_password)


def new_key(options: Namespace) -> int:
    """Prints a fresh key and its hash."""
    key = keys.new_key(options.mode)
    print(f"key     {key}")
    print(f"sha256  {keys.digest(key).hex()}")
    print(
        "The key is not kept anywhere: give it to its owner now. The SHA-256 goes under `consumers`.", file=sys.stderr
    )
    return 0


def new_password(_: Namespace) -> int:
    """Prints the hash of a password. 1 if there is none, or the two that were typed differ."""
    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            print("These are two different passwords.", file=sys.stderr)
            return 1
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password.isprintable() or not password:
        print("A password has at least one character, and no control characters.", file=sys.stderr)
        return 1
    print(f"argon2id  {hash_password(password)}")
    print("The hash goes under `passwords` of a consumer.", file=sys.stderr)
    return 0
