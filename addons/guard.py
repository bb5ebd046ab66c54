"""Fail closed.

mitmproxy logs an exception in a hook and then sends the call upstream as if nothing had happened: addons fail open.
Every hook of ours runs through Guard: whatever it raises, the caller gets OpenAI's 500 and no upstream sees the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger
from mitmproxy import http
from mitmproxy.hooks import all_hooks
from mitmproxy.http import HTTPFlow
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator

from addons.http1 import fault_response
from addons.masks import hide_keys
from addons.state import State, new_request_id
from wire.answer import Streamed
from wire.errors import Fault

UNGUARDED = frozenset({"load", "configure", "running", "done"})
"""Hooks of the program's life: an exception there must stop the start, not be hidden."""


class Guard:
    """Stands for an addon: has the hooks that it has, each of them guarded."""

    def __init__(self, addon: object, state: State) -> None:
        self.name = type(addon).__name__.lower()
        self._addon = addon
        self._state = state
        for hook in all_hooks:
            if callable(getattr(addon, hook, None)):
                setattr(self, hook, getattr(addon, hook) if hook in UNGUARDED else self._guarded(hook))

    def _guarded(self, hook: str) -> Callable[[Any], Awaitable[None] | None]:
        def run(data: Any) -> Awaitable[None] | None:
            try:
                result = getattr(self._addon, hook)(data)
            except Exception:
                self._close(hook, data)
                return None
            return self._watch(hook, data, result) if inspect.isawaitable(result) else None

        return run

    async def _watch(self, hook: str, data: Any, running: Awaitable[None]) -> None:
        try:
            await running
        except Exception:
            self._close(hook, data)

    def _close(self, hook: str, data: Any) -> None:
        """Called while the exception is being handled."""
        exchange = self._state.exchanges.get(data) if isinstance(data, HTTPFlow) else None
        request_id = exchange.request_id if exchange is not None else new_request_id()
        logger.opt(exception=True).error("{} failed in {}, {}: the call is refused", self.name, hook, request_id)
        fault = Fault("The gateway had an internal error; its log has the details under this request id.")
        if isinstance(data, layer.NextLayer):
            data.layer = RefusingLayer(data.context, request_id)
        if exchange is not None:
            exchange.stop_asking()
            exchange.fault = exchange.fault or fault
            exchange.ended = exchange.ended or hook in ("response", "error")
        if isinstance(data, HTTPFlow):
            hide_keys(data)
            if not (exchange is not None and exchange.begun) and not _is_stream(data.response):
                data.response = fault_response(fault, request_id)


def _is_stream(response: http.Response | None) -> bool:
    """True for an answer that the caller has read already, or is reading."""
    return response is not None and response.headers.get("content-type") == Streamed.content_type


class RefusingLayer(layer.Layer):
    """Takes the place of the layer that could not be chosen: one error, and the connection ends."""

    def __init__(self, context: Context, request_id: str) -> None:
        super().__init__(context)
        self._request_id = request_id

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and event.connection == self.context.client:
            if self.context.client.alpn != b"h2":
                fault = Fault("The gateway had an internal error before it could read the request.")
                response = fault_response(fault, self._request_id, {"connection": "close"})
                yield commands.SendData(self.context.client, http1.assemble_response(response))
            yield commands.CloseConnection(self.context.client)
