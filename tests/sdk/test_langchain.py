"""What a user of LangChain sees of the gateway, with nothing changed but OPENAI_BASE_URL.

An agent that reports in the caller's class is the hardest: it forces calls, or asks for tools and a schema at once. The
stand-ins are parrots, so what such an agent's model says second is planned here, in the words of each server.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sdk.world import KEY, Shown, World, python_of, run
from tests.standins import Lines, Normal, Say

REPORT = {"city": "Oslo", "wet": False}

each_target = pytest.mark.parametrize("target", ["local", "remote"])


def deepseeks_call(name: str, arguments: object) -> Lines:
    """A call of a tool as DeepSeek streams it."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    ends: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "tool_calls": [call]}, "finish_reason": None},
        {"delta": {}, "finish_reason": "tool_calls"},
    ]
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "deepseek-flash"}
    events = [json.dumps({**chunk, "choices": [{"index": 0, **choice}]}) for choice in ends]
    return Lines([f"data: {event}\n\n".encode() for event in [*events, "[DONE]"]])


@pytest.fixture(scope="module")
def langchain(world: World) -> Shown:
    forced = json.dumps({"name": "Report", "arguments": REPORT})
    # A forced call is the JSON that Ollama was held to; an answer is told from a call by its form.
    world.agent_local.plan(Normal(), Say([forced]), Normal(), Say([json.dumps(REPORT)]))
    world.agent_remote.plan(Normal(), deepseeks_call("Report", REPORT), Normal(), Say([json.dumps(REPORT)]))
    command = [python_of("clients"), "-m", "tests.sdk.program_langchain"]
    return run(command, OPENAI_BASE_URL=f"{world.gateway.url}/v1", OPENAI_API_KEY=KEY)


def check_message(shown: dict[str, Any], reason: str = "stop") -> None:
    assert (shown["text"], shown["calls"], shown["reason"]) == ("You said: hello there", [], reason)
    assert shown["usage"]["total_tokens"] == shown["usage"]["input_tokens"] + shown["usage"]["output_tokens"] > 0


@each_target
def test_a_message_is_answered_and_counted(langchain: Shown, target: str) -> None:
    check_message(langchain[f"whole {target}"])


@each_target
def test_a_message_is_streamed_in_pieces_and_counted(langchain: Shown, target: str) -> None:
    shown = langchain[f"streamed {target}"]
    check_message(shown)
    assert shown["pieces"] == 4


@each_target
def test_the_responses_api_gives_the_same(langchain: Shown, target: str) -> None:
    shown = langchain[f"over_responses {target}"]
    check_message(shown["whole"], "completed")
    assert shown["streamed"] == "You said: hello there"
    assert shown["called"]["calls"] == [{"name": "get_weather", "args": {"city": "Oslo"}}]


@each_target
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_bound_tool_is_called(langchain: Shown, target: str, way: str) -> None:
    shown = langchain[f"called {target}"][way]
    assert (shown["calls"], shown["reason"]) == ([{"name": "get_weather", "args": {"city": "Oslo"}}], "tool_calls")


@each_target
@pytest.mark.parametrize("way", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_an_object_of_the_callers_class(langchain: Shown, target: str, way: str) -> None:
    shown = langchain[f"structured {target}"][way]
    assert shown["class"] == "Said"
    assert shown["said"]


@each_target
def test_an_agent_calls_its_tool_gets_the_result_and_answers(langchain: Shown, target: str) -> None:
    shown = langchain[f"agent {target}"]
    assert shown["messages"] == ["human", "ai", "tool", "ai"]
    assert (shown["called"], shown["results"]) == (["get_weather"], ["rain and wind in Oslo"])
    assert shown["text"] == "The tool said: rain and wind in Oslo"


@each_target
def test_an_agent_that_is_forced_to_call_reports_by_a_tool_of_that_name(langchain: Shown, target: str) -> None:
    shown = langchain[f"ToolStrategy {target}"]
    assert shown["called"] == ["get_weather", "Report"]
    assert shown["results"][0] == "rain and wind in Oslo"
    assert shown["report"] == {"class": "Report", **REPORT}


@each_target
def test_an_agent_with_tools_and_a_schema_calls_first_and_then_keeps_to_the_schema(
    langchain: Shown, target: str
) -> None:
    shown = langchain[f"ProviderStrategy {target}"]
    assert (shown["called"], shown["results"]) == (["get_weather"], ["rain and wind in Oslo"])
    assert shown["report"] == {"class": "Report", **REPORT}


def test_many_messages_at_once_are_as_many_answers(langchain: Shown) -> None:
    assert langchain["many_at_once"] == [[f"You said: number {number}" for number in range(20)]] * 2


def test_documents_and_queries_are_embedded_alike(langchain: Shown) -> None:
    shown = langchain["embedded"]
    assert shown["documents"][0] == pytest.approx(shown["query"], abs=1e-6)
    assert shown["documents"][0] != shown["documents"][1]


def test_an_unknown_model_is_a_not_found_error(langchain: Shown) -> None:
    shown = langchain["refused"]
    assert (shown["status"], shown["code"]) == (404, "model_not_found")
    assert "NotFoundError" in shown["class"]
