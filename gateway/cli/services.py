"""The commands that start processes: everything, the gateway, a billing worker."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from gateway import log
from gateway.billing import worker
from gateway.cli.config import takes_config
from gateway.cli.process import run_service, run_to_end, takes_place
from gateway.config.composition import load
from gateway.migration import migrate
from gateway.node.processes import run_edge
from gateway.node.up import run_up


def add_commands(commands: Any) -> None:
    """`tallygate up`, `edge` and `worker`."""
    up = commands.add_parser("up", help="run everything on this machine: stores, workers and the gateway")
    takes_config(up)
    up.add_argument("--demo", action="store_true", help="and a demo upstream in place of the upstream `demo`")
    up.add_argument("--forgetful", action="store_true", help="the embedded Valkey keeps nothing on disk")
    up.set_defaults(run=_up)

    edge = commands.add_parser("edge", help="run the gateway: a supervisor and its edge processes")
    takes_config(edge)
    edge.set_defaults(run=_edge)

    work = commands.add_parser("worker", help="run a billing worker")
    takes_config(work)
    takes_place(work)
    work.set_defaults(run=_worker)


def _up(options: Namespace) -> int:
    config = load(options.config, os.environ, serving=True)
    handler = log.configure()
    work = run_up(
        config, options.config, demo=options.demo, migrate=migrate, announce=_say, persistent=not options.forgetful
    )
    try:
        run_to_end(work)
    finally:
        handler.close()
    return 0


def _edge(options: Namespace) -> int:
    config = load(options.config, os.environ, serving=True)
    handler = log.configure()
    try:
        run_to_end(run_edge(config, options.config))
    finally:
        handler.close()
    return 0


def _worker(options: Namespace) -> int:
    return run_service(options, "worker", worker.run)


def _say(text: str) -> None:
    print(text, flush=True)
