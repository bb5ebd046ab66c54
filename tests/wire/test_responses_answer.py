"""What a caller of /v1/responses is answered: every event with its brackets, and the object that they come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from jsonschema_rs import Draft202012Validator
from openai.types.responses import Response, ResponseStreamEvent

from tests.wire.cases import Case, body, cases, is_read, params, readings
from tests.wire.responses import (
    CALL_ID,
    CREATED,
    ENDED,
    events,
    opening,
    replayed,
    streamed,
    whole,
)
from wire.errors import BadRequest, Cut, Fault, RateLimited
from wire.openai import FINISHED, Delta, Json, Reading, Usage, usage_object
from wire.responses_answer import ResponsesStreamed, ResponsesWhole, last_words
from wire.responses_items import unsealed

STREAMS = [
    case for folder in ("ollama", "ollama_made", "compat", "deepseek") for case in cases(folder) if is_read(case)
]
COMPLETE = [case for case in STREAMS if "fault" not in case.row]
BROKEN = [case for case in STREAMS if "fault" in case.row]
EVENTS: dict[str, Any] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
"""The SDK's class of each event."""
SCHEMAS = Path(__file__).parents[2].parent / "shared" / "reference"
TOOLS: list[Json] = [
    {"type": "function", "name": "f"},
    {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find", "parameters": {}}]},
    {"type": "custom", "name": "sh"},
]
ASKED: Json = {
    "instructions": "Be kind",
    "tools": TOOLS,
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 20,
    "max_tool_calls": 2,
    "parallel_tool_calls": False,
    "previous_response_id": "resp_1",
    "store": False,
    "truncation": "auto",
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
}
"""A request that asks for everything."""


def _validators(path: Path) -> dict[str, Draft202012Validator]:
    """For each event by its type, and for a whole response."""
    bundle = json.loads(path.read_text(encoding="utf-8"))
    union = [one["$ref"] for one in bundle["$defs"]["ResponseStreamEvent"]["anyOf"]]
    types = {bundle["$defs"][ref.rpartition("/")[2]]["properties"]["type"]["enum"][0]: ref for ref in union}
    return {
        name: Draft202012Validator({**bundle, "$ref": ref})
        for name, ref in {**types, "response": "#/$defs/Response"}.items()
    }


VALIDATORS = {path.stem: _validators(path) for path in sorted(SCHEMAS.glob("openai_schemas*.json"))}
"""The published schemas, strict and relaxed, where they are; the SDK's types are asked everywhere."""


def _check_event(event: Json) -> None:
    EVENTS[event["type"]].model_validate_json(orjson.dumps(event), strict=True)
    for schema in VALIDATORS.values():
        schema[event["type"]].validate(event)


def _check_response(response: Json) -> None:
    Response.model_validate_json(orjson.dumps(response), strict=True)
    for schema in VALIDATORS.values():
        schema["response"].validate(response)


def _call(index: int, **function: str) -> Json:
    named = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return {"index": index, **named, "function": function}


def _calls(*fragments: Json) -> Delta:
    return Delta({"tool_calls": list(fragments)})


def _text(*texts: str) -> list[Reading]:
    return [Delta({"content": text}) for text in texts]


def _thought(*texts: str) -> list[Reading]:
    return [Delta({"reasoning_content": text}) for text in texts]


def _end(reason: str = "stop") -> list[Reading]:
    return [Delta({}, reason), Usage(usage_object(3, 4)), FINISHED]


def _names(found: list[Json]) -> list[str]:
    """The events between the first two and the last, without what they all begin with."""
    return [event["type"].removeprefix("response.") for event in found[2:-1]]


# -- laws over every recorded stream


@pytest.mark.parametrize("case", params(COMPLETE))
@pytest.mark.parametrize("asked", [{}, ASKED], ids=["asked for nothing", "asked for everything"])
def test_every_complete_stream_has_all_its_brackets_and_fits_every_schema(case: Case, asked: Json) -> None:
    found = streamed(readings(case, [body(case)]), **asked)
    for event in found:
        _check_event(event)
    last = found[-1]["response"]
    _check_response(last)
    assert replayed(found) == last["output"]
    assert last["status"] in ("completed", "incomplete")


@pytest.mark.parametrize("case", params(COMPLETE))
def test_the_whole_response_is_the_one_that_the_stream_ends_with(case: Case) -> None:
    for asked in ({}, ASKED):
        found = readings(case, [body(case)])
        assert whole(found, **asked) == streamed(found, **asked)[-1]["response"]


@pytest.mark.parametrize("case", params(STREAMS))
def test_however_the_readings_come_the_bytes_are_the_same(case: Case) -> None:
    found = readings(case, [body(case)])
    at_once = ResponsesStreamed(opening()).write([*found])
    answer = ResponsesStreamed(opening())
    assert b"".join(answer.write([reading]) for reading in found) == at_once


@pytest.mark.parametrize("case", params(BROKEN))
def test_a_broken_stream_ends_as_failed_and_never_looks_complete(case: Case) -> None:
    found = readings(case, [body(case)])
    fault = found[-1]
    assert isinstance(fault, Fault)
    told = streamed(found)
    for event in told:
        _check_event(event)
    if len(told) > 1:
        assert told[-1]["type"] == "response.failed"
        assert told[-1]["response"]["error"]["message"] == fault.message
        said = [{**item, "status": None} for item in replayed(told)]
        assert [{**item, "status": None} for item in told[-1]["response"]["output"]] == said
    else:
        assert told[0]["type"] == "error"
    with pytest.raises(type(fault)):
        ResponsesWhole(opening()).write(found)


# -- the object


def test_a_response_says_all_that_strict_clients_want_to_see() -> None:
    assert whole([*_text("Hello"), *_end()]) == {
        "id": f"resp_{CALL_ID}",
        "object": "response",
        "created_at": CREATED,
        "completed_at": ENDED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "chat",
        "output": [
            {
                "id": f"msg_{CALL_ID}0000",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
    }


def test_a_response_repeats_what_was_asked() -> None:
    response = whole([*_text("{}"), *_end()], **ASKED)
    kept = {name: value for name, value in ASKED.items() if name not in ("include", "tools", "truncation")}
    assert {name: response[name] for name in kept} == kept
    assert response["tools"] == [
        {"type": "function", "name": "f", "parameters": None, "strict": False},
        {
            "type": "namespace",
            "name": "crm",
            "description": "",
            "tools": [{"type": "function", "name": "find", "parameters": {}, "strict": False}],
        },
        {"type": "custom", "name": "sh"},
    ]
    assert response["truncation"] == "disabled"  # nothing is ever cut from an input here


def test_a_null_is_nothing_asked() -> None:
    nulls = dict.fromkeys(name for name in ASKED if name != "tools")
    assert whole([*_text("Hi"), *_end()], **nulls) == whole([*_text("Hi"), *_end()])
    assert whole([*_text("Hi"), *_end()], text={"format": None})["text"] == {"format": {"type": "text"}}


def test_usage_has_other_names_and_all_its_details() -> None:
    usage = usage_object(10, 5) | {
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert whole([*_text("Hi"), Usage(usage), Delta({}, "stop"), FINISHED])["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


def test_counts_that_are_none_are_zero() -> None:
    for odd in ({"cached_tokens": "4", "reasoning_tokens": None}, 5, None):
        usage = usage_object(1, 2) | {"prompt_tokens_details": odd, "completion_tokens_details": odd}
        response = whole([*_text("Hi"), Usage(usage), FINISHED])
        _check_response(response)
        assert response["usage"]["input_tokens_details"]["cached_tokens"] == 0


def test_the_tier_is_the_one_that_the_server_says_it_used() -> None:
    def answered(server: Json) -> Json:
        return whole([Delta({"content": "Hi"}, server=server), *_end()], service_tier="flex")

    assert answered({"service_tier": "default"})["service_tier"] == "default"
    odd: list[Json] = [{}, {"service_tier": "gold"}, {"service_tier": None}, {"service_tier": {}}]
    for nothing in odd:
        assert "service_tier" not in answered(nothing)


def test_without_a_count_or_a_clock_there_is_none() -> None:
    made = opening()
    answer = ResponsesWhole(type(made)(made.call_id, made.created, made.model, made.request))
    response = orjson.loads(answer.write([*_text("Hi"), Delta({}, "stop"), FINISHED]))
    _check_response(response)
    assert "usage" not in response
    assert "completed_at" not in response


@pytest.mark.parametrize(("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete_and_says_why(reason: str, why: str) -> None:
    found = streamed([*_thought("Hm"), *_text("Hel"), *_end(reason)])
    last = found[-1]["response"]
    assert found[-1]["type"] == "response.incomplete"
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": why})
    assert [item["status"] for item in replayed(found)] == ["completed", "incomplete"]
    assert "completed_at" not in last


def test_a_limit_reached_while_thinking_leaves_no_text() -> None:
    response = whole([*_thought("Hm"), *_end("length")])
    assert [(item["type"], item["status"]) for item in response["output"]] == [("reasoning", "incomplete")]


@pytest.mark.parametrize("before", [[], _thought("Hm")], ids=["nothing at all", "only reasoning"])
def test_an_answer_without_a_word_is_still_a_message(before: list[Reading]) -> None:
    found = streamed([*before, *_end()])
    message = replayed(found)[-1]
    assert (message["type"], message["content"][0]["text"]) == ("message", "")


# -- items in order


def test_reasoning_comes_before_the_text_and_is_closed_by_it() -> None:
    found = streamed([*_thought("H", "m"), *_text("A", "B"), *_end()])
    assert _names(found) == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    reasoning, message = replayed(found)
    assert reasoning == {
        "id": f"rs_{CALL_ID}0000",
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    }
    assert message["content"][0]["text"] == "AB"


def test_reasoning_is_sealed_for_callers_who_keep_the_conversation_themselves() -> None:
    found = streamed([*_thought("H", "m…"), *_text("A"), *_end()], include=["reasoning.encrypted_content"])
    sealed = replayed(found)[0]["encrypted_content"]
    assert unsealed(sealed) == "Hm…"
    assert sum(sealed.encode() in orjson.dumps(event) for event in found) == 2  # when it is done, and at the end


def test_reasoning_and_text_in_one_piece_are_two_items() -> None:
    items = replayed(streamed([Delta({"content": "A", "reasoning_content": "H"}), *_end()]))
    assert [item["type"] for item in items] == ["reasoning", "message"]


def test_text_before_a_call_is_closed_properly() -> None:
    found = streamed([*_text("Wait"), _calls(_call(0, name="f", arguments="{}")), *_end("tool_calls")])
    assert _names(found) == [
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
    ]  # fmt: skip
    message, call = replayed(found)
    assert message["status"] == "completed"
    assert call == {
        "id": f"fc_{CALL_ID}0001",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_0",
        "name": "f",
        "arguments": "{}",
    }
    assert found[-1]["response"]["status"] == "completed"


def test_a_calls_name_is_whole_before_its_item_begins() -> None:
    answer = ResponsesStreamed(opening())
    begun = answer.write([_calls(_call(0, name="get_", arguments="")), _calls(_call(0, name="weather"))])
    assert [event["type"] for event in events(begun)] == ["response.created", "response.in_progress"]
    rest = events(answer.write([_calls(_call(0, arguments='{"x"')), _calls(_call(0, arguments=":1}")), *_end()]))
    assert rest[0]["item"]["name"] == "get_weather"
    assert rest[0]["item"]["arguments"] == ""
    assert rest[-1]["response"]["output"][0]["arguments"] == '{"x":1}'


def test_a_call_without_arguments_is_one_all_the_same() -> None:
    found = streamed([_calls(_call(0, name="f", arguments="")), *_end("tool_calls")])
    assert _names(found) == ["output_item.added", "function_call_arguments.done", "output_item.done"]
    assert replayed(found)[0]["arguments"] == ""


def test_calls_follow_one_another() -> None:
    one, two = _call(0, name="f", arguments='{"a":1}'), _call(1, name="f", arguments='{"b":2}')
    found = streamed([_calls(one, two), *_end("tool_calls")])
    one_call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert _names(found) == one_call * 2
    assert [(item["call_id"], item["arguments"]) for item in replayed(found)] == [
        ("call_0", '{"a":1}'), ("call_1", '{"b":2}')
    ]  # fmt: skip


def test_calls_that_grow_side_by_side_stay_apart() -> None:
    found = streamed(
        [
            _calls(_call(0, name="f", arguments='{"a"')),
            _calls(_call(1, name="g", arguments='{"b"')),
            _calls(_call(0, arguments=":1}"), _call(1, arguments=":2}")),
            *_end("tool_calls"),
        ]
    )
    assert [(item["name"], item["arguments"]) for item in replayed(found)] == [("f", '{"a":1}'), ("g", '{"b":2}')]


def test_what_comes_for_a_call_that_is_whole_is_not_said() -> None:
    late = _calls(_call(0, arguments=" "))
    calls = [_calls(_call(0, name="f", arguments="{}")), _calls(_call(1, name="g", arguments="{}"))]
    assert streamed([*calls, late, *_end()]) == streamed([*calls, *_end()])


def test_a_call_whose_id_is_missing_gets_one() -> None:
    found = streamed([_calls({"index": 0, "function": {"name": "f", "arguments": "{}"}}), *_end()])
    assert replayed(found)[0]["call_id"] == f"call_{CALL_ID}0000"


def test_a_call_that_was_cut_is_incomplete_and_one_before_it_is_not() -> None:
    calls = [_calls(_call(0, name="f", arguments="{}")), _calls(_call(1, name="g", arguments='{"x'))]
    found = streamed([*calls, *_end("length")])
    assert [item["status"] for item in replayed(found)] == ["completed", "incomplete"]
    alone = streamed([calls[0], *_end("length")])
    assert [item["status"] for item in replayed(alone)] == ["completed"]


def test_a_function_of_a_namespace_has_its_own_name_back() -> None:
    found = streamed([_calls(_call(0, name="crm__find", arguments="{}")), *_end("tool_calls")], tools=TOOLS)
    call = replayed(found)[0]
    assert (call["namespace"], call["name"]) == ("crm", "find")


def test_a_custom_tools_call_has_an_input() -> None:
    begun = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sh", "input": ""}}
    found = streamed(
        [
            _calls(begun),
            _calls({"index": 0, "custom": {"input": "l"}}),
            _calls({"index": 0, "custom": {"input": "s"}}),
            _calls(_call(1, name="f", arguments="{}")),
            *_end("tool_calls"),
        ],
        tools=TOOLS,
    )
    for event in found:
        _check_event(event)
    custom, function = replayed(found)
    assert custom == {
        "id": f"ctc_{CALL_ID}0000",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "a",
        "name": "sh",
        "input": "ls",
    }
    assert function["type"] == "function_call"


def test_a_call_that_cannot_be_read_is_an_empty_one() -> None:
    odd: list[Json] = [{"index": 0, "id": 5, "type": "custom", "custom": "x"}, {"index": 0, "custom": {"input": 5}}]
    (item,) = replayed(streamed([_calls(*odd), *_end()]))
    assert (item["call_id"], item["name"], item["input"]) == (f"call_{CALL_ID}0000", "", "")


def test_text_between_calls_is_an_item_of_its_own_in_its_place() -> None:
    calls = [_calls(_call(0, name="f", arguments="")), _calls(_call(1, name="g", arguments="{}"))]
    found = streamed([calls[0], *_text("Well"), calls[1], *_end("tool_calls")])
    assert [item["type"] for item in replayed(found)] == ["function_call", "message", "function_call"]


def test_a_second_thought_is_a_second_item() -> None:
    items = replayed(streamed([*_thought("H"), *_text("A"), *_thought("m"), *_text("B"), *_end()]))
    assert [item["id"][:3] for item in items] == ["rs_", "msg", "rs_", "msg"]
    assert len({item["id"] for item in items}) == 4


def test_a_refusal_is_a_part_of_its_own() -> None:
    found = streamed([*_text("A"), Delta({"refusal": "N"}), Delta({"refusal": "o"}), *_end()])
    for event in found:
        _check_event(event)
    assert _names(found) == [
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "content_part.added", "refusal.delta", "refusal.delta", "refusal.done", "content_part.done",
        "output_item.done",
    ]  # fmt: skip
    (message,) = replayed(found)
    assert message["content"][1] == {"type": "refusal", "refusal": "No"}


# -- logprobs

TOKEN: Json = {"token": "Hé", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "x", "logprob": -2.0}]}


def test_logprobs_are_told_to_who_asked_for_them() -> None:
    odd: Json = {"token": None}
    bare: Json = {"token": "!", "top_logprobs": [odd]}
    pieces: list[Reading] = [
        Delta({"content": "Hé"}, None, 0, {"content": [TOKEN, odd], "refusal": None}),
        Delta({"content": " there"}),
        Delta({"content": "!"}, None, 0, {"content": [bare]}),
        Delta({}, None, 0, {"content": None}),
        *_end(),
    ]
    found = streamed(pieces, include=["message.output_text.logprobs"])
    for event in found:
        _check_event(event)
    part = replayed(found)[0]["content"][0]
    assert part["text"] == "Hé there!"
    assert part["logprobs"] == [
        {
            "token": "Hé",
            "logprob": -0.5,
            "bytes": [72, 195, 169],
            "top_logprobs": [{"token": "x", "logprob": -2.0, "bytes": [120]}],
        },
        {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
    ]
    assert b'logprob":-0.5' not in ResponsesStreamed(opening()).write(pieces)


def test_logprobs_without_a_text_are_not_lost() -> None:
    alone = Delta({}, None, 0, {"content": [{**TOKEN, "bytes": [1]}]})
    part = whole([*_text("A"), alone, *_end()], include=["message.output_text.logprobs"])["output"][0]["content"][0]
    assert part["text"] == "A"
    assert [token["bytes"] for token in part["logprobs"]] == [[1]]


def test_logprobs_of_a_thought_are_not_those_of_the_text() -> None:
    """Ollama gives them with every line, and with lines that hold no text yet."""

    def token(text: str) -> Json:
        return {"content": [{**TOKEN, "token": text}]}

    pieces: list[Reading] = [
        Delta({"reasoning_content": "Hm"}, None, 0, token("Hm")),
        Delta({}, None, 0, token("m")),
        Delta({"reasoning_content": "mm"}, None, 0, token("mm")),
        Delta({}, None, 0, token("</think>")),
        Delta({"content": "A"}, None, 0, token("A")),
        *_end(),
    ]
    found = streamed(pieces, include=["message.output_text.logprobs"])
    reasoning, message = replayed(found)
    assert reasoning["content"][0]["text"] == "Hmmm"
    assert [one["token"] for one in message["content"][0]["logprobs"]] == ["</think>", "A"]


CITED: Json = {"url": "https://a.test/b", "title": "B", "start_index": 0, "end_index": 1}


@pytest.mark.parametrize("before", [[], _text("A"), [Delta({"reasoning_content": "Hm"})]])
def test_the_sources_of_a_text_are_told_in_their_places(before: list[Reading]) -> None:
    odd: list[Json] = [{"type": "url_citation"}, {"type": "other"}]
    cited = {"type": "url_citation", "url_citation": CITED}
    none = Delta({"annotations": 5})
    pieces = [*before, Delta({"annotations": [cited, *odd]}), none, Delta({"annotations": [cited]}), *_end()]
    found = streamed(pieces)
    for event in found:
        _check_event(event)
    part = replayed(found)[-1]["content"][0]
    assert part["annotations"] == [{"type": "url_citation", **CITED}] * 2
    assert whole(pieces)["output"][-1]["content"] == [part]


# -- ends


def test_another_choice_and_what_follows_the_end_are_no_part_of_it() -> None:
    plain = [*_text("A"), *_end()]
    odd: list[Reading] = [
        *_text("A"), Delta({"content": "B"}, None, 1), Delta({}, "stop"), Delta({"content": "C"}),
        Usage(usage_object(3, 4)), FINISHED, Delta({"content": "D"}), FINISHED,
    ]  # fmt: skip
    assert streamed(odd) == streamed(plain)
    assert whole(odd) == whole(plain)
    answer = ResponsesStreamed(opening())
    answer.write(odd)
    assert answer.said.text == "A"


def test_an_end_without_a_reason_is_a_good_one() -> None:
    for answer in (ResponsesStreamed(opening()), ResponsesWhole(opening())):
        assert not answer.complete
        answer.write([*_text("A"), FINISHED])
        assert answer.complete
        assert answer.done
        assert answer.finish_reason == "stop"
        assert answer.response is not None
        assert answer.write([*_text("B"), FINISHED]) == b""


def test_an_answer_is_complete_when_its_reason_was_given() -> None:
    for answer in (ResponsesStreamed(opening()), ResponsesWhole(opening())):
        answer.write([*_text("A"), Delta({}, "length"), Usage(usage_object(1, 2))])
        assert answer.complete
        assert not answer.done
        assert (answer.finish_reason, answer.usage) == ("length", usage_object(1, 2))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Cut("broke off"), "server_error"),
        (RateLimited("is rate limiting us (429)"), "rate_limit_exceeded"),
        (BadRequest("No."), "invalid_prompt"),
    ],
)
def test_an_answer_that_broke_off_is_failed_with_all_that_was_said(fault: Fault, code: str) -> None:
    answer = ResponsesStreamed(opening())
    begun = answer.write([*_thought("Hm"), *_text("Hel", "lo"), _calls(_call(0, name="f", arguments="{"))])
    found = events(begun + answer.fail(fault))
    assert found[-1]["type"] == "response.failed"
    last = found[-1]["response"]
    _check_event(found[-1])
    assert (last["status"], last["error"]) == ("failed", {"code": code, "message": fault.message})
    assert [(item["type"], item["status"]) for item in last["output"]] == [
        ("reasoning", "completed"), ("message", "completed"), ("function_call", "incomplete")
    ]  # fmt: skip
    assert last["output"][1]["content"][0]["text"] == "Hello"
    assert answer.done
    assert answer.response == last
    assert answer.write([FINISHED]) == b""


@pytest.mark.parametrize("fault", [Cut("broke off", param="x"), Fault("A bug.")])
def test_a_stream_of_which_nothing_was_sent_ends_in_an_error(fault: Fault) -> None:
    answer = ResponsesStreamed(opening())
    assert answer.fail(fault) == last_words(fault)
    assert answer.done
    assert answer.response is None
    (event,) = events(last_words(fault))
    _check_event(event)
    assert event == {
        "type": "error",
        "code": fault.code or "server_error",
        "message": fault.message,
        "param": fault.param,
        "sequence_number": 0,
    }


# -- going on


def test_it_keeps_what_the_caller_has_seen() -> None:
    answer = ResponsesStreamed(opening(include=["message.output_text.logprobs"]))
    logged = Delta({"content": "c"}, None, 0, {"content": [TOKEN]})
    answer.write([*_thought("h", "m"), *_text("a", "b"), logged, *_text("d")])
    assert answer.said.reasoning == ["h", "m"]
    assert answer.said.content == ["a", "b", "c", "d"]
    assert not answer.said.calls
    answer.write([_calls(_call(0, name="f", arguments="{}"))])
    assert answer.said.calls


def test_another_upstream_goes_on_with_the_same_response() -> None:
    begun: list[Reading] = [*_thought("h"), *_text("Hello"), Usage(usage_object(9, 1))]
    rest: list[Reading] = [*_text(" there"), *_end()]
    answer = ResponsesStreamed(opening())
    stream = answer.write(begun) + answer.write(rest)
    assert stream == ResponsesStreamed(opening()).write(begun + rest)
    assert replayed(events(stream))[1]["content"][0]["text"] == "Hello there"
