"""Add, set and take out header fields, of the request before it goes upstream and of the response on its way back."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

from pydantic import model_validator

from gateway.exchange import Exchange, Response
from gateway.header_options import RequestFieldName, ResponseFieldName
from gateway.headers import Headers
from gateway.options import Options
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services
from gateway.template import FieldTemplate, Template

Name = TypeVar("Name", bound=str)


class Edits(Options, Generic[Name]):
    """Changes to header fields."""

    remove: list[Name] = []
    """Fields to take out."""
    set: dict[Name, FieldTemplate] = {}
    """Fields to put in the place of those of that name: name and template. One that comes out empty only takes out."""
    add: dict[Name, FieldTemplate] = {}
    """Fields to put beside those of that name: name and template. One that comes out empty is left out."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [name.lower() for name in (*self.remove, *self.set, *self.add)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice")
        return self


class RequestEdits(Edits[RequestFieldName]):
    """What is changed on the way in."""


class ResponseEdits(Edits[ResponseFieldName]):
    """What is changed on the way out."""


class Config(PluginConfig):
    """What is changed."""

    request: RequestEdits = RequestEdits()
    """Changes to the request."""
    response: ResponseEdits = ResponseEdits()
    """Changes to the response."""


class SetHeaders(Plugin[Config]):
    """Adds, sets and takes out header fields of the request to the upstream and of the response; values are templates.

    Fields that frame a message, belong to a connection or tell the upstream who calls are the gateway's own. Templates
    know the consumer from the plugin on that authenticates: list this one behind it.
    """

    @classmethod
    def hooks(cls, config: Config | None = None) -> list[str]:
        """Only the ways on which something is changed."""
        if config is None:
            return super().hooks(config)
        ways = {"on_request": config.request, "on_response": config.response}
        return [hook for hook, edits in ways.items() if edits.remove or edits.set or edits.add]

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._request = _Editor(config.request)
        self._response = _Editor(config.response)

    def on_request(self, exchange: Exchange) -> None:
        self._request.edit(exchange.request.headers, exchange)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        self._response.edit(response.headers, exchange)


class _Editor:
    """Edits made ready. Those that are the same for every exchange are made once for fields that repeat."""

    def __init__(self, edits: Edits[str]) -> None:
        # Name, value, and whether it takes the place of others; an empty one that does is a removal.
        self._fixed: list[tuple[str, str, bool]] = [(name, "", True) for name in edits.remove]
        self._templates: list[tuple[str, Template, bool]] = []
        for texts, instead in ((edits.set, True), (edits.add, False)):
            for name, text in texts.items():
                template = Template(text)
                if template.fixed is None:
                    self._templates.append((name, template, instead))
                else:
                    self._fixed.append((name, template.fixed, instead))
        self._edit_fixed = self._fix  # bound once: `Headers.once` knows it again

    def edit(self, headers: Headers, exchange: Exchange) -> None:
        if self._fixed:
            headers.once(self._edit_fixed)
        for name, template, instead in self._templates:
            _put(headers, name, template.render(exchange), instead)

    def _fix(self, headers: Headers) -> None:
        for name, value, instead in self._fixed:
            _put(headers, name, value, instead)


def _put(headers: Headers, name: str, value: str, instead: bool) -> None:
    if not value:
        if instead:
            del headers[name]
    elif instead:
        headers[name] = value
    else:
        headers.add(name, value)
