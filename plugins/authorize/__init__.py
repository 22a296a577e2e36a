"""Let in who may: permissions, roles, scopes and conditions, decided here or by a policy service.

What the parts mean: [permissions](../../gateway/permissions.py), [conditions](../../gateway/conditions.py) and the
[facts](../../gateway/facts.py) they ask about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from gateway.authentication import insufficient_scope
from gateway.exchange import Exchange, Response
from gateway.headers import twins
from gateway.permissions import Decision
from gateway.plugin import AUTHENTICATION, Plugin
from gateway.problem import InvalidValues, PermissionDenied, Unauthorized, Undecided
from gateway.services import Services
from plugins.authorize.external import External, Verdict
from plugins.authorize.options import Config
from plugins.authorize.requirements import HasScopes, Permitted, requirements
from plugins.authorize.wanted import Wanted

_OVERRIDE: Final = ("x-http-method", "x-http-method-override", "x-method-override")
_OVERRIDES: Final = frozenset(_OVERRIDE).union(*map(twins, _OVERRIDE))
_NOTHING_ASKED: Final = Decision("what a policy service allows", True, "nothing is asked of its permissions")


class Authorize(Plugin[Config]):
    """Refuses with 403 what the caller may not do, and names the permission that is missing. A denial wins, and a fact
    that is not known opens nothing.

    It must stand behind a plugin that says who calls. Requests that ask the upstream for another method in a header
    field, such as `X-HTTP-Method-Override`, are refused (422). `external` is asked last.
    """

    guards = "authorization"
    needs = AUTHENTICATION

    @classmethod
    def explain(cls, config: Config, exchange: Exchange) -> Iterator[str]:
        cls._check_method(config, exchange)
        asked, own = requirements(config), _permitted(config)
        if own is not None:
            asked.append(own)
        if exchange.consumer is None:
            yield from (f"needs {each.text(exchange)}" for each in asked)
            asked = []
        refused: list[Decision] = []
        for each in asked:
            decision = each.decide(exchange)
            yield f"{each.text(exchange)}: {'allowed' if decision.allowed else 'refused'}, {decision.because}"
            elsewhere = each is own and config.external is not None and not decision.denied
            if not decision.allowed and not elsewhere:
                refused.append(decision)
        if config.external is not None:
            yield f"upstream {config.external.upstream} decides; without its answer: {config.external.on_failure}"
        if refused:
            raise _denial(refused[0])

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._requirements = requirements(config)
        self._permitted = _permitted(config)
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
        self._check_method(self.config, exchange)
        grants = consumer.grants
        if self._known is not None and not grants.unreadable:
            settled = grants.settled.get(self._known.get(request.method))
            if settled is not None and settled.allowed:
                return None
        if grants.unreadable:
            self._unreadable.inc()
        return self._weigh(exchange)

    @staticmethod
    def _check_method(config: Config, exchange: Exchange) -> None:
        if not config.method_override and exchange.request.headers.pick(_OVERRIDES):
            raise InvalidValues("The request asks for another method than its own.")

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
        own, wanted = _NOTHING_ASKED, None
        if self._permitted is not None:
            own = self._permitted.decide(exchange)
            if own.denied:
                raise self._refusal(exchange, own)
            wanted = own.wanted
        question = external.question(exchange, wanted)
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
            self._tell(exchange, own._replace(allowed=policy == "allow", because="the policy service gave no answer"))
            if policy == "deny":
                raise Undecided(headers={"retry-after": "1"})
            return
        if not own.allowed:
            raise self._refusal(exchange, own)
        self._allow(exchange, own)

    def _allow(self, exchange: Exchange, decision: Decision | None) -> None:
        if self.config.log_allowed and decision is not None:
            self._tell(exchange, decision)

    def _tell(self, exchange: Exchange, decision: Decision) -> None:
        """The access log and the audit log."""
        exchange.decision = decision
        self.services.decisions.note(exchange, decision)

    def _refusal(self, exchange: Exchange, decision: Decision, scopes: Sequence[str] = ()) -> PermissionDenied:
        """`scopes` are what a token has to have, where that was missing."""
        self._tell(exchange, decision)
        self._denied.labels(exchange.route).inc()
        return _denial(decision, insufficient_scope(exchange, scopes) if scopes else {})


def _denial(decision: Decision, headers: Mapping[str, str] = MappingProxyType({})) -> PermissionDenied:
    return PermissionDenied(f"This needs {decision.wanted}.", headers=headers, needed=decision.wanted)


def _permitted(config: Config) -> Permitted | None:
    return Permitted(Wanted(config.permission, config.actions)) if config.permission is not None else None
