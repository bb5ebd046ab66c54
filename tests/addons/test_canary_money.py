"""Canaries in all that is kept and told of calls: no key, no digest of one, no password, and no word of a prompt or of
an answer gets into the log, the ledger, the metrics, the traces, the status, an error or the report."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from typer.testing import CliRunner

from addons.cli import app
from tests.addons.doors import NO_TLS, free_port
from tests.addons.test_secrets import check_clean as holds_none
from tests.gateway import GatewayProcess
from tests.standins import CutAfter, DeepSeekStandIn, ErrorAfter, OllamaStandIn, Status

PLAIN = "sk-canary-of-the-notebook-0123456789"
HASHED = "sk-canary-of-the-phone-0123456789"
DIGEST = hashlib.sha256(HASHED.encode()).hexdigest()
UP = "sk-canary-upstream-0123456789abcdef"
STORE, DATABASE, COLLECTOR = "canary-of-redis-pw", "canary-of-postgres-pw", "canary-of-the-collector"
WRONG = "sk-canary-of-nobody-0123456789"
KEYS = (
    PLAIN,
    HASHED,
    DIGEST,
    DIGEST.upper(),
    hashlib.sha256(PLAIN.encode()).hexdigest(),
    UP,
    STORE,
    DATABASE,
    COLLECTOR,
    WRONG,
)
PROMPT, ANSWER = "canaryprompt", "canaryanswer"
WORDS = (PROMPT, ANSWER)

RULES = """
clients:
  notebook: {{key: "${{NOTEBOOK_KEY}}", limits: [1000/minute], endpoints: [/v1, /metrics, /gateway]}}
  phone: {{key: "sha256:{digest}", limits: ["0.000001 USD/day"]}}
limits: {{store: "{store}", if_away: open}}
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: "${{UP}}"}}
rules:
  - {{name: deep, when: {{model: deep}}, use: [deepseek/deepseek-flash]}}
  - {{name: local, use: ["ollama/qwen2.5:7b"]}}
