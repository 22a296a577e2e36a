"""Address: where a store is, also when it is an embedded server that some other process of ours started.

Whoever starts an embedded server leaves its URL, password included, in a file that only the same user can read; so
edge processes, workers and commands in another terminal find it without being told.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

from gateway.stores.store import EMBEDDED, StoresOptions, StoreUnavailable

Server: TypeAlias = Literal["valkey", "postgres"]

_SERVED: Final[dict[Server, tuple[str, str]]] = {
    "valkey": ("Valkey", "stores.redis"),
    "postgres": ("PostgreSQL", "stores.postgres"),
}
"""What each is called, and the option that may name a server in its place."""


def redis_url(options: StoresOptions) -> str:
    """The URL of Redis. Raises StoreUnavailable if it is embedded and does not run."""
    return _read(options, "valkey") if options.redis == EMBEDDED else options.redis


def postgres_url(options: StoresOptions) -> str:
    """The URL of PostgreSQL. Raises StoreUnavailable if it is embedded and does not run."""
    return _read(options, "postgres") if options.postgres == EMBEDDED else options.postgres


def url_file(directory: Path | str, server: Server) -> Path:
    """Where the URL of an embedded server is written."""
    return Path(directory) / server / "url"


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, all of it or nothing."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


def _read(options: StoresOptions, server: Server) -> str:
    file = url_file(options.directory, server)
    try:
        return file.read_text().strip()
    except OSError:
        name, setting = _SERVED[server]
        raise StoreUnavailable(
            f"no embedded {name} runs in {file.parent.absolute()}: run this where `tallygate up` runs, "
            f"or have {setting} name a server"
        ) from None
