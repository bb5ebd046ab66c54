"""OpenTelemetry traces: one span per call, one per attempt. Off, unless the environment names a collector.

The SDK takes 0.12 s and 4 MB to import, so what needs it is in spans.py, which only a gateway with a collector loads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from loguru import logger

from addons.account import Account

if TYPE_CHECKING:
    from addons.spans import Spans

_COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
LAST = 3.0
"""Seconds that the end waits for the collector to take the last spans."""


class Tracer:
    """Takes accounts at any time; the SDK's thread sends their spans."""

    def __init__(self, tracing: Mapping[str, str]) -> None:
        """`tracing`: the variables of the environment and of .env that begin with OTEL_."""
        self._tracing = tracing
        named = any(tracing.get(name, "").strip() for name in _COLLECTORS)
        disabled = tracing.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        exporter = tracing.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
        self.on = named and not disabled and exporter != "none"
        self._spans: Spans | None = None
        self._failed = False

    def start(self) -> None:
        """Never raises: traces that cannot be sent are no reason not to serve."""
        for complaint in self.complaints():
            logger.warning("{}", complaint)
        try:
            from addons.spans import Spans  # 0.12 s and 4 MB, for those who use it

            self._spans = Spans(self._tracing)
        except Exception as error:
            logger.warning("traces: there are none, because the settings cannot be used: {}", error)

    def complaints(self) -> Iterator[str]:
        """What is wrong with the settings, as far as it is seen without the SDK. Repeats no address: one may hold a
        password."""
        if not self.on:
            return
        protocol = next((found for name in _PROTOCOLS if (found := self._tracing.get(name))), "http/protobuf")
        if protocol != "http/protobuf":
            yield f"traces: the protocol is {protocol}; only http/protobuf is spoken, so that is used"
        name = next(name for name in _COLLECTORS if self._tracing.get(name, "").strip())
        if not self._tracing[name].strip().lower().startswith(("http://", "https://")):
            yield f"traces: none can be sent, for {name} must begin with http:// or https://, as http://collector:4318"

    def tell(self, account: Account) -> None:
        """Never waits, never raises."""
        if self._spans is None:
            return
        try:
            self._spans.add(account)
        except Exception as error:
            if not self._failed:
                self._failed = True
                logger.warning("traces: no span could be made of {}: {!r}", account.request_id, error)

    async def stop(self) -> None:
        """Returns when the last spans are sent, or cannot be within a few seconds."""
        spans, self._spans = self._spans, None
        if spans is None:
            return
        # A thread that nothing waits for: the SDK's own end takes as long as a collector that hangs.
        ending = threading.Thread(target=spans.end, name="last spans", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, LAST)
        if ending.is_alive():
            logger.warning("traces: the last ones are lost; the collector did not take them within {:g} s", LAST)
            spans.give_up()
