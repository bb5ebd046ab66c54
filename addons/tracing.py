"""OpenTelemetry traces: one span per call, one per attempt. Off, unless the environment names a collector."""

from __future__ import annotations

from collections.abc import Mapping

from addons.account import Account


class Tracer:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.on = False

    def start(self) -> None: ...

    def tell(self, account: Account) -> None:
        """Never waits, never raises."""

    async def stop(self) -> None: ...
