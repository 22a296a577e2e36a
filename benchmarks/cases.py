"""Cases: the things that are measured side by side."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.programs import ProgramFailed


@dataclass(frozen=True, slots=True)
class Case:
    """One way to the origin: a request sent to `port` for `path` with `headers` (the same ones in every case)."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str]
    keyed: bool = False
    """Whether the case checks keys, and so must refuse a request without one."""
    varied: bool = False
    """Whether no two requests are alike, so that nothing can be remembered of the one before."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def check(self, expected: bytes) -> None:
        """See that the case does its job before it is measured: `expected` comes back, and a keyless call is refused.

        Raises ProgramFailed.
        """
        status, body = self._get(self.headers)
        if (status, body) != (200, expected):
            raise ProgramFailed(f"{self.name} answers {status} {body[:200]!r} instead of the origin's document")
        if self.keyed and (status := self._get({})[0]) != 401:
            raise ProgramFailed(f"{self.name} answers {status} to a request without a key; 401 was expected")

    def document(self) -> bytes:
        """What a request of this case is answered with. Raises ProgramFailed unless it is answered 200."""
        status, body = self._get(self.headers)
        if status != 200:
            raise ProgramFailed(f"{self.name} answers {status}")
        return body

    def _get(self, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", self.path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
