"""Answer here, always the same: a maintenance page, a robots.txt, a path that is gone."""

from __future__ import annotations

from mimetypes import MimeTypes
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from pydantic import Field, model_validator

from gateway.exchange import Exchange, Response
from gateway.header_options import FieldValue, ResponseFieldName
from gateway.headers import Headers
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

LARGEST_FILE: Final = 2**20
_WITHOUT_BODY: Final = frozenset({204, 205, 304})


class Config(PluginConfig):
    """What the answer is. At most one of `body`, `body_file` and `json`."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
    """Its status."""
    headers: dict[ResponseFieldName, FieldValue] = {}
    """Its header fields. `Content-Type` follows from the body, unless it stands here."""
    body: str | None = None
    """Its body, as text. `${file:path}` takes the text of a file beside the configuration."""
    body_file: str | None = None
    """A file of any kind with its body, up to 1MiB, as seen from where the command runs; it is read at the start."""
    json_: Any = Field(default=None, alias="json")
    """Its body, as JSON."""

    @model_validator(mode="after")
    def _has_one_body(self) -> Config:
        bodies = [body for body in (self.body, self.body_file, self.json_) if body is not None]
        if len(bodies) > 1:
            raise ValueError("takes one of `body`, `body_file` and `json`")
        if bodies and self.status in _WITHOUT_BODY:
            raise ValueError(f"an answer with status {self.status} has no body")
        self.content()
        return self

    def content(self) -> tuple[bytes, str]:
        """The body and its media type. Raises ValueError if the file cannot be had."""
        if self.json_ is not None:
            return msgspec.json.encode(self.json_), "application/json"
        if self.body_file is not None:
            kind, _ = MimeTypes().guess_type(self.body_file)
            return _content_of(Path(self.body_file)), kind or "application/octet-stream"
        return (self.body or "").encode(), "text/plain; charset=utf-8"


def _content_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{path} is larger than 1MiB")
    return content


class Reply(Plugin[Config]):
    """Answers every request itself, always the same; HEAD hears the same without the body. No upstream is called."""

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._status = config.status
        self._body, media_type = config.content()
        self._headers = Headers(config.headers)
        if self._body:
            if "content-type" not in self._headers:
                self._headers["Content-Type"] = media_type
            self._headers["Content-Length"] = str(len(self._body))  # HEAD says it too

    def on_request(self, exchange: Exchange) -> Response:
        return Response(self._status, self._headers.copy(), self._body)
