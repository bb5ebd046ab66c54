"""What a user of the official Python SDKs, the 1.x and the 3.x, sees of the gateway's chat.

Each SDK runs `program` once, in a process of its own, and tells everything it showed; the tests look at that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.sdk.world import KEY, UPSTREAM_KEY, Shown, World, python_of, run
from tests.standins import Seen, Status


@dataclass(frozen=True)
class Sdk:
    """What one SDK showed, and what reached the servers meanwhile."""

    shows: Shown
    ollama: list[Seen] = field(repr=False)
    deepseek: list[Seen] = field(repr=False)
    shaky: list[Seen] = field(repr=False)
    log: str = field(repr=False)

    def shown(self, scenario: str) -> Any:
        return self.shows[scenario]


@pytest.fixture(scope="module", params=["openai1", "openai3"])
def sdk(request: pytest.FixtureRequest, world: World) -> Sdk:
    world.shaky.plan(Status(500), Status(503))
    before = len(world.ollama.chats), len(world.deepseek.chats), len(world.shaky.chats)
    shows = run([python_of(request.param), "-m", "tests.sdk.program", f"{world.gateway.url}/v1", KEY])
    return Sdk(
        shows,
        world.ollama.chats[before[0] :],
        world.deepseek.chats[before[1] :],
        world.shaky.chats[before[2] :],
        world.gateway.log.getvalue(),
    )


each_target = pytest.mark.parametrize("target", ["local", "remote"])

USAGE: dict[str, dict[str, Any]] = {
    "local": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    "remote": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
}
"""Of "hello there" and its answer; the one that thinks also counts five thoughts."""


def counted(usage: dict[str, Any]) -> dict[str, Any]:
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def test_each_interpreter_has_its_sdk(sdk: Sdk, request: pytest.FixtureRequest) -> None:
    wanted = request.node.callspec.params["sdk"].removeprefix("openai")
    assert sdk.shown("version").startswith(f"{wanted}.")


# Chats


@each_target
def test_a_whole_reply_has_everything_that_programs_read(sdk: Sdk, target: str) -> None:
    reply = sdk.shown(f"chat_whole {target}")
    assert (reply["class"], reply["object"]) == ("ChatCompletion", "chat.completion")
    assert reply["id"].startswith("chatcmpl-")
    assert isinstance(reply["created"], int)
    assert reply["model"] == {"local": "qwen2.5:7b", "remote": "deepseek-flash"}[target]
    assert (reply["choices"], reply["index"], reply["role"], reply["reason"]) == (1, 0, "assistant", "stop")
    assert (reply["text"], reply["refusal"], reply["calls"]) == ("You said: hello there", None, [])
    assert counted(reply["usage"]) == USAGE[target]


@each_target
def test_a_stream_gives_the_text_in_pieces_and_role_and_reason_once(sdk: Sdk, target: str) -> None:
    stream = sdk.shown(f"chat_streamed {target}")
    assert (stream["classes"], stream["objects"]) == (["ChatCompletionChunk"], ["chat.completion.chunk"])
    assert (stream["text"], stream["pieces"]) == ("You said: hello there", 4)
    assert (stream["roles"], stream["reasons"]) == (["assistant"], ["stop"])
    assert len(stream["ids"]) == 1
    assert stream["models"] == [{"local": "qwen2.5:7b", "remote": "deepseek-flash"}[target]]
    assert set(stream["choices"]) == {1}


@each_target
def test_a_stream_has_no_usage_unless_asked_for(sdk: Sdk, target: str) -> None:
    assert set(sdk.shown(f"chat_streamed {target}")["usages"]) == {None}


@each_target
def test_a_stream_with_usage_has_it_in_a_last_chunk_without_choices(sdk: Sdk, target: str) -> None:
    stream = sdk.shown(f"chat_streamed_with_usage {target}")
    *others, last = stream["usages"]
    assert set(others) == {None}
    assert counted(last) == USAGE[target]
    assert stream["choices"] == [1] * len(others) + [0]
    assert (stream["text"], stream["reasons"]) == ("You said: hello there", ["stop"])


def test_deepseeks_own_counts_are_read_where_the_sdk_has_them(sdk: Sdk) -> None:
    usage = sdk.shown("chat_whole remote")["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


def test_pieces_come_one_by_one_and_not_all_at_the_end(sdk: Sdk) -> None:
    paced = sdk.shown("paced")
    assert paced["pieces"] == 4
    assert paced["seconds"] > 0.1


@each_target
def test_system_and_developer_messages_arrive_as_system_messages(sdk: Sdk, target: str) -> None:
    assert sdk.shown(f"system_and_developer {target}")["text"] == "You said: who are you"
    arrived = [seen.json for seen in (sdk.ollama if target == "local" else sdk.deepseek)]
    (messages,) = [
        [(message["role"], message["content"]) for message in body["messages"]]
        for body in arrived
        if body is not None and body["messages"][-1]["content"] == "who are you"
    ]
    assert messages == [("system", "Be brief."), ("system", "Be kind."), ("user", "who are you")]


@each_target
def test_content_in_parts_is_read(sdk: Sdk, target: str) -> None:
    assert sdk.shown(f"parts {target}")["text"] == "You said: hello\nthere"


@each_target
def test_a_reply_goes_back_into_the_conversation(sdk: Sdk, target: str) -> None:
    assert sdk.shown(f"conversation {target}")["text"] == "You said: and again"


@each_target
def test_reasoning_is_beside_the_text(sdk: Sdk, target: str) -> None:
    reply = sdk.shown(f"thinking_whole {target}")
    assert (reply["reasoning"], reply["text"]) == ("The user wants an answer.", "You said: hello there")


@each_target
def test_streamed_reasoning_comes_before_the_text(sdk: Sdk, target: str) -> None:
    stream = sdk.shown(f"thinking_streamed {target}")
    assert (stream["reasoning"], stream["text"]) == ("The user wants an answer.", "You said: hello there")
    assert stream["order"] == "rrrrrtttt"
    assert stream["roles"] == ["assistant"]


@each_target
def test_settings_that_programs_send_by_habit_do_no_harm(sdk: Sdk, target: str) -> None:
    reply = sdk.shown(f"settings {target}")
    assert (reply["text"], reply["choices"], reply["reason"]) == ("You said: hello there", 1, "stop")
    assert "user" in reply["dropped"].split(", ")


@each_target
@pytest.mark.parametrize("name", ["old", "new"])
def test_both_names_of_the_limit_cut_the_answer(sdk: Sdk, target: str, name: str) -> None:
    reply = sdk.shown(f"limited {target}")[name]
    assert (reply["text"], reply["reason"]) == ("You said:", "length")


@each_target
def test_the_limit_cuts_a_stream(sdk: Sdk, target: str) -> None:
    stream = sdk.shown(f"limited {target}")["streamed"]
    assert (stream["text"], stream["reasons"]) == ("You said:", ["length"])


@each_target
def test_stop_strings_end_the_answer(sdk: Sdk, target: str) -> None:
    shown = sdk.shown(f"stopped {target}")
    assert [(shown[how]["text"].rstrip(), shown[how]["reason"]) for how in ("one", "many")] == [
        ("You said: one", "stop"),
        ("You said: one two", "stop"),
    ]


# Formats


@each_target
def test_a_schema_gives_json(sdk: Sdk, target: str) -> None:
    reply = sdk.shown(f"schema_format {target}")
    assert set(json.loads(reply["text"])) == {"said"}
    assert reply["reason"] == "stop"


@each_target
def test_parse_gives_an_object_of_the_callers_class(sdk: Sdk, target: str) -> None:
    said = {"local": "Oslo", "remote": "hello there"}[target]
    assert sdk.shown(f"parsed_format {target}") == {"class": "Said", "said": said}


# Tools


def check_calls(calls: list[dict[str, Any]], number: int) -> None:
    assert [(call["type"], call["name"]) for call in calls] == [("function", "get_weather")] * number
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Oslo"}] * number
    assert len({call["id"] for call in calls} - {None, ""}) == number


@each_target
def test_a_call_of_a_tool_has_its_arguments_as_json_in_a_string(sdk: Sdk, target: str) -> None:
    first = sdk.shown(f"tools_whole {target}")["first"]
    check_calls(first["calls"], 1)
    assert first["reason"] == "tool_calls"


@each_target
@pytest.mark.parametrize("way", ["dumped", "object", "without nulls", "as documented"])
def test_the_result_of_a_tool_is_answered_however_the_call_is_sent_back(sdk: Sdk, target: str, way: str) -> None:
    second = sdk.shown(f"tools_whole {target}")["second"][way]
    assert (second["text"], second["reason"]) == ("The tool said: rain and wind", "stop")


@each_target
def test_a_call_of_a_tool_is_streamed_and_answered(sdk: Sdk, target: str) -> None:
    shown = sdk.shown(f"tools_streamed {target}")
    check_calls(shown["first"]["calls"], 1)
    assert (shown["first"]["roles"], shown["first"]["reasons"]) == (["assistant"], ["tool_calls"])
    assert shown["second"]["text"] == "The tool said: rain and wind"


@each_target
def test_two_calls_of_tools_stay_apart(sdk: Sdk, target: str) -> None:
    shown = sdk.shown(f"two_calls {target}")
    check_calls(shown["first"]["calls"], 2)
    check_calls(shown["streamed"]["calls"], 2)
    assert shown["second"]["text"] == "The tool said: rain and wind 2"


@pytest.mark.parametrize("how", ["named", "required"])
def test_a_call_can_be_demanded_of_a_model_that_thinks(sdk: Sdk, how: str) -> None:
    reply = sdk.shown("forced_call remote")[how]
    check_calls(reply["calls"], 1)
    assert reply["reasoning"] is None


@each_target
def test_a_strict_tool_is_called(sdk: Sdk, target: str) -> None:
    check_calls(sdk.shown(f"strict_tool {target}")["calls"], 1)


# The helper that reads a stream


@each_target
def test_the_stream_helper_gives_the_whole_message(sdk: Sdk, target: str) -> None:
    final = sdk.shown(f"helper_text {target}")
    assert (final["role"], final["text"], final["reason"]) == ("assistant", "You said: hello there", "stop")
    assert counted(final["usage"]) == USAGE[target]
    assert {"chunk", "content.delta", "content.done"} <= set(final["events"])


@each_target
def test_the_stream_helper_puts_calls_together(sdk: Sdk, target: str) -> None:
    final = sdk.shown(f"helper_calls {target}")
    check_calls(final["calls"], 2)
    assert final["parsed_arguments"] == [{"city": "Oslo"}] * 2
    assert (final["role"], final["reason"]) == ("assistant", "tool_calls")
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= set(final["events"])


@each_target
def test_the_stream_helper_parses_into_the_callers_class(sdk: Sdk, target: str) -> None:
    assert sdk.shown(f"helper_parsed {target}")["parsed"] == {"local": "Oslo", "remote": "hello there"}[target]


# Models


def test_models_are_listed_with_all_that_the_sdk_promises(sdk: Sdk) -> None:
    shown = sdk.shown("models")
    assert shown["class"] == "SyncPage[Model]"
    assert {"qwen2.5:7b", "hf.co/acme/tiny:q4", "deepseek-flash", "spare"} <= {row["id"] for row in shown["rows"]}
    assert all(row["object"] == "model" and isinstance(row["created"], int) for row in shown["rows"])
    assert all(isinstance(row["owned_by"], str) for row in shown["rows"])


def test_every_listed_model_can_be_asked_for_by_its_id(sdk: Sdk) -> None:
    shown = sdk.shown("models")
    assert shown["each"] == shown["rows"]


def test_a_model_with_slashes_in_its_name_answers(sdk: Sdk) -> None:
    reply = sdk.shown("models")["slash"]
    assert (reply["model"], reply["text"]) == ("hf.co/acme/tiny:q4", "You said: hello there")


# Failures


def check_error(error: dict[str, Any], name: str, status: int, **fields: str | None) -> None:
    """The exception's class and fields, and that it carries what users are asked for in a report."""
    assert (error["class"], error["status"]) == (name, status), error
    assert error["body"] == ["code", "message", "param", "type"]
    assert {key: error[key] for key in fields} == fields
    assert error["message"]
    assert error["message"] in error["words"] or "'" in error["message"]
    assert error["request_id"]
    assert error["request_id"] == error["header"]


