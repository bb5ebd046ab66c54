"""/v1/responses through the whole gateway: what is answered, kept, built upon, and told where something goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from addons import response_store
from addons.response_store import KEPT, MAX_BYTES, MAX_COUNT, ResponseStore, items_in
from tests.gateway import Gateway
from tests.standins import CutAfter, DeepSeekStandIn, OllamaStandIn, Silence, Status
from tests.wire.responses import events, replayed
from wire.openai import Json

UPSTREAM_KEY = "sk-ds-test"
MINE, THEIRS = "sk-mine-0123456789", "sk-theirs-0123456789"
TEXT = "Hello from the model that answers here"
RULES = """
proxy: {{auth: {{tokens: [{mine}, {theirs}]}}}}
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {key}}}
rules:
  - {{name: local, when: {{model: local}}, use: "ollama/qwen2.5:7b"}}
  - {{name: thinking, when: {{model: thinking}}, use: "ollama/deepseek-r1:7b"}}
  - {{name: both, use: ["ollama/qwen2.5:7b", deepseek/deepseek-flash]}}
defaults:
  timeouts: {{connect: 20s, first_token: 1s, idle: 20s, total: 40s, keep_alive: 200ms}}
  failover: {{attempts: 1, backoff: 10ms}}
  breaker: {{failures: 1000000}}
