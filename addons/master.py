"""Our own small master, and the gateway as an object that starts and stops.

mitmdump's master carries two dozen addons through every call; the gateway needs four of them. Measured on mitmproxy
12.2.3, that alone is 1.7 times the requests.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loguru import logger
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons.core import Core
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.exceptions import AddonHalt
from mitmproxy.flow import Flow
from mitmproxy.hooks import Hook, RunningHook, UpdateHook
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.tools.web.master import WebMaster
from mitmproxy.utils.asyncio_utils import install_exception_handler, set_eager_task_factory

from addons.drain import drain as drain_calls
from addons.drain import hang_up
from addons.gateway import NOWHERE, check_bind, gateway_addons
from addons.settings import SettingsError
from addons.state import State
from addons.status import Status, status_of
from rules.snapshot import Rules


class ProxyServer:
    """The gateway inside a program of your own: `await start()`, `await stop()`, `get_status()`.

    One at a time in a process: mitmproxy keeps its master in a global. Port 0 takes a free one; get_status() says
    which.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        host: str | None = None,
        port: int | None = None,
        web: bool = False,
        web_port: int = 8081,
    ) -> None:
        self.host = (host if host is not None else rules.file.proxy.host).strip("[]")
        self._port = port if port is not None else rules.file.proxy.port
        self._web = web
        self._web_port = web_port
        check_bind(rules, self.host)
        self.state = State(rules)
        self.master: Master | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Returns when calls are answered; raises SettingsError where the port cannot be had."""
        self._serving = asyncio.create_task(self._serve(), name="gateway")
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([self._serving, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            await self._serving

    async def stop(self, drain: float | None = None) -> None:
        """Takes no new calls, lets those under way finish for `drain` seconds (defaults.drain), frees the port."""
        if self.master is None or self._serving is None or self._serving.done():
            return
        await drain_calls(self.state, self.state.rules.defaults.drain if drain is None else drain)
        self.master.should_exit.set()
        await self._serving

    def get_status(self) -> Status:
        if self._ready.is_set() and self._serving is not None and not self._serving.done():
            return replace(status_of(self.state), host=self.host, port=self.port)
        return Status(
            running=False,
            host=self.host,
            port=self.port,
            uptime_seconds=0.0,
            active_connections=0,
            total_requests=self.state.total,
        )

    @property
    def port(self) -> int:
        """The port that is really bound, once there is one."""
        servers: Proxyserver | None = self.master.addons.get("proxyserver") if self.master is not None else None
        bound = servers.listen_addrs() if servers is not None else []
        return int(bound[0][1]) if bound else self._port

    @property
    def web_url(self) -> str | None:
        """Where mitmweb's page is, its token included."""
        return self.master.web_url if isinstance(self.master, WebMaster) else None

    async def _serve(self) -> None:
        addons = gateway_addons(self.state)
        options = Options()
        master = self.master = WebMaster(options, with_termlog=False) if self._web else GatewayMaster(options)
        put_first(master, addons)
        options.update(**self._options())
        if self._web:
            options.update(
                web_port=self._web_port,
                web_open_browser=False,
                web_columns=["icon", "path", "method", "status", "size", "time", "comment"],
                block_global=False,
                show_ignored_hosts=False,
            )
        with install_exception_handler(master._asyncio_exception_handler), set_eager_task_factory():
            servers: Proxyserver = master.addons.get("proxyserver")
            with _silent("mitmproxy.addons.proxyserver"):  # its advice is about options that nobody here has
                bound = await servers.setup_servers()
            if not bound:
                await master.done()
                raise SettingsError(f"cannot listen on {shown_host(self.host)}:{self._port}: {_reason(servers)}")
            try:
                self._free_of_error_check(master)
                await self._run(master)
                self._ready.set()
                await master.should_exit.wait()
            finally:
                await servers.servers.update([])
                await hang_up(servers)
                await master.done()

    async def _run(self, master: Master) -> None:
        try:
            await master.running()
        except OSError as error:
            if not self._web:
                raise
            raise SettingsError(
                f"mitmweb cannot listen on port {self._web_port} ({os.strerror(error.errno or 0)}); "
                "choose another one with --web-port"
            ) from None

    def _options(self) -> dict[str, object]:
        said: dict[str, object] = {
            "mode": [NOWHERE],
            "listen_host": self.host,
            "listen_port": self._port,
            "connection_strategy": "lazy",  # eager dials the reverse address before any hook
            "keep_host_header": True,
        }
        trusted = os.environ.get("SSL_CERT_FILE")
        if trusted:
            said["ssl_verify_upstream_trusted_ca"] = trusted
        return said

    @staticmethod
    def _free_of_error_check(master: Master) -> None:
        """The stock tools end the process over any error logged at the start; here errors are raised."""
        check = master.addons.get("errorcheck")
        if check is not None:
            check.finish()


