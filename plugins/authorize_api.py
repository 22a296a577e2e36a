"""Answer applications that ask what their caller may do: the same question that `authorize` asks of a request.

An application sends the credential that it was called with, so nobody learns of permissions but the caller's own:
`{"permission": "books:delete", "resource": {"owner": "ann"}}` gets `{"allowed": true, "because": "…"}`.
"""

from __future__ import annotations

from asyncio import sleep
from ipaddress import ip_address
from typing import Final, TypeAlias

import msgspec
from pydantic import Field

from gateway.consumers import Consumer
from gateway.exchange import Exchange, Response
from gateway.facts import Facts, Value
from gateway.options import Size
from gateway.plugin import AUTHENTICATION, Plugin, PluginConfig
from gateway.problem import InvalidValues, MalformedBody, MethodNotAllowed, Unauthorized
from gateway.services import Services

Said: TypeAlias = dict[str, str | int | float | list[str]]


class Config(PluginConfig):
    """How much may be asked at once."""

    max_questions: int = Field(default=100, ge=1, le=1000)
    """Questions in one request."""
    max_body: Size = Field(default=256 * 1024, ge=1)
    """The largest request; a larger one is refused (413)."""


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """The request that the application serves, as far as conditions are to know it."""

    method: str | None = None
    path: str | None = None
    host: str | None = None
    client: str | None = None
    parameters: dict[str, str] = {}


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    permission: str
    resource: Said = {}
    request: _About = msgspec.field(default_factory=_About)


class _Questions(msgspec.Struct, forbid_unknown_fields=True):
    questions: list[_Question]


class _Answer(msgspec.Struct):
    permission: str
    allowed: bool
    because: str


class _Answers(msgspec.Struct):
    answers: list[_Answer]


class _Keys(msgspec.Struct):
    """Tells the two forms apart."""

    questions: msgspec.Raw = msgspec.Raw()


_ENCODE: Final = msgspec.json.Encoder().encode


class AuthorizeApi(Plugin[Config]):
    """Answers every POST itself, for the caller that the plugin before it knows. No upstream is called.

    One question is `{"permission", "resource", "request"}`, several are `{"questions": […]}`, which get
    `{"answers": […]}` in the same order. `resource` holds what conditions ask for as `resource.NAME`; `request` may
    hold `method`, `path`, `host`, `client` and `parameters` of the request that the application serves. What is not
    said is not known, and opens nothing. The answer is by the caller's permissions; routes may need more.
    """

    needs = AUTHENTICATION
    answers = True

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        answers = services.metrics.counter(
            "tallygate_authorize_questions_total", "Questions of applications, by the answer.", ("answer",)
        )
        self._count = {True: answers.labels("allowed"), False: answers.labels("denied")}

    async def on_request(self, exchange: Exchange) -> Response:
        consumer = exchange.consumer
        if consumer is None:
            raise Unauthorized
        if exchange.request.method != "POST":
            raise MethodNotAllowed(headers={"allow": "POST"})
        body = await exchange.request.body.read(self.config.max_body)
        answer: _Answer | _Answers
        try:
            if not msgspec.json.decode(body, type=_Keys).questions:
                answer = self._answer(consumer, msgspec.json.decode(body, type=_Question), exchange.admitted_at)
            else:
                questions = msgspec.json.decode(body, type=_Questions).questions
                answer = await self._answers(consumer, questions, exchange.admitted_at)
        except msgspec.ValidationError as error:
            raise InvalidValues(f"This is not a question: {error}.") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBody(f"The question cannot be read: {error}.") from None
        return Response(200, {"Content-Type": "application/json", "Cache-Control": "no-store"}, _ENCODE(answer))

    async def _answers(self, consumer: Consumer, questions: list[_Question], micros: int) -> _Answers:
        if len(questions) > self.config.max_questions:
            raise InvalidValues(f"At most {self.config.max_questions} questions are answered at once.")
        answers: list[_Answer] = []
        for question in questions:
            answers.append(self._answer(consumer, question, micros))
            await sleep(0)  # a caller with hundreds of conditions holds nobody else up
        return _Answers(answers)

    def _answer(self, consumer: Consumer, question: _Question, micros: int) -> _Answer:
        about = question.request
        facts = Facts(
            consumer,
            method=about.method,
            path=about.path,
            host=about.host,
            client=_address(about.client),
            parameters=about.parameters,
            resource={name: _value(value) for name, value in question.resource.items()},
            micros=micros,
        )
        decision = consumer.grants.decide(question.permission, facts)
        self._count[decision.allowed].inc()
        return _Answer(decision.wanted, decision.allowed, decision.because)


def _value(said: str | int | float | list[str]) -> Value:
    return frozenset(said) if isinstance(said, list) else said


def _address(said: str | None) -> str | None:
    """Raises InvalidValues for what is no address: it would be in no network, and so outside of all."""
    try:
        return None if said is None else str(ip_address(said))
    except ValueError:
        raise InvalidValues("The client of the request is no address.") from None