@pytest.mark.parametrize("what", ["chat", "models"])
def test_a_wrong_key_is_an_authentication_error_that_does_not_show_it(sdk: Sdk, what: str) -> None:
    error = sdk.shown("wrong_key")[what]
    check_error(error, "AuthenticationError", 401, type="invalid_request_error", code="invalid_api_key", param=None)
    assert "Incorrect API key provided: ***." in error["words"]
    assert "somebody" not in error["words"]


def test_no_key_is_an_authentication_error_that_says_what_to_do(sdk: Sdk) -> None:
    error = sdk.shown("no_key")
    check_error(error, "AuthenticationError", 401, type="invalid_request_error", code=None)
    assert "You didn't provide an API key" in error["words"]


@pytest.mark.parametrize("how", ["no rule", "no such model", "streamed"])
def test_an_unknown_model_is_a_not_found_error(sdk: Sdk, how: str) -> None:
    error = sdk.shown("unknown_model")[how]
    check_error(error, "NotFoundError", 404, type="invalid_request_error", code="model_not_found", param="model")
    assert "does not exist or you do not have access to it" in error["words"]


def test_a_model_that_cannot_be_retrieved_is_a_not_found_error(sdk: Sdk) -> None:
    error = sdk.shown("models")["unknown"]
    check_error(error, "NotFoundError", 404, code="model_not_found")
    assert "acme/none" in error["words"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("post", "Invalid URL (POST /v1/nothing)"),
        ("get", "Invalid URL (GET /v1/nothing)"),
        ("moderations", "Invalid URL (POST /v1/moderations)"),
        ("files", "Invalid URL (GET /v1/files)"),
    ],
)
def test_an_unknown_url_is_a_not_found_error(sdk: Sdk, what: str, words: str) -> None:
    error = sdk.shown("unknown_url")[what]
    check_error(error, "NotFoundError", 404, type="invalid_request_error", code=None, param=None)
    assert error["message"] == words


