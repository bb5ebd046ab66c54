"""Builds the gateway's parts and lists its addons in order. Also the file for the stock tools:

    mitmweb -s addons/gateway.py --mode reverse:http://127.0.0.1:9

The address behind `reverse:` is never dialled: every call goes where rules.yaml says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from loguru import logger
from mitmproxy import ctx
from mitmproxy.exceptions import OptionsError

# Under `-s` mitmproxy puts this file's own folder on the path, not the project's.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from addons.failover import Failover
from addons.guard import Guard
from addons.inventory import Inventory
from addons.logs import set_up_logging
from addons.request import Request
from addons.response import Response
from addons.sandbox import Sandbox
from addons.settings import SettingsError, read_rules, upstream_tls
from addons.state import State
from addons.viewer import Viewer
from rules.access import is_loopback
from rules.decide import Rules


def gateway_addons(state: State) -> list[object]:
    """In the order in which hooks run: the way in, the way between, the way out."""
    working = (Request(state), Failover(state), Response(state), Viewer(state))
    return [*(Guard(addon, state) for addon in working), Life(state)]


def check_bind(rules: Rules, host: str) -> None:
    """Raises SettingsError where anybody could reach us and nobody needs a key."""
    if not rules.keys.required and not is_loopback(host):
        raise SettingsError(
            f"refusing to listen on '{host or '*'}' without keys: anybody who reaches this machine could use your "
            "models and spend your money. Set API_KEYS (or proxy.auth.tokens in rules.yaml), or listen on 127.0.0.1."
        )


class Life:
    """Starts and stops what runs beside the calls: the inventory and the sandbox."""

    name = "unigate"

    def __init__(self, state: State) -> None:
        self.state = state
        self._sandbox = Sandbox()
        self._inventory = Inventory(state, upstream_tls)

    async def running(self) -> None:
        if any(provider.dialect == "sandbox" for provider in self.state.rules.file.providers.values()):
            self.state.sandbox_port = self._sandbox.start()
        await self._inventory.start()

    async def done(self) -> None:
        await self._inventory.stop()
        await self._sandbox.stop()


class UnderStockTools:
    """For `-s`: sets the options that the gateway needs, and refuses a start that would be unsafe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        rules, log = read_rules(None, environment)
        self._rules = rules
        set_up_logging(level=log.level, form=log.form, secrets=rules.secrets)
        self.addons = gateway_addons(State(rules))

    def load(self, _loader: object) -> None:
        # A host given on the command line stands; mitmproxy's own default would be all interfaces.
        if not ctx.options.listen_host:
            ctx.options.listen_host = self._rules.file.proxy.host
        if ctx.options.listen_port is None:
            ctx.options.listen_port = self._rules.file.proxy.port
        ctx.options.update(connection_strategy="lazy", keep_host_header=True)

    def configure(self, _updated: object) -> None:
        try:
            check_bind(self._rules, ctx.options.listen_host)
        except SettingsError as error:
            raise OptionsError(f"unigate: {error}") from None


if __name__.startswith("__mitmproxy_script__"):
    try:
        addons = [UnderStockTools(os.environ)]
    except SettingsError as error:
        logger.error("unigate: {}", error)
        sys.exit(1)
