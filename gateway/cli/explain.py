"""The command that says what would become of a request: by a configuration file, or by the one that is served."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.assumed import Assumed
from gateway.cli.admin_client import AdminUnreachable, ask
from gateway.cli.config import takes_admin, takes_config
from gateway.config.composition import load
from gateway.explanation import Explanation, UpstreamCall, explain, request_of
from gateway.problem import InvalidValues, Problem


def add_commands(commands: Any) -> None:
    """`tallygate explain`."""
    explaining: ArgumentParser = commands.add_parser(
        "explain", help="say which route takes a request, what it walks through and where it ends; exit 1 if nowhere"
    )
    explaining.add_argument("method", metavar="METHOD")
    explaining.add_argument("url", metavar="URL", help="such as https://api.example.com/books?page=2, or a path")
    explaining.add_argument(
        "-H", dest="fields", metavar="FIELD", type=_field, action="append", default=[], help="such as 'name: value'"
    )
    _takes_caller(explaining)
    takes_config(explaining)
    explaining.add_argument("--running", action="store_true", help="ask the running gateway instead of the file alone")
    takes_admin(explaining)
    explaining.set_defaults(run=run)


def _takes_caller(explaining: ArgumentParser) -> None:
    """Who is assumed to call."""
    who = explaining.add_argument_group("who calls", "taken as authenticated; without any of these, anybody")
    who.add_argument("--as", dest="name", metavar="NAME", default="", help="a consumer of the configuration")
    who.add_argument("--organization", default="", help="somebody else, of this organization")
    who.add_argument("--user", default="", help="the person behind it")
    for one, told in (
        ("role", "and this role, with the permissions that the configuration gives it"),
        ("scope", "and this scope of a token"),
        ("permission", "and this permission"),
    ):
        who.add_argument(f"--{one}", dest=f"{one}s", metavar=one.upper(), action="append", default=[], help=told)
    who.add_argument("--client", metavar="ADDRESS", default="", help="from this address")


def _caller(options: Namespace) -> Assumed:
    return msgspec.convert({name: getattr(options, name) for name in Assumed.__struct_fields__}, Assumed)


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ArgumentTypeError(f"not a header field: {text!r} (write 'name: value')")
    return name.strip(), value.strip()


def run(options: Namespace) -> int:
    """Prints what would become of the request. 1 if no route takes it, or a plugin would refuse it."""
    config = load(options.config, os.environ)
    try:
        if options.running or options.admin:
            explanation = _asked(options, options.admin or config.admin.bind)
        else:
            request = request_of(options.method, options.url, options.fields)
            explanation = explain(config, request, _caller(options))
    except InvalidValues as refusal:
        print(refusal.detail, file=sys.stderr)
        return 2
    except Problem as refusal:
        print(f"refused before it is routed: {refusal.status} {refusal.title()}: {refusal.detail or ''}".rstrip(": "))
        return 1
    print("\n".join(_lines(explanation)))
    return 0 if explanation.status == 0 else 1


def _asked(options: Namespace, bind: str) -> Explanation:
    """What the running gateway says. Raises Problem and AdminUnreachable."""
    query = [("method", options.method), ("url", options.url)]
    query += [("header", f"{name}: {value}") for name, value in options.fields]
    said = {name: value for name, value in msgspec.structs.asdict(_caller(options)).items() if value}
    status, document = ask(bind, "GET", f"/explain?{urlencode([*query, *said.items()], doseq=True)}")
    try:
        return msgspec.convert(document, Explanation)
    except msgspec.ValidationError:
        told = document.get("detail") or document.get("title", status)
        raise AdminUnreachable(f"the gateway on {bind} does not explain: {told}") from None


def _lines(explanation: Explanation) -> Iterator[str]:
    yield f"{explanation.request}  (host {explanation.host or 'none'})"
    if explanation.route is None:
        allow = f", Allow: {explanation.allow}" if explanation.allow else ""
        yield f"no route: {explanation.status} {explanation.title}{allow}"
    else:
        yield f"route {explanation.route}"
        for name, value in explanation.parameters.items():
            yield f"  {{{name}}} is {value}"
    yield from _plugins(explanation)
    if explanation.route is not None and explanation.status:
        yield f"refused: {explanation.status} {explanation.title}; no upstream is called"
        return
    if explanation.limits:
        yield "limits"
        yield from _table(explanation.limits)
    for call in explanation.upstreams:
        yield from _call(call, explanation)
    if explanation.route is not None and not explanation.upstreams:
        yield "no upstream: a plugin answers"
    if explanation.fallback is not None:
        yield f"should that fail: {explanation.fallback}"
    if explanation.mirror is not None:
        yield f"mirrored to {explanation.mirror}"
    if explanation.others:
        yield "other routes"
        yield from _table({other.name: other.reason for other in explanation.others})


def _plugins(explanation: Explanation) -> Iterator[str]:
    if not explanation.plugins:
        return
    yield "plugins, in order (a response passes them in reverse)"
    width = max(len(plugin.name) for plugin in explanation.plugins)
    for plugin in explanation.plugins:
        yield f"  {plugin.name:{width}}  {', '.join(plugin.hooks) or 'no hooks'}"
        yield f"    {plugin.does}"
        if plugin.target is not None:
            yield f"    the target becomes {plugin.target}"
        yield from (f"    {sentence}" for sentence in plugin.says)
        if plugin.refusal is not None:
            yield f"    refuses: {plugin.refusal}"


def _call(call: UpstreamCall, explanation: Explanation) -> Iterator[str]:
    share = ""
    if len(explanation.upstreams) > 1:
        total = sum(each.weight for each in explanation.upstreams)
        share = f", {call.weight} of {total} requests" + (", this one too" if call.name == explanation.picked else "")
    yield f"upstream {call.name}, {call.balancer.replace('_', ' ')}{share}"
    yield from (f"  {target}" for target in call.targets)
    yield f"  is sent {call.request}, Host: {call.host}"
    yield from _table(call.limits)


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    return (f"  {name:{width}}  {value}" for name, value in rows.items())
