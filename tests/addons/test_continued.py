"""A stream breaks off after its caller saw text: who goes on, how that is asked, and what the caller sees of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from addons.exchange import Exchange
from tests.addons.calls import (
    DEEPSEEK,
    OLLAMA,
    SOON,
    TEXT,
    UPSTREAM_KEY,
    Answer,
    World,
    at_rest,
    bad_line,
    ending,
    error_line,
    line_of,
    pieces,
    saying,
)
from tests.gateway import Gateway, patient
from tests.standins import (
    CutAfter,
    DeepSeekStandIn,
    HalfLine,
    HoldAfter,
    Lines,
    OllamaStandIn,
    Plan,
    Prefill,
    RawServer,
    Silence,
    Status,
)
from tests.standins.raw import Expect, Send, chunk, chunked_head

WORDS = pieces(TEXT)
PACE = 0.01
SLACK = 2.5
NAMES = {OLLAMA: "ollama", DEEPSEEK: "deepseek"}
OTHER = {OLLAMA: DEEPSEEK, DEEPSEEK: OLLAMA}
BOTH = [pytest.param(OLLAMA, id="Ollama first"), pytest.param(DEEPSEEK, id="DeepSeek first")]
SETTINGS = {
    "the usual": (patient(), "attempts: 2, backoff: 10ms"),
    # So that the first target is not ready again before the last one was asked.
    "no hurry": (patient(), "attempts: 2, backoff: 5s"),
    "impatient callers": (patient(keep_alive="50ms"), "backoff: 10ms"),
    "nothing is continued": (patient(), "attempts: 2, backoff: 10ms, mid_stream: error"),
}


@dataclass
class Three(World):
    """One more server than usual."""

    spare: DeepSeekStandIn

    @property
    def standins(self) -> tuple[OllamaStandIn | DeepSeekStandIn, ...]:
        return self.ollama, self.deepseek, self.spare


@contextmanager
def three(timeouts: str, failover: str) -> Iterator[Three]:
    with ExitStack() as stack:
        ollama = stack.enter_context(OllamaStandIn(reply=WORDS))
        deepseek = stack.enter_context(DeepSeekStandIn(UPSTREAM_KEY, reply=WORDS, thinking=False))
        spare = stack.enter_context(DeepSeekStandIn(UPSTREAM_KEY, reply=WORDS, thinking=False))
        raw = stack.enter_context(RawServer())
        deep = f"dialect: openai, profile: deepseek, key: {UPSTREAM_KEY}, patience: {SOON}s"
        gateway = Gateway(f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama.url}]}}
  deepseek: {{{deep}, urls: [{deepseek.url}]}}
  spare: {{{deep}, urls: [{spare.url}]}}
  compat: {{dialect: openai, key: {UPSTREAM_KEY}, urls: [{raw.url}]}}
rules:
  - {{name: two-ollama, when: {{model: ollama}}, use: [{OLLAMA}, {DEEPSEEK}]}}
  - {{name: two-deepseek, when: {{model: deepseek}}, use: [{DEEPSEEK}, {OLLAMA}]}}
  - {{name: three-ollama, when: {{model: three.ollama}}, use: [{OLLAMA}, spare/deepseek-flash, {DEEPSEEK}]}}
  - {{name: three-deepseek, when: {{model: three.deepseek}}, use: [{DEEPSEEK}, spare/deepseek-flash, {OLLAMA}]}}
  - {{name: only-ollama, when: {{model: only.ollama}}, use: [{OLLAMA}]}}
  - {{name: only-deepseek, when: {{model: only.deepseek}}, use: [{DEEPSEEK}]}}
  - {{name: thinking, when: {{model: thinking}}, use: [ollama/deepseek-r1:7b, {DEEPSEEK}]}}
  - {{name: compat, when: {{model: compat}}, use: [compat/deepseek-flash, {OLLAMA}]}}
  - {{name: alike, when: {{model: alike}}, use: [compat/one, compat/two]}}
  - {{name: stops, when: {{model: stops}}, use: [{OLLAMA}, {DEEPSEEK}], mid_stream: error}}
defaults:
  timeouts: {{{timeouts}}}
  failover: {{{failover}}}
  breaker: {{failures: 1000000}}
  refresh: 10m
""")
        yield Three(ollama, deepseek, raw, stack.enter_context(gateway), spare)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Three]:
    with three(*SETTINGS[getattr(request, "param", "the usual")]) as made:
        yield made


