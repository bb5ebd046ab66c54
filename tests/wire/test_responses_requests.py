"""A request to /v1/responses as the chat request that it comes to, and its faults in the caller's own words."""

from __future__ import annotations

import copy
from contextlib import suppress
from time import process_time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.cases import Case, cases, params
from wire.answer import Opening
from wire.check_chat import check_chat
from wire.errors import BadRequest, ContextTooLong, Fault, Untranslatable, restated
from wire.ollama import to_ollama
from wire.openai import FINISHED, Json
from wire.responses import ResponsesRequest, callers_param, check_responses
from wire.responses_answer import ResponsesWhole
from wire.responses_items import sealed, unsealed
from wire.responses_kept import spelled_out

ALL = cases("responses_requests")
REFUSED = [case for case in ALL if case.file == "refused"]
TAKEN = [case for case in ALL if case.file != "refused"]
KEPT = {"msg_kept": {"id": "msg_kept", "type": "message", "role": "assistant", "content": "Kept"}}


def _body(case: Case) -> Json:
    body: Json = case.common["request"] | case.row.get("request", {})
    return body


def _checked(case: Case) -> ResponsesRequest:
    return check_responses(_body(case), case.row.get("history", ()), KEPT.get)


@pytest.mark.parametrize("case", params(TAKEN))
def test_a_request_is_put_in_chats_words(case: Case) -> None:
    request = _checked(case)
    messages = case.row.get("messages", [{"role": "user", "content": "Hi"}])
    assert request.body == {"model": "chat", "messages": messages} | case.row.get("body", {})
    assert request.origin == _body(case)
    assert request.include_usage
    assert request.operation == "chat"
    assert request.lost == tuple(case.row.get("lost", ()))
    assert check_chat(request.body).prompt_chars == request.prompt_chars


@pytest.mark.parametrize("case", params(REFUSED))
def test_a_bad_request_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        _checked(case)
    fault = caught.value
    assert type(fault).__name__ == case.row["class"]
    assert fault.kind is None
    assert (fault.status, fault.type) == (400, "invalid_request_error")
    assert (fault.code, fault.param) == (case.row.get("code"), case.row.get("param"))
    assert case.row["says"] in fault.message


@pytest.mark.parametrize("case", params(ALL))
def test_nothing_that_the_caller_sent_is_touched(case: Case) -> None:
    body, history = copy.deepcopy((_body(case), case.row.get("history", [])))
    with suppress(BadRequest):  # what is refused must be left alone too
        check_responses(body, history, KEPT.get)
    assert (body, history) == (_body(case), case.row.get("history", []))


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "a", "auto", "user", "assistant", "msg_kept"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "id", "name", "text"]), inner),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "item_reference", "mcp_call"]
)
PARTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio", "x"]
        )
    },
    optional={name: ODD | st.just("a") for name in ("text", "refusal", "image_url", "file_data", "file_id", "detail")},
)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": KINDS | ODD,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | ODD,
        "content": st.text(max_size=3) | st.lists(PARTS | ODD, max_size=3) | ODD,
        "call_id": st.sampled_from(["a", "b"]) | ODD,
        "name": st.just("f") | ODD,
        "namespace": ODD,
        "arguments": st.just("{}") | ODD,
        "input": st.just("x") | ODD,
        "output": st.just("x") | st.lists(PARTS, max_size=2) | ODD,
        "encrypted_content": ODD,
        "id": ODD,
    },
)
WORDS = ["function", "custom", "namespace", "allowed_tools", "json_schema", "grammar", "f", "low", "auto", "disabled"]
KEYS = ["type", "name", "tools", "parameters", "format", "mode", "effort", "schema", "verbosity", "strict", "syntax"]
FIELD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ("tools", "tool_choice", "text", "reasoning", "include", "metadata", "truncation", "instructions", "store")
BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "input": st.lists(ITEMS | ODD, max_size=4) | st.just("Hi")},
    optional=dict.fromkeys(FIELDS, FIELD),
)