"""


@dataclass
class World:
    """Two servers, and a gateway in front of them."""

    ollama: OllamaStandIn
    deepseek: DeepSeekStandIn
    gateway: Gateway
    mine: httpx.Client
    theirs: httpx.Client
    sdk: openai.OpenAI

    def ask(self, given: Any = "hello there", model: str = "both", **more: object) -> Json:
        """One whole response."""
        answer = self.post(given, model, **more)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def post(self, given: Any = "hello there", model: str = "both", **more: object) -> httpx.Response:
        return self.mine.post("/v1/responses", json={"model": model, "input": given, **more})

    def stream(self, given: Any = "hello there", model: str = "both", **more: object) -> list[Json]:
        """The events of one streamed response."""
        answer = self.post(given, model, stream=True, **more)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return events(answer.content)

    @property
    def asked(self) -> list[Json]:
        """The messages that Ollama was last sent."""
        messages: list[Json] = _sent(self.ollama)["messages"]
        return messages


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with (
        OllamaStandIn(["qwen2.5:7b", "deepseek-r1:7b"]) as ollama,
        DeepSeekStandIn(UPSTREAM_KEY, thinking=False) as deepseek,
        Gateway(
            RULES.format(mine=MINE, theirs=THEIRS, ollama=ollama.url, deepseek=deepseek.url, key=UPSTREAM_KEY)
        ) as gateway,
        gateway.client(MINE) as mine,
        gateway.client(THEIRS) as theirs,
        openai.OpenAI(
            base_url=f"{gateway.url}/v1",
            api_key=MINE,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as sdk,
    ):
        yield World(ollama, deepseek, gateway, mine, theirs, sdk)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    yield shared
    for standin in (shared.ollama, shared.deepseek):
        standin.always = None
        standin._plans.clear()
        standin.seen.clear()


def _sent(server: OllamaStandIn | DeepSeekStandIn) -> Json:
    """What a server was last asked."""
    body = server.chats[-1].json
    assert body is not None
    return dict(body)


def _error(answer: httpx.Response) -> tuple[int, str | None, str | None, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"], error["message"]


def _text(response: Json) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


# -- answers


def test_a_response_is_answered_by_a_model_of_the_rules(world: World) -> None:
    answer = world.post(instructions="Be kind")
    response = answer.json()
    assert (response["status"], _text(response)) == ("completed", "You said: hello there")
    assert response["usage"]["total_tokens"] > 0
    assert response["completed_at"] >= response["created_at"]
    assert answer.headers["x-gateway-target"] == "ollama/qwen2.5:7b"
    assert world.asked == [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "hello there"}]


def test_a_stream_has_every_event_and_ends_with_the_response(world: World) -> None:
    found = world.stream()
    assert replayed(found) == found[-1]["response"]["output"]
    assert _text(found[-1]["response"]) == "You said: hello there"


def test_a_model_that_thinks_gives_its_reasoning_first(world: World) -> None:
    response = world.ask(model="thinking")
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]


def test_what_is_not_carried_is_named_in_the_callers_words(world: World) -> None:
    answer = world.post(truncation="auto", reasoning={"summary": "auto"}, service_tier="flex")
    assert answer.headers["x-gateway-dropped"] == "reasoning.summary, truncation, service_tier"


# -- building on what was said


def test_a_response_goes_on_from_the_one_before_it(world: World) -> None:
    first = world.ask("one", instructions="Be kind")
    second = world.ask("two", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert world.asked == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two"},
    ]
    world.ask("three", previous_response_id=second["id"], instructions="Be brief")
    assert [message["content"] for message in world.asked] == [
        "Be brief", "one", "You said: one", "two", "You said: two", "three"
    ]  # fmt: skip


def test_a_streamed_response_can_be_built_upon_at_once(world: World) -> None:
    first = world.stream("one")[-1]["response"]
    world.ask("two", previous_response_id=first["id"])
    assert [message["content"] for message in world.asked] == ["one", "You said: one", "two"]


def test_a_tools_result_alone_goes_on_with_the_conversation(world: World) -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    first = world.ask("Weather?", tools=[tool])
    (call,) = first["output"]
    assert (call["type"], call["name"]) == ("function_call", "weather")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    second = world.ask([result], previous_response_id=first["id"])
    assert "rain" in _text(second)
    assert [message["role"] for message in world.asked] == ["user", "assistant", "tool"]


def test_an_item_of_any_kept_response_can_be_referred_to(world: World) -> None:
    first = world.ask("one")
    message = first["output"][0]["id"]
    world.ask([{"type": "item_reference", "id": message}, {"role": "user", "content": "two"}])
    assert [message["content"] for message in world.asked] == ["You said: one", "two"]
    given = world.mine.get(f"/v1/responses/{first['id']}/input_items").json()["data"][0]["id"]
    world.ask([{"type": "item_reference", "id": given}])
    assert [message["content"] for message in world.asked] == ["one"]


def test_a_response_is_read_once_however_many_of_its_items_are_referred_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.ask([{"role": "user", "content": f"item {number}"} for number in range(40)])
    listed = world.mine.get(f"/v1/responses/{first['id']}/input_items?limit=40&order=asc").json()["data"]
    read: list[Sequence[bytes]] = []

    def reading(segments: Sequence[bytes]) -> list[Json]:
        read.append(segments)
        return items_in(segments)

    monkeypatch.setattr(response_store, "items_in", reading)
    world.ask([{"type": "item_reference", "id": item["id"]} for item in listed])
    assert len(world.asked) == 40
    assert len(read) == 1


def test_a_response_that_was_not_stored_cannot_be_built_upon(world: World) -> None:
    response = world.ask(store=False)
    assert response["store"] is False
    assert world.mine.get(f"/v1/responses/{response['id']}").status_code == 404
    status, code, param, message = _error(world.post(previous_response_id=response["id"]))
    assert (status, code, param) == (404, "previous_response_not_found", "previous_response_id")
    assert response["id"] in message


def test_nobody_sees_or_uses_what_another_client_said(world: World) -> None:
    response = world.ask("secret")
    path = f"/v1/responses/{response['id']}"
    message = response["output"][0]["id"]
    body = {"model": "both", "input": "two"}
    assert world.theirs.get(path).status_code == 404
    assert world.theirs.get(f"{path}/input_items").status_code == 404
    assert world.theirs.delete(path).status_code == 404
    assert world.theirs.post("/v1/responses", json={**body, "previous_response_id": response["id"]}).status_code == 404
    refused = world.theirs.post("/v1/responses", json={**body, "input": [{"type": "item_reference", "id": message}]})
    assert _error(refused)[2] == "input[0].id"
    assert world.mine.get(path).status_code == 200


# -- looking at what is kept


def test_a_response_is_read_again_as_it_was_given(world: World) -> None:
    response = world.ask()
    assert world.mine.get(f"/v1/responses/{response['id']}").json() == response
    assert world.mine.get(f"/responses/{response['id']}?include[]=x").json() == response


def test_a_deleted_response_is_gone(world: World) -> None:
    path = f"/v1/responses/{world.ask()['id']}"
    answer = world.mine.delete(path)
    assert answer.json() == {"id": path.rpartition("/")[2], "object": "response", "deleted": True}
    for gone in (world.mine.get(path), world.mine.delete(path), world.mine.get(f"{path}/input_items")):
        status, code, param, message = _error(gone)
        assert (status, code, param) == (404, None, None)
        assert "not found" in message


def test_what_a_response_was_made_from_is_listed(world: World) -> None:
    first = world.ask("one")
    second = world.ask([{"role": "user", "content": "two"}, {"role": "user", "content": "three"}],
                       previous_response_id=first["id"])  # fmt: skip
    path = f"/v1/responses/{second['id']}/input_items"
    listed = world.mine.get(path, params={"order": "asc"}).json()
    said = [item["content"][0]["text"] for item in listed["data"]]
    assert said == ["one", "You said: one", "two", "three"]
    last = world.mine.get(path, params={"limit": 1}).json()
    assert (last["data"], last["has_more"]) == (listed["data"][-1:], True)
    rest = world.mine.get(path, params={"after": last["last_id"]}).json()
    assert rest["data"] == listed["data"][2::-1]
    assert _error(world.mine.get(path, params={"limit": "0"}))[2] == "limit"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v1/responses/{id}/cancel", 400, "made with 'background'"),
        ("POST", "/v1/responses/resp_none/cancel", 404, "'resp_none' not found"),
        ("GET", "/v1/responses/{id}?stream=true", 400, "in the background"),
        ("POST", "/v1/responses/input_tokens", 404, "is not offered"),
        ("POST", "/v1/responses/compact", 404, "is not offered"),
        ("GET", "/v1/responses", 405, "use POST"),
        ("POST", "/v1/responses/{id}", 405, "use GET or HEAD or DELETE"),
        ("GET", "/v1/responses/{id}/nothing", 404, "Invalid URL"),
    ],
)
def test_what_is_not_done_here_is_said_so(world: World, method: str, path: str, status: int, says: str) -> None:
    answer = world.mine.request(method, path.format(id=world.ask()["id"]), json={})
    found, _, _, message = _error(answer)
    assert found == status
    assert says in message


def test_agents_traces_are_taken_and_thrown_away(world: World) -> None:
    for content in (b'{"data": [{"object": "trace"}]}', b"no JSON at all", b""):
        answer = world.mine.post("/v1/traces/ingest", content=content)
        assert (answer.status_code, answer.content) == (204, b"")
    assert not world.ollama.chats


# -- faults


def test_a_fault_of_a_targets_is_told_about_the_callers_own_request(world: World) -> None:
    image = {"type": "input_image", "image_url": "data:image/bmp;base64,AAAA"}
    item = {"role": "user", "content": [{"type": "input_text", "text": "Look"}, image]}
    status, _, param, message = _error(world.post([item], "local", instructions="Be kind"))
    assert status == 400
    assert param is not None
    assert param.startswith("input[0].content[1]")
    assert param in message
    assert "messages[" not in message


def test_an_input_that_is_too_long_is_named_as_such(world: World) -> None:
    world.ollama.plan(Status(400, {"error": "the input length exceeds the context length"}))
    status, code, param, _ = _error(world.post(model="local"))
    assert (status, code, param) == (400, "context_length_exceeded", "input")


def test_a_refused_request_reaches_nobody(world: World) -> None:
    status, code, param, _ = _error(world.post(tools=[{"type": "web_search"}]))
    assert (status, code, param) == (400, "unsupported_value", "tools[0].type")
    assert not world.ollama.chats


def test_a_target_that_fails_is_followed_by_the_next(world: World) -> None:
    world.ollama.plan(Status(500))
    assert _text(world.ask()) == "You said: hello there"
    world.ollama.plan(Status(500))
    assert _text(world.stream()[-1]["response"]) == "You said: hello there"
    assert len(world.deepseek.chats) == 2


def test_a_stream_that_breaks_off_is_gone_on_with_as_one_response(world: World) -> None:
    world.ollama.reply = world.deepseek.reply = [*TEXT.replace(" ", "| ").split("|")]
    try:
        world.ollama.plan(CutAfter(3))
        found = world.stream()
    finally:
        world.ollama.reply = world.deepseek.reply = None
    last = found[-1]["response"]
    assert found[-1]["type"] == "response.completed"
    assert replayed(found) == last["output"]
    assert _text(last) == TEXT
    assert [event["type"] for event in found].count("response.output_item.added") == 1
    assert {event["response"]["id"] for event in found if "response" in event} == {last["id"]}
    assert _sent(world.deepseek)["messages"][-1]["content"] == "Hello from the"
    assert world.mine.get(f"/v1/responses/{last['id']}").json() == last


def test_a_stream_that_nobody_goes_on_with_is_failed(world: World) -> None:
    world.ollama.plan(CutAfter(2))
    found = world.stream(model="local")
    last = found[-1]["response"]
    assert found[-1]["type"] == "response.failed"
    assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
    assert "broke off" in last["error"]["message"]
    assert replayed(found)[0]["content"] == last["output"][0]["content"]
    assert world.mine.get(f"/v1/responses/{last['id']}").status_code == 404


def test_a_stream_of_which_only_comments_were_sent_ends_in_an_error(world: World) -> None:
    world.ollama.plan(Silence())
    (event,) = world.stream(model="local")
    assert (event["type"], event["sequence_number"]) == ("error", 0)
    assert event["code"] == "upstream_timeout"


# -- the official SDK


class Said(BaseModel):
    """What the model is asked to answer with."""

    said: str


def test_the_sdk_reads_a_response(world: World) -> None:
    response = world.sdk.responses.create(model="both", input="hello there")
    assert response.output_text == "You said: hello there"
    assert world.sdk.responses.retrieve(response.id).output_text == "You said: hello there"
    assert len(world.sdk.responses.input_items.list(response.id).data) == 1
    world.sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        world.sdk.responses.retrieve(response.id)


def test_the_sdk_reads_a_stream(world: World) -> None:
    seen = [event.type for event in world.sdk.responses.create(model="thinking", input="hello there", stream=True)]
    assert (seen[0], seen[-1]) == ("response.created", "response.completed")
    with world.sdk.responses.stream(model="thinking", input="hello there") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "You said: hello there"
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_the_sdk_parses_a_response(world: World) -> None:
    world.ollama.reply = ['{"said"', ':"yes"}']
    try:
        response = world.sdk.responses.parse(model="local", input="hello there", text_format=Said)
        with world.sdk.responses.stream(model="local", input="hello there", text_format=Said) as stream:
            final = stream.get_final_response()
    finally:
        world.ollama.reply = None
    assert response.output_parsed == final.output_parsed == Said(said="yes")
    assert _sent(world.ollama)["format"]["properties"].keys() == {"said"}


def test_the_sdk_calls_a_tool_and_gives_its_result(world: World) -> None:
    tool: Any = {"type": "function", "name": "weather", "strict": False, "parameters": {"type": "object"}}
    given: list[Any] = [{"role": "user", "content": "Weather?"}]
    with world.sdk.responses.stream(model="both", input=given, tools=[tool], store=False) as stream:
        first = stream.get_final_response()
    (call,) = first.output
    assert call.type == "function_call"
    given += [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    second = world.sdk.responses.create(model="both", input=given, tools=[tool], store=False)
    assert "rain" in second.output_text


def test_the_sdk_raises_openais_errors(world: World) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        world.sdk.responses.create(model="both", input="hello there", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError) as unknown:
        world.sdk.responses.create(model="both", input="hello there", previous_response_id="resp_none")
    assert unknown.value.code == "previous_response_not_found"


# -- the store


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _response(name: str, text: str = "") -> Json:
    return {"id": name, "output": [{"id": f"item_{name}", "text": text}]}


def test_a_response_is_kept_for_an_hour() -> None:
    clock = Clock()
    store = ResponseStore(clock)
    assert store.keep("me", _response("a"), [], ())
    clock.now += KEPT - 1
    assert store.get("me", "a") is not None
    clock.now += 2
    assert store.get("me", "a") is None
    assert not store.delete("me", "a")


def test_the_oldest_go_when_there_are_too_many() -> None:
    store = ResponseStore(Clock())
    for number in range(MAX_COUNT + 10):
        assert store.keep("me", _response(str(number)), [], ())
    assert store.get("me", "9") is None
    assert store.get("me", "10") is not None
    assert store.get("me", str(MAX_COUNT + 9)) is not None


def test_the_oldest_go_when_they_are_too_large() -> None:
    store = ResponseStore(Clock())
    third = "x" * (MAX_BYTES // 8)
    for name in "abcd":
        assert store.keep("me", _response(name, third), [], ())
    assert [name for name in "abcd" if store.get("me", name) is not None] == ["b", "c", "d"]


def test_what_is_larger_than_all_that_is_kept_is_not_kept() -> None:
    store = ResponseStore(Clock())
    assert not store.keep("me", _response("a", "x" * MAX_BYTES), [], ())
    assert store.get("me", "a") is None


def test_a_long_conversation_counts_with_all_that_it_holds() -> None:
    store = ResponseStore(Clock())
    assert store.keep("me", _response("a"), [{"text": "x" * 1_000_000}], ())
    first = store.get("me", "a")
    assert first is not None
    assert store.keep("me", _response("b"), [{"text": "y"}], first.history)
    second = store.get("me", "b")
    assert second is not None
    assert second.size > 1_000_000
    assert [item.get("text", "")[:1] for item in items_in(second.earlier)] == ["x", "", "y"]


def test_items_that_nest_too_deeply_to_be_written_are_not_kept() -> None:
    store = ResponseStore(Clock())
    deep = json.loads("[" * 300 + "]" * 300)
    assert not store.keep("me", _response("a"), [{"extra": deep}], ())
    assert store.get("me", "a") is None


def test_an_item_is_found_in_its_response_alone() -> None:
    store = ResponseStore(Clock())
    call = "0123456789abcdef0123456789abcdef"
    response: Json = {"id": f"resp_{call}", "output": [{"id": f"msg_{call}0000"}]}
    assert store.keep("me", response, [{"id": f"msg_{call}i000"}], ())
    for name in (f"msg_{call}0000", f"msg_{call}i000"):
        assert store.finder("me")(name) == {"id": name}
        assert store.finder("they")(name) is None
    assert store.finder("me")(f"msg_{call}0001") is None
    assert store.finder("me")("msg_other") is None
