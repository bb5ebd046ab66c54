"""Laws that hold for every stream there is a case of: however it was cut, whatever it held.

The schemas of OpenAI's replies stand beside the project and are read there where they are; the strict types of the
`openai` package are asked everywhere.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.wire.cases import (
    ASKED,
    CALL_ID,
    CREATED,
    MODEL,
    Case,
    body,
    cases,
    is_read,
    params,
    readings,
    streamed,
    whole,
)
from wire.answer import StreamedAnswer, WholeAnswer
from wire.compat import CompatReply
from wire.dialects import DIALECTS, Facets
from wire.errors import DONE, Fault, fault_frame
from wire.openai import Finished, Json, Reading
from wire.profiles import PROFILES

STREAMS = [
    case for folder in ("ollama", "ollama_made", "compat", "deepseek") for case in cases(folder) if is_read(case)
]
COMPLETE = [case for case in STREAMS if "fault" not in case.row]
BROKEN = [case for case in STREAMS if "fault" in case.row]

CUTS = 300
"""Positions of a body at which it is cut in two: all of a short one, so many of a long one."""

SCHEMAS = Path(__file__).parents[2].parent / "shared" / "reference"


def _chunks(stream: bytes) -> list[Json]:
    """The chunks of an answer. It is nothing but `data:` events, and [DONE] is its very end."""
    assert stream.endswith(DONE)
    events = stream.removesuffix(DONE).split(b"\n\n")
    assert events.pop() == b""
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


def _read_back(stream: bytes) -> list[Reading]:
    reply = CompatReply(lambda: "never", PROFILES["compat"], "text/event-stream")
    return [*reply.feed(stream), *reply.close()]


@pytest.mark.parametrize("case", params(STREAMS))
def test_a_stream_cut_anywhere_gives_the_same_bytes(case: Case) -> None:
    data = body(case)
    expected = streamed(case, [data])
    step = max(1, len(data) // CUTS)
    for cut in range(0, len(data) + 1, step):
        assert streamed(case, [data[:cut], data[cut:]]) == expected
    assert streamed(case, [data[at : at + 1] for at in range(len(data))]) == expected
    assert streamed(case, [data[at : at + 7] for at in range(0, len(data), 7)]) == expected


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(STREAMS), draw=st.data())
def test_a_stream_in_any_pieces_gives_the_same_bytes(case: Case, draw: st.DataObject) -> None:
    data = body(case)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert b"".join(pieces) == data
    assert streamed(case, pieces) == streamed(case, [data])


@pytest.mark.parametrize("case", params(STREAMS))
def test_a_whole_reply_in_pieces_is_the_same(case: Case) -> None:
    data = body(case)
    once = readings(case, [data])
    often = readings(case, [data[at : at + 1] for at in range(len(data))])
    assert [repr(reading) for reading in often] == [repr(reading) for reading in once]


@pytest.mark.parametrize("case", params(COMPLETE))
def test_the_whole_reply_is_the_fold_of_the_stream(case: Case) -> None:
    direct = whole(readings(case, [body(case)]))
    folded = whole(_read_back(streamed(case, [body(case)])))
    assert folded["choices"] == direct["choices"]
    assert folded.get("usage") == direct.get("usage")


@pytest.mark.parametrize("case", params(BROKEN))
def test_a_broken_stream_ends_in_its_fault_and_never_looks_complete(case: Case) -> None:
    found = readings(case, [body(case)])
    fault = found[-1]
    assert isinstance(fault, Fault)
    stream = streamed(case, [body(case)])
    assert stream.endswith(fault_frame(fault))
    chunks = [chunk["choices"][0] for chunk in _chunks(stream)[:-1]]
    finished = [choice["index"] for choice in chunks if choice["finish_reason"]]
    assert not chunks or set(finished) < {choice["index"] for choice in chunks}
    assert isinstance(_read_back(stream)[-1], Fault)
    with pytest.raises(type(fault)):
        whole(found)


@pytest.mark.parametrize("case", params(STREAMS))
def test_a_reader_says_nothing_after_the_end_or_a_fault(case: Case) -> None:
    chat = DIALECTS[case.common["dialect"]].operations["chat"]
    facets = Facets(profile=case.common.get("profile", "compat"))
    content_type = case.row["upstream"].get("content_type", "text/event-stream")
    data = body(case)
    for size in (len(data) + 1, 1):
        reply = chat.read(lambda: "call_made", content_type, facets, ASKED)
        batches = [reply.feed(data[at : at + size]) for at in range(0, len(data), size)]
        batches.append(reply.close())
        ends = [
            (number, place == len(batch) - 1)
            for number, batch in enumerate(batches)
            for place, reading in enumerate(batch)
            if isinstance(reading, Fault | Finished)
        ]
        assert len(ends) == 1
        number, is_last = ends[0]
        assert is_last
        assert not any(batches[number + 1 :])
        assert reply.feed(data) == reply.close() == [] or number == len(batches) - 1


@pytest.mark.parametrize("include_usage", [False, True], ids=["without usage", "with usage"])
@pytest.mark.parametrize("case", params(COMPLETE))
def test_every_stream_has_the_shape_that_clients_rely_on(case: Case, include_usage: bool) -> None:
    chunks = _chunks(streamed(case, [body(case)], include_usage=include_usage))
    for chunk in chunks:
        head = (chunk["id"], chunk["object"], chunk["created"], chunk["model"])
        assert head == (CALL_ID, "chat.completion.chunk", CREATED, MODEL)
    reported = whole(readings(case, [body(case)])).get("usage")
    if include_usage and reported is not None:
        last = chunks.pop()
        assert (last["choices"], last["usage"]) == ([], reported)
    for chunk in chunks:
        assert "usage" in chunk if include_usage else "usage" not in chunk
        assert chunk.get("usage") is None
    by_choice: dict[int, list[Json]] = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        by_choice.setdefault(choice["index"], []).append(choice)
    assert sorted(by_choice) == list(range(len(by_choice)))
    for choices in by_choice.values():
        _check_choice(choices)


def _check_choice(choices: list[Json]) -> None:
    first, *middle, last = choices
    # Beside a tool call there is no text, not an empty one: the SDKs' helpers tell the two apart.
    begins_with_call = bool(middle) and "tool_calls" in middle[0]["delta"]
    assert first["delta"] == {"role": "assistant", "content": None if begins_with_call else "", "refusal": None}
    assert first["finish_reason"] is None
    assert not any("role" in choice["delta"] for choice in middle)
    assert not any(choice["finish_reason"] for choice in middle)
    assert all(choice["delta"] or choice["logprobs"] for choice in middle)
    assert last["delta"] == {}
    assert last["finish_reason"] in {"stop", "length", "tool_calls", "content_filter", "function_call"}
    known = 0
    for choice in middle:
        for fragment in choice["delta"].get("tool_calls", ()):
            is_new = fragment["index"] == known
            assert is_new or 0 <= fragment["index"] < known
            known += is_new
            assert ("id" in fragment) == ("type" in fragment) == is_new
            assert isinstance(fragment.get("function", {}).get("arguments", ""), str)


@pytest.mark.parametrize("case", params(COMPLETE))
def test_every_answer_fits_the_strict_types_of_the_sdk(case: Case) -> None:
    for chunk in _chunks(streamed(case, [body(case)])):
        ChatCompletionChunk.model_validate_json(orjson.dumps(chunk), strict=True)
    reply = whole(readings(case, [body(case)]))
    ChatCompletion.model_validate_json(orjson.dumps(reply), strict=True)


def _validators(path: Path) -> tuple[Draft202012Validator, Draft202012Validator]:
    """For chunks and for whole replies."""
    bundle = json.loads(path.read_text(encoding="utf-8"))
    chunks, replies = "CreateChatCompletionStreamResponse", "CreateChatCompletionResponse"
    return (
        Draft202012Validator({**bundle, "$ref": f"#/$defs/{chunks}"}),
        Draft202012Validator({**bundle, "$ref": f"#/$defs/{replies}"}),
    )


VALIDATORS = {path.stem: _validators(path) for path in sorted(SCHEMAS.glob("openai_schemas*.json"))}
"""The published schemas, strict and relaxed, where they are: no file, no test, and nothing that is skipped."""

if VALIDATORS:

    @pytest.mark.parametrize("schema", list(VALIDATORS))
    @pytest.mark.parametrize("case", params(COMPLETE))
    def test_every_answer_fits_the_published_schema(schema: str, case: Case) -> None:
        chunks, replies = VALIDATORS[schema]
        for chunk in _chunks(streamed(case, [body(case)])):
            if chunk["usage"] is None:
                del chunk["usage"]  # the live service sends the null that the strict schema does not know
            chunks.validate(chunk)
        replies.validate(whole(readings(case, [body(case)])))


def test_an_answer_that_was_never_begun_is_still_a_whole_one() -> None:
    answer = StreamedAnswer(call_id=CALL_ID, created=CREATED, model=MODEL, include_usage=True)
    chunks = _chunks(answer.write([Finished()]))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert answer.finish_reason == "stop"
    assert answer.write([Finished()]) == b""
    whole_answer = WholeAnswer(call_id=CALL_ID, created=CREATED, model=MODEL)
    assert whole_answer.write([]) == b""
    reply = orjson.loads(whole_answer.write([Finished()]))
    assert reply["choices"][0]["message"]["content"] == ""
    assert whole_answer.finish_reason == "stop"
    assert whole_answer.write([Finished()]) == b""


KEYS = st.sampled_from(
    [
        "message",
        "content",
        "thinking",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "index",
        "done",
        "error",
        "choices",
        "delta",
        "finish_reason",
        "usage",
        "logprobs",
        "reasoning",
        "reasoning_content",
        "refusal",
        "type",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "done_reason",
        "object",
        "code",
        "top_logprobs",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a", "stop", "{}"])
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g"])}, optional={"arguments": ANYTHING})},
        optional={"id": st.sampled_from(["", "a", "b"]) | SCALARS, "index": SCALARS, "type": st.just("function")},
    )
    | ANYTHING,
    max_size=3,
)
NATIVE = st.fixed_dictionaries(
    {},
    optional={
        "message": st.fixed_dictionaries({}, optional={"content": ANYTHING, "thinking": ANYTHING, "tool_calls": CALLS})
        | ANYTHING,
        "done": st.booleans(),
        "done_reason": ANYTHING,
        "eval_count": ANYTHING,
    },
)
CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": st.integers(0, 1) | SCALARS,
                    "delta": st.fixed_dictionaries(
                        {},
                        optional={"content": SCALARS, "reasoning": ANYTHING, "refusal": SCALARS, "tool_calls": CALLS},
                    )
                    | ANYTHING,
                    "finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", ""]) | ANYTHING,
                },
            )
            | ANYTHING,
            max_size=2,
        )
        | ANYTHING,
        "usage": ANYTHING,
    },
)


def _answered(dialect: str, lines: list[bytes]) -> None:
    """Reads the lines and writes both answers, which fit the SDK's strict types."""
    facets = Facets(profile="deepseek" if dialect == "openai" else "compat")
    reply = DIALECTS[dialect].operations["chat"].read(lambda: "call_made", "text/event-stream", facets, ASKED)
    found = [reading for line in lines for reading in reply.feed(line)] + reply.close()
    answer = StreamedAnswer(call_id=CALL_ID, created=CREATED, model=MODEL, include_usage=True)
    chunks = _chunks(answer.write(found))
    if isinstance(found[-1], Fault):
        assert "error" in chunks.pop()
    else:
        ChatCompletion.model_validate_json(orjson.dumps(whole(found)), strict=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(orjson.dumps(chunk), strict=True)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(NATIVE | ANYTHING, max_size=4))
def test_whatever_an_ollama_sends_the_caller_gets_an_answer_or_a_fault(lines: list[Any]) -> None:
    _answered("ollama", [orjson.dumps(line) + b"\n" for line in lines])


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(CHUNK | ANYTHING, max_size=4))
def test_whatever_a_compatible_server_sends_the_caller_gets_an_answer_or_a_fault(lines: list[Any]) -> None:
    _answered("openai", [b"data: " + orjson.dumps(line) + b"\n\n" for line in lines] + [b"data: [DONE]\n\n"])