_UPDATE = UpdateHook([])


class HookTable(AddonManager):
    """Finds the handlers of a hook once, not for every call.

    mitmproxy's own manager asks each addon for each hook each time, twice per hook of a flow (the second time for
    `update`, which nobody here handles): with few addons that is still a fifth of a call's processor time.
    """

    def __init__(self, master: Master) -> None:
        self._handlers: dict[str, list[Callable[..., Any]]] = {}
        super().__init__(master)  # type: ignore[no-untyped-call]

    def register(self, addon: object) -> object:
        self._handlers.clear()
        return super().register(addon)  # type: ignore[no-untyped-call]

    def remove(self, addon: object) -> None:
        super().remove(addon)  # type: ignore[no-untyped-call]
        self._handlers.clear()

    def clear(self) -> None:
        super().clear()  # type: ignore[no-untyped-call]
        self._handlers.clear()

    def _handlers_of(self, event: Hook) -> list[Callable[..., Any]]:
        handlers = self._handlers.get(event.name)
        if handlers is None:
            handlers = [handler for addon in self.chain for _, handler in self._iter_hooks(addon, event)]
            self._handlers[event.name] = handlers
        return handlers

    async def handle_lifecycle(self, event: Hook) -> None:
        await self.trigger_event(event)
        if self._handlers_of(_UPDATE):
            (data,) = event.args()
            if isinstance(data, Flow):
                await self.trigger_event(UpdateHook([data]))

    async def trigger_event(self, event: Hook) -> None:
        handlers = self._handlers_of(event)
        arguments = event.args() if handlers else []  # once: it looks through the fields of a dataclass
        for handler in handlers:
            try:
                result = handler(*arguments)
                if result is not None and inspect.isawaitable(result):
                    await result
            except AddonHalt:
                return
            except Exception:
                if isinstance(event, RunningHook):
                    raise  # a gateway that lacks a part must not start
                logger.opt(exception=True).error("an addon failed in {}", event.name)


class GatewayMaster(Master):
    """mitmproxy with only what a gateway needs."""

    def __init__(self, options: Options) -> None:
        super().__init__(options, with_termlog=False)
        self.addons = HookTable(self)
        self.addons.add(Core(), Proxyserver(), NextLayer(), TlsConfig())  # type: ignore[no-untyped-call]


def put_first(master: Master, addons: list[object]) -> None:
    """Before mitmproxy's own: the caller's key must be masked before a viewer sees the flow."""
    for place, addon in enumerate(addons):
        master.addons.chain.insert(place, master.addons.register(addon))


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Without the records of one of Python's loggers."""
    stock = logging.getLogger(name)
    stock.disabled = True
    try:
        yield
    finally:
        stock.disabled = False


def shown_host(host: str) -> str:
    """As it stands before a port."""
    return f"[{host}]" if ":" in host else host


_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Of an address, whatever its port."""


def _reason(servers: Proxyserver) -> str:
    causes = [server.last_exception for server in servers.servers if server.last_exception is not None]
    # mitmproxy wraps an error in one of its own, with the number of the first.
    if any(isinstance(cause.__cause__ or cause, socket.gaierror) for cause in causes):
        return "there is no such host; --host or HOST takes an address of this machine"
    if any(isinstance(cause, OSError) and cause.errno in _NOT_OURS for cause in causes):
        return (
            "no address of this machine; HOST (proxy.host in rules.yaml) or --host takes 127.0.0.1, or 0.0.0.0 for all "
            "of its addresses"
        )
    if any(isinstance(cause, OSError) for cause in causes):
        return "the port is taken or not allowed; choose another one with --port or PORT"
    return "; ".join(str(cause) for cause in causes) or "unknown reason"
