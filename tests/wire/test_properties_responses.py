"""Properties of /v1/responses: any conversation in items is the same conversation in messages."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.cases import Case, body, cases, is_read, params
from tests.wire.rows import ROWS, whole
from tests.wire.strategies import PIXEL, TEXTS, histories, texts_of
from wire.errors import BadRequest
from wire.openai import Json
from wire.responses import check_responses
from wire.responses_items import sealed
from wire.surfaces import CHAT

MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _items(message: Json) -> list[Json]:
    """The items that say what a chat message says."""
    match message["role"]:
        case "tool":
            content = message["content"]
            output = content if isinstance(content, str) else [_input_part(part) for part in content]
            return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}]
        case "assistant":
            return [*_thoughts(message), *_answer(message), *map(_call, message.get("tool_calls") or [])]
        case role:
            content = message["content"]
            said = content if isinstance(content, str) else [_input_part(part) for part in content]
            return [{"type": "message", "role": role, "content": said}]


def _input_part(part: Json) -> Json:
    if part["type"] == "image_url":
        return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
    return {"type": "input_text", "text": part["text"]}


def _thoughts(message: Json) -> list[Json]:
    thought = message.get("reasoning_content")
    return [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed(thought)}] if thought else []


def _answer(message: Json) -> list[Json]:
    content = message.get("content")
    given = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    parts = [part if part["type"] == "refusal" else {"type": "output_text", "text": part["text"]} for part in given]
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    return [{"type": "message", "role": "assistant", "content": parts}] if parts else []


def _call(call: Json) -> Json:
    if call["type"] == "custom":
        return {"type": "custom_tool_call", "call_id": call["id"], **call["custom"]}
    return {"type": "function_call", "call_id": call["id"], **call["function"]}


def _said(message: Json) -> tuple[Any, ...]:
    """What a message says, however its parts are put."""
    images = message["content"] if isinstance(message.get("content"), list) else []
    return (
        message["role"],
        "".join(texts_of(message)).replace("\n", ""),  # between parts there is one
        sum(part["type"] == "image_url" for part in images),
        message.get("tool_calls") or [],
        message.get("tool_call_id"),
        message.get("reasoning_content") or "",
    )


@MANY
@given(messages=histories())
def test_a_conversation_in_items_is_the_same_in_messages(messages: list[Json]) -> None:
    asked = {"model": "m", "input": [item for message in messages for item in _items(message)]}
    before = copy.deepcopy(asked)
    request = check_responses(asked)
    assert asked == before
    assert request.origin == before
    assert [*map(_said, request.body["messages"])] == [*map(_said, messages)]
    assert request.prompt_chars >= sum(len(text) for message in messages for text in texts_of(message))
    CHAT.check(request.body)


PARTS = st.one_of(
    st.builds(lambda text: {"type": "input_text", "text": text}, TEXTS),
    st.just({"type": "input_image", "image_url": PIXEL}),
    st.sampled_from(
        [{"type": "output_text", "text": "x"}, {"type": "refusal", "refusal": "no"}, {"type": "input_file"}, {}, 7]
    ),
)
CALL_IDS = st.sampled_from(["a", "b", ""])
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "nobody", None]),
            "content": TEXTS | st.lists(PARTS, max_size=2) | st.none(),
        },
        optional={"type": st.just("message"), "id": TEXTS},
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": CALL_IDS, "name": st.just("f")},
        optional={"arguments": st.sampled_from(["", "{}", "[", "7"]), "namespace": TEXTS},
    ),
    st.fixed_dictionaries(
        {"type": st.just("custom_tool_call"), "call_id": CALL_IDS, "name": st.just("f")}, optional={"input": TEXTS}
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["function_call_output", "custom_tool_call_output"]), "call_id": CALL_IDS},
        optional={"output": TEXTS | st.lists(PARTS, max_size=2)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("reasoning")},
        optional={
            "encrypted_content": TEXTS.map(lambda text: "unigate1." + text),
            "content": st.lists(PARTS, max_size=1),
            "summary": st.just([]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["item_reference", "web_search_call", "", None])},
        optional={"id": st.sampled_from(["x", 7])},
    ),
    st.sampled_from([None, 7, "text", []]),
)


@MANY
@given(items=st.lists(ITEMS, max_size=5))
def test_any_items_are_read_or_refused_where_the_caller_wrote_them(items: list[Any]) -> None:
    asked = {"model": "m", "input": items}
    before = copy.deepcopy(asked)
    try:
        request = check_responses(asked)
    except BadRequest as fault:
        param = fault.param or ""
        message = fault.message
        assert asked == before
        assert param.startswith("input"), f"{param}: {message}"  # what was refused is the subject here
        assert "messages[" not in message
    else:
        assert asked == before
        CHAT.check(request.body)


CHAT_ROW = next(row for row in ROWS if row.name == "chat")
RESPONSES_ROW = next(row for row in ROWS if row.name == "responses in full")
REPLIES = [
    case
    for folder in ("ollama", "ollama_made", "compat", "deepseek")
    for case in cases(folder)
    if is_read(case) and "fault" not in case.row
]


@pytest.mark.parametrize("case", params(REPLIES))
def test_a_response_that_is_sent_back_is_the_message_that_it_was(case: Case) -> None:
    message = whole(CHAT_ROW, case, [body(case)])["choices"][0]["message"]
    output = whole(RESPONSES_ROW, case, [body(case)])["output"]
    results = [
        {"type": item["type"] + "_output", "call_id": item["call_id"], "output": "done"}
        for item in output
        if "call_id" in item
    ]
    turn = [*output, *results, {"role": "user", "content": "And then?"}]
    sent = check_responses({"model": "m", "input": orjson.loads(orjson.dumps(turn))}).body["messages"]
    if len(sent) == 1:
        # Thoughts that led to nothing are no turn.
        assert {item["type"] for item in output} <= {"reasoning"}
        assert not any(message.get(name) for name in ("content", "refusal", "tool_calls"))
    else:
        assert _said(sent[0]) == _said(message)