@pytest.fixture
def servers(shared: Three) -> Iterator[Three]:
    for standin in shared.standins:
        standin.prefill, standin.reply = "continue", WORDS
    shared.deepseek.thinking = False
    with at_rest(shared):
        yield shared


def exact(answer: Answer) -> None:
    """Every word once, in one stream that looks like any other."""
    assert (answer.status, answer.text) == (200, TEXT)
    well_formed(answer, "stop")


def well_formed(answer: Answer, *finish: str) -> None:
    """One beginning, one end, and one id, time and model in all chunks."""
    chunks = [chunk for chunk in answer.chunks if "error" not in chunk]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in delta for delta in deltas) == 1
    assert "role" in deltas[0]
    assert (answer.finish, answer.done) == ([*finish], 1)
    assert len(chunks) == len(answer.chunks) if finish else "error" in answer.chunks[-1]


def broken(answer: Answer, begun: str) -> str:
    """Fails unless it is the words so far and one error frame; why it ended, as the frame says."""
    assert (answer.status, answer.text) == (200, begun)
    well_formed(answer)
    assert answer.error["type"] == "server_error"
    return str(answer.error["message"])


def beginning(words: int) -> str:
    return "".join(WORDS[:words])


def begin(target: str, words: int, *ends: bytes) -> Plan:
    return Lines([*(saying(target, word) for word in WORDS[:words]), *ends], PACE)


def plan_of(how: str, target: str, words: int) -> Plan:
    """The first target says so many words, and breaks off in this way."""
    place = words + (0 if target == OLLAMA else 1)
    match how:
        case "reset":
            return CutAfter(place, "reset")
        case "cut":
            return CutAfter(place, "clean")
        case "silence":
            return HoldAfter(place)
        case "half a line":
            return HalfLine(place, "clean")
        case "error":
            return begin(target, words, error_line(target))
        case "malformed":
            return begin(target, words, bad_line(target))
        case _:
            return begin(target, words, ending(target, "insufficient_system_resource")[0])


BREAKS = ["reset", "cut", "silence", "half a line", "error", "malformed", "resources"]
EVERY_BREAK = [
    pytest.param(target, how, id=f"{NAMES[target]}, {how}")
    for target in (OLLAMA, DEEPSEEK)
    for how in BREAKS
    if how != "resources" or target == DEEPSEEK
]


def goes_on(target: str) -> list[Any]:
    """(what the next target does, number of words that were said before)."""
    # DeepSeek promises to go on, and is believed where so little was said that a repetition may be meant.
    few = [("start_over", 1)] if target == DEEPSEEK else []
    return [*few, *(("continue", words) for words in (1, 3, 9, len(WORDS))), *(("start_over", n) for n in (3, 9, 18))]


@pytest.mark.parametrize(
    ("target", "how", "prefill", "words"),
    [
        pytest.param(*case.values, prefill, words, id=f"{case.id}, {prefill} after {words}")
        for case in EVERY_BREAK
        for prefill, words in goes_on(str(case.values[0]))
    ],
)
def test_the_next_target_goes_on_or_starts_over_and_the_caller_sees_one_answer(
    servers: Three, target: str, how: str, prefill: Prefill, words: int
) -> None:
    servers.standin(target).pace = PACE
    servers.standin(target).plan(plan_of(how, target, words))
    servers.standin(OTHER[target]).prefill = prefill
    began = time.monotonic()
    answer = servers.ask(NAMES[target], True)
    assert time.monotonic() - began < SOON + SLACK
    exact(answer)
    assert answer.target == target
    (asked,) = servers.standin(OTHER[target]).chats
    assert (asked.json or {})["messages"][-1]["content"] == beginning(words)
    assert len(servers.standin(target).chats) == 1