@settings(max_examples=200, deadline=None)
@given(body=BODIES)
def test_whatever_a_caller_sends_is_taken_or_refused_in_the_callers_words(body: Json) -> None:
    before = copy.deepcopy(body)
    refused: BadRequest | None = None
    try:
        request = check_responses(body, (), lambda name: KEPT.get(name))
    except BadRequest as fault:
        refused = fault
    if refused is None:
        assert [item["id"] for item in spelled_out(request.items, "call")]
        answer = ResponsesWhole(Opening("call", 1, "m", request))
        assert orjson.loads(answer.write([FINISHED]))["status"] == "completed"
    else:
        assert refused.param is not None
        assert refused.param.partition("[")[0].partition(".")[0] in body
        assert "'messages" not in refused.message
    assert body == before


TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("said"), st.sampled_from(["user", "assistant"]), st.text("abc", min_size=1, max_size=5)),
        st.tuples(st.just("thought"), st.just(""), st.text("xyz", min_size=1, max_size=5)),
        st.tuples(st.just("called"), st.sampled_from(["function", "custom"]), st.integers(1, 3).map(str)),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(turns=TURNS)
def test_of_a_conversation_no_text_and_no_call_is_lost_and_every_call_is_followed_by_its_result(turns: Any) -> None:
    items: list[Json] = [{"role": "user", "content": "Hi"}]
    calls: list[str] = []
    for kind, how, what in turns:
        if kind == "said":
            items.append({"role": how, "content": what})
        elif kind == "thought":
            items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": what}]})
        else:
            ids = [f"c{len(calls) + number}" for number in range(int(what))]
            key, word = ("arguments", "function_call") if how == "function" else ("input", "custom_tool_call")
            items += [{"type": word, "call_id": name, "name": "f", key: "{}"} for name in ids]
            items += [{"type": f"{word}_output", "call_id": name, "output": name} for name in ids]
            calls += ids
    messages = check_responses({"model": "m", "input": items}).body["messages"]
    said = "".join(message["content"] or "" for message in messages if message["role"] != "tool")
    assert said == "Hi" + "".join(what for kind, _, what in turns if kind == "said")
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == calls
    for number, message in enumerate(messages):
        made = [call["id"] for call in message.get("tool_calls", ())]
        assert [after["tool_call_id"] for after in messages[number + 1 : number + 1 + len(made)]] == made


def test_long_turns_and_long_lists_of_tools_are_read_in_linear_time() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm" * 9}],
    }
    call = {"type": "function_call", "call_id": "a", "name": "f0", "arguments": "{}"}
    turn = [call, *[{"role": "assistant", "content": "A"}, thought] * 20_000]
    tools = [{"type": "function", "name": f"f{number}"} for number in range(5_000)]
    body: Json = {
        "model": "m",
        "input": [*turn, {"type": "function_call_output", "call_id": "a", "output": "x"}],
        "tools": tools,
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": tools},
    }
    before = process_time()
    request = check_responses(body)
    assert process_time() - before < 2
    said, _ = request.body["messages"]
    assert len(said["content"]) == 20_000
    assert said["reasoning_content"].count("\n") == 19_998  # what came after the last text led to nothing


def test_what_the_request_holds_is_known() -> None:
    tool = {"type": "function", "name": "f"}
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]}
    request = check_responses(
        {
            "model": "m",
            "stream": True,
            "input": [image],
            "instructions": "four",
            "tools": [tool],
            "text": {"format": {"type": "json_object"}},
        }
    )
    assert (request.model, request.stream, request.prompt_chars) == ("m", True, 4)
    assert request.has_tools
    assert request.has_images
    assert request.wants_json
    assert request.items == (image,)
    assert request.choices == 1


def test_the_items_of_a_request_are_its_own_with_references_resolved() -> None:
    request = check_responses(
        {"model": "m", "input": [{"id": "msg_kept"}, {"role": "user", "content": "Hi"}]},
        [{"type": "message", "role": "user", "content": "Before"}],
        KEPT.get,
    )
    assert request.items == (KEPT["msg_kept"], {"role": "user", "content": "Hi"})
    assert check_responses({"model": "m", "input": "Hi"}).items == ({"role": "user", "content": "Hi"},)


