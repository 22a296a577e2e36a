# Sourced by the scripts beside it: makes sure `.venv` holds what pyproject.toml and constraints.txt ask for.
#
# Sets $root (the checkout) and puts `.venv/bin` first on PATH. The usual start compares one checksum; only when it
# differs does environment.py run, which makes or renews `.venv`.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 1

wanted="$root $(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/bin/environment.py" | cksum)"
if [ ! -x "$root/.venv/bin/python" ] || [ "$wanted" != "$(cat "$root/.venv/stamp" 2>/dev/null)" ]; then
    found=
    for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
        # Running it tells more than finding it: a version manager's stand-in exists for versions it does not have.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found=$candidate
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "tallygate needs Python 3.11 or newer, and none was found on PATH ($PATH)." >&2
        echo "On Debian or Ubuntu: apt-get install python3 python3-venv" >&2
        exit 1
    fi
    "$found" "$root/bin/environment.py" "$root" "$wanted" || exit 1
fi

PATH="$root/.venv/bin:$PATH"
export PATH
