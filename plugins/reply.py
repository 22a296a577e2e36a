"""Answer here, always the same: a maintenance page, a robots.txt, a path that is gone."""

from __future__ import annotations

from gateway.exchange import Exchange, Response
from gateway.plugin import Plugin, PluginConfig
from gateway.reply import FixedReply, ReplyOptions
from gateway.services import Services


class Config(ReplyOptions, PluginConfig):
    """What the answer is. At most one of `body`, `body_file` and `json`."""


class Reply(Plugin[Config]):
    """Answers every request itself, always the same; HEAD hears the same without the body. No upstream is called."""

    answers = True

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._reply = FixedReply(config)

    def on_request(self, exchange: Exchange) -> Response:
        return self._reply.response()