def test_a_wrong_method_is_a_status_error(sdk: Sdk) -> None:
    check_error(sdk.shown("unknown_url")["wrong method"], "APIStatusError", 405, type="invalid_request_error")


@pytest.mark.parametrize(
    ("what", "code", "param"),
    [
        ("role", "invalid_value", "messages[0].role"),
        ("no messages", "invalid_value", "messages"),
        ("temperature", "invalid_value", "temperature"),
        ("too long", "context_length_exceeded", "messages"),
        ("streamed", "invalid_value", "messages[0].role"),
    ],
)
def test_a_bad_request_names_its_parameter_and_code(sdk: Sdk, what: str, code: str, param: str) -> None:
    error = sdk.shown("bad_requests")[what]
    check_error(error, "BadRequestError", 400, type="invalid_request_error", code=code, param=param)


@each_target
def test_a_cut_in_the_middle_of_a_stream_raises_after_the_text_so_far(sdk: Sdk, target: str) -> None:
    shown = sdk.shown(f"cut_in_the_middle {target}")
    error = shown["error"]
    assert shown["text"] == "You said:"
    assert (error["class"], error["type"], error["code"]) == ("APIError", "server_error", "upstream_cut")
    assert error["words"] == error["message"]
    assert error["words"]
    assert shown["next"] == "You said: hello there"


