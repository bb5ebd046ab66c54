"""The end: no new calls, those under way may finish for a while, and who is then still there is told so."""

from __future__ import annotations

import asyncio

from loguru import logger
from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver

from addons.layer import ShutDown
from addons.state import State


async def drain(state: State, seconds: float) -> None:
    """Returns when no call is under way any more."""
    state.draining = True
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while state.in_flight() and loop.time() < until:  # noqa: ASYNC110  # calls end in many places
        await asyncio.sleep(0.05)
    left = len(state.in_flight())
    if not left:
        return
    logger.warning("stopping in the middle of {} call(s)", left)
    state.fetcher.stop()
    servers: Proxyserver = ctx.master.addons.get("proxyserver")
    for handler in [*servers.connections.values()]:
        await handler.server_event(ShutDown())
    # The last words are on their way; a hook that runs may still hold one back for a moment.
    until = loop.time() + 0.2
    while state.in_flight() and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def hang_up(servers: Proxyserver) -> None:
    """Closes the connections that are still open: mitmproxy leaves that to the end of the process."""
    for handler in [*servers.connections.values()]:
        transport = handler.transports.get(handler.client)
        if transport is not None and transport.handler is not None:
            transport.handler.cancel("the gateway stops")
    until = asyncio.get_running_loop().time() + 1
    while servers.connections and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # mitmproxy's own dict
        await asyncio.sleep(0.01)