@pytest.mark.parametrize("name", ["tools", "reasoning", "text", "tool_choice"])
def test_what_is_said_back_must_not_nest_deeper_than_can_be_written(name: str) -> None:
    deep = orjson.loads("[" * 300 + "]" * 300)
    given: dict[str, Any] = {
        "tools": [{"type": "function", "name": "f", "extra": deep}],
        "reasoning": {"extra": deep},
        "text": {"extra": deep},
        "tool_choice": {"type": "function", "name": "f", "extra": deep},
    }
    with pytest.raises(BadRequest, match="nested too deeply"):
        check_responses({"model": "m", "input": "Hi", name: given[name]})


REQUEST = check_responses(
    {
        "model": "m",
        "instructions": "Be kind",
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_file", "file_data": "A"}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "assistant", "content": "Wait"},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "b", "name": "g", "input": "x"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
            {
                "type": "custom_tool_call_output",
                "call_id": "b",
                "output": [
                    {"type": "input_text", "text": "x"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA"},
                ],
            },
        ],
        "tools": [
            {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]},
            {"type": "custom", "name": "g"},
        ],
    },
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("messages", "input"),
        ("messages[0]", "instructions"),
        ("messages[1]", "input[0]"),
        ("messages[1].content", "input[0].content"),
        ("messages[1].content[1].file.file_data", "input[0].content[1].file_data"),
        ("messages[1].content[1].file", "input[0].content[1]"),
        ("messages[1].content[0].image_url.url", "input[0].content[0].image_url"),
        ("messages[2].content", "input[2].content"),
        ("messages[2].tool_calls[0].function.arguments", "input[3].arguments"),
        ("messages[2].tool_calls[1]", "input[4]"),
        ("messages[2].tool_calls[1].custom.input", "input[4].input"),
        ("messages[3].tool_call_id", "input[5].call_id"),
        ("messages[3].content", "input[5].output"),
        ("messages[4].content[0]", "input[6].output[0]"),
        ("messages[5].content[0].image_url.url", "input[6].output[1].image_url"),
        ("messages.name", "input.name"),
        ("tools", "tools"),
        ("tools[0].function.parameters", "tools[0].tools[0].parameters"),
        ("tools[1].type", "tools[1].type"),
        ("tools.function.strict", "tools.function.strict"),
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("verbosity", "text.verbosity"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("temperature", "temperature"),
        ("[]", "[]"),
    ],
)
def test_a_place_in_the_chat_request_is_one_in_the_callers(ours: str, theirs: str) -> None:
    assert callers_param(REQUEST, ours) == theirs


def test_other_requests_are_their_callers_own() -> None:
    request = check_chat({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    assert callers_param(request, "messages[0].content") == "messages[0].content"


def test_a_fault_of_a_dialects_is_told_about_the_callers_own_request() -> None:
    with pytest.raises(BadRequest) as caught:
        to_ollama(REQUEST, "m", num_ctx=None, keep_alive=None)
    told = restated(caught.value, lambda param: callers_param(REQUEST, param))
    assert type(told) is type(caught.value)
    assert told.param is not None
    assert told.param.startswith("input[0].content[1]")
    assert told.param in told.message
    assert "messages" not in told.message
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages[1].content[1]")


@pytest.mark.parametrize("fault", [Untranslatable("Not 'n'.", retry_after=2.0), ContextTooLong("Too long.", kind="x")])
def test_a_fault_in_other_words_is_the_same_but_for_them(fault: Fault) -> None:
    told = restated(fault, str.upper)
    assert vars(told) == vars(fault) | {"message": fault.message.replace("'n'", "'N'")}
    assert type(told) is type(fault)


def test_sealed_reasoning_is_read_by_us_alone() -> None:
    assert unsealed(sealed("Hm…")) == "Hm…"
    assert sealed("Hm…") != "Hm…"
    assert unsealed(None) == unsealed("gAAAAA") == ""
