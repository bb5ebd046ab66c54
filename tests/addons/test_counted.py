"""What an attempt is counted for: what its server said of it, whenever it did, and where it could not, an estimate."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.account import rough, tokens_of
from addons.exchange import Attempt as Attempted
from addons.exchange import Exchange
from rules.estimates import Estimates
from rules.prices import Tokens
from tests.addons.money import (
    DEEP,
    LOCAL,
    PROMPT,
    RAW,
    READS,
    SAYS,
    Attempt,
    World,
    chat,
    check,
    guessed,
    leave_after,
    ok,
    on_paper,
)
from tests.standins import HoldAfter, SilenceAfterHeaders, StandIn, Status, until
from tests.standins.raw import Expect, Reset, Send
from tests.wire.forms import recording
from wire.openai import MAX_COUNT

SCHEMA = {"type": "json_schema", "json_schema": {"name": "j", "schema": {"type": "object", "required": ["a"]}}}


@pytest.mark.parametrize(("model", "target"), [("any", LOCAL), ("deep", DEEP)])
def test_who_leaves_pays_for_what_was_said_until_then(world: World, model: str, target: str) -> None:
    standin: StandIn = world.ollama if target == LOCAL else world.deepseek
    standin.plan(HoldAfter(3 if target == LOCAL else 4))
    account = leave_after(world, chat(model), 3)
    assert (account.status, account.target, account.finish_reason) == (499, target, None)
    check(account, [guessed(target, "left", 4)])
    assert account.failed_cost == 0
    assert until(lambda: not standin.holding, 2.0)


def test_who_leaves_before_the_first_word_pays_for_the_prompt(world: World) -> None:
    world.deepseek.plan(SilenceAfterHeaders(5))
    before = len(world.accounts)
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("deep", stream=True)))
    seen = len(world.deepseek.chats)
    assert until(lambda: len(world.deepseek.chats) > seen or bool(world.deepseek.chats), 2.0)
    world.gateway.until(
        lambda: any(one.accepted for call in world.gateway.state.in_flight() for one in call.attempts), "it is at work"
    )
    connection.close()
    account = world.next_after(before)
    assert account.status == 499
    check(account, [guessed(DEEP, "left", 0)])


def test_the_parts_of_a_call_whose_caller_left_are_paid_each_by_itself(world: World) -> None:
    world.ollama.plan(HoldAfter(2), HoldAfter(2))
    account = leave_after(world, chat("any", n=2), 4)
    check(account, [guessed(LOCAL, "left", 3), guessed(LOCAL, "left", 3)])
    assert account.cost == 2 * on_paper(LOCAL, account.tried[0].tokens)


def test_all_parts_are_paid_where_one_of_them_fails(world: World) -> None:
    world.deepseek.plan(HoldAfter(3), Status(400))
    status, account = world.ask("/chat/completions", chat("deep", n=2))
    assert status == account.status == 400
    refusal, other = account.tried
    assert (refusal.outcome, refusal.cost, other.outcome) == ("refused", 0, "left")
    assert account.cost == other.cost  # whatever that came to: the refusal may have been quicker than its first word
    assert other.cost == (on_paper(DEEP, other.tokens) if other.tokens.prompt else 0)


def test_an_answer_that_is_repaired_is_paid_twice(world: World) -> None:
    world.ollama.reply = ["this", " is", " no", " JSON"]
    status, account = world.ask("/chat/completions", chat("any", response_format=SCHEMA))
    assert [(one.target, one.outcome, one.estimated) for one in account.tried[:2]] == [
        (LOCAL, "schema", False),
        (LOCAL, "schema", False),
    ]
    assert account.tried[1].tokens.prompt > account.tried[0].tokens.prompt  # with the answer that was wrong
    assert account.cost == sum(on_paper(one.target, one.tokens) for one in account.tried)
    assert account.failed_cost >= on_paper(LOCAL, account.tried[0].tokens) + on_paper(LOCAL, account.tried[1].tokens)
    assert status in (200, 502)


# -- what servers say of their own counts, and when


def said(text: str = "", *, finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
    choices = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices, **({"usage": usage} if usage else {})}).encode() + b"\n\n"


def counts(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"


def message(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **more}).encode()


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (
            [HEAD, said("a"), said("b", finish="stop"), b"data: " + json.dumps({"choices": [], "usage": counts(7, 2)}).encode() + b"\n\n", DONE],
            ok(RAW, 7, 2),
        ),
        ([HEAD, said("a"), said(finish="stop", usage=counts(7, 1)), DONE], ok(RAW, 7, 1)),
        ([HEAD, said("a", usage=counts(7, 1)), said("b", usage=counts(7, 2)), said(finish="stop"), DONE], ok(RAW, 7, 2)),
        ([HEAD, said("a", usage=counts(7, 1)) + said("b") + said("c", finish="stop") + DONE], ok(RAW, 7, 1)),
        (
            [HEAD, said("a", usage=counts(7, 1)), said("b"), said("c"), Reset()],
            Attempt(RAW, Tokens(7, 0, 3), "cut", estimated=True),
        ),
        ([HEAD, said("a"), said("b", finish="stop", usage=counts(7, 2)), Reset()], ok(RAW, 7, 2)),
        ([HEAD, said("a", usage=counts(7, 1)), Reset()], ok(RAW, 7, 1, outcome="cut")),
        (
            [HEAD, said("a", usage=counts(7, 1)), b'data: {"error": {"message": "it broke"}}\n\n'],
            ok(RAW, 7, 1, outcome="stream_error"),
        ),
        ([HEAD, said("a much longer piece of text"), said(finish="stop"), DONE], guessed(RAW, "ok", 6)),
        ([HEAD, said("a", usage=counts(0, 0)), said("b", finish="stop"), DONE], guessed(RAW, "ok", 2)),
        ([HEAD, said("a", usage={"prompt_tokens": -3, "completion_tokens": "x"}), said(finish="stop"), DONE], guessed(RAW, "ok", 1)),
        (
            [HEAD, said("a", finish="stop", usage=counts(7, 2, prompt_tokens_details={"cached_tokens": 99},
                completion_tokens_details={"reasoning_tokens": 99})), DONE],
            ok(RAW, 7, 2, cached=7, reasoning=2),
        ),
        ([WHOLE, message("a b", usage=counts(7, 2))], ok(RAW, 7, 2)),
        ([WHOLE, message("eight by four and no more, said.")], guessed(RAW, "ok", 8)),
        ([WHOLE, message("a b")[:20], Reset()], guessed(RAW, "malformed", 0)),
    ],
    ids=[
        "in an event of its own",
        "with the last piece",
        "with each piece, but for the last",
        "with the first piece only, of an answer that came to its end",
        "with the first piece only, of one that did not: what came after it is added",
        "before it broke off, with the last piece",
        "before it broke off, with each piece",
        "before an error",
        "never: then the text's length counts where its pieces are few",
        "as nothing at all",
        "as nonsense",
        "as more of a kind than there is",
        "with a whole answer",
        "never, of a whole answer",
        "never, for the whole answer was cut off: nobody knows what it was to be",
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_servers_count_when_they_like(world: World, replies: list[Any], expected: Attempt, stream: bool) -> None:
    world.raw.scripts = [[Expect(), *(Send(one) if isinstance(one, bytes) else one for one in replies)]]
    _, account = world.ask("/chat/completions", {"model": "raw", "messages": PROMPT, "stream": stream})
    if expected.estimated and expected.tokens.prompt:  # of which it had counted the prompt
        (one,) = account.tried
        assert (one.tokens, one.estimated, one.outcome) == (expected.tokens, True, expected.outcome)
        assert account.cost == on_paper(RAW, expected.tokens)
    else:
        check(account, [expected])


# -- what is not counted in tokens


def relayed(content_type: bytes, body: bytes, *, cut: bool = False) -> list[Any]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + content_type
    length = b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (len(body) * (1 + cut))
    return [Expect(), Send(head + length + body), *([Reset()] if cut else [])]


def in_json(**said: Any) -> list[Any]:
    return relayed(b"application/json", json.dumps(said).encode())


def speech(model: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/audio/speech", {"model": model, "input": "hello there", "voice": "alloy", **more}


def image(model: str) -> tuple[str, dict[str, Any]]:
    return "/images/generations", {"model": model, "prompt": "a llama"}


SOUND = relayed(b"audio/mpeg", b"ID3 sound")
PICTURE = {"created": 1, "data": [{"b64_json": "aGVsbG8="}]}
LARGE = {"data": [{"b64_json": "A" * 200_000}]}
OF_IMAGES = {"total_tokens": 107, "input_tokens": 7, "output_tokens": 100, "input_tokens_details": {"text_tokens": 7}}
OF_SPEECH = {"input_tokens": 3, "output_tokens": 40, "total_tokens": 43}
SPOKEN = [
    b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n',
    b"data: " + json.dumps({"type": "speech.audio.done", "usage": OF_SPEECH}).encode() + b"\n\n",
]


@pytest.mark.parametrize(
    ("call", "reply", "expected"),
    [
        (speech("raw"), SOUND, guessed(RAW, "ok", 0)),
        (speech("raw"), relayed(b"audio/mpeg", b"ID3 sound", cut=True), guessed(RAW, "reset", 0)),
        (image("raw"), in_json(**PICTURE), guessed(RAW, "ok", 0)),
        (image("raw"), in_json(**PICTURE, usage=OF_IMAGES), ok(RAW, 7, 100)),
        (image("raw"), in_json(usage=OF_IMAGES, **LARGE), ok(RAW, 7, 100)),
        (image("raw"), in_json(**LARGE, usage=OF_IMAGES), ok(RAW, 7, 100)),
        (
            image("raw"),
            relayed(b"application/json", json.dumps({"usage": OF_IMAGES, **LARGE}).encode(), cut=True),
            ok(RAW, 7, 100, outcome="reset"),
        ),
        (speech("reads"), SOUND, guessed(READS, "ok", 0)),
        (speech("reads"), relayed(b"audio/mpeg", b"ID3 sound", cut=True), guessed(READS, "reset", 0)),
        (speech("says"), SOUND, guessed(SAYS, "ok", 0, unpriced=True)),
        (speech("says"), relayed(b"audio/mpeg", b"ID3 sound", cut=True), guessed(SAYS, "reset", 0, unpriced=True)),
        (speech("says", stream_format="sse"), relayed(b"text/event-stream", b"".join(SPOKEN)), ok(SAYS, 3, 40)),
        (image("reads"), in_json(**PICTURE), guessed(READS, "ok", 0)),
        (image("says"), in_json(**PICTURE), guessed(SAYS, "ok", 0, unpriced=True)),
        (image("says"), in_json(**PICTURE, usage=OF_IMAGES), ok(SAYS, 7, 100)),
    ],
    ids=[
        "sound: its text, and the request",
        "sound that breaks off",
        "a picture",
        "a picture whose server counts",
        "one whose server counts before a large one",
        "and after it",
        "and before one that breaks off",
        "sound where what is read has a price: its text",
        "which has been read when it breaks off",
        "sound where what is said has a price: nobody counts it",
        "nor what breaks off",
        "but for a server that does",
        "a picture where what is read has a price",
        "where what is shown has one",
        "and its server counts it",
    ],
)  # fmt: skip
def test_what_is_no_text_costs_its_prompt_and_request_and_what_its_server_counts(
    world: World, call: tuple[str, dict[str, Any]], reply: list[Any], expected: Attempt
) -> None:
    world.raw.scripts = [reply]
    before = len(world.accounts)
    with world.gateway.client() as client, suppress(httpx.RemoteProtocolError):
        client.post(f"/v1{call[0]}", json=call[1])
    account = world.next_after(before)
    check(account, [expected])
    assert account.cost >= (2_000_000 if expected.target == RAW else 0)  # the request itself
    assert account.cost or account.unpriced  # never for nothing
    assert account.compared is None


SECONDS = {"type": "duration", "seconds": 9}
TRANSCRIPT = {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59, "type": "tokens"}
DICTATED = 'he said "usage": {"input_tokens": 900000000, "output_tokens": 5} and left'
HEARD = "It is about a llama."


@pytest.mark.parametrize(
    ("model", "fields", "reply", "expected"),
    [
        ("raw", {}, in_json(text="x", usage=TRANSCRIPT), ok(RAW, 14, 45)),
        ("says", {}, in_json(text="x", usage=TRANSCRIPT), ok(SAYS, 14, 45)),
        ("reads", {}, in_json(text="x", usage=TRANSCRIPT), ok(READS, 14, 45)),
        ("raw", {}, in_json(text="x", usage=SECONDS), ok(RAW, 0, 0)),
        ("raw", {"prompt": HEARD}, in_json(text="x", usage=SECONDS), guessed(RAW, "ok", 0)),
        ("reads", {}, in_json(text="x", usage=SECONDS), ok(READS, 0, 0, unpriced=True)),
        ("says", {}, in_json(text="x", usage=SECONDS), ok(SAYS, 0, 0, unpriced=True)),
        ("reads", {"prompt": HEARD}, in_json(text="x"), guessed(READS, "ok", 0, unpriced=True)),
        ("raw", {}, relayed(b"text/plain", DICTATED.encode()), ok(RAW, 0, 0)),
        ("raw", {}, in_json(text=DICTATED), ok(RAW, 0, 0)),
        ("reads", {}, in_json(text=DICTATED), ok(READS, 0, 0, unpriced=True)),
    ],
    ids=[
        "its server counts tokens",
        "by what is said",
        "by what is heard",
        "its server counts seconds: what the request costs",
        "with a text of the caller's: that is read too",
        "seconds, where what is heard has a price by tokens",
        "seconds, where what is said has one",
        "nothing is counted",
        "somebody dictates a usage",
        "into JSON",
        "where what is heard has a price",
    ],
)
def test_a_recording_costs_its_request_and_what_its_server_counts(
    world: World, model: str, fields: dict[str, str], reply: list[Any], expected: Attempt
) -> None:
    world.raw.scripts = [reply]
    world.gateway.state.limiter.estimates = Estimates()
    status, account = world.send("/audio/transcriptions", recording(model=model, **fields))
    assert status == 200
    check(account, [expected])
    assert account.cost or account.unpriced
    assert account.compared is None


def test_a_recording_that_is_not_counted_took_what_others_did(world: World) -> None:
    world.gateway.state.limiter.estimates = Estimates()
    for usage, expected in ((TRANSCRIPT, ok(READS, 14, 45)), (SECONDS, guessed(READS, "ok", 0, unpriced=True))):
        world.raw.scripts = [in_json(text="x", usage=usage)]
        _, account = world.send("/audio/transcriptions", recording(model="reads"))
        check(account, [expected])
        assert account.tokens.prompt == 14


# -- bugs of ours


def _has_heard(exchange: Exchange) -> bool:
    return any(attempt.pieces for attempt in exchange.attempts)


def test_a_part_that_crashes_is_counted_once_and_so_are_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ollama.plan(HoldAfter(2), HoldAfter(2))
    before, failing = len(world.accounts), []

    def fail(self: Attempted, readings: Any) -> None:
        failing.append(self)
        raise RuntimeError("a bug")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(world.ask, "/chat/completions", chat("any", n=2))
        assert until(lambda: world.ollama.holding == 2, 5.0)
        # A held server has sent two words: the gateway must have read them, or there is nothing to estimate.
        world.gateway.until(lambda: sum(map(_has_heard, world.gateway.state.in_flight())) == 2, "both parts speak")
        monkeypatch.setattr(Attempted, "note", fail)
        world.ollama.release()
        status, account = call.result(10)
    assert failing
    assert (status, account.status, len(world.accounts)) == (500, 500, before + 1)
    assert [one.target for one in account.tried] == [LOCAL, LOCAL]
    assert account.cost == sum(on_paper(LOCAL, one.tokens) for one in account.tried)
    assert all(one.estimated for one in account.tried)


_ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
_DETAILS = _ANYTHING | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), _ANYTHING)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": _ANYTHING,
            "completion_tokens": _ANYTHING,
            "prompt_tokens_details": _DETAILS,
            "completion_tokens_details": _DETAILS,
        },
    )
)
def test_whatever_a_server_says_of_its_tokens_can_be_counted(usage: dict[str, Any]) -> None:
    tokens = tokens_of(usage)
    assert 0 <= tokens.cached <= tokens.prompt <= MAX_COUNT
    assert 0 <= tokens.reasoning <= tokens.completion <= MAX_COUNT


def test_without_anything_learned_four_characters_are_a_token() -> None:
    assert [rough("any/model", chars) for chars in (0, 3, 4, 4001)] == [0, 0, 1, 1000]
