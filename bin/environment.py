"""Makes or renews the virtual environment `.venv` of a checkout. Started by environment.sh; standard library only.

Several scripts may start at once (a test run beside `bin/up`): a file lock lets one of them work while the others wait
and then find the work done (the lock is on this very file, so it leaves none behind). The stamp is written last, so
an interrupted installation is taken up again next time.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

EXTRAS = "compress,embedded,development"


def main(root: Path, stamp: str) -> int:
    """Bring `root/.venv` up to date and write `stamp` into it. Returns the exit status."""
    environment = root / ".venv"
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        written = environment / "stamp"
        previous = written.read_text().strip() if written.exists() else ""
        if previous == stamp:
            return 0
        written.unlink(missing_ok=True)
        fresh = not works(environment) or checkout_of(previous) != str(root)
        print(f"tallygate: {'making' if fresh else 'renewing'} .venv; this takes about a minute", file=sys.stderr)
        if (fresh and not make(environment)) or not install(environment, root):
            return 1
        written.write_text(stamp + "\n")
    return 0


def works(environment: Path) -> bool:
    """Whether the environment's interpreter still starts: the Python it was made from may have been removed."""
    python = environment / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0


def checkout_of(stamp: str) -> str:
    """The checkout a stamp was written for. Scripts in an environment hold its path, so a moved one is made anew."""
    return stamp.rsplit(" ", 2)[0]


def make(environment: Path) -> bool:
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=False).returncode == 0
    if not made:
        print(
            f"tallygate: {sys.executable} could not make a virtual environment. "
            "On Debian or Ubuntu its venv module is a package of its own: apt-get install python3-venv",
            file=sys.stderr,
        )
    return made


def install(environment: Path, root: Path) -> bool:
    pip = [environment / "bin" / "python", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    wanted = ["install", "--constraint", root / "constraints.txt", "--editable", f"{root}[{EXTRAS}]"]
    installed = subprocess.run([*pip, *wanted], check=False).returncode == 0
    if not installed:
        print("tallygate: the packages could not be installed; what pip said stands above", file=sys.stderr)
    return installed


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
    except KeyboardInterrupt:  # the next start takes it up again
        sys.exit(130)
