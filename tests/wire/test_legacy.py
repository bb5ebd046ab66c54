"""Programs of 2023 say `functions` and `function_call`: asked with tools, answered in their own words."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from wire.answer import Opening, StreamedAnswer, WholeAnswer
from wire.check_chat import check_chat
from wire.compat_reply import CompatReply
from wire.errors import DONE, Cut
from wire.fold import Fold
from wire.legacy import answers_functions, old_param
from wire.openai import FINISHED, ChatRequest, Delta, Json, Reading
from wire.profiles import PROFILES
from wire.surfaces import CHAT

HI: Json = {"role": "user", "content": "Hi"}
NOW: Json = {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}
BODY: Json = {"model": "chat", "messages": [HI], "functions": [NOW]}


def test_functions_become_tools_and_the_callers_body_is_kept() -> None:
    before = copy.deepcopy(BODY)
    request = check_chat(BODY)
    assert before == BODY
    assert request.origin is BODY
    assert request.body == {
        "model": "chat",
        "messages": [HI],
        "tools": [{"type": "function", "function": NOW}],
        "parallel_tool_calls": False,
    }
    assert request.has_tools
    assert answers_functions(request)


@pytest.mark.parametrize(
    ("choice", "new"),
    [("none", "none"), ("auto", "auto"), ({"name": "now"}, {"type": "function", "function": {"name": "now"}})],
)
def test_a_choice_is_the_same_choice(choice: Any, new: Any) -> None:
    assert check_chat(BODY | {"function_call": choice}).body["tool_choice"] == new


def test_calls_and_results_of_the_history_find_each_other() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}}
    result = {"role": "function", "name": "now", "content": "noon"}
    nothing = {"role": "function", "name": "now", "content": None}
    request = check_chat({"model": "chat", "messages": [HI, call, result, call, nothing]})
    function = {"name": "now", "arguments": "{}"}
    assert request.body["messages"] == [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_3", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_3", "content": ""},
    ]  # fmt: skip
    assert not answers_functions(request)


def test_a_call_that_is_said_in_both_ways_keeps_the_one_with_its_id() -> None:
    function = {"name": "now", "arguments": "{}"}
    calls = [{"id": "call__0_now", "type": "function", "function": function}]
    turn = {"role": "assistant", "content": "", "tool_calls": calls, "function_call": function}
    result = {"role": "tool", "tool_call_id": "call__0_now", "content": "noon"}
    request = check_chat({"model": "chat", "messages": [HI, turn, result]})
    assert request.body["messages"] == [HI, {"role": "assistant", "content": "", "tool_calls": calls}, result]
    assert "function_call" in turn
    only_old = check_chat({"model": "chat", "messages": [HI, turn | {"tool_calls": []}]})
    assert only_old.body["messages"][1]["tool_calls"][0]["id"] == "call_1"


def test_what_is_null_is_not_said() -> None:
    message = {"role": "assistant", "content": "Hi", "function_call": None, "tool_calls": None}
    body = {"model": "chat", "messages": [HI, message], "functions": None, "function_call": None}
    assert check_chat(body).origin is None
    assert check_chat(body | {"functions": [NOW]}).body["messages"][1] is message


def test_a_fault_names_what_the_caller_wrote() -> None:
    request = check_chat(BODY)
    for new, old in {
        "tools": "functions",
        "tools[2]": "functions[2]",
        "tools[2].function.parameters": "functions[2].parameters",
        "tool_choice": "function_call",
        "messages[3].tool_calls[0].function.arguments": "messages[3].function_call.arguments",
        "messages[4].tool_call_id": "messages[4].name",
        "messages[4].content": "messages[4].content",
        "model": "model",
    }.items():
        assert CHAT.param(request, new) == old
    assert old_param(ChatRequest(body={}, model="m"), "tools[0]") == "tools[0]"


# -- the answer


@pytest.mark.parametrize("both", [False, True])
def test_a_function_call_of_the_servers_is_read_by_whoever_asked_with_functions(both: bool) -> None:
    said: Json = {"function_call": CALL}
    if both:
        said["tool_calls"] = [{"index": 0, "id": "a", "type": "function", "function": CALL}]
    chunk = {"choices": [{"index": 0, "delta": said, "finish_reason": "function_call"}]}
    reply = CompatReply(lambda: "call_made", PROFILES["compat"], "text/event-stream")
    readings = reply.feed(b"data: " + orjson.dumps(chunk) + b"\n\n" + DONE)
    choice = orjson.loads(CHAT.whole(_opening(stream=False)).write(readings))["choices"][0]
    assert (choice["message"]["function_call"], choice["finish_reason"]) == (CALL, "function_call")
    assert "tool_calls" not in choice["message"]
    tools = {"model": "chat", "messages": [HI], "tools": [{"type": "function", "function": NOW}]}
    choice = orjson.loads(CHAT.whole(_opening(stream=False, body=tools)).write(readings))["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call == {"id": "a" if both else "call_made", "type": "function", "function": CALL}
    assert choice["finish_reason"] == "tool_calls"
    assert "function_call" not in choice["message"]


def _opening(*, stream: bool, body: Json = BODY) -> Opening:
    return Opening("1", 1, "chat", check_chat(body | {"stream": stream}))


def _fragment(index: int, arguments: str, **head: Any) -> Json:
    name = {"name": head.pop("name")} if "name" in head else {}
    return {"index": index, **head, "function": {**name, "arguments": arguments}}


READINGS: list[Reading] = [
    Delta({"content": "Wait."}),
    Delta({"tool_calls": [_fragment(0, "", id="a", type="function", name="now")]}),
    Delta({"tool_calls": [_fragment(0, '{"a"'), _fragment(0, ":1")]}),
    Delta({"tool_calls": [_fragment(1, "{}", id="b", type="function", name="later")]}),
    Delta({"tool_calls": [_fragment(0, "}"), {"index": 0}]}),
    Delta({}, "tool_calls"),
    FINISHED,
]
CALL = {"name": "now", "arguments": '{"a":1}'}


def test_a_streamed_call_is_a_function_call_in_pieces() -> None:
    answer = CHAT.streamed(_opening(stream=True))
    stream = b"".join(answer.write([reading]) for reading in READINGS)
    chunks = [orjson.loads(event[6:]) for event in stream.removesuffix(DONE).split(b"\n\n") if event]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Wait."},
        {"function_call": {"name": "now", "arguments": ""}},
        {"function_call": {"arguments": '{"a":1'}},
        {"function_call": {"arguments": "}"}},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 5 + ["function_call"]
    assert answer.said.calls
    fold = Fold()
    for choice in choices[1:]:
        fold.add(Delta(choice["delta"], choice["finish_reason"]))
    message = fold.reply(call_id="c", created=1, model="m", usage=None)["choices"][0]["message"]
    assert message["function_call"] == CALL


def test_a_whole_call_is_a_function_call() -> None:
    reply = orjson.loads(CHAT.whole(_opening(stream=False)).write(READINGS))
    ChatCompletion.model_validate(reply, strict=True)
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == CALL
    assert choice["message"]["content"] == "Wait."
    assert "tool_calls" not in choice["message"]


def test_beside_a_call_there_is_no_text() -> None:
    only_call = READINGS[1:]
    message = orjson.loads(CHAT.whole(_opening(stream=False)).write(only_call))["choices"][0]["message"]
    assert (message["content"], message["function_call"]) == (None, CALL)
    first = CHAT.streamed(_opening(stream=True)).write(only_call).split(b"\n\n")[0]
    assert orjson.loads(first[6:])["choices"][0]["delta"] == {"role": "assistant", "content": None, "refusal": None}


def test_a_text_and_a_fault_are_as_ever() -> None:
    answer = CHAT.whole(_opening(stream=False))
    message = orjson.loads(answer.write([Delta({"content": "noon"}, "stop"), FINISHED]))["choices"][0]
    assert (message["message"]["content"], message["finish_reason"]) == ("noon", "stop")
    with pytest.raises(Cut):
        CHAT.whole(_opening(stream=False)).write([Cut("broke off")])


def test_who_asks_with_tools_reads_tool_calls() -> None:
    body = {"model": "chat", "messages": [HI], "tools": [{"type": "function", "function": NOW}]}
    assert type(CHAT.streamed(_opening(stream=True, body=body))) is StreamedAnswer
    assert type(CHAT.whole(_opening(stream=False, body=body))) is WholeAnswer