ledger: {ledger}
prices: [{{model: deepseek/*, from: 2026-01-01, input: 0.15, output: 0.60}}]
defaults: {{refresh: 1s, timeouts: {{connect: 1s, first_token: 2s}}, failover: {{attempts: 1}}, breaker: {{failures: 100, weights: {{key: 0}}}}}}
"""


def check_clean(text: str | bytes, what: str, secrets: tuple[str, ...] = (*KEYS, *WORDS)) -> None:
    holds_none(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, what, secrets)


class Collector:
    """An OTLP receiver that keeps what it is sent."""

    def __init__(self) -> None:
        received = self.received = list[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name is http.server's
                received.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def wait_for(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, f"not within 10 s: {what}"
        time.sleep(0.05)


@contextmanager
def gateway(
    folder: Path, ledger: str, store: str, **environment: str
) -> Iterator[tuple[GatewayProcess, DeepSeekStandIn]]:
    said = ["Here", " is", f" {ANSWER}", " for", " you"]
    with (
        OllamaStandIn(reply=said) as ollama,
        DeepSeekStandIn(UP, reply=said, thinking=False) as deepseek,
        GatewayProcess(
            RULES.format(digest=DIGEST, store=store, ollama=ollama.url, deepseek=deepseek.url, ledger=ledger),
            folder,
            environment={"NOTEBOOK_KEY": PLAIN, "UP": UP, "LOG_LEVEL": "DEBUG", **environment},
        ) as process,
    ):
        yield process, deepseek


def ask(process: GatewayProcess, key: str, model: str = "deep", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": f"tell me of {PROMPT}"}], **more}
    head, url = {"authorization": f"Bearer {key}"}, f"{process.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=head, trust_env=False, verify=NO_TLS)


def make_calls(process: GatewayProcess, deepseek: DeepSeekStandIn, *, limited: bool) -> None:
    """Calls of every kind; what those are told that fail is looked at here. `limited`: whether limits are known."""
    echo = f"Incorrect API key {UP}"
    for model in ("deep", "local"):
        for stream in (False, True):
            answer = ask(process, PLAIN, model, stream=stream)
            assert answer.status_code == 200
            assert ANSWER in answer.text
            check_clean(answer.text, "an answer", KEYS)
            check_clean(str(answer.headers), "its headers")
    deepseek.plan(CutAfter(2), ErrorAfter(4, echo))
    for _ in range(2):
        check_clean(ask(process, PLAIN, stream=True).text, "a stream that broke off", KEYS)
    for plan in (Status(401, {"error": {"message": echo}}), Status(500, echo.encode()), CutAfter(2)):
        deepseek.plan(plan)
        refused = ask(process, PLAIN)
        assert refused.status_code == 502
        check_clean(refused.text, "an error")
    statuses = [ask(process, HASHED).status_code for _ in range(3)]
    assert statuses[-1] == (429 if limited else 200)
    check_clean(
        ask(process, HASHED).text, "the answer to a call beyond its limit", (*KEYS, *WORDS) if limited else KEYS
    )
    for key, more in ((WRONG, {}), (PLAIN, {"temperature": "hot"}), (PLAIN, {"model": f"{PROMPT}-none", "n": -1})):
        wrong = ask(process, key, **more)
        assert wrong.status_code in (400, 401)
        check_clean(wrong.text, "an error", KEYS)


def look_at_what_is_told(process: GatewayProcess) -> None:
    for path in ("/metrics", "/gateway/status", "/health", "/v1/models"):
        for accept in ("*/*", "application/openmetrics-text"):
            head = {"authorization": f"Bearer {PLAIN}", "accept": accept}
            answer = httpx.get(process.url + path, headers=head, trust_env=False, verify=NO_TLS)
            assert answer.status_code == 200
            check_clean(answer.text, path)


def command(folder: Path, *words: str) -> str:
    """What a command prints, or complains of."""
    environment = {"NOTEBOOK_KEY": PLAIN, "UP": UP, "COLUMNS": "200"}
    done = CliRunner().invoke(app, [*words, "--rules", str(folder / "rules.yaml")], env=environment)
    return f"{done.output}{done.exception or ''}"


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_is_kept_or_told_holds_a_secret(tmp_path: Path, form: str) -> None:
    store = f"redis://:{STORE}@127.0.0.1:{free_port()}/0"
    with (
        Collector() as collector,
        gateway(
            tmp_path,
            "{url: sqlite:///ledger.sqlite}",
            store,
            LOG_FORMAT=form,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{COLLECTOR}",
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as (process, deepseek),
    ):
        make_calls(process, deepseek, limited=False)
        look_at_what_is_told(process)
        wait_for(lambda: bool(collector.received), "spans have come")
        process.process.terminate()
        assert process.process.wait(15) == 0
        check_clean(process.log, "the log")
        assert b"deepseek" in b"".join(collector.received)
        check_clean(b"".join(collector.received), "the spans")
    files = [file for file in tmp_path.iterdir() if file.name.startswith("ledger")]
    assert any(b"deepseek" in file.read_bytes() for file in files)
    for file in files:
        check_clean(file.read_bytes(), file.name)
    for options in ((), ("--json",), ("--csv",), ("--by", "model")):
        printed = command(tmp_path, "report", *options)
        assert "deep" in printed
        check_clean(printed, f"report {options}")


def test_the_ledgers_files_hold_no_secret_while_they_are_written(tmp_path: Path) -> None:
    with gateway(tmp_path, "{url: sqlite:///ledger.sqlite}", "memory") as (process, deepseek):
        make_calls(process, deepseek, limited=True)
        wal = tmp_path / "ledger.sqlite-wal"
        wait_for(lambda: wal.exists() and b"deepseek" in wal.read_bytes(), "the calls are in the log of the ledger")
        files = {file.name: file.read_bytes() for file in tmp_path.glob("ledger*")}
        assert {"ledger.sqlite", "ledger.sqlite-wal"} <= files.keys()
        for name, held in files.items():
            check_clean(held, name)


def test_a_prompt_that_is_kept_holds_no_key(tmp_path: Path) -> None:
    ledger = "{url: sqlite:///ledger.sqlite, content: 4KiB}"
    quoted = f"my keys are {PLAIN} and {UP}, as in ?key={quote(UP)} — {PROMPT}"
    with gateway(tmp_path, ledger, "memory") as (process, deepseek):
        assert ask(process, PLAIN, messages=[{"role": "user", "content": quoted}]).status_code == 200
        deepseek.reply = ["you said ", UP, f" and {ANSWER}"]
        assert ask(process, PLAIN).status_code == 200
        process.process.terminate()
        assert process.process.wait(15) == 0
        check_clean(process.log, "the log")
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith("ledger"))
    assert PROMPT.encode() in kept
    assert ANSWER.encode() in kept
    check_clean(kept, "the ledger", KEYS)
    check_clean(command(tmp_path, "report", "--json"), "the report")


QUOTES: tuple[Status | ErrorAfter, ...] = (
    *(Status(status, {"error": {"message": f"you said: tell me of {PROMPT}"}}) for status in (400, 403, 422, 500, 503)),
    Status(400, {"error": {"message": f"model '{PROMPT}' not found"}}),
    Status(400, {"error": {"message": f"{PROMPT} does not support tools"}}),
    Status(400, {"error": {"message": f"{PROMPT} exceeds the context size"}}),
    Status(500, f"cannot parse the answer: {ANSWER}".encode()),
    ErrorAfter(0, f"cannot read: {PROMPT}"),
    ErrorAfter(2, f"cannot parse: {ANSWER}"),
)
"""What an upstream does that repeats the prompt, or an answer that nobody else has seen."""


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_an_upstream_quotes_is_in_no_log(tmp_path: Path, form: str) -> None:
    with gateway(tmp_path, "{url: sqlite:///ledger.sqlite}", "memory", LOG_FORMAT=form) as (process, deepseek):
        for stream in (False, True):
            for plan in QUOTES:
                deepseek.plan(plan)
                ask(process, PLAIN, stream=stream)
            deepseek.plan(QUOTES[0])
            refused = ask(process, PLAIN, stream=stream)
            assert (refused.status_code, PROMPT in refused.text) == (400, True)  # whose words they are, hears them
        shape = {"type": "object", "properties": {}, "additionalProperties": False}
        deepseek.reply = [f'{{"{ANSWER}": "', ANSWER, '"}']
        strict = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": shape}}
        assert ask(process, PLAIN, response_format=strict).status_code == 502
        for wrong in ({"messages": [{"role": PROMPT, "content": "x"}]}, {"reasoning_effort": PROMPT}):
            assert ask(process, PLAIN, **wrong).status_code == 400
        with socket.create_connection(("127.0.0.1", httpx.URL(process.url).port or 80)) as connection:
            connection.sendall(f"POST /v1/nothing HTTP/1.1\r\ncontent-length: 1\r\n\r\n {PROMPT}\r\n\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        look_at_what_is_told(process)
        process.process.terminate()
        assert process.process.wait(15) == 0
        check_clean(process.log, "the log")
    for file in tmp_path.iterdir():
        if file.name.startswith("ledger"):
            check_clean(file.read_bytes(), file.name)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_database_and_a_store_that_are_away_are_named_without_their_passwords(tmp_path: Path, form: str) -> None:
    ledger = f'{{url: "postgresql://unigate:{DATABASE}@127.0.0.1:{free_port()}/calls"}}'
    store = f"redis://unigate:{STORE}@127.0.0.1:{free_port()}/0"
    with gateway(tmp_path, ledger, store, LOG_FORMAT=form) as (process, deepseek):
        make_calls(process, deepseek, limited=False)
        look_at_what_is_told(process)
        wait_for(lambda: "ledger" in process.log, "the log says that the ledger is away")
        process.process.terminate()
        process.process.wait(15)
        check_clean(process.log, "the log")
    printed = command(tmp_path, "report")
    assert "127.0.0.1" in printed
    check_clean(printed, "the report")


def test_a_fault_in_the_file_names_no_password(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        RULES.format(
            digest=DIGEST, store=f"rediss://:{STORE}@", ollama="http://x.example", deepseek="http://y.example",
            ledger=json.dumps({"url": f"mysql://me:{DATABASE}@db/calls", "compare_to": "${NOTEBOOK_KEY}"}),
        )
    )  # fmt: skip
    complaint = command(tmp_path, "check")
    assert "ledger.url" in complaint
    check_clean(complaint, "the complaint")
