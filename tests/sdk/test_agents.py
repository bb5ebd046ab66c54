"""What a user of the OpenAI Agents SDK sees of the gateway, with nothing changed but OPENAI_BASE_URL.

It speaks the Responses API, and takes an agent through calls of tools, handoffs and conversations by itself.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.world import KEY, Shown, World, python_of, run

ANSWER = "The tool said: rain and wind in Oslo"
LOOP = {
    "local": ["tool_call_item", "tool_call_output_item", "message_output_item"],
    "remote": [
        *("reasoning_item", "tool_call_item", "tool_call_output_item"),
        *("reasoning_item", "message_output_item"),
    ],
}
"""What an agent makes of one question: the model that thinks does so before each of its turns."""

each_target = pytest.mark.parametrize("target", ["local", "remote"])


@pytest.fixture(scope="module")
def agents(world: World) -> Shown:
    url = f"{world.gateway.url}/v1"
    command = [python_of("clients"), "-m", "tests.sdk.program_agents", url]
    return run(command, OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)


def check_loop(shown: dict[str, Any], target: str) -> None:
    assert (shown["output"], shown["requests"]) == (ANSWER, 2)
    assert shown["items"] == LOOP[target]


def test_the_sdks_own_default_model_can_be_given_a_target(agents: Shown) -> None:
    check_loop(agents["default_model"], "local")


@each_target
def test_an_agent_calls_its_tool_gets_the_result_and_answers(agents: Shown, target: str) -> None:
    shown = agents[f"tool_loop {target}"]
    check_loop(shown, target)
    asked, said, both = shown["tokens"]
    assert asked > 0
    assert said > 0
    assert both == asked + said


@each_target
def test_a_streamed_agent_tells_of_each_step_and_word(agents: Shown, target: str) -> None:
    shown = agents[f"tool_loop_streamed {target}"]
    check_loop(shown, target)
    assert (shown["text"], shown["pieces"]) == (ANSWER, 8)
    assert [name for name in shown["told"] if name != "reasoning_item_created"] == [
        *("tool_called", "tool_output", "message_output_created"),
    ]


@each_target
def test_an_agent_may_send_what_is_new_and_the_id_of_what_was_before(agents: Shown, target: str) -> None:
    check_loop(agents[f"tool_loop_by_id {target}"], target)


@each_target
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_an_agent_may_speak_chat_completions_instead(agents: Shown, target: str, way: str) -> None:
    check_loop(agents[f"chat_tool_loop {target}"][way], target)


@each_target
def test_an_agents_answer_is_an_object_of_the_callers_class(agents: Shown, target: str) -> None:
    shown = agents[f"typed {target}"]
    assert (shown["class"], shown["output"]) == ("Said", {"said": {"local": "Oslo", "remote": "hello there"}[target]})


@each_target
def test_an_agent_hands_over_to_another(agents: Shown, target: str) -> None:
    shown = agents[f"handed_over {target}"]
    assert shown["agent"] == "expert"
    assert [item for item in shown["items"] if item != "reasoning_item"] == [
        *("handoff_call_item", "handoff_output_item", "message_output_item"),
    ]


@each_target
def test_a_session_goes_on_from_its_first_turn(agents: Shown, target: str) -> None:
    shown = agents[f"remembered {target}"]
    assert (shown["first"]["output"], shown["second"]["output"]) == ("You said: hello there", "You said: and again")
    assert shown["second"]["tokens"][0] > shown["first"]["tokens"][0]


def test_an_unknown_model_is_a_not_found_error(agents: Shown) -> None:
    assert agents["refused"] == {"class": "NotFoundError", "status": 404, "code": "model_not_found"}


def test_traces_are_taken_without_a_complaint_and_no_model_server_sees_them(agents: Shown, world: World) -> None:
    shown = agents["traced"]
    assert shown["delivered"] > 0
    assert shown["troubles"] == []
    assert not any("trace" in seen.path for standin in world.standins.values() for seen in standin.seen)
