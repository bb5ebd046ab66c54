"""The sandbox: deterministic, honest about what it is, and an Ollama server to whoever asks it."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import httpx
import openai
import pydantic
import pytest

from addons.sandbox import CAPABILITIES, EMBEDDING_LENGTH, MODELS, Sandbox, continuation, embedding
from tests.addons.doors import NO_TLS
from tests.gateway import Gateway

USER = [{"role": "user", "content": "hello there"}]
SAID = "This is unigate's sandbox model, not a real one. You said: hello there"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}, "exact": {"type": "boolean"},
    "list": {"type": "array"}, "more": {"type": "object"}, "any": True,
}}}}  # fmt: skip


def ask(method: str, path: str, body: object = None) -> httpx.Response:
    """One request to a sandbox of its own."""

    async def run() -> httpx.Response:
        server = Sandbox()
        port = server.start()
        try:
            async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
                content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
                return await client.request(method, f"http://127.0.0.1:{port}{path}", content=content)
        finally:
            await server.stop()

    return asyncio.run(run())


def chat(**body: object) -> list[dict[str, Any]]:
    answer = ask("POST", "/api/chat", {"model": "fast", "messages": USER, **body})
    assert answer.status_code == 200, answer.text
    return [json.loads(row) for row in answer.text.splitlines()]


def text(rows: list[dict[str, Any]], field: str = "content") -> str:
    return "".join(row["message"].get(field, "") for row in rows)


def test_it_says_what_it_is_and_what_was_said() -> None:
    rows = chat()
    assert text(rows) == SAID
    assert [row["done"] for row in rows] == [False] * 13 + [True]
    assert {"done_reason": "stop", "prompt_eval_count": 2, "eval_count": 13}.items() <= rows[-1].items()
    assert rows[0]["model"] == "fast"
    assert rows[0]["created_at"].endswith("Z")


def test_a_whole_answer_is_one_object() -> None:
    (row,) = chat(stream=False)
    assert row["message"] == {"role": "assistant", "content": SAID}
    assert (row["done"], row["done_reason"]) == (True, "stop")
    (row,) = chat(stream=False, model="think", tools=[TOOL])
    assert row["message"]["thinking"].startswith("The user says 11 characters.")
    assert row["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_it_stops_where_it_is_told_to() -> None:
    rows = chat(options={"num_predict": 3})
    assert text(rows) == "This is unigate's "
    assert (rows[-1]["done_reason"], rows[-1]["eval_count"]) == ("length", 3)


def test_it_thinks_unless_told_not_to() -> None:
    assert text(chat(model="think"), "thinking") == "The user says 11 characters. I say them back."
    assert text(chat(model="think", think=False), "thinking") == ""


def test_it_calls_the_first_tool_with_arguments_that_fit_and_repeats_the_result() -> None:
    (call,) = [row["message"]["tool_calls"] for row in chat(tools=[TOOL]) if "tool_calls" in row["message"]]
    arguments = {
        "city": "sandbox city",
        "days": 1,
        "unit": "C",
        "exact": True,
        "list": [],
        "more": {},
        "any": "sandbox any",
    }
    assert call == [{"function": {"index": 0, "name": "weather", "arguments": arguments}}]
    rows = chat(tools=[TOOL], messages=[*USER, {"role": "tool", "tool_name": "weather", "content": "rain"}])
    assert text(rows).endswith("The tool weather said: rain")


CALL = {
    "type": "object",
    "properties": {"name": {"const": "weather"}, "arguments": {"$ref": "#/$defs/where"}},
    "required": ["name", "arguments"],
}
REPORT = {
    "type": "object",
    "properties": {"rains": {"type": "boolean"}, "sum": {"type": "integer", "minimum": 7}},
    "required": ["rains", "sum"],
}
EITHER = {"anyOf": [CALL, REPORT], "$defs": {"where": {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}}}}
RESULT = [*USER, {"role": "tool", "tool_name": "weather", "content": "rain"}]


def test_where_a_format_asks_for_json_it_comes_in_pieces_and_says_who_speaks() -> None:
    rows = chat(format="json")
    assert json.loads(text(rows)) == {"said": "You said: hello there", "by": "unigate's sandbox model"}
    assert len(rows) > 5
    assert json.loads(text(chat(format=REPORT))) == {"rains": True, "sum": 7}
    assert json.loads(text(chat(format="json", messages=RESULT, tools=[TOOL])))["said"] == "You said: rain"


def test_where_a_format_lets_it_choose_it_calls_first_and_answers_once_it_has_the_result() -> None:
    called = {"name": "weather", "arguments": {"city": "Oslo"}}
    assert json.loads(text(chat(format=EITHER, tools=[TOOL]))) == called
    assert json.loads(text(chat(format=EITHER, tools=[TOOL], messages=RESULT))) == {"rains": True, "sum": 7}
    forced = {**CALL, "$defs": EITHER["$defs"]}
    assert json.loads(text(chat(format=forced, tools=[TOOL], messages=RESULT))) == called


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"properties": []}, "none"])
def test_a_tool_without_parameters_is_called_without_arguments(parameters: object) -> None:
    function = {"name": "now"} if parameters == "none" else {"name": "now", "parameters": parameters}
    rows = chat(tools=[{"type": "function", "function": function}])
    assert rows[0]["message"]["tool_calls"][0]["function"]["arguments"] == {}


def test_no_messages_only_load_the_model_as_ollama_does() -> None:
    for body in ({"model": "fast"}, {"model": "fast", "messages": []}):
        answer = ask("POST", "/api/chat", body)
        assert (answer.status_code, answer.json()["done_reason"]) == (200, "load")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/api/version", 200), ("GET", "/nothing", 404), ("GET", "/api/chat", 405),
])  # fmt: skip
def test_its_other_paths_answer_too(method: str, path: str, status: int) -> None:
    assert ask(method, path).status_code == status


def test_it_lists_and_shows_its_models() -> None:
    names = [row["name"] for row in ask("GET", "/api/tags").json()["models"]]
    assert names == [f"{name}:latest" for name in MODELS]
    assert ask("POST", "/api/show", {"model": "think:latest"}).json()["capabilities"] == [*CAPABILITIES, "thinking"]
    assert {"vision", "audio", "tools"} < set(CAPABILITIES)  # or an image that it takes would be refused on the way
    assert ask("POST", "/api/show", {"model": "nope"}).json() == {"error": "model 'nope' not found"}


BAD: dict[str, tuple[object, int]] = {
    "not JSON": (b"hello", 400),
    "no object": ([1], 400),
    "no such model": ({"model": "nope", "messages": USER}, 404),
    "a string as messages": ({"model": "fast", "messages": "hi"}, 400),
    "a string as message": ({"model": "fast", "messages": ["hi"]}, 400),
    "a string as tools": ({"model": "fast", "messages": USER, "tools": "hammer"}, 400),
    "a tool without a name": ({"model": "fast", "messages": USER, "tools": [{"function": {}}]}, 400),
    "the model that fails": ({"model": "fail", "messages": USER}, 503),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_so_in_ollamas_form(case: str, caplog: pytest.LogCaptureFixture) -> None:
    body, status = BAD[case]
    answer = ask("POST", "/api/chat", body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_model_that_breaks_off_does_so() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask("POST", "/api/chat", {"model": "cut", "messages": USER})


def test_it_goes_on_with_a_text_and_with_the_rest_of_one() -> None:
    rows = [
        json.loads(row) for row in ask("POST", "/api/generate", {"model": "fast", "prompt": "Once"}).text.splitlines()
    ]
    assert "".join(row["response"] for row in rows) == continuation("Once")
    assert "sandbox model" in continuation("Once")
    assert (rows[-1]["done"], rows[-1]["prompt_eval_count"], "message" in rows[0]) == (True, 1, False)
    body = {
        "model": "fast",
        "prompt": f"Once{continuation('Once')[:20]}",
        "stream": False,
        "options": {"num_predict": 2},
    }
    rest = ask("POST", "/api/generate", body).json()
    assert (rest["response"], rest["done_reason"]) == ("ys unigate's ", "length")
    assert ask("POST", "/api/generate", {"model": "fast"}).json()["done_reason"] == "load"
    assert ask("POST", "/api/generate", {"model": "fast", "prompt": ["a"]}).status_code == 400


def test_its_embeddings_are_near_each_other_as_far_as_their_texts_share_words() -> None:
    texts = ["A cat sat here.", "a CAT sat there", "rain tomorrow", "?!", ""]
    reply = ask("POST", "/api/embed", {"model": "echo", "input": texts}).json()
    cat, other_cat, rain, marks, nothing = reply["embeddings"]
    assert reply["prompt_eval_count"] == 11
    assert (len(cat), cat) == (EMBEDDING_LENGTH, embedding("a cat sat here", EMBEDDING_LENGTH))

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert near(cat, other_cat) > 0.6 > 0.3 > abs(near(cat, rain))
    for vector in (cat, rain, marks, nothing, embedding("cat", 7)):
        assert near(vector, vector) == pytest.approx(1)
    assert len(ask("POST", "/api/embed", {"model": "echo", "input": "a", "dimensions": 7}).json()["embeddings"][0]) == 7


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"hello", 400),
        ({"model": "nope", "input": "a"}, 404),
        ({"model": "fail", "input": "a"}, 503),
        ({"model": "fast", "input": [1]}, 400),
        ({"model": "fast", "input": {"a": 1}}, 400),
        ({"model": "fast", "input": "a", "dimensions": "7"}, 400),
        ({"model": "fast", "input": "a", "dimensions": -1}, 400),
        ({"model": "fast"}, 200),
    ],
)
def test_what_cannot_be_embedded_is_told_so(body: object, status: int) -> None:
    assert ask("POST", "/api/embed", body).status_code == status


class Step(pydantic.BaseModel):
    does: str = pydantic.Field(description="what is done", min_length=20)
    takes: float = pydantic.Field(gt=2.5, le=3)


class Plan(pydantic.BaseModel):
    """What the SDK makes a strict schema of."""

    title: str = pydantic.Field(pattern="^[A-Z][a-z]{2,5}-[0-9]+$")
    kind: Literal["short", "long"]
    steps: list[Step] = pydantic.Field(min_length=2)
    first: Step | None
    parts: list[Plan]
    mark: Annotated[int, pydantic.Field(ge=40, multiple_of=7)]
    due: datetime.date
    number: uuid.UUID


def test_an_sdk_parses_what_it_answers_to_a_schema_through_a_gateway() -> None:
    asked: Any = [{"role": "user", "content": "Make a plan"}]
    tool = openai.pydantic_function_tool(Step)
    with (
        Gateway(RULES) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client,
    ):
        plan = client.chat.completions.parse(model="fast", messages=asked, response_format=Plan)
        assert isinstance(plan.choices[0].message.parsed, Plan)
        assert isinstance(client.responses.parse(model="fast", input=asked, text_format=Plan).output_parsed, Plan)
        loose = client.chat.completions.create(model="fast", messages=asked, response_format={"type": "json_object"})
        assert "Make a plan" in json.loads(loose.choices[0].message.content or "")["said"]
        called = client.chat.completions.parse(model="fast", messages=asked, response_format=Plan, tools=[tool])
        calls = called.choices[0].message.tool_calls
        assert calls is not None
        (call,) = calls
        assert isinstance(call.function.parsed_arguments, Step)
        asked += [
            called.choices[0].message.model_dump(include={"role", "content"})
            | {"tool_calls": [{"id": call.id, "type": "function", "function": {"name": "Step", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        told = client.chat.completions.parse(model="fast", messages=asked, response_format=Plan, tools=[tool])
        assert isinstance(told.choices[0].message.parsed, Plan)
        forced = client.chat.completions.parse(model="fast", messages=asked, tools=[tool], tool_choice="required")
        assert [one.function.name for one in forced.choices[0].message.tool_calls or ()] == ["Step"]


RULES = "providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: ['s/{model}']}]\ndefaults: {timeouts: {first_token: 300ms}}"


def test_its_models_try_every_way_out_through_a_gateway() -> None:
    expected: dict[str, Callable[[httpx.Response], bool]] = {
        "fast": lambda answer: answer.json()["choices"][0]["message"]["content"] == SAID,
        "think": lambda answer: answer.json()["choices"][0]["message"]["reasoning_content"].startswith("The user"),
        "fail": lambda answer: answer.status_code == 503,
        "cut": lambda answer: answer.json()["error"]["code"] == "upstream_cut",
        "silent": lambda answer: answer.status_code == 504,
    }
    with Gateway(RULES) as gateway:
        for model, holds in expected.items():
            answer = gateway.chat(model=model)
            assert holds(answer), f"{model}: {answer.text}"
        with gateway.client() as client:
            told = client.post("/v1/completions", json={"model": "fast", "prompt": "Once", "max_tokens": 99}).json()
            made = client.post("/v1/embeddings", json={"model": "echo", "input": ["a", "b"]}).json()
        assert told["choices"][0]["text"] == continuation("Once")
        assert [len(row["embedding"]) for row in made["data"]] == [EMBEDDING_LENGTH] * 2
        assert gateway.state.health() == {"status": "degraded", "models": [], "breakers": {}}
