"""Traces: spans that a real collector understands, and a gateway that does not mind when there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from addons import __version__
from addons.account import Account
from addons.settings import read_rules
from addons.tracing import Tracer
from rules.load import load_rules
from tests.addons.accounts import TOKENS, account, tried
from tests.gateway import ROOT, Gateway, quick_rules
from tests.standins import DeepSeekStandIn, OllamaStandIn, ResetBeforeHeaders
from wire.profiles import PROFILES

REMOTE = "deepseek/deepseek-flash"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
UNSET, ERROR = 0, 2


class Collector:
    """An OTLP/HTTP receiver on loopback: it keeps what it gets."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.url = server.url_for("").rstrip("/")
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies = b""
        self.status = 200
        server.expect_request("/v1/traces", method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        if self.status == 200:
            got = ExportTraceServiceRequest.FromString(request.data)
            self.bodies += request.data
            self.headers.append(dict(request.headers))
            for of_resource in got.resource_spans:
                self.resources.append(values(of_resource.resource))
                self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
        return Response(status=self.status)

    def until(self, count: int) -> list[Span]:
        """The spans, calls before their attempts, once there are so many."""
        end = time.monotonic() + 10
        while len(self.spans) < count:
            assert time.monotonic() < end, f"{len(self.spans)} of {count} spans came"
            time.sleep(0.01)
        return sorted(self.spans, key=lambda span: (span.kind, span.start_time_unix_nano))


def values(owner: Any) -> dict[str, Any]:
    """The attributes of a span or a resource as plain values."""
    found: dict[str, Any] = {}
    for attribute in owner.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        found[attribute.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with HTTPServer("127.0.0.1", 0) as running:
        yield running


@pytest.fixture
def collector(server: HTTPServer) -> Collector:
    server.clear()
    return Collector(server)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log says."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="DEBUG", format="{message}")
    yield lines
    logger.remove(sink)


def settings(url: str, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "20", **more}


def told(collector: Collector, *accounts: Account, **more: str) -> None:
    """A tracer that is told of these calls, and stopped."""
    tracer = Tracer(settings(collector.url, **more))
    assert tracer.on
    tracer.start()
    for one in accounts:
        tracer.tell(one)
    asyncio.run(tracer.stop())


# -- what a span says


def test_a_call_is_a_span_and_each_of_its_attempts_one_inside_it(collector: Collector) -> None:
    first = tried("ollama/qwen2.5:7b", outcome="status_503", started=1_800_000_000.001, took=0.25)
    second = tried(
        REMOTE, started=1_800_000_000.5, took=1.25, tokens=TOKENS, cost=1_500_000, first_token=0.25, continues=True
    )
    told(collector, account(first, second, streamed=True, first_token=0.75, total=1.875))
    call, failed, answered = collector.until(3)
    assert (call.name, failed.name, answered.name) == ("chat gpt-4o", "chat qwen2.5:7b", "chat deepseek-flash")
    assert [span.kind for span in (call, failed, answered)] == [SERVER, CLIENT, CLIENT]
    assert call.parent_span_id == b""
    assert failed.parent_span_id == answered.parent_span_id == call.span_id
    assert len({span.trace_id for span in (call, failed, answered)}) == 1
    assert (call.start_time_unix_nano, call.end_time_unix_nano) == (1_800_000_000 * 10**9, 1_800_000_001_875 * 10**6)
    assert (answered.start_time_unix_nano, answered.end_time_unix_nano) == (
        1_800_000_000_500 * 10**6,
        1_800_000_001_750 * 10**6,
    )
    assert values(call) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.request.stream": True,
        "gen_ai.provider.name": "deepseek", "gen_ai.response.model": "deepseek-flash",
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 50, "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.reasoning.output_tokens": 10, "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.75, "unigate.request_id": "req_1", "unigate.client": "notebook",
        "unigate.rule": "local", "unigate.attempts": 2, "unigate.cost_usd": 0.0015,
    }  # fmt: skip
    assert values(failed) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "ollama", "gen_ai.request.model": "qwen2.5:7b",
        "unigate.target": "ollama/qwen2.5:7b", "unigate.outcome": "status_503", "unigate.cost_usd": 0.0, "error.type": "status_503",
    }  # fmt: skip
    assert values(answered) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "deepseek", "gen_ai.request.model": "deepseek-flash",
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 50, "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.reasoning.output_tokens": 10, "gen_ai.response.time_to_first_chunk": 0.25, "unigate.target": REMOTE,
        "unigate.outcome": "ok", "unigate.cost_usd": 0.0015, "unigate.continues": True,
    }  # fmt: skip
    assert [span.status.code for span in (call, failed, answered)] == [UNSET, ERROR, UNSET]


