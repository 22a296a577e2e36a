"""Circuits of a route's own, for one whose calls fail or are slow in a way that says nothing about other routes."""

from __future__ import annotations

from gateway.plugin import Plugin, PluginConfig
from gateway.upstream.breaker import CircuitBreakerOptions


class Config(CircuitBreakerOptions, PluginConfig):
    """When calls of this route are no longer sent, and when that is tried again; for each target, and for each upstream
    as a whole.
    """


class CircuitBreaker(Plugin[Config]):
    """Puts the calls of a route behind circuits of their own, in place of those that its upstreams may have for all.

    Targets, connections, health and retries stay the upstreams'. It has no hooks: the gateway finds these options in
    the route's chain and calls the route's upstreams by them, its fallback included.
    """
