"""Reply: an answer that is always the same, made once; a plugin may give it, or a route whose upstream fails."""

from __future__ import annotations

from mimetypes import MimeTypes
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec
from pydantic import Field, model_validator

from gateway.exchange import Response
from gateway.header_options import FieldValue, ResponseFieldName
from gateway.headers import Headers
from gateway.options import Options

LARGEST_FILE: Final = 2**20
_WITHOUT_BODY: Final = frozenset({204, 205, 304})


class ReplyOptions(Options):
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
    def _has_one_body(self) -> Self:
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


class FixedReply:
    """Made ready to be given any number of times; HEAD hears the same without the body."""

    def __init__(self, options: ReplyOptions) -> None:
        """Raises ValueError if its file cannot be had."""
        self._status = options.status
        self._body, media_type = options.content()
        self._headers = Headers(options.headers)
        if self._body:
            if "content-type" not in self._headers:
                self._headers["Content-Type"] = media_type
            self._headers["Content-Length"] = str(len(self._body))  # HEAD says it too

    def response(self) -> Response:
        """The answer, which may be changed like any other."""
        return Response(self._status, self._headers.copy(), self._body)