@pytest.mark.parametrize(("status", "error", "code"), [
    (200, None, UNSET),
    (400, "unsupported_value", UNSET),
    (429, "rate_limit_exceeded", UNSET),
    (499, "server_error", UNSET),
    (502, "upstream_error", ERROR),
    (200, "upstream_cut", ERROR),
])  # fmt: skip
def test_a_failure_of_ours_is_an_error_and_a_callers_own_mistake_is_none(
    status: int, error: str | None, code: int, collector: Collector
) -> None:
    told(collector, account(status=status, error=error))
    (call,) = collector.until(1)
    assert call.status.code == code
    assert values(call).get("error.type") == error


def test_an_attempt_that_its_caller_left_is_no_error_and_says_what_is_an_estimate(collector: Collector) -> None:
    told(collector, account(tried(outcome="left", tokens=TOKENS, estimated=True), status=499))
    _, attempt = collector.until(2)
    assert attempt.status.code == UNSET
    assert (values(attempt)["unigate.outcome"], values(attempt)["unigate.estimated"]) == ("left", True)


def test_a_call_that_was_refused_before_it_was_read_is_named_by_its_path(collector: Collector) -> None:
    told(collector, account(operation="", model="", rule=None, status=400, error="invalid_request_error"))
    (call,) = collector.until(1)
    assert call.name == "POST /v1/chat/completions"
    assert "gen_ai.request.model" not in values(call)


def test_the_older_completions_have_the_name_that_the_conventions_give_them(collector: Collector) -> None:
    told(collector, account(tried(), operation="completions"))
    assert [span.name for span in collector.until(2)] == ["text_completion gpt-4o", "text_completion qwen2.5:7b"]


# -- whose child it is


def test_a_call_is_a_child_of_its_callers_span(collector: Collector) -> None:
    told(collector, account(tried(), traceparent=f"00-{TRACE}-{PARENT}-01"))
    call, attempt = collector.until(2)
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert (attempt.trace_id.hex(), attempt.parent_span_id) == (TRACE, call.span_id)


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-01", "ü" * 9]
)
def test_a_traceparent_that_makes_no_sense_begins_a_trace_of_its_own(header: str, collector: Collector) -> None:
    told(collector, account(tried(), traceparent=header))
    call, _ = collector.until(2)
    assert call.parent_span_id == b""
    assert call.trace_id.hex() not in (TRACE, "0" * 32)


def test_a_caller_that_is_not_traced_is_not_traced_here_either(collector: Collector) -> None:
    told(collector, account(tried(), traceparent=f"00-{TRACE}-{PARENT}-00"), account(tried(), request_id="req_2"))
    assert {values(span)["unigate.request_id"] for span in collector.until(2) if span.kind == SERVER} == {"req_2"}
    assert len(collector.spans) == 2


# -- settings


@pytest.mark.parametrize(("more", "name"), [
    ({}, "unigate"),
    ({"OTEL_SERVICE_NAME": "front-door"}, "front-door"),
    ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=named,deployment.environment=test"}, "named"),
    ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}, "unigate"),
])  # fmt: skip
def test_the_service_has_the_name_that_it_is_given_or_our_own(
    more: dict[str, str], name: str, collector: Collector
) -> None:
    told(collector, account(), **more)
    collector.until(1)
    assert collector.resources[0]["service.name"] == name
    assert collector.resources[0]["service.version"] == __version__
    assert ("deployment.environment" in collector.resources[0]) == ("OTEL_RESOURCE_ATTRIBUTES" in more)


