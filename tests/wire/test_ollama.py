"""What a call to Ollama's /api/chat is beside its case files: replies in their order, and requests no caller can write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from tests.standins.ollama import ModelCard, OllamaStandIn
from tests.wire.cases import ASKED, cases, made_ids
from wire.check_chat import check_chat
from wire.errors import BadRequest, Untranslatable
from wire.ollama import ollama_reply, to_ollama
from wire.openai import ChatRequest, Delta, Finished, Json, Reading, Usage

CITY: Json = {"type": "function", "function": {"name": "get_city"}}
RUN: Json = {"type": "custom", "custom": {"name": "run"}}


def _asking(**fields: Any) -> ChatRequest:
    return replace(ASKED, body=ASKED.body | fields, wants_json="response_format" in fields)


def _line(done: bool = False, done_reason: str | None = None, counts: Json | None = None, **message: Any) -> bytes:
    line: Json = {"message": {"role": "assistant", "content": "", **message}, "done": done, **(counts or {})}
    return orjson.dumps(line | ({"done_reason": done_reason} if done_reason else {})) + b"\n"


def _steps(request: ChatRequest, *lines: bytes) -> list[list[Reading]]:
    ids = made_ids()
    reply = ollama_reply(request, lambda: next(ids))
    return [*(reply.feed(line) for line in lines), reply.close()]


def _translated(request: ChatRequest) -> Json:
    body: Json = orjson.loads(to_ollama(request, "m", num_ctx=None, keep_alive=None).body)
    return body


def test_a_call_in_text_is_passed_on_as_it_comes() -> None:
    request = _asking(tools=[CITY], tool_choice="required")
    pieces = ['{"na', 'me": "get_city"', ', "argu', 'ments": ', '{"ci', 'ty": "Os', 'lo"}', "}", "\n"]
    steps = _steps(request, *(_line(content=piece) for piece in pieces), _line(done=True, done_reason="stop"))
    head = {"index": 0, "id": "call_made_1", "type": "function", "function": {"name": "get_city", "arguments": ""}}
    fragments = ['{"ci', 'ty": "Os', 'lo"}']
    assert steps == [
        [],
        [Delta({"tool_calls": [head]})],
        [],
        [],
        *([Delta({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})] for text in fragments),
        [],
        [],
        [Delta({}, "tool_calls"), Usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), Finished()],
        [],
    ]


def test_blanks_that_never_end_are_no_call() -> None:
    request = _asking(tools=[CITY], tool_choice="required")
    steps = _steps(request, *(_line(content=" " * 600) for _ in range(2)), _line(done=True))
    assert steps[:2] == [[], [Delta({"content": " " * 1200})]]


@pytest.mark.parametrize("native", [True, False])
def test_a_custom_tool_is_called_as_one(native: bool) -> None:
    request = _asking(tools=[RUN], tool_choice="auto" if native else "required")
    if native:
        call = _line(tool_calls=[{"id": "a", "function": {"name": "run", "arguments": {"input": 'ls "x"'}}}])
    else:
        call = _line(content='{"name":"run","arguments":{"input":"ls \\"x\\""}}')
    found = [reading for step in _steps(request, call, _line(done=True)) for reading in step]
    calls = [one for reading in found if isinstance(reading, Delta) for one in reading.delta.get("tool_calls", [])]
    assert calls[0]["type"] == "custom"
    assert calls[0]["custom"]["name"] == "run"
    assert "".join(one["custom"]["input"] for one in calls) == 'ls "x"'
    assert Delta({}, "tool_calls") in found


def test_tokens_of_thinking_are_estimated_from_its_share_of_the_characters() -> None:
    counts = {"prompt_eval_count": 5, "eval_count": 10}
    (*_, ending, _) = _steps(
        _asking(tools=[CITY]),
        _line(thinking="a" * 30),
        _line(content="b" * 20),
        _line(tool_calls=[{"function": {"name": "get_city", "arguments": {"x": 123456}}}]),
        _line(done=True, counts=counts),
    )
    usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
    assert ending[1] == Usage(usage | {"completion_tokens_details": {"reasoning_tokens": 4}})
    (*_, plain, _) = _steps(ASKED, _line(content="b"), _line(done=True, counts=counts))
    assert plain[1] == Usage(usage)


def test_thinking_before_a_format_is_not_among_the_tokens() -> None:
    """It is a call of its own, whose counts are lost."""
    request = _asking(response_format={"type": "json_object"})
    (*_, ending, _) = _steps(
        request, _line(thinking="hm"), _line(content="{}"), _line(done=True, counts={"eval_count": 2})
    )
    assert ending[1] == Usage({"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2})


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_only_loaded_said_nothing(reason: str) -> None:
    (ending, _) = _steps(ASKED, _line(done=True, done_reason=reason))
    assert ending[0] == Delta({}, "stop")
    assert ending[-1] == Finished()


LOGPROB = {"token": "a", "logprob": -1}
OPENAIS = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}


def test_logprobs_stay_with_the_first_piece_of_their_line() -> None:
    line = orjson.dumps({"message": {"thinking": "a", "content": "b"}, "logprobs": [LOGPROB]}) + b"\n"
    bare = orjson.dumps({"message": {"content": ""}, "logprobs": [LOGPROB]}) + b"\n"
    first, second, *_ = _steps(ASKED, line, bare)
    logprobs = {"content": [OPENAIS], "refusal": None}
    assert first == [Delta({"reasoning_content": "a"}, logprobs=logprobs), Delta({"content": "b"})]
    assert second == [Delta({}, logprobs=logprobs)]


@pytest.mark.parametrize(
    "logprobs",
    [
        pytest.param("none", id="a word"),
        pytest.param(
            [None, 5, {}, {"token": 5, "logprob": -1}, {"token": "a", "logprob": "low"}], id="entries of another form"
        ),
        pytest.param([{"token": "a"}], id="a token without its number"),
    ],
)
def test_logprobs_that_cannot_be_read_are_left_out(logprobs: Any) -> None:
    line = orjson.dumps({"message": {"content": "b"}, "logprobs": logprobs}) + b"\n"
    assert _steps(ASKED, line)[0] == [Delta({"content": "b"})]


def test_of_the_others_those_that_can_be_read_stay() -> None:
    given = LOGPROB | {"top_logprobs": [LOGPROB, "b", {"token": "\ufffd", "logprob": -2.5}]}
    (reading,) = _steps(ASKED, orjson.dumps({"message": {"content": "a"}, "logprobs": [given]}) + b"\n")[0]
    assert isinstance(reading, Delta)
    top = [{"token": "a", "logprob": -1.0, "bytes": [97]}, {"token": "\ufffd", "logprob": -2.5, "bytes": None}]
    assert reading.logprobs == {"content": [OPENAIS | {"top_logprobs": top}], "refusal": None}


def test_a_tool_can_answer_with_an_image() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[Json] = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "Here"}, image]},
    ]
    request = _asking(messages=messages)
    result = {"role": "tool", "content": "Here", "images": ["iVBORw0="], "tool_call_id": "a", "tool_name": "look"}
    assert _translated(request)["messages"][-1] == result
    with pytest.raises(Untranslatable, match="does not take images") as caught:
        to_ollama(request, "m", num_ctx=None, keep_alive=None, capabilities=frozenset({"completion", "tools"}))
    assert caught.value.param == "messages[2].content[1]"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "image_url", "image_url": "data:image/png;base64,iVBORw0="}, "'image_url' parts"),
        ({"type": "input_audio", "input_audio": {"data": "UklG"}}, "'input_audio' parts"),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "flac"}},
            "hears 'wav' and 'mp3', not 'flac'",
        ),
        ({"type": "file", "file": {"filename": "a.txt"}}, "needs the file itself"),
        ({"type": "hologram"}, "'hologram' parts"),
    ],
)
def test_a_part_that_cannot_be_read_is_refused(part: Json, says: str) -> None:
    with pytest.raises(Untranslatable, match=says) as caught:
        _translated(_asking(messages=[{"role": "user", "content": [part]}]))
    assert (caught.value.param or "").startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("required", []),
        ({"type": "function", "function": {"name": "other"}}, [CITY]),
        ({"type": "custom", "custom": {"name": "get_city"}}, [CITY]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, [CITY]),
    ],
)
def test_a_choice_among_no_tools_is_the_callers_mistake(choice: Any, tools: list[Json]) -> None:
    with pytest.raises(BadRequest, match="names no tool") as caught:
        _translated(_asking(tools=tools, tool_choice=choice, messages=[{"role": "user", "content": "Hi"}]))
    assert (caught.value.kind, caught.value.param) == (None, "tool_choice")


def test_a_format_that_nobody_knows_is_named() -> None:
    request = _asking(response_format={"type": "grammar"}, messages=[{"role": "user", "content": "Hi"}])
    translated = to_ollama(request, "m", num_ctx=None, keep_alive=None)
    assert b"format" not in translated.body
    assert translated.dropped == ("response_format",)


def test_an_effort_that_is_no_word_is_named() -> None:
    request = _asking(reasoning_effort=3, messages=[{"role": "user", "content": "Hi"}])
    assert to_ollama(request, "m", num_ctx=None, keep_alive=None).dropped == ("reasoning_effort",)


EVERYTHING = ("completion", "tools", "thinking", "vision", "audio")


@pytest.fixture(params=["a template", "the runner"])
def ollama(request: pytest.FixtureRequest) -> Iterator[OllamaStandIn]:
    """A strict Ollama, on either of its chat paths."""
    with OllamaStandIn([ModelCard("qwen2.5:7b", EVERYTHING)], jinja=request.param == "the runner") as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as made:
        yield made


def _answered(client: httpx.Client, ollama: OllamaStandIn, request: ChatRequest) -> list[Reading]:
    translated = to_ollama(request, "qwen2.5:7b", num_ctx=None, keep_alive=None, capabilities=frozenset(EVERYTHING))
    answer = client.post(f"{ollama.url}/api/chat", content=translated.body)
    assert answer.status_code == 200, answer.text
    ids = made_ids()
    reply = ollama_reply(request, lambda: next(ids))
    return [*reply.feed(answer.content), *reply.close()]


def test_whatever_is_translated_ollama_takes(client: httpx.Client, ollama: OllamaStandIn) -> None:
    asked = [case for case in cases("chat_to_ollama") if "request" in case.row and "fault" not in case.row]
    assert len(asked) > 100
    for case in asked:
        request = check_chat(case.common["request"] | case.row["request"])
        request = replace(request, fetched=case.row.get("fetched", {}))
        assert _answered(client, ollama, request)[-1] == Finished(), case.name


@pytest.mark.parametrize("parallel", [True, False])
def test_a_tool_that_must_be_called_is_called_on_either_path(
    client: httpx.Client, ollama: OllamaStandIn, parallel: bool
) -> None:
    number: Json = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": number}} for name in ("one", "two")]
    named = {"type": "function", "function": {"name": "two"}}
    asked = {"model": "m", "messages": [{"role": "user", "content": "Do it twice"}], "tools": tools}
    found = _answered(client, ollama, check_chat(asked | {"tool_choice": named, "parallel_tool_calls": parallel}))
    calls = [one for reading in found if isinstance(reading, Delta) for one in reading.delta.get("tool_calls", [])]
    assert [call["function"]["name"] for call in calls if "id" in call] == ["two"]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"n":7}'
    assert not any("content" in reading.delta for reading in found if isinstance(reading, Delta))
    assert Delta({}, "tool_calls") in found
