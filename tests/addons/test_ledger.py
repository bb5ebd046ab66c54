"""What the ledger keeps of calls that a real gateway answered: each column, for each way in which a call can go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from addons.marks import bucket_of, counted
from addons.tables import attempts, calls
from tests.addons.calls import (
    CALLER_KEY,
    DEEPSEEK,
    OLLAMA,
    SAID,
    World,
    at_rest,
    pieces,
    raw_request,
    read_until,
    world,
)
from tests.addons.calls import dial as dial_to
from tests.addons.ledgers import read, settled, sqlite_url
from tests.standins import CutAfter, HoldAfter, ResetBeforeHeaders, Status

LEDGER = """
clients:
  app: {{key: {caller}, tags: {{team: red, "naïve": "yes"}}}}
  choosy: {{key: sk-choosy-0001, models: [deep]}}
  limited: {{key: sk-limited-0001, limits: [1/hour]}}
prices:
  - {{model: deepseek/*, from: 2020-01-01, input: 1, cached_input: 0.5, output: 2}}
  - {{model: ollama/*, from: 2020-01-01, request: 0.001}}
ledger: {{url: "{url}", compare_to: deepseek/deepseek-flash}}
"""


@dataclass
class Kept:
    """What a test added to the ledger."""

    world: World
    url: str
    before: set[int]

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        settled(self.world.gateway)
        found, tried = read(self.url)
        new = [row for row in found if row["id"] not in self.before]
        return new, [row for row in tried if row["call_id"] in {row["id"] for row in new}]

    def one(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        (call,), tried = self.rows()
        assert [row["number"] for row in tried] == [*range(1, len(tried) + 1)]
        assert call["attempts"] == len(tried)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
            assert call[name] == sum(row[name] for row in tried)
        assert call["cost"] == sum(row["cost"] for row in tried)
        return call, tried


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    url = sqlite_url(tmp_path_factory.mktemp("ledger"))
    more = LEDGER.format(url=url, caller=CALLER_KEY)
    with world(failover="attempts: 1, mid_stream: continue, backoff: 10ms", more=more) as made:
        yield made, url


@pytest.fixture
def kept(shared: tuple[World, str]) -> Iterator[Kept]:
    made, url = shared
    with at_rest(made):
        empty = Kept(made, url, set())
        made.ask()  # so that there are tables
        empty.before = {row["id"] for row in empty.rows()[0]}
        yield empty


def assert_refused(call: dict[str, Any]) -> None:
    """The report takes it for no error, and for no quick answer."""
    assert counted(call["marks"]).facts == {"refused": 1}
    assert not counted(call["marks"]).total
    assert not counted(call["marks"]).first


def test_every_column_of_a_whole_call(kept: Kept) -> None:
    begun = time.time()
    answer = kept.world.ask("deep")
    call, (attempt,) = kept.one()
    used = json.loads(answer.body)["usage"]
    assert set(call) == {column.name for column in calls.columns}
    assert set(attempt) == {column.name for column in attempts.columns}
    assert begun - 1 < call["time"] < time.time()
    assert call["total_ms"] >= call["first_token_ms"] >= 0
    assert counted(call["marks"]).total == {bucket_of(call["total_ms"] / 1000): 1}
    assert counted(call["marks"]).first == {bucket_of(call["first_token_ms"] / 1000): 1}
    assert counted(call["marks"]).facts == {"answered": 1, "compared_calls": 1}
    asked, said = used["prompt_tokens"], used["completion_tokens"]
    cached = used["prompt_tokens_details"]["cached_tokens"]
    cost = (asked - cached) * 1000 + cached * 500 + said * 2000
    told = {
        name: call[name]
        for name in call
        if name not in ("id", "time", "marks") and not name.startswith(("first_", "total_"))
    }
    assert told == {
        "request_id": answer.headers["x-request-id"], "client": "app", "tags": '{"team":"red","naïve":"yes"}',
        "endpoint": "/chat/completions", "operation": "chat", "model": "deep", "rule": "deep-first", "target": DEEPSEEK,
        "status": 200, "error": None, "finish_reason": "stop", "streamed": False, "attempts": 1, "failed_attempts": 0,
        "prompt_tokens": asked, "cached_tokens": cached, "completion_tokens": said, "reasoning_tokens": 0,
        "estimated": False, "cost": cost, "unpriced": False, "failed_cost": 0, "compared": cost,
        "prompt": None, "answer": None,
    }  # fmt: skip
    assert attempt["call_time"] == call["time"]
    assert begun - 1 < attempt["time"] < time.time()
    assert attempt["total_ms"] >= attempt["first_token_ms"] >= 0
    assert not counted(attempt["marks"]).facts
    assert counted(attempt["marks"]).total == {bucket_of(attempt["total_ms"] / 1000): 1}
    assert counted(attempt["marks"]).first == {bucket_of(attempt["first_token_ms"] / 1000): 1}
    told = {
        name: attempt[name]
        for name in attempt
        if name not in ("call_time", "time", "marks", "first_token_ms", "total_ms")
    }
    assert told == {
        "call_id": call["id"], "number": 1, "target": DEEPSEEK, "outcome": "ok", "continues": False,
        "prompt_tokens": asked, "cached_tokens": cached, "completion_tokens": said, "reasoning_tokens": 0,
        "estimated": False, "cost": cost,
    }  # fmt: skip


def test_a_streamed_call(kept: Kept) -> None:
    answer = kept.world.ask("qwen2.5:7b", stream=True)
    call, (attempt,) = kept.one()
    assert (call["request_id"], call["streamed"]) == (answer.headers["x-request-id"], True)
    assert (call["target"], call["finish_reason"], call["status"]) == (OLLAMA, "stop", 200)
    assert (call["cost"], call["estimated"]) == (1_000_000, False)
    assert call["completion_tokens"] > 0
    assert call["first_token_ms"] is not None
    assert attempt["outcome"] == "ok"


def test_a_call_that_another_target_answered(kept: Kept) -> None:
    kept.world.ollama.plan(ResetBeforeHeaders())
    kept.world.ask()
    call, (first, second) = kept.one()
    assert (call["target"], call["status"], call["error"]) == (DEEPSEEK, 200, None)
    assert (call["attempts"], call["failed_attempts"]) == (2, 1)
    assert (first["target"], first["cost"], first["first_token_ms"]) == (OLLAMA, 0, None)
    assert first["outcome"] in ("closed", "reset")
    assert (second["target"], second["outcome"], second["continues"]) == (DEEPSEEK, "ok", False)
    assert call["cost"] == call["compared"] == second["cost"] > 0


def test_a_call_that_went_on_elsewhere(kept: Kept) -> None:
    kept.world.ollama.plan(CutAfter(2))
    kept.world.deepseek.reply = kept.world.ollama.reply
    try:
        answer = kept.world.ask(stream=True)
    finally:
        kept.world.deepseek.reply = pieces(SAID[DEEPSEEK])
    assert answer.text == SAID[OLLAMA]
    call, (first, second) = kept.one()
    assert (first["estimated"], first["completion_tokens"]) == (True, 2)
    assert first["outcome"] in ("closed", "cut", "reset")
    assert (second["outcome"], second["continues"]) == ("ok", True)
    assert (call["estimated"], call["failed_attempts"], call["failed_cost"]) == (True, 1, first["cost"])


def test_a_call_that_was_asked_in_parts(kept: Kept) -> None:
    kept.world.ask(n=3)
    call, tried = kept.one()
    assert (call["status"], call["attempts"], call["failed_attempts"]) == (200, 3, 0)
    assert [row["outcome"] for row in tried] == ["ok"] * 3


def test_a_call_that_nobody_could_answer(kept: Kept) -> None:
    kept.world.ollama.plan(Status(500))
    kept.world.deepseek.plan(Status(503))
    answer = kept.world.ask()
    call, tried = kept.one()
    assert (call["status"], call["target"], call["finish_reason"]) == (answer.status, None, None)
    assert call["error"] == (answer.error["code"] or answer.error["type"])
    assert call["first_token_ms"] is None
    assert not counted(call["marks"]).first
    assert counted(call["marks"]).facts["errors"] == 1
    assert [row["outcome"] for row in tried] == ["status_500", "status_503"]
    assert call["failed_attempts"] == 2


def test_a_target_that_refuses_a_call_makes_it_an_error_and_no_refusal_of_ours(kept: Kept) -> None:
    kept.world.ollama.plan(Status(400))
    call, (attempt,) = (kept.world.ask(), kept.one())[1]
    assert (call["status"], attempt["outcome"]) == (400, "refused")
    assert counted(call["marks"]).facts == {"errors": 1, "compared_calls": 1}
    assert counted(call["marks"]).total.total() == 1


def test_a_bad_request_is_kept_without_attempts(kept: Kept) -> None:
    answer = kept.world.ask(temperature=9)
    call, tried = kept.one()
    assert (call["status"], call["client"], tried) == (400, "app", [])
    assert call["error"] == (answer.error["code"] or answer.error["type"])
    assert (call["cost"], call["unpriced"]) == (0, False)
    assert_refused(call)


def test_a_model_that_a_client_may_not_use_is_kept(kept: Kept) -> None:
    with kept.world.gateway.client("sk-choosy-0001") as client:
        body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}
        answer = client.post("/v1/chat/completions", json=body)
    call, tried = kept.one()
    assert (answer.status_code, call["status"], call["client"], call["model"], tried) == (
        403, 403, "choosy", "qwen2.5:7b", [],
    )  # fmt: skip
    assert_refused(call)


def test_a_call_over_a_limit_is_kept(kept: Kept) -> None:
    with kept.world.gateway.client("sk-limited-0001") as client:
        body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 429
    call, tried = kept.rows()[0][-1], kept.rows()[1]
    assert (call["status"], call["client"], call["error"]) == (429, "limited", "rate_limit_exceeded")
    assert call["id"] not in {row["call_id"] for row in tried}
    assert_refused(call)


def test_a_caller_without_a_key_leaves_no_row(kept: Kept) -> None:
    with kept.world.gateway.client("sk-unknown-0001") as client:
        body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 401
    assert kept.rows() == ([], [])


def test_a_caller_that_left(kept: Kept) -> None:
    kept.world.ollama.plan(HoldAfter(2))
    with dial_to(kept.world.gateway) as client:
        client.sendall(raw_request(stream=True))
        read_until(client, b"Hello")
    call, (attempt,) = kept.one()
    assert (call["status"], call["error"] is not None) == (499, True)
    assert (attempt["outcome"], call["failed_attempts"], call["estimated"]) == ("left", 0, True)


def test_a_models_name_cannot_keep_a_call_out_of_the_ledger(kept: Kept) -> None:
    name = "no such'); DROP TABLE calls; --\U0001f600"
    kept.world.ask(name)
    call, _ = kept.one()
    assert call["model"] == name


def test_no_key_and_no_text_stands_anywhere_in_the_file(kept: Kept) -> None:
    kept.world.ask(messages=[{"role": "user", "content": "a very private matter"}])
    kept.one()
    files = [file.read_bytes() for file in Path(kept.url.removeprefix("sqlite:///")).parent.iterdir()]
    assert any(b"qwen2.5:7b" in stands for stands in files), "the call is there"
    for stands in files:
        for word in (CALLER_KEY, "sk-choosy", "sk-ds-test", "private matter", SAID[OLLAMA]):
            assert word.encode() not in stands