def test_the_settings_reach_the_sdk_and_do_not_stay_in_the_environment(collector: Collector) -> None:
    before = dict(os.environ)
    told(
        collector,
        account(),
        OTEL_EXPORTER_OTLP_HEADERS="api-key=sekret-collector-key",
        OTEL_EXPORTER_OTLP_COMPRESSION="none",
    )
    collector.until(1)
    assert collector.headers[0]["Api-Key"] == "sekret-collector-key"
    assert dict(os.environ) == before


def test_the_sampler_of_the_settings_decides(collector: Collector) -> None:
    told(collector, account(tried()), OTEL_TRACES_SAMPLER="always_off")
    told(
        collector,
        account(tried(), request_id="req_2"),
        OTEL_TRACES_SAMPLER="traceidratio",
        OTEL_TRACES_SAMPLER_ARG="1.0",
    )
    assert {values(span).get("unigate.request_id", "req_2") for span in collector.until(2)} == {"req_2"}


@pytest.mark.parametrize(("tracing", "on"), [
    ({}, False),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ({"OTEL_SERVICE_NAME": "x"}, False),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
])  # fmt: skip
def test_there_are_traces_as_soon_as_a_collector_is_named(tracing: dict[str, str], on: bool) -> None:
    assert Tracer(tracing).on is on


def test_a_tracer_that_was_never_started_takes_and_stops_without_a_word(said: list[str]) -> None:
    tracer = Tracer({})
    tracer.tell(account())
    asyncio.run(tracer.stop())
    assert said == []


@pytest.mark.parametrize(("more", "word"), [
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is spoken"),
    ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "the settings cannot be used"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_told_of_and_stop_nothing(
    more: dict[str, str], word: str, collector: Collector, said: list[str]
) -> None:
    told(collector, account(), **more)
    assert [line for line in said if word in line] == [line for line in said if line.startswith("traces: ")] != []


def test_without_a_collector_its_way_there_is_not_even_loaded() -> None:
    code = (
        "import sys, addons.gateway; sys.exit('addons.spans' in sys.modules or 'opentelemetry.exporter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_collectors_key_is_a_secret_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/echo]}]")
    (tmp_path / ".env").write_text(
        "OTEL_EXPORTER_OTLP_ENDPOINT=https://me:pass-word@collector.example\n"
        "OTEL_EXPORTER_OTLP_HEADERS=api-key=first-key,authorization=Bearer%20second%2Fkey\n"
    )
    rules, _ = read_rules(tmp_path / "rules.yaml", {"OTEL_SERVICE_NAME": "x", "HOME": "/"})
    assert {"first-key", "Bearer%20second%2Fkey", "Bearer second/key", "second/key", "pass-word"} <= set(rules.secrets)
    assert set(rules.tracing) == {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME"}
    assert Tracer(rules.tracing).on


def test_what_the_environment_says_goes_before_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/echo]}]")
    (tmp_path / ".env").write_text("OTEL_SERVICE_NAME=of-the-file\n")
    rules, _ = read_rules(tmp_path / "rules.yaml", {"OTEL_SERVICE_NAME": "of-the-environment"})
    assert rules.tracing == {"OTEL_SERVICE_NAME": "of-the-environment"}


# -- a collector that is not there


def test_a_collector_that_is_away_is_told_of_once_and_once_when_it_is_back(
    collector: Collector, said: list[str]
) -> None:
    collector.status = 403
    tracer = Tracer(settings(collector.url, OTEL_EXPORTER_OTLP_HEADERS="api-key=sekret-collector-key"))
    tracer.start()
    for _ in range(3):
        tracer.tell(account())
        time.sleep(0.1)
    collector.status = 200
    tracer.tell(account())
    collector.until(1)
    asyncio.run(tracer.stop())
    of_traces = [line for line in said if line.startswith("traces: ")]
    assert len(of_traces) == 2, of_traces
    assert "the collector does not take them; they are dropped until it does: " in of_traces[0]
    assert "403" in of_traces[0]
    assert of_traces[1] == "traces: the collector takes them again"
    assert "sekret" not in "".join(said)


