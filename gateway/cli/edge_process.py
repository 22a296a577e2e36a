"""The command that a supervisor starts its edge processes with.

It loads nothing that they do not need: whoever waits for the successor of a process that died waits for that too.
"""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from pathlib import Path
from socket import socket
from typing import Any

from gateway import log
from gateway.cli.process import run_to_end
from gateway.edge import app


def add_commands(commands: Any) -> None:
    """`tallygate edge-process`."""
    process = commands.add_parser("edge-process", help="one process of the gateway; its supervisor starts it")
    process.add_argument("--slot", required=True, help="its place among the edge processes")
    process.add_argument("--generation", type=int, required=True, help="the number of its configuration")
    process.add_argument("--control-fd", type=int, required=True, help="its end of the pipe to the supervisor")
    process.add_argument("--snapshot-fd", type=int, required=True, help="its configuration, as the supervisor read it")
    process.add_argument("--listen-fds", required=True, help="its listening sockets, in the order of `listeners`")
    process.add_argument("--metrics", type=Path, help="the file it counts in; its supervisor shows what is there")
    process.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    config, fingerprint = app.composed(options.snapshot_fd)
    handler = log.configure(process=f"edge-{options.slot}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor hears them, and says what to do through the pipe
    sockets = [socket(fileno=int(number)) for number in options.listen_fds.split(",")]
    start = app.Start(options.generation, config, fingerprint, sockets, options.control_fd)
    try:
        return run_to_end(app.run(start, metrics_path=options.metrics, log_to=sys.stdout.fileno()))
    finally:
        handler.close()
