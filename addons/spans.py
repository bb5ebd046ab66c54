"""Accounts as OpenTelemetry spans, and the way to the collector.

Names and attributes are those of the conventions for generative AI where these know of a thing, all others begin with
`unigate.`. Prompts, answers and keys are in none of them.

The SDK reads its settings from the process's environment alone, when its parts are made. What a .env file says is lent
to it for that moment: it is not for the programs that we start, and may hold a collector's key.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from loguru import logger
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from addons import __version__
from addons.account import Account, Tried
from addons.lines import one_line
from addons.telemetry import OPERATIONS
from rules.prices import Tokens
from rules.quota import NANOS

type Attributes = dict[str, str | int | float | bool | Sequence[str]]

SERVICE = "unigate"
_USUAL = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "128"}
"""The SDK's own 512 spans at once would hold up the calls while they are encoded: both share one interpreter."""


class Spans:
    """Raises ValueError where the settings make no sense."""

    def __init__(self, tracing: Mapping[str, str]) -> None:
        with _lent(_with_name(tracing)):
            self._exporter = _Told(OTLPSpanExporter())
            self._provider = TracerProvider(
                resource=Resource.create({"service.version": __version__}), shutdown_on_exit=False
            )
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
            self._tracer = self._provider.get_tracer(SERVICE, __version__)
        self._parents = TraceContextTextMapPropagator()

    def add(self, account: Account) -> None:
        """The span of a call and those of its attempts; the sampler may leave them out."""
        # An empty context: whatever this thread is in the middle of is not the call's parent.
        parent = Context()
        if account.traceparent is not None:
            parent = self._parents.extract({"traceparent": account.traceparent}, parent)
        operation = OPERATIONS.get(account.operation, account.operation)
        span = self._tracer.start_span(
            f"{operation} {account.model}".strip() or f"POST /v1{account.endpoint}",
            parent,
            SpanKind.SERVER,
            _of_call(account, operation),
            start_time=_nanoseconds(account.time),
        )
        if span.is_recording():
            # A caller's own mistake is not an error of ours; a stream that broke off has a good status all the same.
            if account.error is not None and not 400 <= account.status < 500:
                span.set_status(Status(StatusCode.ERROR, account.error))
            inside = set_span_in_context(span, parent)
            for tried in account.tried:
                self._add(tried, operation, inside)
        span.end(_nanoseconds(account.time + account.total))

    def _add(self, tried: Tried, operation: str, inside: Context) -> None:
        span = self._tracer.start_span(
            f"{operation} {tried.model}",
            inside,
            SpanKind.CLIENT,
            _of_attempt(tried, operation),
            start_time=_nanoseconds(tried.started),
        )
        if tried.failed:
            span.set_status(Status(StatusCode.ERROR, tried.outcome))
        span.end(_nanoseconds(tried.started + tried.took))

    def end(self) -> None:
        """Sends what is left. Takes as long as the collector takes."""
        self._provider.shutdown()

    def give_up(self) -> None:
        self._exporter.shutdown()


def _of_call(account: Account, operation: str) -> Attributes:
    attributes: Attributes = {
        "http.request.method": "POST",
        "http.route": f"/v1{account.endpoint}",
        "http.response.status_code": account.status,
        "gen_ai.request.stream": account.streamed,
        "unigate.request_id": account.request_id,
        "unigate.client": account.client,
        **_usage(account.tokens, account.estimated),
    }
    if operation:
        attributes |= {"gen_ai.operation.name": operation, "gen_ai.request.model": account.model}
    if account.rule is not None:
        attributes["unigate.rule"] = account.rule
    if account.target is not None:
        provider, _, model = account.target.partition("/")
        attributes |= {"gen_ai.provider.name": provider, "gen_ai.response.model": model}
    if account.tried:
        attributes |= {"unigate.attempts": len(account.tried), "unigate.cost_usd": account.cost / NANOS}
    if account.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = (account.finish_reason,)
    if account.streamed and account.first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = account.first_token
    if account.error is not None:
        attributes["error.type"] = account.error
    return attributes


def _of_attempt(tried: Tried, operation: str) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": tried.provider,
        "gen_ai.request.model": tried.model,
        "unigate.target": tried.target,
        "unigate.outcome": tried.outcome,
        **_usage(tried.tokens, tried.estimated),
    }
    if tried.cost is not None:
        attributes["unigate.cost_usd"] = tried.cost / NANOS
    if tried.first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = tried.first_token
    if tried.continues:
        attributes["unigate.continues"] = True
    if tried.failed:
        attributes["error.type"] = tried.outcome
    return attributes


def _usage(tokens: Tokens, estimated: bool) -> Attributes:
    if not tokens.total:
        return {}
    usage: Attributes = {"gen_ai.usage.input_tokens": tokens.prompt, "gen_ai.usage.output_tokens": tokens.completion}
    if tokens.cached:
        usage["gen_ai.usage.cache_read.input_tokens"] = tokens.cached
    if tokens.reasoning:
        usage["gen_ai.usage.reasoning.output_tokens"] = tokens.reasoning
    if estimated:
        usage["unigate.estimated"] = True
    return usage


def _nanoseconds(moment: float) -> int:
    return round(moment * 1_000_000) * 1000  # a float of Unix time holds microseconds, and no more


class _Told(SpanExporter):
    """An exporter that says once when the collector stops taking spans, and once when it takes them again.

    The SDK says so for each batch, several times, and with other words each time.
    """

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter = exporter
        self._away = False
        self._over = False
        """The SDK's thread may go on with what is left, for which nobody waits any more."""
        self._said = _LastWords()
        for name in _TALKATIVE:
            sdk = logging.getLogger(name)
            sdk.handlers, sdk.propagate = [self._said], False
        logging.getLogger("urllib3").setLevel(logging.WARNING)  # each request, at DEBUG

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE if self._over else self._exporter.export(spans)
        if self._over:
            return result
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            logger.warning(
                "traces: the collector does not take them; they are dropped until it does: {}", self._said.words
            )
        elif self._away and not away:
            logger.info("traces: the collector takes them again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._over = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


_TALKATIVE = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal")


_TRANSIENT = re.compile(r"Transient error (.*) encountered while exporting")


class _LastWords(logging.Handler):
    """Keeps why the SDK could not send, and says once that spans come faster than they can be sent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words = "it cannot be reached, or does not answer in time"
        self._was_full = False

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage()
        transient = _TRANSIENT.search(words)
        if transient is not None:
            self.words = one_line(transient[1][:300])
        elif not words.startswith("Queue full"):
            if "due to timeout, max retries" not in words:  # what the matter was, it has said before
                self.words = one_line(words[:300])
        elif not self._was_full:
            self._was_full = True
            logger.warning("traces: the collector is too slow; what it cannot take in time is dropped")


def _with_name(tracing: Mapping[str, str]) -> dict[str, str]:
    """The settings, with a name for the service where they give none."""
    named = "OTEL_SERVICE_NAME" in tracing or "service.name=" in tracing.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {**_USUAL, **tracing} if named else {**_USUAL, **tracing, "OTEL_SERVICE_NAME": SERVICE}


@contextmanager
def _lent(settings: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with these variables in it, as far as it does not have them itself."""
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
