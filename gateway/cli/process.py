"""Process: how a command runs what is asynchronous, and a service until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import uvloop

from gateway import log
from gateway.background import Background
from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from gateway.edge import app
from gateway.metrics import Metrics
from gateway.vitals import watch

T = TypeVar("T")
Service: TypeAlias = Callable[[GatewayConfig, Metrics, asyncio.Event], Awaitable[None]]
"""Works as configured until the event is set."""


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def takes_place(parser: ArgumentParser) -> None:
    """What a supervisor tells a service that it starts."""
    parser.add_argument("--snapshot-fd", type=int, help="the configuration as its supervisor read it, not from a file")
    parser.add_argument("--metrics", type=Path, help="the file it counts in; its supervisor shows what is there")


def run_service(options: Namespace, name: str, service: Service) -> int:
    """Runs a service until SIGTERM or Ctrl-C; it finishes what it has in hand."""
    if options.snapshot_fd is not None:
        config, _ = app.composed(options.snapshot_fd)
    else:
        config = load(options.config, os.environ)
    handler = log.configure(process=name)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_to_end(_until_stopped(service, config, options.metrics))
    finally:
        handler.close()
    return 0


async def _until_stopped(service: Service, config: GatewayConfig, cells: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics(cells)
    background = Background()
    watch(background, metrics)
    try:
        await service(config, metrics, stop)
    finally:
        await background.stop()