def test_of_a_collector_that_cannot_be_reached_the_reason_is_told(said: list[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        tracer = Tracer(settings(url, OTEL_EXPORTER_OTLP_TIMEOUT="2"))
        tracer.start()
        tracer.tell(account())
        asyncio.run(tracer.stop())
    (line,) = [line for line in said if line.startswith("traces: ")]
    assert "Connection refused" in line
    assert len(line) < 400


def test_a_collector_that_hangs_keeps_neither_calls_nor_the_end_waiting(server: HTTPServer, said: list[str]) -> None:
    server.clear()
    hangs = threading.Event()

    def hang(_request: Request) -> Response:
        hangs.wait(20)
        return Response(status=200)

    server.expect_request("/v1/traces").respond_with_handler(hang)
    tracer = Tracer(
        settings(server.url_for("").rstrip("/"), OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10")
    )
    tracer.start()
    began = time.monotonic()
    for _ in range(1000):  # ten times what the queue holds
        tracer.tell(account(tried()))
    assert time.monotonic() - began < 5
    assert tracer._spans is not None
    batches: Any = tracer._spans._provider._active_span_processor._span_processors[0]
    assert len(batches._batch_processor._queue) <= 100
    began = time.monotonic()
    asyncio.run(tracer.stop())
    assert time.monotonic() - began < 6
    assert said[-1] == "traces: the last ones are lost; the collector did not take them within 3 s"
    hangs.set()
    batches._batch_processor._worker_thread.join(10)
    assert not batches._batch_processor._queue
    assert sum("too slow" in line for line in said) == 1
    assert sum("traces: " in line for line in said) == 2  # and of what was left, nothing after the end


# -- through the door


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["qwen2.5:7b"], reply=["the", " canary", " answers"]) as standin:
        yield standin


def test_a_call_through_the_gateway_that_fails_over_is_one_trace(collector: Collector, ollama: OllamaStandIn) -> None:
    ollama.plan(ResetBeforeHeaders())
    environment = settings(collector.url, OTEL_EXPORTER_OTLP_HEADERS="api-key=sekret-collector-key")
    with (
        DeepSeekStandIn("sk-ds-test") as deepseek,
        Gateway(quick_rules(ollama=ollama.url, deepseek=deepseek.url), environment) as gateway,
        gateway.client("sk-caller-of-this") as client,
    ):
        before = time.time_ns()
        body = {
            "model": "qwen2.5:7b",
            "stream": True,
            "messages": [{"role": "user", "content": "where is the canary?"}],
        }
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.headers["x-gateway-target"] == REMOTE
        call, *attempts = collector.until(3)
        after = time.time_ns()
        assert "sekret" not in gateway.log.getvalue()
        assert "traces: " not in gateway.log.getvalue()
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert [values(span)["unigate.outcome"] for span in attempts][-1] == "ok"
    assert [values(span)["unigate.target"] for span in attempts] == ["ollama/qwen2.5:7b", REMOTE]
    for span in attempts:
        assert (
            call.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= call.end_time_unix_nano
        )
    assert before <= call.start_time_unix_nano < call.end_time_unix_nano <= after
    assert values(call)["unigate.request_id"] == answer.headers["x-request-id"]
    assert values(call)["gen_ai.response.model"] == "deepseek-flash"
    for secret in (b"canary", b"sk-caller-of-this", b"sk-ds-test", b"sekret"):
        assert secret not in collector.bodies


def test_the_last_spans_are_sent_before_the_gateway_ends(collector: Collector, ollama: OllamaStandIn) -> None:
    environment = settings(collector.url, OTEL_BSP_SCHEDULE_DELAY="60000")
    with Gateway(quick_rules(ollama=ollama.url), environment) as gateway:
        assert gateway.chat().status_code == 200
        assert collector.spans == []
    assert len(collector.spans) == 2


def test_rules_that_are_loaded_without_opentelemetrys_variables_say_nothing_to_it() -> None:
    rules = load_rules(quick_rules(ollama="http://127.0.0.1:9"), {"PORT": "1"}, profiles=PROFILES)
    assert rules.tracing == {}
