"""What the gateway says about itself: the status object of the Python API and of /gateway/status."""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver

from addons.state import State


@dataclass(frozen=True, slots=True)
class Status:
    """What ProxyServer.get_status() tells."""

    running: bool
    host: str
    port: int
    uptime_seconds: float
    active_connections: int
    total_requests: int


def status_of(state: State) -> Status:
    """Of the gateway that runs in this process."""
    servers: Proxyserver = ctx.master.addons.get("proxyserver")
    bound = servers.listen_addrs()
    return Status(
        running=True,
        host=str(bound[0][0]) if bound else "",
        port=int(bound[0][1]) if bound else 0,
        uptime_seconds=round(state.clock() - state.ready_at, 3),
        active_connections=len(servers.connections),
        total_requests=state.total,
    )