@each_target
def test_a_whole_reply_that_is_cut_is_a_server_error(sdk: Sdk, target: str) -> None:
    error = sdk.shown(f"cut_in_the_middle {target}")["whole"]
    check_error(error, "InternalServerError", 502, type="server_error", code="upstream_cut")
    assert f"cut-{target}/" in error["words"]


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_servers_that_are_all_at_their_limit_are_a_rate_limit_error(sdk: Sdk, how: str) -> None:
    error = sdk.shown("rate_limited")[how]
    check_error(error, "RateLimitError", 429, code="rate_limit_exceeded")
    assert "busy-local/a" in error["words"]
    assert "busy-remote/deepseek-flash" in error["words"]


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_servers_that_all_fail_are_an_internal_server_error_that_names_each(sdk: Sdk, how: str) -> None:
    error = sdk.shown("all_fail")[how]
    check_error(error, "InternalServerError", 502, type="server_error", code="upstream_error")
    assert "sick-local/a" in error["words"]
    assert "sick-remote/deepseek-flash" in error["words"]


def test_a_target_that_fails_is_not_seen_where_another_answers(sdk: Sdk) -> None:
    shown = sdk.shown("failing_over")
    assert (shown["text"], shown["target"]) == ("You said: hello there", "deepseek/deepseek-flash")
    assert (shown["streamed"]["text"], shown["streamed"]["roles"]) == ("You said: hello there", ["assistant"])


