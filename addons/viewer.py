"""What mitmweb and saved flow files need of us.

mitmweb keeps every flow for ever, and memory grows until the machine ends it: the oldest are dropped here.
"""

from __future__ import annotations

from mitmproxy import ctx
from mitmproxy.addons.view import View
from mitmproxy.http import HTTPFlow

from addons.state import State

MAX_FLOWS = 1000
VIEWERS = ("view", "dumper")
"""Addons of the stock tools that show what an answer said."""


class Viewer:
    def __init__(self, state: State) -> None:
        self.state = state

    def running(self) -> None:
        shown = any(ctx.master.addons.get(name) is not None for name in VIEWERS)
        saved = bool(getattr(ctx.options, "save_stream_file", None) or getattr(ctx.options, "hardump", None))
        self.state.keep_bodies = shown or saved

    def response(self, _flow: HTTPFlow) -> None:
        self._drop_oldest()

    def error(self, _flow: HTTPFlow) -> None:
        self._drop_oldest()

    @staticmethod
    def _drop_oldest() -> None:
        view: View | None = ctx.master.addons.get("view")
        if view is None or view.store_count() <= MAX_FLOWS:
            return
        oldest = [flow for flow in view._store.values() if not flow.live and not flow.marked]
        view.remove(oldest[: view.store_count() - MAX_FLOWS])
