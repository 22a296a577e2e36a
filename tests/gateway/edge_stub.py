"""A program that does what a supervisor expects of an `edge-process` (of a `worker` or `control`: to run), and no more.

It answers every request with its slot, the names of the routes it was told last and its pid, after as many seconds as
the path says; counts them in its cells; and fails, dies or is deaf where the environment says so. A new generation it
refuses, outlives or is silent about as the name of its first route says. Of its upstream it reports a target with its
slot for a weight; where there is a file `late` it says so seconds later, and nonsense where there is one `nonsense`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from gateway.config.snapshot import read_snapshot
from gateway.edge.control_pipe import (
    Commit,
    Committed,
    ControlPipe,
    Drain,
    Failed,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Report,
    Reported,
)
from gateway.metrics import Metrics
from gateway.upstream.report import TargetReport, UpstreamReport


class Stub:
    """What it serves, and what it is told to."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._served = Metrics(options.metrics).counter("stub_served_total", "Requests answered.")
        self._routes = routes_of(options.snapshot_fd)
        self._next = ""
        self._sockets: list[socket.socket] = []
        self._servers: dict[int, asyncio.Server] = {}
        self._running = 0
        self._idle = asyncio.Condition()

    async def main(self) -> int:
        pipe = ControlPipe(self._options.control_fd)
        if os.environ.get("STUB") == "refuses":
            pipe.say(Failed("the journal is unusable"))
            pipe.close()
            return 1
        await self._listen([socket.socket(fileno=int(number)) for number in self._options.listen_fds.split(",")])
        if (Path(self._options.metrics).parent / "slow-start").exists():
            await asyncio.sleep(1.5)
        pipe.say(Ready())
        message = await pipe.hear()
        while message is not None and not isinstance(message, Drain):
            await self._take(pipe, message)
            message = await pipe.hear()
        pipe.close()
        for server in self._servers.values():
            server.close()
        if os.environ.get("STUB") == "deaf":
            await asyncio.sleep(60)
        try:
            async with asyncio.timeout(message.deadline if message is not None else 5.0), self._idle:
                await self._idle.wait_for(lambda: not self._running)
        except TimeoutError:
            return 3
        return 0

    async def _take(self, pipe: ControlPipe, message: object) -> None:
        match message:
            case Prepare(generation, descriptors):
                snapshot, *listening = descriptors
                self._next = routes_of(snapshot)
                self._sockets = [socket.socket(fileno=number) for number in listening]
                first = self._next.split(",")[0]
                if first == "deadly" or (first == "deadly-once" and self._first_time()):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif first == "refused":
                    pipe.say(Refused(generation, ["the stub will not have it"]))
                elif first != "silent":
                    pipe.say(Prepared(generation))
            case Commit(generation) if not (self._next.startswith("uncommitted") and self._first_time()):
                self._routes = self._next
                await self._listen(self._sockets)
                pipe.say(Committed(generation))
            case Report(number):
                await asyncio.sleep(2.0 if self._told("late") else 0.0)
                reports = [
                    UpstreamReport("nobody", [TargetReport("http://127.0.0.1:1", self._options.slot, "healthy")])
                ]
                answer = Reported.of(number, reports)
                pipe.say(answer if not self._told("nonsense") else Reported(number, (0,)))
                answer.close()

    def _told(self, what: str) -> bool:
        return (Path(self._options.metrics).parent / f"{what}-{self._options.slot}").exists()

    def _first_time(self) -> bool:
        """Whether nobody in this slot has been here before."""
        mark = Path(self._options.metrics).parent / f"mark-{self._options.slot}"
        known = mark.exists()
        mark.touch()
        return not known

    async def _listen(self, sockets: list[socket.socket]) -> None:
        before, self._servers = self._servers, {}
        for listening in sockets:
            inode = os.fstat(listening.fileno()).st_ino
            if inode in before:
                listening.close()
                self._servers[inode] = before.pop(inode)
            else:
                self._servers[inode] = await asyncio.start_server(self._serve, sock=listening)
        for server in before.values():
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running += 1
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        await asyncio.sleep(float(path.lstrip("/") or 0))
        self._served.inc()
        body = f"{self._options.slot} {self._routes} {os.getpid()}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()
        self._running -= 1
        async with self._idle:
            self._idle.notify()


def routes_of(snapshot: int) -> str:
    names = [route["name"] for route in read_snapshot(snapshot).value["routes"]]
    os.close(snapshot)
    return ",".join(names)


async def main(options: Namespace) -> int:
    return await Stub(options).main()


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("verb", choices=["edge-process", "worker", "control"])
    parser.add_argument("--snapshot-fd", type=int, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    if sys.argv[1] != "edge-process":
        parser.parse_args()
        signal.pause()
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fds", required=True)
    sys.exit(asyncio.run(main(parser.parse_args())))
