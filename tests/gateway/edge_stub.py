"""A program that does what a supervisor expects of an `edge-process` (and of a `worker`: to run), and no more.

It answers every request with its slot and pid, after as many seconds as the path says; counts them in its cells; and
fails, dies or is deaf where the environment says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from gateway.control_pipe import ControlPipe, Drain, Failed, Ready
from gateway.metrics import Metrics


async def main(options: Namespace) -> int:
    pipe = await ControlPipe.of(options.control_fd)
    if os.environ.get("STUB") == "refuses":
        pipe.say(Failed("the journal is unusable"))
        await pipe.close()
        return 1
    served = Metrics(options.metrics).counter("stub_served_total", "Requests answered.")
    running = 0
    idle = asyncio.Condition()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running
        running += 1
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        await asyncio.sleep(float(path.lstrip("/") or 0))
        served.inc()
        body = f"{options.slot} {os.getpid()}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()
        running -= 1
        async with idle:
            idle.notify()

    servers = [
        await asyncio.start_server(serve, sock=socket.socket(fileno=int(number)))
        for number in options.listen_fds.split(",")
    ]
    pipe.say(Ready())
    message = await pipe.hear()
    for server in servers:
        server.close()
    if os.environ.get("STUB") == "deaf":
        await asyncio.sleep(60)
    deadline = message.deadline if isinstance(message, Drain) else 5.0
    try:
        async with asyncio.timeout(deadline), idle:
            await idle.wait_for(lambda: not running)
    except TimeoutError:
        return 3
    return 0


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("verb", choices=["edge-process", "worker"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    if sys.argv[1] == "worker":
        parser.parse_args()
        signal.pause()
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fds", required=True)
    sys.exit(asyncio.run(main(parser.parse_args())))
