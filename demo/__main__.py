"""`python -m demo --port 9001` serves the demo upstream until it is told to stop."""

from __future__ import annotations

import argparse
import sys
from socket import socket
from typing import Any

from aiohttp import web

from demo.upstream import application


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="The demo upstream: something to put behind the gateway."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9001, help="port to listen on (default: %(default)s)")
    parser.add_argument("--listen-fd", type=int, help="a socket that listens already, in place of an address")
    arguments = parser.parse_args()
    where: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    if arguments.listen_fd is not None:
        where = {"sock": socket(fileno=arguments.listen_fd)}
    try:
        # No banner: `tallygate up` prints where everything is. Two seconds for streams to end when it is stopped.
        web.run_app(application(), **where, print=None, access_log=None, shutdown_timeout=2)
    except OSError as error:
        sys.exit(f"demo upstream: {error.strerror or error} (another port: --port)")


if __name__ == "__main__":
    main()
