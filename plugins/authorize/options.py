"""Options: what a request needs."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import Field, field_validator, model_validator

from gateway.conditions import ConditionText
from gateway.list_options import METHOD
from gateway.parameters import Speaks
from gateway.plugin import PluginConfig
from gateway.template import names_in
from plugins.authorize.external import ExternalOptions
from plugins.authorize.wanted import Wanted

_SCOPE: Final = r"^[!#-\[\]-~]{1,128}$"  # RFC 6749 §3.3

Scope: TypeAlias = Annotated[str, Field(pattern=_SCOPE)]
PermissionTemplate: TypeAlias = Annotated[str, Speaks(names_in)]
Role: TypeAlias = Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]


class Config(PluginConfig):
    """What a request needs. Everything given must hold.

    A permission is `resource:action`, with names in braces for what the request brings: `{method}` in small letters
    (`${method}` says the same), `{action}` for what that method does, `{param.NAME}`, `{consumer}`, `{organization}`
    and `{user}`. What they bring is one segment each; a request that brings anything else is refused.
    """

    permission: PermissionTemplate | None = None
    """The permission it needs, such as `agents:${method}` or `books/{param.id}:{action}`."""
    any: Annotated[list[PermissionTemplate], Field(min_length=1, max_length=20)] | None = None
    """Permissions of which it needs one."""
    all: Annotated[list[PermissionTemplate], Field(min_length=1, max_length=20)] | None = None
    """Permissions of which it needs all."""
    roles: Annotated[list[Role], Field(min_length=1)] | None = None
    """Roles of which the caller needs one, by name. An organization can make roles of its own by any name that no role
    of all has: what no tenant may open by itself needs a permission, or a role of all.
    """
    scopes: Annotated[list[Scope], Field(min_length=1)] | None = None
    """Scopes that the caller's token needs, all of them."""
    when: ConditionText | None = None
    """A condition, such as `param.organization == organization` or `hour("Europe/Berlin") < 18`."""
    actions: dict[str, str] = {
        "GET": "read",
        "HEAD": "read",
        "OPTIONS": "read",
        "POST": "create",
        "PUT": "update",
        "PATCH": "update",
        "DELETE": "delete",
    }
    """What `{action}` is for each method. A request with any other method is refused."""
    external: ExternalOptions | None = None
    """Who decides about `permission` instead of the caller's own permissions; those can still deny it."""
    method_override: bool = False
    """Let requests pass that ask the upstream for another method in a header field."""
    log_allowed: bool = False
    """Tell the access log and the audit log of the control plane why a request was allowed, too."""

    @field_validator("actions")
    @classmethod
    def _actions_are_segments(cls, value: dict[str, str]) -> dict[str, str]:
        for method, action in value.items():
            if not METHOD.fullmatch(method):
                raise ValueError(f"not a method: {method!r} (write GET, POST, …)")
            if not re.fullmatch(r"[a-z0-9_.-]{1,64}", action):
                raise ValueError(f"not an action: {action!r} (write small letters, such as read)")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Config:
        asked = [self.permission, self.any, self.all, self.roles, self.scopes, self.when, self.external]
        if all(each is None for each in asked):
            raise ValueError("needs at least one of permission, any, all, roles, scopes, when and external")
        for text in (self.permission, *(self.any or ()), *(self.all or ())):
            if text is not None:
                Wanted(text, self.actions)
        if self.external is not None and (self.any is not None or self.all is not None):
            raise ValueError("external decides about one `permission`; `any` and `all` do not go with it")
        if self.external is not None and self.external.on_failure == "local" and self.permission is None:
            raise ValueError("on_failure: local needs a `permission` to decide about")
        return self
