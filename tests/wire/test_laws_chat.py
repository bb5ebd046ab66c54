"""Laws of chat streams alone: the shape that the SDKs' helpers rely on."""

from __future__ import annotations

import orjson
import pytest

from tests.wire.cases import (
    CALL_ID,
    CREATED,
    MODEL,
    Case,
    asked,
    body,
    cases,
    is_read,
    params,
    readings,
    streamed,
    whole,
)
from tests.wire.rows import data_events
from wire.answer import StreamedAnswer, WholeAnswer
from wire.dialects import DIALECTS, Facets
from wire.errors import Fault
from wire.openai import Finished, Json

STREAMS = [
    case for folder in ("ollama", "ollama_made", "compat", "deepseek") for case in cases(folder) if is_read(case)
]
COMPLETE = [case for case in STREAMS if "fault" not in case.row]


@pytest.mark.parametrize("case", params(STREAMS))
def test_a_reader_says_nothing_after_the_end_or_a_fault(case: Case) -> None:
    chat = DIALECTS[case.common["dialect"]].operations["chat"]
    facets = Facets(profile=case.common.get("profile", "compat"))
    content_type = case.row["upstream"].get("content_type", "text/event-stream")
    data = body(case)
    for size in (len(data) + 1, 1):
        reply = chat.read(lambda: "call_made", content_type, facets, asked(case))
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
    chunks = data_events(streamed(case, [body(case)], include_usage=include_usage))
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


def test_an_answer_that_was_never_begun_is_still_a_whole_one() -> None:
    answer = StreamedAnswer(call_id=CALL_ID, created=CREATED, model=MODEL, include_usage=True)
    chunks = data_events(answer.write([Finished()]))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert answer.finish_reason == "stop"
    assert answer.write([Finished()]) == b""
    whole_answer = WholeAnswer(call_id=CALL_ID, created=CREATED, model=MODEL)
    assert whole_answer.write([]) == b""
    reply = orjson.loads(whole_answer.write([Finished()]))
    assert reply["choices"][0]["message"]["content"] == ""
    assert whole_answer.finish_reason == "stop"
    assert whole_answer.write([Finished()]) == b""
