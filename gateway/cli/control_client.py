"""Control client: how a command asks the API of the control plane."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gateway.config.configuration import GatewayConfig
from gateway.control.principal import TOKEN_VARIABLE
from gateway.downstream.listener import parse_bind
from gateway.fetch import Fetch, Fetched, FetchFailed

URL_VARIABLE: Final = "TALLYGATE_CONTROL_URL"
_WITHIN: Final = 30.0
_LARGEST: Final = 16 * 2**20
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - connected to, not bound


class ControlRefused(Exception):
    """The control plane did not do it, or did not answer; the text says why, a line for each reason."""


class ControlClient:
    """Asks one control plane; an async context manager."""

    def __init__(self, config: GatewayConfig) -> None:
        """Where it is and the token are taken from the environment, or else from the configuration."""
        self._url = os.environ.get(URL_VARIABLE, "").rstrip("/") or _url_of(config.control.bind)
        self._token = os.environ.get(TOKEN_VARIABLE) or _token_in(Path(config.control.token_file))
        self._fetch = Fetch()

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._fetch.close()

    async def ask(self, method: str, path: str, body: Any = None, etag: str | None = None) -> tuple[Any, str]:
        """The document that is answered, and its ETag. Raises ControlRefused."""
        fields = {"authorization": f"Bearer {self._token}"}
        if etag is not None:
            fields["if-match"] = etag
        if body is not None:
            fields["content-type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        sent = msgspec.json.encode(body) if body is not None else None
        try:
            answer = await self._fetch.send(
                method, self._url + quote(path, safe="/?=&%"), within=_WITHIN, limit=_LARGEST, fields=fields, body=sent
            )
        except FetchFailed as error:
            raise ControlRefused(f"the control plane at {self._url} does not answer: {error}") from None
        document = _document(answer)
        if answer.status >= 400:
            raise ControlRefused("\n".join(_reasons(document, answer.status)))
        return document, answer.headers.get("etag") or ""

    async def change(self, method: str, path: str, body: Any = None) -> Any:
        """Changes or removes what is there now, whatever its version."""
        _, etag = await self.ask("GET", path)
        return (await self.ask(method, path, body, etag))[0]

    async def pages(self, path: str) -> AsyncIterator[list[dict[str, Any]]]:
        """All parts of a list."""
        after = ""
        while True:
            page, _ = await self.ask("GET", f"{path}?limit=200{after}")
            yield page["items"]
            if page["next"] is None:
                return
            after = f"&after={page['next']}"


def _url_of(bind: str) -> str:
    host, port = parse_bind(bind)
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _token_in(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise ControlRefused(
            f"no token for the control plane: set {TOKEN_VARIABLE}, or see {file}: {error.strerror}"
        ) from None


def _document(answer: Fetched) -> Any:
    if not answer.body:
        return None
    try:
        return msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        raise ControlRefused(f"what answers is no control plane (status {answer.status})") from None


def _reasons(document: Any, status: int) -> list[str]:
    """What a problem says, for a person."""
    if not isinstance(document, dict):
        return [f"status {status}"]
    said = document.get("detail") or document.get("title", f"status {status}")
    return [said, *(f"  {each['pointer'].lstrip('/')}: {each['detail']}" for each in document.get("errors", ()))]
