"""What a user of the official Python SDKs, the 1.x and the 3.x, sees of responses, embeddings and completions.

Each SDK runs `program_endpoints` once, in a process of its own, and tells everything it showed; the tests look at that.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.sdk.world import KEY, Shown, World, python_of, run

THOUGHTS = "The user wants an answer."
OPENED = ["response.created", "response.in_progress"]
THINKING = [
    *("response.output_item.added", "response.content_part.added"),
    *("response.reasoning_text.delta", "response.reasoning_text.done"),
    *("response.content_part.done", "response.output_item.done"),
]
TEXT = [
    *("response.output_item.added", "response.content_part.added"),
    *("response.output_text.delta", "response.output_text.done"),
    *("response.content_part.done", "response.output_item.done"),
]
CALL = [
    *("response.output_item.added", "response.function_call_arguments.delta"),
    *("response.function_call_arguments.done", "response.output_item.done"),
]
TOKENS = {"local": (5, 4, 9), "remote": (5, 9, 14)}
"""Asked, said and both, of "hello there" and its answer; the one that thinks also counts five thoughts."""

each_target = pytest.mark.parametrize("target", ["local", "remote"])


@pytest.fixture(scope="module", params=["openai1", "openai3"])
def sdk(request: pytest.FixtureRequest, world: World) -> Shown:
    url = f"{world.gateway.url}/v1"
    return run([python_of(request.param), "-m", "tests.sdk.program_endpoints", url, KEY])


def thinking(target: str) -> list[str]:
    return THINKING if target == "remote" else []


def check_text(reply: dict[str, Any], target: str, text: str = "You said: hello there") -> None:
    assert (reply["object"], reply["status"], reply["error"]) == ("response", "completed", None)
    assert reply["text"] == text
    assert reply["items"] == {"local": ["message"], "remote": ["reasoning", "message"]}[target]
    assert reply["thoughts"] == {"local": [], "remote": [THOUGHTS]}[target]


# Responses


@each_target
def test_a_response_has_everything_that_programs_read(sdk: Shown, target: str) -> None:
    reply = sdk[f"respond {target}"]
    check_text(reply, target)
    assert reply["class"] == "Response"
    assert reply["id"].startswith("resp_")
    assert reply["model"] == {"local": "qwen2.5:7b", "remote": "deepseek-flash"}[target]
    assert reply["metadata"] == {"app": "notes"}
    counts = tuple(reply["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens"))
    assert counts == TOKENS[target]
    assert reply["usage"]["output_tokens_details"]["reasoning_tokens"] == {"local": 0, "remote": 5}[target]


@each_target
def test_items_have_ids_of_their_own_kind(sdk: Shown, target: str) -> None:
    reply = sdk[f"respond {target}"]
    begins = {"reasoning": "rs_", "message": "msg_"}
    assert all(made.startswith(begins[kind]) for kind, made in zip(reply["items"], reply["ids"], strict=True))


@each_target
def test_a_streamed_response_tells_of_every_item_from_its_opening_to_its_close(sdk: Shown, target: str) -> None:
    stream = sdk[f"respond_streamed {target}"]
    assert stream["types"] == [*OPENED, *thinking(target), *TEXT, "response.completed"]
    assert stream["numbers"] == list(range(len(stream["numbers"])))
    assert (stream["text"], stream["pieces"]) == ("You said: hello there", 4)
    assert stream["thoughts"] == {"local": "", "remote": THOUGHTS}[target]
    check_text(stream["last"], target)


@each_target
def test_the_stream_helper_gives_the_whole_response(sdk: Shown, target: str) -> None:
    stream = sdk[f"respond_helper {target}"]
    assert stream["text"] == "You said: hello there"
    check_text(stream["last"], target)


@each_target
def test_a_conversation_in_items_is_answered_in_its_last_words(sdk: Shown, target: str) -> None:
    reply = sdk[f"respond_conversation {target}"]
    check_text(reply, target, "You said: and again")
    assert reply["instructions"] == "Be brief."


@each_target
def test_parse_gives_an_object_of_the_callers_class_whole_and_streamed(sdk: Shown, target: str) -> None:
    said = {"class": "Said", "said": {"local": "Oslo", "remote": "hello there"}[target]}
    assert sdk[f"respond_parsed {target}"] == [said, said]


@each_target
def test_two_calls_of_tools_have_ids_and_arguments_of_their_own(sdk: Shown, target: str) -> None:
    first = sdk[f"respond_tools {target}"]["first"]
    assert first["status"] == "completed"
    assert [(call["name"], json.loads(call["arguments"])) for call in first["calls"]] == [
        ("get_weather", {"city": "Oslo"}),
    ] * 2
    assert len({call["call_id"] for call in first["calls"]} - {None, ""}) == 2


@each_target
@pytest.mark.parametrize("way", ["items", "dumped", "by id"])
def test_the_results_of_tools_are_answered_however_the_calls_are_sent_back(sdk: Shown, target: str, way: str) -> None:
    check_text(sdk[f"respond_tools {target}"]["second"][way], target, "The tool said: rain and wind")


@each_target
def test_a_call_of_a_tool_is_streamed_and_put_together(sdk: Shown, target: str) -> None:
    stream = sdk[f"respond_tools_streamed {target}"]
    assert stream["types"] == [*OPENED, *thinking(target), *CALL, "response.completed"]
    assert json.loads(stream["arguments"]) == {"city": "Oslo"}
    assert stream["parsed"] == [{"city": "Oslo"}]


@each_target
def test_a_limit_leaves_a_response_incomplete(sdk: Shown, target: str) -> None:
    shown = sdk[f"respond_limited {target}"]
    for reply in (shown["whole"], shown["streamed"]["last"]):
        assert (reply["status"], reply["incomplete"]) == ("incomplete", "max_output_tokens")
        assert reply["text"].startswith("You said: word0 word1")
    assert shown["streamed"]["types"][-1] == "response.incomplete"


@each_target
def test_a_cut_in_the_middle_of_a_stream_ends_in_a_response_that_failed(sdk: Shown, target: str) -> None:
    stream = sdk[f"respond_cut {target}"]["streamed"]
    assert stream["types"][-1] == "response.failed"
    assert stream["text"] == "You said:"
    assert (stream["last"]["status"], stream["last"]["error"]) == ("failed", "server_error")


@each_target
def test_a_whole_response_that_is_cut_is_a_server_error(sdk: Shown, target: str) -> None:
    error = sdk[f"respond_cut {target}"]["whole"]
    assert (error["class"], error["code"]) == ("InternalServerError", "upstream_cut")


def test_a_stream_that_is_gone_on_with_by_another_target_is_one_response(sdk: Shown) -> None:
    stream = sdk["respond_continued"]
    assert stream["types"] == [*OPENED, *TEXT, "response.completed"]
    assert stream["text"] == stream["last"]["text"] == "You said: hello there"
    assert all(after == before + 1 for before, after in pairwise(stream["numbers"]))


def test_a_kept_response_is_found_gone_on_from_and_deleted(sdk: Shown) -> None:
    shown = sdk["respond_kept"]
    assert shown["found"] == shown["first"]
    assert shown["second"]["previous"] == shown["first"]["id"]
    assert shown["second"]["usage"]["input_tokens"] > shown["first"]["usage"]["input_tokens"]
    assert shown["asked"] == [["hello there"]]
    assert shown["after"]["class"] == shown["unkept"]["class"] == "NotFoundError"


@pytest.mark.parametrize(
    ("what", "status", "code", "param"),
    [
        ("hosted tool", 400, "unsupported_value", "tools[0].type"),
        ("unknown id", 404, "previous_response_not_found", "previous_response_id"),
        ("unmatched", 400, "invalid_value", "input[0].call_id"),
        ("background", 400, "unsupported_parameter", "background"),
        ("model", 404, "model_not_found", "model"),
        ("streamed", 404, "model_not_found", "model"),
    ],
)
def test_a_response_that_cannot_be_made_names_the_parameter(
    sdk: Shown, what: str, status: int, code: str, param: str
) -> None:
    error = sdk["respond_refused"][what]
    assert (error["status_code"], error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"


def test_the_asynchronous_client_sees_the_same(sdk: Shown) -> None:
    shown = sdk["respond_asynchronously"]
    assert shown["texts"] == [f"You said: number {number}" for number in range(10)]
    check_text(shown["streamed"]["last"], "remote")


# Embeddings


def test_texts_become_vectors_in_their_order(sdk: Shown) -> None:
    shown = sdk["embed"]
    assert (shown["class"], shown["object"]) == ("CreateEmbeddingResponse", "list")
    assert shown["indices"] == [0, 1, 2]
    first, second, third = shown["packed"]
    assert first == third != second
    assert shown["one"] == [first]


def test_vectors_are_the_same_packed_and_plain(sdk: Shown) -> None:
    shown = sdk["embed"]
    assert len(shown["packed"]) == 3
    for packed, plain in zip(shown["packed"], shown["plain"], strict=True):
        assert packed == pytest.approx(plain, abs=1e-6)


def test_the_texts_of_an_embedding_are_counted(sdk: Shown) -> None:
    usage = sdk["embed"]["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 0


def test_more_texts_than_are_asked_at_once_come_back_in_order(sdk: Shown) -> None:
    shown = sdk["embed_many"]
    assert shown["indices"] == list(range(300))
    assert shown["different"] == 300
    assert shown["same"]


@pytest.mark.parametrize(
    ("what", "status", "param"), [("empty", 400, "input"), ("chat model", 400, "model"), ("unknown", 404, "model")]
)
def test_an_embedding_that_cannot_be_made_names_the_parameter(sdk: Shown, what: str, status: int, param: str) -> None:
    error = sdk["embed_refused"][what]
    assert (error["status_code"], error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"


# Completions


def test_a_completion_has_everything_that_programs_read(sdk: Shown) -> None:
    shown = sdk["complete"]
    assert (shown["class"], shown["object"]) == ("Completion", "text_completion")
    assert shown["id"].startswith("cmpl-")
    assert shown["model"] == "qwen2.5:7b"
    assert shown["text"]
    assert shown["reason"] == "stop"
    assert shown["usage"]["total_tokens"] > 0


def test_a_completion_is_streamed_in_pieces(sdk: Shown) -> None:
    shown = sdk["complete"]
    assert shown["objects"] == ["text_completion"]
    assert shown["streamed"] == shown["text"]
    assert shown["pieces"] > 1
    assert shown["reasons"] == ["stop"]
    assert shown["streamed usage"] == [shown["usage"]]


def test_several_prompts_are_each_completed_as_often_as_asked(sdk: Shown) -> None:
    indices, texts = zip(*sdk["complete"]["several"], strict=True)
    assert indices == (0, 1, 2, 3)
    assert all(texts)


def test_a_completion_can_repeat_its_prompt_and_is_cut_by_its_limit(sdk: Shown) -> None:
    shown = sdk["complete"]
    assert shown["echoed"] == f"hello there{shown['text']}"
    assert shown["short"] == "length"


def test_an_unknown_model_completes_nothing(sdk: Shown) -> None:
    error = sdk["complete"]["refused"]
    assert (error["status_code"], error["code"], error["param"]) == (404, "model_not_found", "model")