@pytest.mark.parametrize(("target", "how"), EVERY_BREAK)
def test_a_target_that_says_something_else_ends_the_stream_in_an_error(servers: Three, target: str, how: str) -> None:
    servers.standin(target).pace = PACE
    servers.standin(target).plan(plan_of(how, target, 9))
    servers.standin(target).always = Status(500)
    servers.standin(OTHER[target]).prefill = "differ"
    answer = servers.ask(NAMES[target], True)
    assert "started its answer over and said something else" in broken(answer, beginning(9))


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("shared", ["no hurry"], indirect=True)
def test_a_target_that_says_something_else_is_followed_by_the_next(servers: Three, target: str) -> None:
    servers.standin(target).plan(plan_of("cut", target, 9))
    servers.spare.prefill = "differ"
    answer = servers.ask(f"three.{NAMES[target]}", True)
    exact(answer)
    asked = [len(one.chats) for one in (servers.standin(target), servers.spare, servers.standin(OTHER[target]))]
    assert asked == [1, 1, 1]


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("shared", ["no hurry"], indirect=True)
def test_a_target_that_refuses_to_go_on_is_followed_by_the_next(servers: Three, target: str) -> None:
    servers.standin(target).plan(plan_of("cut", target, 4))
    servers.spare.prefill = "refuse"
    exact(servers.ask(f"three.{NAMES[target]}", True))
    assert len(servers.spare.chats) == 1
    assert len(servers.standin(OTHER[target]).chats) == 1


@pytest.mark.parametrize(("target", "how"), EVERY_BREAK)
def test_where_all_refuse_to_go_on_the_stream_ends_in_an_error(servers: Three, target: str, how: str) -> None:
    for standin in (servers.ollama, servers.deepseek):
        standin.prefill = "refuse"
    servers.standin(target).pace = PACE
    servers.standin(target).plan(plan_of(how, target, 4))
    assert OTHER[target] in broken(servers.ask(NAMES[target], True), beginning(4))


@pytest.mark.parametrize("second", BREAKS)
@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("shared", ["no hurry"], indirect=True)
def test_a_second_break_is_continued_as_well(servers: Three, target: str, second: str) -> None:
    servers.standin(target).plan(plan_of("cut", target, 3))
    servers.spare.pace = PACE
    said = [saying(DEEPSEEK, word) for word in WORDS[3:8]]
    ends = {"error": error_line(DEEPSEEK), "malformed": bad_line(DEEPSEEK)}
    ends["resources"] = ending(DEEPSEEK, "insufficient_system_resource")[0]
    servers.spare.plan(Lines([*said, ends[second]], PACE) if second in ends else plan_of(second, DEEPSEEK, 5))
    answer = servers.ask(f"three.{NAMES[target]}", True)
    exact(answer)
    (last,) = servers.standin(OTHER[target]).chats
    assert (last.json or {})["messages"][-1]["content"] == beginning(8)


@pytest.mark.parametrize(("target", "how"), EVERY_BREAK)
def test_the_only_target_is_asked_to_go_on_itself(servers: Three, target: str, how: str) -> None:
    servers.standin(target).pace = PACE
    servers.standin(target).plan(plan_of(how, target, 4))
    exact(servers.ask(f"only.{NAMES[target]}", True))
    assert len(servers.standin(target).chats) == 2


@pytest.mark.parametrize(("target", "how"), EVERY_BREAK)
@pytest.mark.parametrize("shared", ["nothing is continued"], indirect=True)
def test_where_the_defaults_say_so_nothing_is_continued(servers: Three, target: str, how: str) -> None:
    servers.standin(target).pace = PACE
    servers.standin(target).plan(plan_of(how, target, 4))
    answer = servers.ask(NAMES[target], True)
    assert "the rules say that it is not continued" in broken(answer, beginning(4))
    assert servers.standin(OTHER[target]).chats == []


def test_where_the_rule_says_so_nothing_is_continued(servers: Three) -> None:
    servers.ollama.plan(plan_of("cut", OLLAMA, 4))
    assert "the rules say that it is not continued" in broken(servers.ask("stops", True), beginning(4))
    assert servers.deepseek.chats == []


# ---------------------------------------------------------------------------------------------------------
# What cannot be continued


