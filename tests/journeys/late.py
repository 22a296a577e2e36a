"""Late: a plugin of somebody's that holds up the event loop, as none should."""

from __future__ import annotations

import time

from gateway.exchange import Exchange
from gateway.plugin import Plugin, PluginConfig


class Config(PluginConfig):
    """How it holds it up."""

    milliseconds: int = 30
    """For how long, at each request."""


class Late(Plugin[Config]):
    """Does nothing, and takes its time."""

    def on_request(self, exchange: Exchange) -> None:
        time.sleep(self.config.milliseconds / 1000)
