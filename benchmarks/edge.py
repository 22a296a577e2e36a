"""The edge under measurement: a whole running system, its one edge process alone on the proxy's core."""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.machine import Cores, children, command_line, pin
from benchmarks.peers import HERE, fill
from benchmarks.programs import ProgramFailed, Programs, free_ports
from gateway.keys import digest, new_key


@dataclass(frozen=True, slots=True)
class Edge:
    """A running system: where it listens, the key it knows, and the processes that matter."""

    port: int
    admin: int
    key: str
    system: int
    """Pid of `tallygate up`, which is the supervisor too."""
    process: int
    """Pid of the edge process that is measured."""

    def case(self, name: str, route: str, *, keyed: bool, varied: bool = False) -> Case:
        return Case(name, self.port, f"/{route}/thing", {"x-api-key": self.key}, keyed, varied)

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        text = fetch(self.admin, "/metrics").decode()
        samples = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        if not samples:
            raise ProgramFailed(f"the edge exports no metric {name}")
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


def fetch(port: int, path: str) -> bytes:
    """GET a page of the admin listener. Raises OSError while nobody answers it with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ConnectionError(f"{path} answers {response.status}")
        return body
    finally:
        connection.close()


def start_edge(programs: Programs, cores: Cores, origin: int, demo: int, sections: str = "") -> Edge:
    """Start stores, worker, supervisor and one edge process as `tallygate up` does, and pin the edge process.

    Everything but the edge process is kept off the proxy's core and off the origin's and the load's where there are
    enough cores. `sections` are further ones of the configuration.
    """
    port, admin = free_ports(2)
    key = new_key("test")
    config = programs.directory / "edge.yaml"
    config.write_text(
        fill(
            (HERE / "edge.yaml").read_text(),
            {
                "PORT": str(port),
                "ADMIN": str(admin),
                "ORIGIN": str(origin),
                "DEMO": str(demo),
                "DIRECTORY": str(programs.directory),
                "KEY_SHA256": digest(key).hex(),
            },
        )
        + sections
    )
    system = programs.start("edge", [sys.executable, "-m", "gateway", "up", "--config", str(config)], cores.stores)
    programs.wait_for("the edge", lambda: _is_ready(admin), seconds=60)
    process = edge_process(system.pid)
    pin(process, cores.proxy)
    return Edge(port, admin, key, system.pid, process)


def edge_process(system: int) -> int:
    """The pid of the one edge process of a running system."""
    found = [pid for pid in children(system) if "edge-process" in command_line(pid)]
    if len(found) != 1:
        raise ProgramFailed(f"expected one edge process, found {len(found)}")
    return found[0]


def _is_ready(admin: int) -> bool:
    try:
        fetch(admin, "/ready")
    except (OSError, http.client.HTTPException):
        return False
    return True