@pytest.mark.parametrize("way", ["mended", "mended-there"])
def test_a_stream_that_is_gone_on_with_by_another_target_is_one_answer(sdk: Sdk, way: str) -> None:
    shown = sdk.shown("continued")[way]
    assert shown["text"] == "You said: hello there"
    assert (shown["roles"], shown["reasons"]) == (["assistant"], ["stop"])
    assert len(shown["ids"]) == len(shown["models"]) == 1
    (usage,) = [one for one in shown["usages"] if one is not None]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_target_that_fails_twice_is_not_seen_by_who_retries(sdk: Sdk) -> None:
    shown = sdk.shown("failing_twice")
    assert (shown["text"], shown["retries"]) == ("You said: hello there", 2)
    assert len(sdk.shaky) == 3


def test_the_sdk_does_not_retry_where_no_target_can_be_asked(sdk: Sdk) -> None:
    shown = sdk.shown("no_route")
    check_error(shown, "InternalServerError", 503, code="no_route")
    assert shown["asked"] == 1
    assert "has no key" in shown["words"]


# The way there


def test_every_reply_has_a_request_id_of_its_own(sdk: Sdk) -> None:
    shown = sdk.shown("request_ids")
    assert shown["whole"] == shown["whole header"] == shown["raw"]
    assert shown["streamed text"] == "You said: hello there"
    ids = {shown[what] for what in ("whole", "streamed header", "models")}
    assert len(ids - {None, ""}) == 3


def test_a_request_id_is_found_in_the_log(sdk: Sdk) -> None:
    shown = sdk.shown("request_ids")
    assert shown["whole"] in sdk.log
    assert shown["streamed header"] in sdk.log
    assert sdk.shown("no_key")["request_id"] in sdk.log


@each_target
def test_headers_say_where_the_answer_came_from(sdk: Sdk, target: str) -> None:
    wanted = {"local": "ollama/qwen2.5:7b", "remote": "deepseek/deepseek-flash"}[target]
    whole, stream = sdk.shown(f"headers {target}")
    for headers in (whole, stream):
        assert (headers["x-gateway-target"], headers["x-gateway-rule"]) == (wanted, target)
        assert not {"set-cookie", "x-ds-trace-id"} & set(headers)
    assert whole["content-type"] == "application/json"
    assert stream["content-type"] == "text/event-stream; charset=utf-8"


def test_a_stream_that_is_left_early_disturbs_no_later_call(sdk: Sdk) -> None:
    assert sdk.shown("left_early") == ["You", "You said: hello there"] * 3


def test_a_hundred_calls_through_one_client_are_a_hundred_answers(sdk: Sdk) -> None:
    shown = sdk.shown("a_hundred")
    assert shown["texts"] == [f"You said: number {number}" for number in range(100)]
    assert (shown["ids"], shown["request_ids"]) == (100, 100)


def test_a_hundred_calls_through_one_client_share_connections(sdk: Sdk) -> None:
    calls = [seen for seen in sdk.ollama if b'"number ' in seen.body][:100]
    # A call may come while its predecessor's connection has yet to hear the end of a reply whose last word it has.
    assert len({seen.connection for seen in calls}) < 10


def test_the_asynchronous_client_sees_the_same(sdk: Sdk) -> None:
    shown = sdk.shown("asynchronous")
    assert shown["whole"] == [f"You said: number {number}" for number in range(20)]
    assert [stream["text"] for stream in shown["streamed"]] == ["You said: hello there"] * 2
    assert (shown["cut"]["text"], shown["cut"]["error"]["class"]) == ("You said:", "APIError")
    assert (shown["refused"]["class"], shown["refused"]["code"]) == ("NotFoundError", "model_not_found")
    assert "qwen2.5:7b" in shown["models"]


def test_nothing_of_the_caller_reaches_a_model_server(sdk: Sdk, world: World) -> None:
    assert sdk.ollama
    assert sdk.deepseek
    assert {name: standin.leaked for name, standin in world.standins.items() if standin.leaked} == {}
    assert all(KEY.encode() not in seen.body for seen in (*sdk.ollama, *sdk.deepseek))


def test_no_key_is_in_the_log(sdk: Sdk) -> None:
    assert KEY not in sdk.log
    assert UPSTREAM_KEY not in sdk.log
    assert "sk-somebody-elses-key" not in sdk.log
