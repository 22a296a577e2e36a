"""Let in who may: permissions, roles, scopes and conditions, decided here or by a policy service.

What the parts mean: [permissions](../../gateway/permissions.py), [conditions](../../gateway/conditions.py) and the
[facts](../../gateway/facts.py) they ask about.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

from pydantic import Field, field_validator, model_validator

from gateway.authentication import insufficient_scope
from gateway.conditions import ConditionText, parse_condition
from gateway.exchange import Exchange, Response
from gateway.permissions import Decision
from gateway.plugin import AUTHENTICATION, Plugin, PluginConfig
from gateway.problem import BadRequest, PermissionDenied, Unauthorized, Undecided
from gateway.services import Services
from plugins.authorize.external import External, ExternalOptions, Verdict
from plugins.authorize.requirements import AnyPermitted, HasRole, HasScopes, Meets, Permitted, Requirement
from plugins.authorize.wanted import Wanted

_OVERRIDES: Final = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
_SCOPE: Final = r"^[!#-\[\]-~]{1,128}$"  # RFC 6749 §3.3

Scope: TypeAlias = Annotated[str, Field(pattern=_SCOPE)]
Role: TypeAlias = Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]


class Config(PluginConfig):
    """What a request needs. Everything given must hold.

    A permission is `resource:action`, with names in braces for what the request brings: `{method}` in small letters
    (`${method}` says the same), `{action}` for what that method does, `{param.NAME}`, `{consumer}`, `{organization}`
    and `{user}`. What they bring is one segment each; a request that brings anything else is refused.
    """

    permission: str | None = None
    """The permission it needs, such as `agents:${method}` or `books/{param.id}:{action}`."""
    any: Annotated[list[str], Field(min_length=1, max_length=20)] | None = None
    """Permissions of which it needs one."""
    all: Annotated[list[str], Field(min_length=1, max_length=20)] | None = None
    """Permissions of which it needs all."""
    roles: Annotated[list[Role], Field(min_length=1)] | None = None
    """Roles of which the caller needs one."""
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
    """Tell the access log why a request was allowed, too."""

    @field_validator("actions")
    @classmethod
    def _actions_are_segments(cls, value: dict[str, str]) -> dict[str, str]:
        for method, action in value.items():
            if not re.fullmatch(r"[A-Z]+(-[A-Z]+)*", method):
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


class Authorize(Plugin[Config]):
    """Refuses with 403 what the caller may not do, and names the permission that is missing. A denial wins, and a fact
    that is not known opens nothing.

    It must stand behind a plugin that says who calls. Requests that ask the upstream for another method in a header
    field, such as `X-HTTP-Method-Override`, are refused (400). `external` is asked last.
    """

    guards = "authorization"
    needs = AUTHENTICATION

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._requirements = list(_requirements(config))
        self._permitted = (
            Permitted(Wanted(config.permission, config.actions)) if config.permission is not None else None
        )
        self._external = External(config.external, services) if config.external is not None else None
        self._known: Mapping[str, str] | None = None  # what is wanted by method, where nothing else is asked
        if self._permitted is not None and self._external is None:
            if not self._requirements and not config.log_allowed:
                self._known = self._permitted.wanted.known
            self._requirements.append(self._permitted)
        self._denied = services.metrics.counter(
            "tallygate_authorize_denied_total", "Requests that were refused for lack of a permission.", ("route",)
        )
        self._unreadable = services.metrics.counter(
            "tallygate_authorize_unreadable_total", "Decisions about callers with a permission that cannot be read."
        )

    async def stop(self) -> None:
        if self._external is not None:
            self._external.close()

    def on_request(self, exchange: Exchange) -> Awaitable[Response | None] | None:
        request, consumer = exchange.request, exchange.consumer
        if consumer is None:
            raise Unauthorized
        if request.headers.pick(_OVERRIDES) and not self.config.method_override:
            raise BadRequest("The request asks for another method than its own.")
        grants = consumer.grants
        if self._known is not None and not grants.unreadable:
            settled = grants.settled.get(self._known.get(request.method))
            if settled is not None and settled.allowed:
                return None
        if grants.unreadable:
            self._unreadable.inc()
        return self._weigh(exchange)

    def explain(self, exchange: Exchange) -> list[str]:
        """Why this exchange, whose consumer is known, would be let in or not: a sentence for each thing it needs, in
        order. Nobody else is asked, and nothing is counted.
        """
        decisions = [requirement.decide(exchange) for requirement in self._requirements]
        if self._external is not None and self._permitted is not None:
            decisions.append(self._permitted.decide(exchange))
        said = [f"{each.wanted}: {'allowed' if each.allowed else 'refused'}, {each.because}" for each in decisions]
        if self.config.external is not None:
            options = self.config.external
            said.append(f"upstream {options.upstream} decides; without its answer: {options.on_failure}")
        return said

    def _weigh(self, exchange: Exchange) -> Awaitable[Response | None] | None:
        decision = None
        for requirement in self._requirements:
            decision = requirement.decide(exchange)
            if not decision.allowed:
                scopes = requirement.scopes if isinstance(requirement, HasScopes) else ()
                raise self._refusal(exchange, decision, scopes)
        if self._external is None:
            self._allow(exchange, decision)
            return None
        return self._elsewhere(exchange, self._external)

    def _elsewhere(self, exchange: Exchange, external: External) -> Awaitable[None] | None:
        """Somebody else decides, unless the caller's own permissions forbid it."""
        own = Decision("", True, "nothing is asked of its permissions")
        if self._permitted is not None:
            own = self._permitted.decide(exchange)
            if own.denied:
                raise self._refusal(exchange, own)
        question = external.question(exchange, own.wanted)
        verdict = external.remembered(question)
        if verdict is None:
            return self._wait(exchange, own, external, question)
        self._settle(exchange, own, external, verdict)
        return None

    async def _wait(self, exchange: Exchange, own: Decision, external: External, question: bytes) -> None:
        self._settle(exchange, own, external, await external.ask(question))

    def _settle(self, exchange: Exchange, own: Decision, external: External, verdict: Verdict | None) -> None:
        policy = external.options.on_failure
        if verdict is not None:
            own = own._replace(allowed=verdict.allowed, because=f"the policy service says: {verdict.reason or 'so'}")
        elif policy != "local":
            exchange.decision = own._replace(allowed=policy == "allow", because="the policy service gave no answer")
            if policy == "deny":
                raise Undecided(headers={"retry-after": "1"})
            return
        if not own.allowed:
            raise self._refusal(exchange, own)
        self._allow(exchange, own)

    def _allow(self, exchange: Exchange, decision: Decision | None) -> None:
        if self.config.log_allowed:
            exchange.decision = decision

    def _refusal(self, exchange: Exchange, decision: Decision, scopes: Sequence[str] = ()) -> PermissionDenied:
        """`scopes` are what a token has to have, where that was missing."""
        exchange.decision = decision
        self._denied.labels(exchange.route).inc()
        headers = insufficient_scope(exchange, scopes) if scopes else {}
        return PermissionDenied(f"This needs {decision.wanted}.", headers=headers, needed=decision.wanted)


def _requirements(config: Config) -> Iterator[Requirement]:
    """What is cheap to know first; the one permission follows."""
    if config.roles is not None:
        yield HasRole(config.roles)
    if config.scopes is not None:
        yield HasScopes(config.scopes)
    if config.when is not None:
        yield Meets(parse_condition(config.when))
    for text in config.all or ():
        yield Permitted(Wanted(text, config.actions))
    if config.any is not None:
        yield AnyPermitted([Wanted(text, config.actions) for text in config.any])
