"""How much text a model is given with a request: all of it, wherever it stands, and no picture, sound or PDF."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from typing import Any

import orjson
import pytest

from wire.check_chat import check_chat
from wire.completions import check_completion, split_completion
from wire.embeddings import check_embeddings
from wire.media import check_images, check_speech
from wire.openai import Json, ModelRequest
from wire.parts import split_chat
from wire.responses import check_responses

LONG = "x" * 3000
HI = {"role": "user", "content": "Hi"}


def counts(request: ModelRequest) -> tuple[int, int, int]:
    assert request.certain_chars == request.prompt_chars + request.beside_chars
    assert request.sent_chars == request.certain_chars + request.maybe_chars
    return request.prompt_chars, request.beside_chars, request.maybe_chars


def chat(*messages: Json, **more: Any) -> tuple[int, int, int]:
    return counts(check_chat({"model": "m", "messages": [*messages] or [HI], **more}))


def function(**more: Any) -> Json:
    return {"type": "function", "function": {"name": "f", **more}}


def schema(words: str) -> Json:
    return {"type": "object", "properties": {"a": {"type": "string", "description": words}}}


def call(arguments: str, call_id: str = "call_1", name: str = "f") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def file(data: bytes, media_type: str | None = "text/plain", name: str | None = None, encode: Any = b64encode) -> Json:
    text = encode(data).decode()
    given = {"file_data": text if media_type is None else f"data:{media_type};base64,{text}"}
    return {
        "role": "user",
        "content": [{"type": "file", "file": given | ({} if name is None else {"filename": name})}],
    }


def test_messages_of_text_are_all_that_there_is() -> None:
    assert chat({"role": "system", "content": "Be brief."}, HI) == (11, 0, 0)
    assert chat({"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}) == (
        7, 0, 0,
    )  # fmt: skip


# -- tools


@pytest.mark.parametrize(
    "tool",
    [
        function(description=LONG),
        function(parameters=schema(LONG)),
        function(parameters={"type": "object", "properties": {LONG: {}}}),
        function(parameters={"enum": [["x" * 100] * 30]}),
        {"type": "custom", "custom": {"name": "f", "description": LONG}},
        {"type": "custom", "custom": {"name": "f", "format": {"type": "grammar", "grammar": {"syntax": "lark",
                                                                                             "definition": LONG}}}},
    ],
)  # fmt: skip
def test_a_tool_counts_as_its_json(tool: Json) -> None:
    whole = len(orjson.dumps(tool))
    assert whole >= len(LONG)
    assert chat(tools=[tool]) == (2, whole, 0)
    assert chat(tools=[tool, tool]) == (2, 2 * whole, 0)


def test_characters_count_and_not_their_bytes() -> None:
    latin, cyrillic = (chat(tools=[function(description=letter * 500)])[1] for letter in ("d", "д"))
    assert latin == cyrillic


def test_old_functions_count_as_tools() -> None:
    old = {"name": "f", "description": LONG}
    assert chat(functions=[old]) == chat(tools=[{"type": "function", "function": old}])


def test_a_tool_that_nobody_can_be_sent_counts_nothing_and_the_others_do() -> None:
    deep: Any = {}
    for _ in range(600):
        deep = {"a": deep}
    plain = function(description=LONG)
    assert chat(tools=[function(parameters=deep), plain]) == chat(tools=[plain])


# -- earlier turns


def result(call_id: str = "call_1", content: str = "ok") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize("content", [None, "said"])
def test_the_arguments_of_calls_count(content: str | None) -> None:
    turn = {"role": "assistant", "content": content, "tool_calls": [call(LONG, name="go"), call("{}", "call_2")]}
    said = len(content or "")
    assert chat(HI, turn, result(), result("call_2")) == (2 + 4 + said, 2 + len(LONG) + 1 + 2, 0)


def test_the_input_of_a_custom_call_counts() -> None:
    made = {"id": "call_1", "type": "custom", "custom": {"name": "go", "input": LONG}}
    assert chat(HI, {"role": "assistant", "content": None, "tool_calls": [made]}, result()) == (4, 2 + len(LONG), 0)


def test_the_arguments_of_an_old_call_count() -> None:
    turn = {"role": "assistant", "content": None, "function_call": {"name": "go", "arguments": LONG}}
    answer = {"role": "function", "name": "go", "content": "ok"}
    functions = [{"name": "go"}]
    assert chat(HI, turn, answer, functions=functions)[1] == chat(functions=functions)[1] + 2 + len(LONG)


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": LONG},
        {"reasoning": LONG},
        {"reasoning_content": LONG, "reasoning": LONG},
        {"reasoning_content": LONG, "reasoning": "short"},
        {"reasoning_content": None, "reasoning": LONG},
        {"refusal": LONG},
        {"name": LONG},
    ],
)
def test_the_reasoning_of_earlier_turns_counts_once_and_is_not_certain(more: Json) -> None:
    assert chat(HI, {"role": "assistant", "content": "said", **more}) == (6, 0, len(LONG))


def test_whatever_else_a_message_holds_may_be_read() -> None:
    details = [{"type": "reasoning.text", "text": LONG}]
    turn = {"role": "assistant", "content": "said", "reasoning_details": details, "audio": None, "weight": 1}
    assert chat(HI, turn) == (6, 0, len(orjson.dumps(details)))


# -- files


@pytest.mark.parametrize(
    ("media_type", "name"),
    [("text/plain", None), ("text/csv", "a.csv"), ("application/json", None), ("image/svg+xml", None),
     (None, None), ("", "notes"), ("application/octet-stream", None)],
)  # fmt: skip
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_file_of_text_counts(media_type: str | None, name: str | None, encode: Any) -> None:
    text = "Plain words, é and ?>~. " * 200 + "€"
    prompt, beside, maybe = chat(file(text.encode(), media_type, name, encode))
    assert (prompt, maybe) == (0, 0)
    assert 0 <= beside - len(text.encode()) - len(name or "") < 3


def test_a_file_counts_wherever_a_character_of_its_beginning_is_cut() -> None:
    for letter in ("é", "€", "😀"):
        for ahead in range(4):
            data = ("x" * ahead + letter * 4000).encode()
            assert abs(chat(file(data, None))[1] - len(data)) < 3


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"%PDF-1.7 " + b"x" * 5000, "application/pdf"),
        (b"%PDF-1.7 " + b"x" * 5000, None),
        (b"\x89PNG\r\n\x1a\n\0\0\0" + b"x" * 5000, None),
        (bytes(range(128, 256)) * 40, "application/octet-stream"),
        (b"x" * 5000, "image/png"),
        (b"", "application/octet-stream"),
    ],
)
def test_a_file_of_something_else_is_no_text(data: bytes, media_type: str | None) -> None:
    assert chat(file(data, media_type)) == (0, 0, 0)


def test_pictures_sounds_and_files_that_are_elsewhere_are_no_text() -> None:
    base64 = b64encode(b"x" * 5000).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64}"}},
        {"type": "input_audio", "input_audio": {"data": base64, "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "text", "text": "Look"},
    ]
    assert chat({"role": "user", "content": parts}) == (4, 0, 0)


# -- beside the messages


def test_the_schema_of_the_answer_may_be_read() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema(LONG)}}
    assert chat(response_format=form) == (2, 0, len(orjson.dumps(form["json_schema"])))
    assert chat(response_format={"type": "json_object"}) == (2, 0, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"prediction": {"type": "content", "content": LONG}},
        {"documents": [{"text": LONG}]},
        {"chat_template": LONG},
        {"chat_template_kwargs": {"words": LONG}},
    ],
)
def test_so_may_what_a_template_is_filled_with(more: Json) -> None:
    ((_, value),) = more.items()
    assert chat(**more) == (2, 0, len(orjson.dumps(value)))


def test_what_says_how_to_answer_is_no_text() -> None:
    more = {"temperature": 0.5, "stop": [LONG], "user": LONG, "metadata": {"a": LONG}}
    assert chat(**more, tools=None, documents=None, response_format=None) == (2, 0, 0)


# -- the other endpoints


def test_a_request_to_responses_counts_as_the_chat_request_that_it_comes_to() -> None:
    tool = {"type": "function", "name": "f", "description": LONG, "parameters": schema(LONG)}
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": LONG}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": LONG},
        {"type": "function_call_output", "call_id": "call_1", "output": "done"},
    ]
    form = {"type": "json_schema", "name": "a", "schema": schema(LONG)}
    body = {"model": "m", "instructions": "Be brief.", "input": items, "tools": [tool], "text": {"format": form}}
    request = check_responses(body)
    assert counts(request) == counts(check_chat(request.body))
    assert request.prompt_chars == 2 + 4 + 9
    assert request.beside_chars > 3 * len(LONG)
    assert request.maybe_chars > 2 * len(LONG)


def test_each_part_of_a_call_is_sent_all_of_it() -> None:
    request = check_chat({"model": "m", "messages": [HI], "tools": [function(description=LONG)], "n": 3})
    assert [part.request.sent_chars for part in split_chat(request)] == [request.sent_chars] * 3


def test_each_prompt_of_a_completion_has_its_own_text_and_the_common_suffix() -> None:
    request = check_completion({"model": "m", "prompt": ["abc", "d"], "suffix": "xy"})
    assert request.sent_chars == 6
    assert [part.request.sent_chars for part in split_completion(request)] == [5, 3]


def test_inputs_prompts_and_what_is_spoken_count() -> None:
    assert counts(check_embeddings({"model": "m", "input": ["abc", "d"]})) == (4, 0, 0)
    assert counts(check_images({"model": "m", "prompt": "A cat"})) == (5, 0, 0)
    spoken = {"model": "m", "input": "Hi", "voice": "alloy"}
    assert counts(check_speech(spoken | {"instructions": "Whisper."})) == (2, 0, 8)
    assert counts(check_speech(spoken)) == (2, 0, 0)
