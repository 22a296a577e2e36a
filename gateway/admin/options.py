"""Admin options: where operators find the node. Apart from the listener, which edge processes have no use for."""

from __future__ import annotations

from gateway.downstream.listener import Bind
from gateway.options import Options


class AdminOptions(Options):
    """The listener for operators: a page at /, and /health, /ready, /metrics, /status, /routes, /reload and so on."""

    bind: Bind = "127.0.0.1:9090"
    """Address and port. Keep it off the public network."""
