"""Signature: what a request says was signed (RFC 9421), and the text that was signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote

from gateway.exchange import Request
from gateway.headers import FIELD_NAME, Headers
from plugins.hmac_auth.structured_fields import InnerList, Item, read_dictionary, write_item, write_parameters

T = TypeVar("T")

_PARAMETER: Final = "@query-param"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_LONGEST: Final = 16 * 1024
"""Characters that Signature-Input and Signature may have each."""


class Signature(NamedTuple):
    """One signature. `components` are what it covers, each with the way it is written in the text that was signed, and
    `parameters` the end of that text; `covered` are the names of components, those of derived ones with their `@`.
    `created` and `expires` are seconds since the epoch.
    """

    components: Mapping[str, Item]
    parameters: str
    value: bytes
    covered: frozenset[str]
    created: int
    expires: int | None
    key_id: str
    algorithm: str | None
    nonce: str | None
    tag: str | None


def read_signature(headers: Headers, label: str | None) -> Signature:
    """The signature with this label; without one, the only one there is. Raises ValueError."""
    inputs = read_dictionary(_combined(headers, "signature-input"))
    values = read_dictionary(_combined(headers, "signature"))
    if label is None:
        if len(inputs) != 1:
            raise ValueError("not one signature")
        label = next(iter(inputs))
    inner, value = inputs.get(label), values.get(label)
    if not isinstance(inner, InnerList) or not isinstance(value, Item) or not isinstance(value.value, bytes):
        raise ValueError("not a signature")
    components = {write_item(item): item for item in inner.items}
    if not all(type(item.value) is str for item in inner.items) or len(components) != len(inner.items):
        raise ValueError("components are strings, each there once")
    created, key_id = _parameter(inner, "created", int), _parameter(inner, "keyid", str)
    if created is None or key_id is None:
        raise ValueError("a signature says when it was made, and with which key")
    return Signature(
        components,
        f"({' '.join(components)}){write_parameters(inner.parameters)}",
        value.value,
        frozenset([str(item.value) for item in inner.items]),
        created,
        _parameter(inner, "expires", int),
        key_id,
        _parameter(inner, "alg", str),
        _parameter(inner, "nonce", str),
        _parameter(inner, "tag", str),
    )


def covers_request(signature: Signature, request: Request) -> bool:
    """Whether method, authority and all of the target are signed, so that it is good for nothing else."""
    covered = signature.covered
    if "@method" not in covered:
        return False
    if "@target-uri" in covered:
        return True
    path = "@path" in covered and ("@query" in covered or "?" not in request.target)
    return "@authority" in covered and (path or "@request-target" in covered)


def signed_text(signature: Signature, request: Request) -> bytes:
    """The text that was signed (RFC 9421 §2.5). Raises ValueError where it covers what is not there or not known."""
    lines = [f"{written}: {_component(item, request)}" for written, item in signature.components.items()]
    lines.append(f'"@signature-params": {signature.parameters}')
    return "\n".join(lines).encode("ascii")


def _parameter(inner: InnerList, name: str, kind: type[T]) -> T | None:
    """A parameter of the signature. A token is no string here, and `?1` no number. Raises ValueError."""
    value = inner.parameters.get(name)
    if value is not None and type(value) is not kind:
        raise ValueError(f"{name} is of another type")
    return value


def _combined(headers: Headers, name: str) -> str:
    """All fields of this name as one (RFC 9421 §2.1). Raises ValueError if there is none."""
    values = headers.getall(name)
    if not values:
        raise ValueError(f"no field {name}")
    combined = ", ".join(values)
    if len(combined) > _LONGEST:
        raise ValueError(f"{name} is too long")
    return combined


def _component(item: Item, request: Request) -> str:
    name = str(item.value)
    if name == _PARAMETER:
        return _query_parameter(item, request.query)
    if item.parameters:
        raise ValueError("a component with parameters that are not understood")
    if name in _DERIVED:
        return _DERIVED[name](request)
    if not _is_field(name):
        raise ValueError("not a component")
    if name == "host":
        return request.host
    if name == "content-length" and request.body.length is not None:
        return str(request.body.length)
    return _combined(request.headers, name)


def _is_field(name: str) -> bool:
    return FIELD_NAME.fullmatch(name) is not None and name == name.lower()


def _authority(request: Request) -> str:
    """RFC 9421 §2.2.3: in lower case, without the scheme's own port."""
    return request.host.lower().removesuffix(_DEFAULT_PORTS[request.scheme])


_DERIVED: Final[Mapping[str, Callable[[Request], str]]] = {
    "@method": lambda request: request.method,
    "@authority": _authority,
    "@scheme": lambda request: request.scheme,
    "@target-uri": lambda request: f"{request.scheme}://{_authority(request)}{request.target}",
    "@request-target": lambda request: request.target,
    "@path": lambda request: request.path,
    "@query": lambda request: f"?{request.query}",
}
"""Components that are no fields (RFC 9421 §2.2), but for `@query-param`, of which there may be many."""


def check_component(name: str) -> None:
    """Raises ValueError for a component that no request has."""
    if name not in (*_DERIVED, _PARAMETER) and not _is_field(name):
        there_are = ", ".join((*_DERIVED, _PARAMETER))
        raise ValueError(f"not a component: {name!r} (write a field in lower case, or one of {there_are})")


def _query_parameter(item: Item, query: str) -> str:
    """RFC 9421 §2.2.8: decoded, and encoded again in one way; one that comes twice cannot be signed."""
    name = item.parameters.get("name")
    if set(item.parameters) != {"name"} or not isinstance(name, str):
        raise ValueError("a query parameter has a name, and no other parameter")
    pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=1000)
    values = [value for key, value in pairs if _encoded(key) == name]
    if len(values) != 1:
        raise ValueError("a query parameter that is not there, or twice")
    return _encoded(values[0])


def _encoded(text: str) -> str:
    return quote(text, safe="*").replace("~", "%7E")
