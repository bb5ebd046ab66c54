"""Whatever a server sends, the caller gets an answer of the right shape, or a fault: at every endpoint, whatever it asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.rows import ROWS, Row, data_events, misfits, opening
from wire.dialects import DIALECTS, Facets
from wire.errors import Fault
from wire.openai import Delta, Finished, Json, ModelRequest

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
        "code",
        "top_logprobs",
        "response",
        "text",
        "embedding",
        "embeddings",
        "data",
        "tokens",
        "token_logprobs",
        "object",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["", "a", "stop", "{}"])
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
PIECES = st.sampled_from(
    ['{"name":', ' "f"', ', "arguments": {', '"input":', '"a', '\\n"', "}", "}}", " ", "[1]", "Hi"]
)
"""Of texts that may be calls."""
TOKENS = st.none() | st.lists(
    st.fixed_dictionaries(
        {"token": st.sampled_from(["a", "é"]) | SCALARS, "logprob": st.floats(-9, 0) | SCALARS},
        optional={"bytes": ANYTHING, "top_logprobs": ANYTHING},
    )
    | ANYTHING,
    max_size=2,
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
        "message": st.fixed_dictionaries(
            {}, optional={"content": PIECES | ANYTHING, "thinking": PIECES | ANYTHING, "tool_calls": CALLS}
        )
        | ANYTHING,
        "done": st.booleans(),
        "done_reason": ANYTHING,
        "eval_count": ANYTHING,
        "logprobs": TOKENS | ANYTHING,
        "response": PIECES | ANYTHING,
        "embeddings": st.lists(st.lists(st.floats(-1, 1) | SCALARS, max_size=2) | ANYTHING, max_size=3) | ANYTHING,
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
                        optional={
                            "content": PIECES | SCALARS,
                            "reasoning": ANYTHING,
                            "refusal": SCALARS,
                            "tool_calls": CALLS,
                        },
                    )
                    | ANYTHING,
                    "text": PIECES | SCALARS,
                    "logprobs": st.fixed_dictionaries(
                        {}, optional={"content": TOKENS, "tokens": ANYTHING, "token_logprobs": ANYTHING}
                    )
                    | ANYTHING,
                    "finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", ""]) | ANYTHING,
                },
            )
            | ANYTHING,
            max_size=2,
        )
        | ANYTHING,
        "usage": st.fixed_dictionaries(
            {},
            optional={
                "prompt_tokens": ANYTHING,
                "completion_tokens": ANYTHING,
                "prompt_tokens_details": ANYTHING,
                "completion_tokens_details": ANYTHING,
            },
        )
        | ANYTHING,
        "data": st.lists(
            st.fixed_dictionaries(
                {}, optional={"index": SCALARS, "embedding": st.lists(st.floats(-1, 1), max_size=2) | ANYTHING}
            )
            | ANYTHING,
            max_size=3,
        )
        | ANYTHING,
        "system_fingerprint": ANYTHING,
        "service_tier": ANYTHING,
    },
)


FUNCTIONS: list[Json] = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
LIKE_A_CALL: Json = {
    "type": "json_schema",
    "json_schema": {"name": "step", "schema": {"properties": {"name": {}, "arguments": {}, "why": {}}}},
}
CUSTOM: list[Json] = [{"type": "custom", "custom": {"name": "f"}}]
ASKED: dict[str, tuple[str, Json]] = {
    "chat": ("chat", {}),
    "chat with logprobs": ("chat", {"logprobs": True, "top_logprobs": 2}),
    "a forced call": ("chat", {"tools": FUNCTIONS, "tool_choice": "required"}),
    "a call or an answer": ("chat", {"tools": FUNCTIONS, "response_format": {"type": "json_object"}}),
    "a call or an answer like one": ("chat", {"tools": FUNCTIONS, "response_format": LIKE_A_CALL}),
    "a forced call of a custom tool": ("chat", {"tools": CUSTOM, "tool_choice": "required"}),
    "a custom tool": ("chat", {"tools": CUSTOM}),
    "one call at a time": ("chat", {"tools": FUNCTIONS, "parallel_tool_calls": False}),
    "functions": ("chat with functions", {"functions": [{"name": "f"}]}),
    "a response": ("responses", {}),
    "a response with a custom tool": ("responses", {"tools": [{"type": "custom", "name": "f"}]}),
    "a response with all": (
        "responses in full",
        {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]},
    ),
    "a completion": ("completions", {"prompt": "Once"}),
    "a completion with logprobs": ("completions", {"prompt": "Once", "logprobs": 1, "echo": True}),
    "embeddings": ("embeddings", {"input": ["a", "b"]}),
    "embeddings in base64": ("embeddings in base64", {"input": "a", "encoding_format": "base64"}),
}
"""(row, what its body says besides)"""
BODIES: dict[str, Json] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"input": "Hi"},
    "completions": {},
    "embeddings": {},
}


def _row_and_requests(name: str) -> tuple[Row, dict[bool, ModelRequest]]:
    """The row, and the request for a stream (if it has one) and for a whole reply."""
    row_name, more = ASKED[name]
    row = next(row for row in ROWS if row.name == row_name)
    body = {"model": "m", **BODIES[row.surface.name], **more}
    kinds = (True, False) if row.event_type is not None else (False,)
    counted = {"stream_options": {"include_usage": True}} if row.parsed is data_events else {}
    return row, {stream: row.surface.check(body | ({"stream": True} | counted if stream else {})) for stream in kinds}


def _wrongs(name: str, dialect: str, lines: list[bytes]) -> list[str]:
    """Reads the lines and writes both answers; what is wrong with them, and how it looks."""
    row, requests = _row_and_requests(name)
    return [wrong for stream, request in requests.items() for wrong in _wrong(row, request, stream, dialect, lines)]


def _wrong(row: Row, request: ModelRequest, stream: bool, dialect: str, lines: list[bytes]) -> Iterator[str]:
    facets = Facets(profile="deepseek" if dialect == "openai" and row.surface.name == "chat" else "compat")
    made = (f"call_{number}" for number in count(1))  # each is another one, as those of a gateway are
    operation = DIALECTS[dialect].operations[request.operation]
    reply = operation.read(lambda: next(made), "text/event-stream", facets, request)
    found = [reading for line in lines for reading in reply.feed(line)] + reply.close()
    ends = [reading for reading in found if isinstance(reading, Fault | Finished)]
    if len(ends) != 1 or ends != found[-1:]:
        yield f"there is not one end, and nothing after it: {found}"
        return
    fault = ends[0] if isinstance(ends[0], Fault) else None
    whole = orjson.loads(row.surface.whole(opening(request)).write(found)) if fault is None else {}
    if not stream:
        if fault is None:
            yield from misfits(row.reply_type, row.published(whole))
        return
    events = row.parsed(row.surface.streamed(opening(request)).write(found))
    if fault is not None and not row.says(events[-1], fault):
        yield f"a stream that failed does not say so at its end: {events}"
    assert row.event_type is not None
    for event in events:
        if "error" not in event:
            yield from misfits(row.event_type, row.strictly(row.published(event)))
    # Nobody asked for a second choice, and what a server says of itself may come late.
    if fault is None and not any(isinstance(reading, Delta) and reading.choice for reading in found):
        unfolded = row.unfolded(events)
        if _answer(unfolded) != _answer(whole):
            yield f"the stream comes to {unfolded}, and the whole reply is {whole}"


def _answer(reply: Json) -> Json:
    return {name: value for name, value in reply.items() if name not in ("system_fingerprint", "service_tier")}


FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", ASKED)
@FUZZ
@given(lines=st.lists(NATIVE | ANYTHING, max_size=4))
def test_whatever_an_ollama_sends_the_caller_gets_an_answer_or_a_fault(name: str, lines: list[Any]) -> None:
    assert _wrongs(name, "ollama", [orjson.dumps(line) + b"\n" for line in lines]) == []


@pytest.mark.parametrize("name", ASKED)
@FUZZ
@given(lines=st.lists(CHUNK | ANYTHING, max_size=4))
def test_whatever_a_compatible_server_sends_the_caller_gets_an_answer_or_a_fault(name: str, lines: list[Any]) -> None:
    data = [b"data: " + orjson.dumps(line) + b"\n\n" for line in lines] + [b"data: [DONE]\n\n"]
    if name.startswith("embeddings"):
        data = [orjson.dumps(line) for line in lines[:1]]
    assert _wrongs(name, "openai", data) == []
