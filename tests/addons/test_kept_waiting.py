"""Callers of streams who are kept waiting: they hear now and then that the gateway lives, and get their answer all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.addons.calls import DEEPSEEK, OLLAMA, SAID, World, world
from tests.gateway import patient
from tests.standins import (
    GarbageBody,
    HoldAfter,
    KeepAliveOnly,
    Plan,
    Silence,
    SilenceAfterHeaders,
    Status,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world(timeouts=patient(keep_alive="100ms")) as made:
        yield made


def test_a_stream_that_was_kept_waiting_ends_in_an_error_frame_where_all_fail(servers: World) -> None:
    servers.ollama.plan(Silence())
    servers.deepseek.plan(Silence())
    answer = servers.ask("qwen2.5:7b", True)
    assert (answer.status, answer.done) == (200, 1)
    assert answer.comments >= 2
    assert answer.error["code"] == "upstream_timeout"
    assert len(answer.chunks) == 1


@pytest.mark.parametrize(
    "plan", [Silence(), SilenceAfterHeaders(), KeepAliveOnly()], ids=lambda plan: type(plan).__name__
)
def test_a_stream_that_was_kept_waiting_is_still_handed_over(servers: World, plan: Plan) -> None:
    servers.ollama.plan(plan)
    servers.deepseek.plan(Silence(0.15, "answer"))
    answer = servers.ask("qwen2.5:7b", True)
    assert (answer.status, answer.done) == (200, 1)
    assert answer.comments >= 2
    assert (answer.text, answer.finish) == (SAID[DEEPSEEK], ["stop"])
    assert answer.target is None  # the headers went out before anybody knew


@pytest.mark.parametrize("plan", [Status(500), GarbageBody(), Status(400, {"error": "no"})], ids=["500", "page", "400"])
def test_a_fault_after_early_headers_comes_in_a_frame(servers: World, plan: Plan) -> None:
    servers.ollama.plan(Silence())
    servers.deepseek.plan(plan)
    answer = servers.ask("qwen2.5:7b", True)
    assert (answer.status, answer.done, len(answer.chunks)) == (200, 1, 1)
    assert answer.comments >= 1
    assert answer.error["message"]


def test_a_pause_in_the_middle_of_a_stream_is_filled_with_comments(servers: World) -> None:
    servers.ollama.plan(HoldAfter(2, seconds=0.35))
    answer = servers.ask("qwen2.5:7b", True)
    assert answer.comments >= 2
    assert (answer.text, answer.done, answer.target) == (SAID[OLLAMA], 1, OLLAMA)


def test_a_whole_reply_gets_no_comments(servers: World) -> None:
    servers.ollama.plan(Silence(0.3, "answer"))
    answer = servers.ask()
    assert (answer.text, answer.comments) == (SAID[OLLAMA], 0)
