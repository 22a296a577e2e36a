"""Peers: the programs the edge is measured against, and the configurations of all of them, the edge's own included."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from benchmarks import tools
from benchmarks.machine import children
from benchmarks.programs import Programs, accepts

HERE: Final = Path(__file__).parent


def fill(template: str, values: dict[str, str]) -> str:
    """Put values in the place of `${NAME}`. nginx's own `$name` stays. Raises KeyError for a name without a value."""
    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", lambda match: values[match[1]], template)


def start_nginx(programs: Programs, name: str, cores: frozenset[int], port: int, **values: str) -> int:
    """Start nginx with `<name>.conf` and return the pid of its one worker."""
    directory = programs.directory
    filled = fill(
        (HERE / f"{name}.conf").read_text(),
        {
            "DIRECTORY": str(directory),
            "MODULES": str(tools.module_folder()),
            "PORT": str(port),
            # Workers of an nginx started by root change to another user, who may not write into our directory.
            "USER": "user root;" if os.geteuid() == 0 else "",
            **values,
        },
    )
    path = directory / f"{name}.conf"
    path.write_text(filled)
    master = programs.start(name, [tools.nginx(), "-p", str(directory), "-c", str(path)], cores)
    programs.wait_for(f"nginx ({name})", lambda: accepts(port), seconds=10)
    return children(master.pid)[0]
