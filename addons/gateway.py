"""Builds the gateway's parts and lists its addons in order. Also the file for the stock tools:

    mitmweb -s addons/gateway.py --mode reverse:http://127.0.0.1:9 --listen-host 127.0.0.1

The address behind `reverse:` is never dialled: every call goes where rules.yaml says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.exceptions import OptionsError
from mitmproxy.options import Options
from mitmproxy.proxy.mode_specs import ProxyMode, ReverseMode

# Under `-s` mitmproxy puts this file's own folder on the path, not the project's.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from addons.cors import Cors
from addons.drain import drain, hang_up
from addons.failover import Failover
from addons.guard import Guard
from addons.inventory import Inventory
from addons.local import ENDPOINTS
from addons.logs import set_up_logging
from addons.request import Request
from addons.response import Response
from addons.sandbox import Sandbox
from addons.settings import SettingsError, read_rules
from addons.state import State
from addons.tls import upstream_tls
from addons.tracing import Tracer
from addons.viewer import Viewer
from rules.access import is_loopback
from rules.snapshot import Rules

if TYPE_CHECKING:
    from addons.ledger import Ledger
    from addons.past import Past


def gateway_addons(state: State) -> list[object]:
    """In the order in which hooks run: the way in, the way between, the way out."""
    working = (Request(state), Failover(state), Response(state), Viewer(state), Cors(state))
    return [*(Guard(addon, state) for addon in working), Life(state)]


NOWHERE = "reverse:http://127.0.0.1:9"
"""Reverse mode wants an address; ours is the discard port, and never dialled."""


def check_bind(rules: Rules, host: str) -> None:
    """Raises SettingsError where anybody could reach us and nobody needs a key."""
    if not rules.keys.required and not is_loopback(host):
        raise SettingsError(
            f"refusing to listen on '{host or '*'}' without keys: anybody who reaches this machine could use your "
            "models and spend your money. Set API_KEYS (or proxy.auth.tokens in rules.yaml), or listen on 127.0.0.1."
        )


def check_binds(rules: Rules, options: Options) -> None:
    """check_bind() for all that mitmproxy is told to listen on: a mode may bring an address of its own."""
    for text in options.mode:
        try:
            mode = ProxyMode.parse(text)
        except ValueError:
            continue  # mitmproxy refuses it in its own words
        if not isinstance(mode, ReverseMode) or mode.scheme != "http":
            raise SettingsError(f"the mode '{text}' is not served; use {NOWHERE}")
        check_bind(rules, mode.listen_host(options.listen_host))


class Life:
    """Starts and stops what runs beside the calls: the inventory and the sandbox. Raises SettingsError."""

    name = "unigate"

    def __init__(self, state: State) -> None:
        self.state = state
        self._sandbox = Sandbox()
        providers = state.rules.file.providers.values()
        remote = any(urlsplit(url).scheme == "https" for provider in providers for url in provider.urls)
        self._inventory = Inventory(state, upstream_tls() if remote else None)
        terms = state.rules.file.ledger
        self._ledger: Ledger | None = None
        self._past: Past | None = None
        if terms is not None:
            from addons.ledger import Ledger  # with SQLAlchemy, 0.15 s and 11 MB, for those who use it
            from addons.past import Past  # the same

            self._ledger = state.ledger = Ledger(terms, state.wall)
            self._past = Past(state.rules, terms.url, state.wall)
        self._tracer = Tracer(state.rules.tracing)
        state.starting = asyncio.Event()

    def configure(self, _updated: object) -> None:
        # mitmweb can change options while we run.
        try:
            check_binds(self.state.rules, ctx.options)
        except SettingsError as error:
            raise OptionsError(f"unigate: {error}") from None

    # mitmproxy calls these two without awaiting them when it loads a changed script anew, and then takes no coroutines.

    def running(self) -> asyncio.Task[None]:
        self._starting = asyncio.ensure_future(self._start())
        return self._starting

    def done(self) -> asyncio.Task[None]:
        self._ending = asyncio.ensure_future(self._end())
        return self._ending

    async def _start(self) -> None:
        if any(provider.dialect == "sandbox" for provider in self.state.rules.file.providers.values()):
            self.state.sandbox_port = self._sandbox.start()
        limiter = self.state.limiter
        if self._ledger is not None:
            self.state.watchers.append(self._ledger.put)
        if self._tracer.on:
            self._tracer.start()
            self.state.watchers.append(self._tracer.tell)
        await limiter.start(self._past)
        if self._ledger is not None:
            self._ledger.start()
        await self._inventory.start()
        self.state.ready_at = self.state.clock()
        # Soon, not now: mitmproxy's own addons, whose turn comes after ours, are to be running as well.
        asyncio.get_running_loop().call_soon(self._open)

    def _open(self) -> None:
        """Whoever connected while we started has waited for this."""
        starting, self.state.starting = self.state.starting, None
        if starting is not None:
            starting.set()

    async def _end(self) -> None:
        self._open()  # where the start failed: who still waits is told that we stop
        await drain(self.state, self.state.rules.defaults.drain)  # the stock tools end us without a word before
        await hang_up(ctx.master.addons.get("proxyserver"))
        async with AsyncExitStack() as ending:  # what fails to stop must not keep the ledger from being written
            ending.push_async_callback(self._tracer.stop)
            if self._ledger is not None:
                ending.push_async_callback(self._ledger.stop)
            ending.push_async_callback(self.state.limiter.stop)
            ending.push_async_callback(self._sandbox.stop)
            ending.push_async_callback(self._inventory.stop)


class UnderStockTools:
    """For `-s`: sets the options that the gateway needs, and refuses a start that would be unsafe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        rules, log = read_rules(None, environment, endpoints=ENDPOINTS)
        self._rules = rules
        self._moved = False
        set_up_logging(level=log.level, form=log.form, secrets=rules.secrets, stock=True)
        self.addons = gateway_addons(State(rules))

    def load(self, _loader: object) -> None:
        # A host given on the command line stands; mitmproxy's own default would be all interfaces.
        if not ctx.options.listen_host:
            ctx.options.listen_host = self._rules.file.proxy.host
            self._moved = True
        if ctx.options.listen_port is None:
            ctx.options.listen_port = self._rules.file.proxy.port
            self._moved = True
        try:
            check_binds(self._rules, ctx.options)
        except SettingsError as error:
            refuse_start(error)
        ctx.options.update(connection_strategy="lazy", keep_host_header=True)
        trusted = os.environ.get("SSL_CERT_FILE")
        if trusted and not ctx.options.ssl_verify_upstream_trusted_ca:
            ctx.options.ssl_verify_upstream_trusted_ca = trusted

    def running(self) -> asyncio.Task[None]:
        self._moving = asyncio.ensure_future(self._move())
        return self._moving

    async def _move(self) -> None:
        """mitmproxy listens before it loads scripts: until now it did so on its own idea of host and port."""
        if self._moved:
            servers: Proxyserver = ctx.master.addons.get("proxyserver")
            await servers.servers.update([])
            await servers.setup_servers()


def refuse_start(error: SettingsError) -> NoReturn:
    """Ends the stock tool. An exception would only be logged, and the tool go on without us."""
    print(f"unigate: {error}", file=sys.stderr)
    sys.exit(2)


if __name__.startswith("__mitmproxy_script__"):
    try:
        addons = [UnderStockTools(os.environ)]
    except SettingsError as error:
        refuse_start(error)