CALL: dict[str, Any] = {
    OLLAMA: [{"function": {"name": "get_city", "arguments": {"n": 7}}}],
    DEEPSEEK: [{"index": 0, "id": "c1", "type": "function", "function": {"name": "get_city", "arguments": '{"n"'}}],
}
TOOLS = [{"type": "function", "function": {"name": "get_city", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("words", [0, 4])
@pytest.mark.parametrize("target", BOTH)
def test_a_tool_call_is_never_spliced_together_even_where_it_was_whole(servers: Three, target: str, words: int) -> None:
    servers.standin(target).plan(begin(target, words, saying(target, tool_calls=CALL[target])))
    answer = servers.ask(NAMES[target], True, tools=TOOLS)
    assert "a tool call was under way" in broken(answer, beginning(words))
    assert servers.standin(OTHER[target]).chats == []


JSON_ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Answer in json."}],
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize("target", BOTH)
def test_json_of_which_a_part_was_sent_is_not_continued(servers: Three, target: str) -> None:
    servers.standin(target).plan(Lines([saying(target, '{"a":')]))
    answer = servers.ask(NAMES[target], True, **JSON_ASKED)
    assert "JSON was asked for" in broken(answer, '{"a":')
    assert servers.standin(OTHER[target]).chats == []


@pytest.mark.parametrize("first", [[], ["  ", "\n"]], ids=["nothing", "blanks"])
@pytest.mark.parametrize("target", BOTH)
def test_json_of_which_nothing_was_sent_is_asked_for_anew(servers: Three, target: str, first: list[str]) -> None:
    servers.standin(target).plan(Lines([saying(target, text) for text in first]))
    servers.standin(OTHER[target]).reply = ['{"a":', " 1}"]
    answer = servers.ask(NAMES[target], True, **JSON_ASKED)
    assert (answer.text, answer.target) == ('{"a": 1}', OTHER[target])
    well_formed(answer, "stop")


def test_several_choices_are_not_continued(servers: Three) -> None:
    words = b"".join(chunk(saying(DEEPSEEK, word)) for word in WORDS[:4])
    servers.raw.scripts = [[Expect(), Send(chunked_head("text/event-stream") + words + b"0\r\n\r\n")]]
    assert "several choices were asked for" in broken(servers.ask("alike", True, n=2), beginning(4))
    assert len(servers.raw.seen) == 1


# ---------------------------------------------------------------------------------------------------------
# Models that think


THOUGHTS = ["The", " user", " wants", " an", " answer."]


def reasoning(answer: Answer) -> str:
    deltas = [choice["delta"] for chunk in answer.chunks for choice in chunk.get("choices", [])]
    return "".join(delta.get("reasoning_content") or "" for delta in deltas)


@pytest.mark.parametrize("prefill", ["continue", "start_over"])
def test_thoughts_before_the_break_are_neither_replayed_as_text_nor_said_twice(
    servers: Three, prefill: Prefill
) -> None:
    servers.ollama.plan(CutAfter(len(THOUGHTS) + 3, "clean"))
    servers.deepseek.prefill, servers.deepseek.thinking = prefill, True
    answer = servers.ask("thinking", True)
    exact(answer)
    assert reasoning(answer) == "".join(THOUGHTS)
    asked = servers.deepseek.chats[0].json or {}
    assert asked["messages"][-1]["content"] == beginning(3)
    assert asked["thinking"] == {"type": "disabled"}  # where the answer has begun there is nothing left to think about


@pytest.mark.parametrize("thoughts", [1, 3, 5])
def test_a_break_among_the_thoughts_loses_no_word_of_the_answer(servers: Three, thoughts: int) -> None:
    servers.ollama.plan(CutAfter(thoughts, "clean"))
    servers.deepseek.thinking = True
    answer = servers.ask("thinking", True)
    exact(answer)
    assert reasoning(answer) == "".join(THOUGHTS)
    assert (servers.deepseek.chats[0].json or {})["messages"][-1]["role"] == "user"


# ---------------------------------------------------------------------------------------------------------
# What the next target is asked, and what is counted


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("target", BOTH)
def test_what_is_left_of_the_callers_limit_is_what_the_next_target_may_say(
    servers: Three, target: str, limit: str
) -> None:
    servers.standin(target).plan(plan_of("cut", target, 4))
    answer = servers.ask(NAMES[target], True, **{limit: 10})
    assert answer.text == beginning(10)
    well_formed(answer, "length")
    asked = servers.standin(OTHER[target]).chats[0].json or {}
    assert (asked["options"]["num_predict"] if target == DEEPSEEK else asked["max_tokens"]) == 6


def test_ollama_is_given_the_beginning_as_the_last_message(servers: Three) -> None:
    servers.deepseek.plan(plan_of("cut", DEEPSEEK, 4))
    exact(servers.ask("deepseek", True))
    messages = (servers.ollama.chats[0].json or {})["messages"]
    assert messages == [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": beginning(4)}]


def test_deepseek_is_given_the_beginning_on_its_beta_path(servers: Three) -> None:
    servers.ollama.plan(plan_of("cut", OLLAMA, 4))
    exact(servers.ask("ollama", True))
    (asked,) = servers.deepseek.chats
    assert asked.path == "/beta/chat/completions"
    assert (asked.json or {})["messages"][-1] == {"role": "assistant", "content": beginning(4), "prefix": True}


@pytest.mark.parametrize("prefill", ["continue", "start_over"])
@pytest.mark.parametrize("target", BOTH)
def test_usage_is_said_once_and_each_attempt_keeps_its_own(
    servers: Three, monkeypatch: pytest.MonkeyPatch, target: str, prefill: Prefill
) -> None:
    done: list[Exchange] = []
    attempt_done = servers.gateway.state.attempt_done

    def noting(exchange: Exchange) -> None:
        done.append(exchange)
        attempt_done(exchange)

    monkeypatch.setattr(servers.gateway.state, "attempt_done", noting)
    servers.standin(OTHER[target]).prefill = prefill
    if target == DEEPSEEK:
        counted = {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
        choice = {"index": 0, "delta": {}, "finish_reason": None}
        last = line_of(target, {"choices": [choice], "usage": counted})
        servers.deepseek.plan(begin(target, 4, last))
    else:
        servers.ollama.plan(plan_of("cut", target, 4))
    answer = servers.ask(NAMES[target], True, stream_options={"include_usage": True})
    exact(answer)
    (usage,) = [chunk["usage"] for chunk in answer.chunks if chunk["usage"] is not None]
    assert answer.chunks[-1]["usage"] == usage
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(WORDS)
    assert usage["prompt_tokens"] > 0
    (exchange,) = done
    first, second = exchange.attempts
    assert (first.usage or {}).get("completion_tokens") == (4 if target == DEEPSEEK else None)
    own = len(WORDS) - (4 if prefill == "continue" else 0)
    assert (second.usage or {})["completion_tokens"] == own


@pytest.mark.parametrize("how", ["clean", "reset"])
def test_a_break_after_the_finish_reason_is_the_end(servers: Three, how: Any) -> None:
    servers.deepseek.pace = PACE
    servers.deepseek.plan(CutAfter(-1, how))
    exact(servers.ask("deepseek", True))
    assert len(servers.deepseek.chats) == 1
    assert servers.ollama.chats == []


@pytest.mark.parametrize("shared", ["impatient callers"], indirect=True)
@pytest.mark.parametrize("target", BOTH)
def test_comments_are_sent_while_the_next_target_takes_its_time(servers: Three, target: str) -> None:
    servers.standin(target).plan(plan_of("cut", target, 4))
    servers.standin(OTHER[target]).plan(Silence(0.3, "answer"))
    answer = servers.ask(NAMES[target], True)
    exact(answer)
    assert answer.comments >= 3


def test_the_words_so_far_are_not_held_back_until_the_answer_is_whole(servers: Three) -> None:
    servers.ollama.plan(plan_of("cut", OLLAMA, 4))
    servers.deepseek.plan(HoldAfter(3))
    connection = servers.connect()
    body = {"model": "ollama", "messages": [{"role": "user", "content": "hello there"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    seen = b""
    while WORDS[3].encode() not in seen:
        seen += response.read1(65536)
    assert b"[DONE]" not in seen
    servers.gateway.until(lambda: servers.deepseek.holding == 1, "the next target has begun")
    servers.deepseek.release()
    assert response.read().endswith(b"data: [DONE]\n\n")
    connection.close()
