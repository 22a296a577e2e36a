"""Service: the process `tallygate control`: the API on its listener, the publisher and the recorder beside it."""

from __future__ import annotations

import asyncio
import os
from ssl import SSLContext

from gateway.background import Background
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.control.ageing import Ageing
from gateway.control.api import Api
from gateway.control.database import CONTROL, PUBLISHER, QUERIES
from gateway.control.decisions import TAKE_SECONDS, Recorder
from gateway.control.listening import listening
from gateway.control.options import ControlOptions
from gateway.control.principal import Authentication, bootstrap_token
from gateway.control.publisher import Publisher
from gateway.metrics import Metrics
from gateway.postgres import Database
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from gateway.tls.certificate import Unusable
from gateway.tls.server import following_context


async def run(config: GatewayConfig, metrics: Metrics, stop: asyncio.Event) -> None:
    """Serves and publishes until `stop` is set.

    Raises StoreUnavailable if a store has no address yet, or for an address or a token that cannot be had.
    """
    options, clock = config.control, Clock()
    token = bootstrap_token(options.token_file, os.environ)
    url = postgres_url(config.stores)
    redis = Redis(redis_url(config.stores), connections=2)
    background = Background()
    try:
        async with (
            Database(
                url, CONTROL, QUERIES, connections=options.connections, statement_timeout=options.deadline
            ) as database,
            Database(url, PUBLISHER, QUERIES, connections=4, statement_timeout=60.0) as directory,
        ):
            api = Api(
                database,
                Authentication(directory, clock, token),
                clock=clock,
                metrics=metrics,
                deadline=options.deadline,
                at_once=options.most_requests,
            )
            ageing = Ageing(clock, options.audit_retention)
            recorder = Recorder(directory, redis, metrics=metrics, clock=clock)
            publisher = Publisher(directory, redis, ageing, metrics=metrics, clock=clock, batch=options.batch)
            context = await _context(options, background, clock, metrics)
            async with listening(api.application, options.bind, context, metrics=metrics):
                background.every(TAKE_SECONDS, recorder.take, "decisions")
                publishing = background.start(publisher.run(stop), "publisher")
                await asyncio.wait({publishing})
    finally:
        await background.stop()
        await redis.close()


async def _context(
    options: ControlOptions, background: Background, clock: Clock, metrics: Metrics
) -> SSLContext | None:
    if options.tls is None:
        return None
    try:
        return await following_context(
            options.tls, "the control plane", background=background, clock=clock, metrics=metrics
        )
    except Unusable as error:
        raise StoreUnavailable(f"the control plane cannot serve HTTPS: {error}") from error
