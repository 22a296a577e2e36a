"""Requirements: what may be asked of a caller and a request, each of which decides by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.conditions import Condition, parse_condition
from gateway.exchange import Exchange
from gateway.facts import Facts
from gateway.permissions import Decision, Grants
from plugins.authorize.options import Config
from plugins.authorize.wanted import Wanted

_CONDITION: Final = "what a condition of this route says"
"""What is wanted, as callers are told: conditions are not theirs to read."""
_UNSAYABLE: Final = "no permission can say what this request wants"


class Requirement(Protocol):
    """Something that must hold of an exchange whose consumer is known. What it decides never raises.

    `text` is what it is about, for operators; nobody need be known for that.
    """

    def decide(self, exchange: Exchange) -> Decision: ...

    def text(self, exchange: Exchange) -> str: ...


class Permitted:
    """The caller has this permission."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted

    def decide(self, exchange: Exchange) -> Decision:
        wanted = self.wanted.of(exchange)
        if wanted is None:
            return Decision(self.wanted.unsayable(exchange), False, _UNSAYABLE, denied=True)
        grants: Grants = exchange.consumer.grants
        return grants.settled.get(wanted) or grants.decide(wanted, Facts.of(exchange))

    def text(self, exchange: Exchange) -> str:
        return self.wanted.said(exchange)


class AnyPermitted:
    """The caller has one of these permissions; the first that it has decides."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self._each = [Permitted(each) for each in wanted]

    def decide(self, exchange: Exchange) -> Decision:
        refused: list[Decision] = []
        for permitted in self._each:
            decision = permitted.decide(exchange)
            if decision.allowed:
                return decision
            refused.append(decision)
        because = "; ".join(f"{decision.wanted}: {decision.because}" for decision in refused)
        return Decision(" or ".join(dict.fromkeys(decision.wanted for decision in refused)), False, because)

    def text(self, exchange: Exchange) -> str:
        return " or ".join(each.text(exchange) for each in self._each)


class HasRole:
    """The caller has one of these roles."""

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = frozenset(roles)
        text = f"role {' or '.join(roles)}"
        self._yes = Decision(text, True, "the caller has it")
        self._no = Decision(text, False, "the caller has it not")

    def decide(self, exchange: Exchange) -> Decision:
        return self._no if self._roles.isdisjoint(exchange.consumer.roles) else self._yes

    def text(self, exchange: Exchange) -> str:
        return self._yes.wanted


class HasScopes:
    """The caller's token has all of these scopes."""

    def __init__(self, scopes: Sequence[str]) -> None:
        self.scopes = scopes
        self._wanted = frozenset(scopes)
        text = f"scope {' and '.join(scopes)}"
        self._yes = Decision(text, True, "the caller has it")
        self._no = Decision(text, False, "the caller has it not")

    def decide(self, exchange: Exchange) -> Decision:
        return self._yes if exchange.consumer.scopes >= self._wanted else self._no

    def text(self, exchange: Exchange) -> str:
        return self._yes.wanted


class Meets:
    """A condition holds. What is decided does not quote it."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._decisions = {
            holds: Decision(_CONDITION, holds is True, because)
            for holds, because in ((True, "it holds"), (False, "it does not hold"), (None, "a fact is missing"))
        }

    def decide(self, exchange: Exchange) -> Decision:
        return self._decisions[self._condition.holds(Facts.of(exchange))]

    def text(self, exchange: Exchange) -> str:
        return f"the condition {self._condition}"


def requirements(config: Config) -> list[Requirement]:
    """All but the one `permission`, what is cheap to know first."""
    asked: list[Requirement] = []
    if config.roles is not None:
        asked.append(HasRole(config.roles))
    if config.scopes is not None:
        asked.append(HasScopes(config.scopes))
    if config.when is not None:
        asked.append(Meets(parse_condition(config.when)))
    asked += (Permitted(Wanted(text, config.actions)) for text in config.all or ())
    if config.any is not None:
        asked.append(AnyPermitted([Wanted(text, config.actions) for text in config.any]))
    return asked
