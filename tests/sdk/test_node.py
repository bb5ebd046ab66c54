"""What a user of the official Node SDK sees of the gateway: it is stricter than the Python one, in its helpers above all.

It runs node/program.cjs once, which tells everything that the SDK showed; the tests look at that.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from tests.gateway import ROOT
from tests.sdk.world import KEY, Shown, World, run

PROGRAM = ROOT / "tests" / "sdk" / "node" / "program.cjs"
OPENED = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
CLOSED = ["response.content_part.done", "response.output_item.done"]

each_target = pytest.mark.parametrize("target", ["local", "remote"])


@pytest.fixture(scope="module")
def node(world: World) -> Shown:
    modules, program = os.environ.get("UNIGATE_NODE_MODULES"), shutil.which("node")
    if not modules or program is None:
        pytest.fail("UNIGATE_NODE_MODULES is not set: run the tests with scripts/test, which makes what they need.")
    return run([program, str(PROGRAM), f"{world.gateway.url}/v1", KEY], NODE_PATH=modules)


def check_said(reply: dict[str, Any], *, role: str = "assistant") -> None:
    assert (reply["object"], reply["role"], reply["reason"]) == ("chat.completion", role, "stop")
    assert reply["text"] == "You said: hello there"


def test_it_is_the_pinned_sdk(node: Shown) -> None:
    pins = json.loads(PROGRAM.with_name("package.json").read_text())["dependencies"]
    assert node["version"] == pins["openai"]


@each_target
def test_a_whole_reply_has_everything_that_programs_read(node: Shown, target: str) -> None:
    reply = node[f"chat_whole {target}"]
    check_said(reply)
    assert reply["tokens"] == {"local": 9, "remote": 14}[target]
    assert reply["reasoning"] == {"local": None, "remote": "The user wants an answer."}[target]
    assert reply["request_id"].startswith("req_")


@each_target
def test_a_stream_gives_the_text_in_pieces_and_role_and_reason_once(node: Shown, target: str) -> None:
    stream = node[f"chat_streamed {target}"]
    assert (stream["text"], stream["pieces"]) == ("You said: hello there", 4)
    assert (stream["roles"], stream["reasons"]) == (["assistant"], ["stop"])
    assert (stream["ids"], stream["usages"]) == (1, 1)


@each_target
def test_the_stream_helper_finds_all_that_it_insists_on(node: Shown, target: str) -> None:
    final = node[f"chat_helper {target}"]
    check_said(final)
    assert final["deltas"] == 4


@each_target
def test_the_stream_helper_puts_calls_together(node: Shown, target: str) -> None:
    final = node[f"chat_helper_calls {target}"]
    assert final["reason"] == "tool_calls"
    assert [(call["type"], call["name"]) for call in final["calls"]] == [("function", "get_weather")] * 2
    assert [json.loads(call["arguments"]) for call in final["calls"]] == [{"city": "Oslo"}] * 2
    assert len({call["id"] for call in final["calls"]}) == 2


@each_target
def test_parse_gives_what_the_callers_schema_says(node: Shown, target: str) -> None:
    said = {"said": {"local": "Oslo", "remote": "hello there"}[target]}
    assert (node[f"chat_parsed {target}"], node[f"respond_parsed {target}"]) == (said, said)


@each_target
def test_the_tool_runner_calls_the_function_and_ends_with_the_answer(node: Shown, target: str) -> None:
    shown = node[f"chat_tools {target}"]
    assert (shown["whole"], shown["streamed"]) == ("The tool said: rain and wind",) * 2
    assert shown["asked"] == ["Oslo", "Oslo"]


@each_target
def test_a_response_has_its_text_and_items(node: Shown, target: str) -> None:
    reply = node[f"respond {target}"]
    assert (reply["object"], reply["status"], reply["text"]) == ("response", "completed", "You said: hello there")
    assert reply["items"] == {"local": ["message"], "remote": ["reasoning", "message"]}[target]
    assert reply["tokens"] == {"local": 9, "remote": 14}[target]


def test_a_streamed_response_opens_and_closes_all_that_it_tells_of(node: Shown) -> None:
    shown = node["respond_streamed local"]
    text = ["response.output_text.delta", "response.output_text.done"]
    assert shown["types"] == [*OPENED, *text, *CLOSED, "response.completed"]
    assert shown["text"] == "You said: hello there"


def test_a_streamed_response_tells_of_the_thinking_first(node: Shown) -> None:
    types = node["respond_streamed remote"]["types"]
    thinking = ["response.reasoning_text.delta", "response.reasoning_text.done"]
    assert types[:8] == [*OPENED, *thinking, *CLOSED]
    assert types.count("response.output_item.added") == types.count("response.output_item.done") == 2


@each_target
def test_the_helper_for_responses_finds_all_that_it_insists_on(node: Shown, target: str) -> None:
    final = node[f"respond_helper {target}"]
    assert (final["status"], final["text"]) == ("completed", "You said: hello there")
    assert final["streamed"] == final["text"]


@each_target
def test_results_of_tools_are_answered_as_items_and_by_the_id(node: Shown, target: str) -> None:
    said = "The tool said: rain and wind"
    assert node[f"respond_tools {target}"] == {"calls": 2, "second": said, "by_id": said}


@each_target
def test_many_calls_at_once_are_as_many_answers(node: Shown, target: str) -> None:
    assert node[f"many_at_once {target}"] == [f"You said: number {number}" for number in range(20)]


def test_models_are_listed_and_found_by_a_name_with_slashes(node: Shown) -> None:
    shown = node["models"]
    assert {"qwen2.5:7b", "hf.co/acme/tiny:q4", "spare"} <= set(shown["ids"])
    assert (shown["one"]["id"], shown["one"]["object"]) == ("hf.co/acme/tiny:q4", "model")


def test_embeddings_are_the_same_packed_and_plain(node: Shown) -> None:
    packed, plain = node["embeddings"]
    assert len(packed) == 2
    for left, right in zip(packed, plain, strict=True):
        assert left == pytest.approx(right, abs=1e-6)


def test_a_completion_is_the_same_whole_and_streamed(node: Shown) -> None:
    shown = node["completions"]
    assert shown["whole"]
    assert shown["streamed"] == shown["whole"]


@pytest.mark.parametrize(
    ("what", "name", "status", "code"),
    [
        ("key", "AuthenticationError", 401, "invalid_api_key"),
        ("model", "NotFoundError", 404, "model_not_found"),
        ("role", "BadRequestError", 400, "invalid_value"),
        ("busy", "RateLimitError", 429, "rate_limit_exceeded"),
        ("broken", "InternalServerError", 502, "upstream_error"),
        ("url", "NotFoundError", 404, None),
    ],
)
def test_a_failure_is_the_sdks_own_exception_with_all_its_fields(
    node: Shown, what: str, name: str, status: int, code: str | None
) -> None:
    error = node["failures"][what]
    assert (error["class"], error["status"], error["code"]) == (name, status, code)
    assert error["type"]
    assert error["requestID"].startswith("req_")


def test_a_cut_in_the_middle_of_a_stream_raises_after_the_text_so_far(node: Shown) -> None:
    shown = node["cut_in_the_middle"]
    assert shown["text"] == "You said:"
    assert (shown["error"]["class"], shown["error"]["code"]) == ("APIError", "upstream_cut")


def test_a_stream_that_is_gone_on_with_by_another_target_is_one_answer(node: Shown) -> None:
    check_said(node["continued"])


def test_a_stream_that_is_left_early_disturbs_no_later_call(node: Shown) -> None:
    check_said(node["left_early"])
