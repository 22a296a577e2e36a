"""The plugin contract: a typed config and up to six hooks. This file is the whole of it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeAlias, TypeVar, get_args

from gateway.exchange import Exchange, Response
from gateway.options import Options

if TYPE_CHECKING:
    from gateway.services import Services

Answer: TypeAlias = Response | Awaitable[Response | None] | None


class PluginConfig(Options):
    """Base of every plugin's options."""


C = TypeVar("C", bound=PluginConfig)

AUTHENTICATION: Final = "authentication"
"""What a plugin guards that says who calls."""
METERING: Final = "metering"
"""What a plugin guards that writes down what is used."""
HOOKS: Final = ("on_request", "on_response", "on_upgrade", "on_chunk", "on_sending", "on_finish")
"""In the order in which a request meets them."""


class Plugin(Generic[C]):
    """One feature on a request's way. Override only the hooks you need; the rest cost nothing.

    Hooks run in the order the route lists its plugins on the way in, in reverse on the way out; only a plugin that
    says so in `behind` may be moved.
    A response passes back only through the plugins that stood before its maker.
    """

    config_type: ClassVar[type[PluginConfig]]
    guards: ClassVar[str] = ""
    """What a route loses without it, in a word such as `authentication`, where people should be warned of that."""
    behind: ClassVar[str] = ""
    """What a request must have passed before it: the plugin runs behind the last one that guards this, if need be
    later than it is listed.
    """
    needs: ClassVar[str] = ""
    """The same for what it is worth nothing without: a route where nothing guards that is refused."""
    lets_anybody_in: ClassVar[bool] = False
    """It stands among those that guard, but keeps nobody out."""
    needs_client_certificates: ClassVar[bool] = False
    """It can do nothing unless some listener asks clients for certificates."""
    asks_for_secrets: ClassVar[bool] = False
    """What callers show to it can be used by whoever reads it on the way: it belongs behind TLS."""
    answers: ClassVar[bool] = False
    """It lets no request through: each is answered or refused. A route that has it need not name an upstream."""
    parts: tuple[AnyPlugin, ...] = ()
    """The plugins that its own options list (a `PluginList`). They are made, started and stopped as it is itself."""

    def __init_subclass__(cls) -> None:
        for base in getattr(cls, "__orig_bases__", ()):
            arguments = get_args(base)
            if arguments and isinstance(arguments[0], type):
                cls.config_type = arguments[0]

    @classmethod
    def hooks(cls, config: C | None = None) -> list[str]:
        """The names of the hooks that are called: those that the class overrides. A plugin that needs fewer of them
        with some configuration says so here; the others then cost nothing. Without `config`: all it may ever need.
        """
        return [name for name in HOOKS if getattr(cls, name) is not getattr(Plugin, name)]

    @classmethod
    def explain(cls, config: C, exchange: Exchange) -> Iterable[str]:
        """What it would do with this request, in sentences, for `tallygate explain`; what depends on more than there is
        says so. Nothing was made or started, and nobody is to be asked.

        Change the request's target as on_request would, and raise a Problem where it would refuse. Behind a plugin that
        says who calls, `consumer` is who is assumed to, or None where nobody was named; so is the client's address, or
        empty.
        """
        return ()

    @classmethod
    def leads_to(cls, config: C) -> str | None:
        """The path that it sends all requests to, if there is one: a configuration must not send anybody in circles."""
        return None

    @classmethod
    def refuses_part(cls, part: PartSpec, before: Sequence[PartSpec]) -> str | None:
        """Why a plugin with these options may not stand among its own, behind those; None where it may."""
        return None

    def __init__(self, config: C, services: Services) -> None:
        self.config = config
        self.services = services

    def inherit(self, previous: Self) -> None:
        """A reload made you in the place of `previous`, of the same route and with equal options: go on with its state.

        Share it rather than take it away: both serve for a while, and should the reload be refused, only `previous`.
        Called before `start`.
        """

    async def start(self) -> None:
        """Open what you need. Called once, before the first request. What raises here refuses the configuration."""

    async def stop(self) -> None:
        """Close it again. Called after the last request has finished: when the process ends, or some time after a
        reload.
        """

    def on_request(self, exchange: Exchange) -> Answer:
        """The head has arrived. Return a response to answer now, raise a Problem to refuse.

        May be async; one that seldom waits is better a plain one that returns a coroutine when it does.
        """

    def on_response(self, exchange: Exchange, response: Response) -> Answer:
        """A response exists and nothing is sent yet: headers may change, or another response takes its place.

        A plugin that changes the size of the body deletes `content-length` here. May be async.
        """

    def on_upgrade(self, exchange: Exchange) -> None:
        """The upstream agreed to a WebSocket, and the client is about to hear of it: raise a Problem to refuse.

        What they say to each other no hook sees. At its end on_chunk is called, with nothing. Never waits.
        """

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        """A piece of the body on its way out. Called exactly once with `last=True` for every response. Never waits."""
        return chunk

    def on_sending(self, exchange: Exchange, size: int, last: bool) -> None:
        """A piece of the body is about to be sent: `size` bytes, as all plugins left it, wherever they are listed.

        Called once for each on_chunk. Never waits.
        """

    def on_finish(self, exchange: Exchange) -> None:
        """It is over, well or badly. Runs exactly once if on_request was reached. Never waits."""


AnyPlugin: TypeAlias = Plugin[Any]
PartSpec: TypeAlias = tuple[type[AnyPlugin], PluginConfig]
"""A plugin that another lists, and its options."""
