"""Template: text with names in braces that each exchange fills in, such as `/v2/{param.id}`; compiled once.

`{name}` is a template's, `${NAME}` the environment's: that one is replaced while the file is read, and never gets here.
`{{` and `}}` are braces themselves. In YAML a text that begins with a brace stands in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, TypeVar
from urllib.parse import quote

from pydantic import AfterValidator

from gateway.clock import uuid_text
from gateway.exchange import Exchange
from gateway.headers import valid_field
from gateway.parameters import Speaks
from gateway.problem import BadRequest

if TYPE_CHECKING:
    from gateway.tls.certificate import ClientCertificate

T = TypeVar("T")
Reader: TypeAlias = Callable[[Exchange], str]

_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_URL: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
# Visible ASCII and spaces, less the % that escapes begin with.
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def _host(exchange: Exchange) -> str:
    authority = exchange.request.host
    return authority if authority.endswith("]") else authority.rpartition(":")[0] or authority


def _of_certificate(read: Callable[[ClientCertificate], Iterable[str]]) -> Reader:
    """Of the certificate that the client has shown: names that an authority wrote, which may be anything."""

    def reader(exchange: Exchange) -> str:
        certificate = exchange.request.certificate
        return quote(", ".join(read(certificate)), safe=_PRINTABLE) if certificate is not None else ""

    return reader


_READERS: Final[Mapping[str, Reader]] = {
    "authority": lambda exchange: exchange.request.host,
    "certificate.dns": _of_certificate(lambda certificate: certificate.dns_names),
    "certificate.email": _of_certificate(lambda certificate: certificate.emails),
    "certificate.fingerprint": _of_certificate(lambda certificate: [certificate.fingerprint]),
    "certificate.subject": _of_certificate(lambda certificate: [certificate.subject]),
    "certificate.uri": _of_certificate(lambda certificate: certificate.uris),
    "client": lambda exchange: exchange.request.client,
    "consumer": lambda exchange: exchange.consumer.name if exchange.consumer is not None else "",
    "host": _host,
    "method": lambda exchange: exchange.request.method,
    "organization": lambda exchange: exchange.consumer.organization if exchange.consumer is not None else "",
    "path": lambda exchange: exchange.request.path,
    "query": lambda exchange: exchange.request.query,
    "request.id": lambda exchange: uuid_text(exchange.id),
    "route": lambda exchange: exchange.route,
    "scheme": lambda exchange: exchange.request.scheme,
    "target": lambda exchange: exchange.request.target,
}
_PARTS_OF_URLS: Final = frozenset({"authority", "host", "path", "query", "scheme", "target"})


NAMES: Final = (*_READERS, "param.NAME", "header.NAME")
"""What may stand in braces: `param` is of the route's path, `header` of the request."""


class Template:
    """A template made ready. Raises ValueError for a name that there is not, and for text that cannot stand there.

    What it renders can stand in a header field: no control character ever results. A name without a value is empty.
    With `url` it is for (a part of) a URL: values that are no parts of one are percent-encoded, so that none reaches
    beyond its place, and a name without a value makes the request a bad one.
    """

    __slots__ = ("_form", "_readers", "fixed")

    def __init__(self, text: str, *, url: bool = False) -> None:
        literal = _PART.sub("", text)
        if url and not _URL.fullmatch(literal):
            raise ValueError(f"not a part of a URL: {text!r} (write other characters percent-encoded, such as %20)")
        if not valid_field("x", literal):
            raise ValueError(f"{text!r} contains a character that no header field can hold")
        self._form, self._readers = compiled(text, _reader_in_url if url else _reader)
        self.fixed = None if self._readers else self._form % ()
        """The text, if it is the same for every exchange."""

    def render(self, exchange: Exchange) -> str:
        """The text for this exchange. For a URL: raises BadRequest if a name has no value."""
        return self._form % tuple([read(exchange) for read in self._readers])


def compiled(text: str, reader_of: Callable[[str], T]) -> tuple[str, list[T]]:
    """A template as a form for Python's `%`, and for each of its places what `reader_of` says to the name.

    Raises ValueError for a brace that has no other.
    """
    readers: list[T] = []

    def place(match: re.Match[str]) -> str:
        if match[1] is None:
            if len(match[0]) == 1:
                raise ValueError(f"{text!r} has a brace without its other (a brace itself is written {{{{ or }}}})")
            return match[0][0]
        readers.append(reader_of(match[1]))
        return "%s"

    return _PART.sub(place, text.replace("%", "%%")), readers


def _reader(name: str) -> Reader:
    reader = _READERS.get(name)
    kind, _, key = name.partition(".")
    if reader is not None:
        return reader
    if kind == "param" and key:
        return lambda exchange: quote(exchange.parameters.get(key, ""), safe=_PRINTABLE)
    if kind == "header" and valid_field(key, ""):
        return lambda exchange: (exchange.request.headers.get(key) or "").replace("\t", " ")
    raise ValueError(f"unknown name {{{name}}} (there are {', '.join(NAMES)})")


def _reader_in_url(name: str) -> Reader:
    read = _reader(name)
    if name == "query":
        return read  # there need not be one

    def checked(exchange: Exchange) -> str:
        value = read(exchange) if kind != "param" else exchange.parameters.get(key, "")
        if not value:
            raise BadRequest(f"This needs a {name} in the request, and there is none.")
        return value if name in _PARTS_OF_URLS else quote(value, safe="", encoding=encoding)

    kind, _, key = name.partition(".")
    encoding = "latin-1" if kind == "header" else "utf-8"
    return checked


def names_in(text: str) -> list[str]:
    """The names that a template asks for. Raises ValueError as `compiled` does."""
    return compiled(text, str)[1]


def _field_template(text: str) -> str:
    Template(text)
    return text


def _url_template(text: str) -> str:
    Template(text, url=True)
    return text


FieldTemplate: TypeAlias = Annotated[str, AfterValidator(_field_template), Speaks(names_in)]
"""An option: the template of a header field's value."""
UrlTemplate: TypeAlias = Annotated[str, AfterValidator(_url_template), Speaks(names_in)]
"""An option: the template of a URL or of a part of one."""
