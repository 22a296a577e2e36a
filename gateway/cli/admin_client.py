"""Admin client: how a command asks the admin listener of a running node."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final

from gateway.downstream.listener import parse_bind
from gateway.trouble import Trouble

_DEADLINE: Final = 60.0
"""Seconds; a reload may take a while where processes are slow to build."""
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - connected to, not bound


class AdminUnreachable(Trouble):
    """Nobody answers at the admin listener's address, or not as an admin listener does; the text is one line."""


def ask(bind: str, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the document that the admin listener at `bind` answers. Raises AdminUnreachable."""
    host, port = parse_bind(bind)
    connection = http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=_DEADLINE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except OSError as error:
        raise AdminUnreachable(f"no admin listener answers on {bind}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise AdminUnreachable(f"what answers on {bind} is no admin listener") from error
    finally:
        connection.close()
    if not isinstance(document, dict):
        raise AdminUnreachable(f"what answers on {bind} is no admin listener")
    return answer.status, document
