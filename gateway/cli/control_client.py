"""Control client: how a command asks the API of the control plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from ssl import SSLCertVerificationError, SSLContext
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.clock import Clock
from gateway.control.options import ControlOptions
from gateway.control.principal import TOKEN_VARIABLE
from gateway.downstream.listener import parse_bind
from gateway.tls.certificate import Unusable
from gateway.tls.client import UpstreamTlsOptions, make_client_context
from gateway.trouble import Trouble

URL_VARIABLE: Final = "TALLYGATE_CONTROL_URL"
CA_VARIABLE: Final = "TALLYGATE_CONTROL_CA"
_WITHIN: Final = 30.0
_LARGEST: Final = 16 * 2**20
_OTHER_NAME: Final = (62, 64)
"""What OpenSSL calls a certificate for another host or address (X509_V_ERR_…_MISMATCH)."""
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - connected to, not bound


class ControlRefused(Trouble):
    """The control plane did not do it, or did not answer; the text says why, a line for each reason."""


class ControlClient:
    """Asks one control plane, in a connection for each request."""

    def __init__(self, options: ControlOptions, environment: Mapping[str, str]) -> None:
        """Where it is, whom to believe and the token are taken from the environment, or else from the configuration.

        Raises ControlRefused.
        """
        self._url = (environment.get(URL_VARIABLE) or options.client.url or _url_of(options)).rstrip("/")
        parts = urlsplit(self._url)
        try:
            self._host, self._port, self._prefix = parts.hostname or "", parts.port, parts.path
        except ValueError:
            self._host = ""
        if parts.scheme not in ("http", "https") or not self._host:
            raise ControlRefused(
                f"{self._url} is no address of a control plane: write https://control.example.com:9091"
            )
        self._context = _context(options, environment) if parts.scheme == "https" else None
        self._token = environment.get(TOKEN_VARIABLE) or _token_in(Path(options.token_file))

    def ask(self, method: str, path: str, body: Any = None, etag: str | None = None) -> tuple[Any, str]:
        """The document that is answered, and its ETag. `path` is as it is sent. Raises ControlRefused."""
        fields = {"authorization": f"Bearer {self._token}", "user-agent": "tallygate"}
        if etag is not None:
            fields["if-match"] = etag
        if body is not None:
            fields["content-type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        sent = msgspec.json.encode(body) if body is not None else None
        connection = self._connection()
        try:
            connection.request(method, self._prefix + path, sent, fields)
            answer = connection.getresponse()
            raw = answer.read(_LARGEST + 1)
        except SSLCertVerificationError as error:
            hint = "" if error.verify_code in _OTHER_NAME else " (is `control.client.ca` right?)"
            raise ControlRefused(self._silence(error.verify_message + hint)) from None
        except (OSError, HTTPException, ValueError) as error:
            raise ControlRefused(self._silence(getattr(error, "strerror", None) or error)) from None
        finally:
            connection.close()
        document = _document(answer, raw)
        if answer.status >= 400:
            raise ControlRefused("\n".join(_reasons(document, answer.status)))
        return document, answer.headers.get("etag") or ""

    def change(self, method: str, path: str, body: Any = None) -> Any:
        """Changes or removes what is there now, whatever its version."""
        _, etag = self.ask("GET", path)
        return self.ask(method, path, body, etag)[0]

    def pages(self, path: str) -> Iterator[list[dict[str, Any]]]:
        """All parts of a list."""
        after = ""
        while True:
            page, _ = self.ask("GET", f"{path}?limit=200{after}")
            yield page["items"]
            if page["next"] is None:
                return
            after = f"&after={page['next']}"

    def _connection(self) -> HTTPConnection:
        if self._context is None:
            return HTTPConnection(self._host, self._port, timeout=_WITHIN)
        return HTTPSConnection(self._host, self._port, timeout=_WITHIN, context=self._context)

    def _silence(self, reason: object) -> str:
        return f"the control plane at {self._url} does not answer: {reason}"


def _context(options: ControlOptions, environment: Mapping[str, str]) -> SSLContext:
    client = options.client
    tls = UpstreamTlsOptions(
        ca=environment.get(CA_VARIABLE) or client.ca, client_certificate=client.certificate, client_key=client.key
    )
    try:
        return make_client_context(tls, Clock()).context
    except Unusable as error:
        named = {"ca": "ca", "client_certificate": "certificate", "client_key": "key"}[str(error.option[0])]
        raise ControlRefused(f"control.client.{named}: {error.text}") from None


def _url_of(options: ControlOptions) -> str:
    host, port = parse_bind(options.bind)
    host = _ANYWHERE.get(host, host)
    scheme = "http" if options.tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _token_in(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise ControlRefused(
            f"no token for the control plane: set {TOKEN_VARIABLE}, or see {file}: {error.strerror}"
        ) from None


def _document(answer: HTTPResponse, raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        raise ControlRefused(f"what answers is no control plane (status {answer.status})") from None


def _reasons(document: Any, status: int) -> list[str]:
    """What a problem says, for a person."""
    if not isinstance(document, dict):
        return [f"status {status}"]
    said = document.get("detail") or document.get("title", f"status {status}")
    places = ((each["pointer"].lstrip("/"), each["detail"]) for each in document.get("errors", ()))
    return [said, *(f"  {place}: {detail}" if place else f"  {detail}" for place, detail in places)]
