"""The tools a benchmark needs besides Python: wrk, nginx and its Lua module; installed by apt where that works."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

PACKAGES: Final = ("wrk", "nginx", "libnginx-mod-http-lua")
_MODULE_FOLDERS: Final = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


class ToolMissing(Exception):
    """Something the benchmark needs is not installed, and it could not install it."""


def module_folder() -> Path | None:
    """Where nginx keeps its Lua module, or None if it is not installed."""
    for folder in map(Path, _MODULE_FOLDERS):
        if (folder / "ngx_http_lua_module.so").exists():
            return folder
    return None


def missing() -> list[str]:
    """The packages whose programs are not there."""
    present = (shutil.which("wrk"), shutil.which("nginx", path=_search_path()), module_folder())
    return [package for package, found in zip(PACKAGES, present, strict=True) if not found]


def nginx() -> str:
    """The nginx program. It often stands where only root looks."""
    found = shutil.which("nginx", path=_search_path())
    if found is None:
        raise ToolMissing("nginx is not installed")
    return found


def ensure() -> None:
    """Install what is missing. Raises ToolMissing, with the command that helps, where that cannot be done."""
    wanted = missing()
    if not wanted:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ToolMissing(
            f"the benchmark needs {', '.join(wanted)}; install them first"
            f" (on Debian or Ubuntu, as root: {' '.join(command)})"
        )
    print(f"installing {', '.join(wanted)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
    if missing():
        raise ToolMissing(f"{' '.join(command)} failed:\n{done.stderr[-1000:]}")


def _search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
