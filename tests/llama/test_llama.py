"""A real llama.cpp server behind the gateway, without a profile and with its own, as users of the Python SDK see it.

Its model talks nonsense, so what is looked at is everything else: that words come, in pieces and once, that they end,
keep to a schema, and call tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.gateway import Gateway
from tests.llama.server import KEY, LlamaServer

RULES = """
providers:
  llama:  {{dialect: openai, profile: compat, urls: [{url}], key: {key}}}
  locked: {{dialect: openai, profile: compat, urls: [{url}], key: sk-wrong}}
  own:    {{dialect: openai, profile: llama_cpp_python, urls: [{url}], key: {key}}}
models: {{locked: {{targets: locked/tiny}}, own: {{targets: own/tiny}}}}
rules: [{{name: llama, use: "llama/{{model}}"}}]
"""
USER: Any = [{"role": "user", "content": "hello there"}]
SHAPE = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "wet": {"type": "boolean"}},
    "required": ["city", "wet"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": SHAPE}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama")) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(server: LlamaServer) -> Iterator[Gateway]:
    with Gateway(RULES.format(url=server.url, key=KEY)) as made:
        yield made


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-caller", max_retries=0) as made:
        yield made


def test_it_answers(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=200, seed=1)
    assert (reply.object, reply.model) == ("chat.completion", "tiny")
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"


def test_a_limit_ends_the_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=2, seed=1)
    assert reply.choices[0].finish_reason == "length"


def test_an_answer_is_streamed_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=USER, max_tokens=200, seed=1, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert [delta.role for delta in deltas if delta.role is not None] == ["assistant"]
    assert sum(1 for delta in deltas if delta.content) > 1
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]


def test_the_same_seed_says_the_same_streamed_or_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=USER, max_tokens=60, seed=7)
    chunks = client.chat.completions.create(model="tiny", messages=USER, max_tokens=60, seed=7, stream=True)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content


def test_calls_at_once_are_answered_one_after_the_other(client: openai.OpenAI) -> None:
    def ask(number: int) -> tuple[str | None, str]:
        said: Any = [{"role": "user", "content": f"number {number}"}]
        reply = client.chat.completions.create(model="tiny", messages=said, max_tokens=60, seed=number)
        return reply.choices[0].message.content, reply.choices[0].finish_reason

    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(ask, range(12)))
    assert all(text and reason in ("stop", "length") for text, reason in at_once)
    assert at_once == [ask(number) for number in range(12)]


def test_a_stream_that_is_left_early_disturbs_no_later_call(client: openai.OpenAI) -> None:
    endless: Any = {"model": "tiny", "messages": USER, "max_tokens": 900, "logit_bias": {"4": -100}, "stream": True}
    stream = client.chat.completions.create(**endless)  # 4 is the token of the end
    next(iter(stream))
    stream.close()
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=20, seed=1)
    assert reply.choices[0].message.content


def test_json_mode_gives_json(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_object", "schema": SHAPE}  # this server's way to say a schema
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=100, response_format=form)
    said = json.loads(reply.choices[0].message.content or "")
    assert said.keys() == {"city", "wet"}


def test_a_forced_call_of_a_tool_has_its_arguments(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=USER, max_tokens=100, tools=[TOOL], tool_choice=NAMED)
    (call,) = reply.choices[0].message.tool_calls or []
    assert reply.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")


def test_a_streamed_call_says_its_name_once_though_the_server_repeats_it(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=USER, max_tokens=100, tools=[TOOL], tool_choice=NAMED
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["wet"], bool)


def test_the_result_of_a_tool_is_answered(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": USER, "tools": [TOOL], "max_tokens": 100}
    create: Any = client.chat.completions.create
    (call,) = create(**asked, tool_choice=NAMED).choices[0].message.tool_calls
    turn = {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}  # null is refused by this server
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain and wind"}
    reply = create(**{**asked, "messages": [*USER, turn, result]})
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")


def test_a_response_is_made_of_its_chat(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="hello there", instructions="Be brief.") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.status == "completed"
    assert text == final.output_text != ""


def test_a_text_becomes_a_vector(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="tiny-embed", input=["hello there", "rain"])
    assert [row.index for row in reply.data] == [0, 1]
    assert [len(row.embedding) for row in reply.data] == [64, 64]
    assert reply.data[0].embedding != reply.data[1].embedding


def test_the_vector_is_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="tiny-embed", input="hello")  # base64, which the SDK unpacks
    plain = client.embeddings.create(model="tiny-embed", input="hello", encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, rel=1e-6)


def test_a_text_is_completed(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="tiny", prompt="hello", max_tokens=30, seed=1)
    assert reply.object == "text_completion"
    assert reply.choices[0].text
    chunks = client.completions.create(model="tiny", prompt="hello", max_tokens=30, seed=1, stream=True)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == reply.choices[0].text


def test_a_prompt_that_is_too_long_is_an_error_and_no_empty_answer(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError):  # the server says nothing of it: it breaks the stream off at once
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 3000}])


def test_a_key_that_the_server_refuses_is_not_shown_to_the_caller(gateway: Gateway) -> None:
    reply = gateway.chat(model="locked")
    assert reply.status_code >= 500
    assert "sk-wrong" not in reply.text + gateway.log.getvalue()


# -- with its profile: what OpenAI takes, and this server would answer with 500 or not heed


def test_a_whole_answer_has_its_usage_and_a_stream_comes_all_the_same(client: openai.OpenAI) -> None:
    asked: Any = {"model": "own", "messages": USER, "max_completion_tokens": 5, "seed": 1, "temperature": None}
    reply = client.chat.completions.create(**asked)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5
    assert reply.choices[0].finish_reason == "length"
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert len(said) > 1
    assert "".join(said) == reply.choices[0].message.content


def test_a_completion_has_its_usage(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="own", prompt="hello", max_tokens=5, seed=1)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


def test_a_response_has_its_usage(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="own", input="hello there", instructions="Be brief.", max_output_tokens=20)
    assert reply.usage is not None
    assert reply.usage.output_tokens > 0


def test_several_answers_are_given(client: openai.OpenAI) -> None:
    never: Any = {"4": -100}  # 4 is the token of the end
    reply = client.chat.completions.create(model="own", messages=USER, max_tokens=5, n=3, logit_bias=never)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in reply.choices)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 15


def test_an_answer_fits_its_schema(client: openai.OpenAI) -> None:
    schema = {"name": "weather", "strict": True, "schema": SHAPE}
    form: Any = {"type": "json_schema", "json_schema": schema}
    for stream in (False, True):
        create: Any = client.chat.completions.create
        reply = create(model="own", messages=USER, max_tokens=100, response_format=form, stream=stream)
        chunks = [choice.delta.content or "" for chunk in reply for choice in chunk.choices] if stream else []
        said = json.loads("".join(chunks) if stream else reply.choices[0].message.content)
        assert said.keys() == {"city", "wet"}


def test_instructions_of_a_developer_and_text_in_parts_are_read(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    plain: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello\nthere"}]
    ours: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    replies = [
        client.chat.completions.create(model="own", messages=said, max_tokens=20, seed=3) for said in (plain, ours)
    ]
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content
    assert replies[0].usage == replies[1].usage


@pytest.mark.parametrize("model", ["own", "tiny"])
def test_a_turn_that_called_a_tool_may_be_sent_back_as_it_came(client: openai.OpenAI, model: str) -> None:
    create: Any = client.chat.completions.create
    asked = {"model": model, "messages": USER, "tools": [TOOL], "max_tokens": 100}
    turn = create(**asked, tool_choice=NAMED).choices[0].message
    assert turn.function_call is None
    (call,) = turn.tool_calls
    turn.content = turn.content or ("" if model == "tiny" else None)  # without its profile null is refused
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain and wind"}
    back = turn if model == "own" else turn.model_dump(exclude_none=True)
    reply = create(**{**asked, "messages": [*USER, back, result]})
    assert reply.choices[0].message.content


def test_a_tool_without_parameters_is_called(client: openai.OpenAI) -> None:
    bare: Any = {"type": "function", "function": {"name": "get_weather"}}
    reply = client.chat.completions.create(
        model="own", messages=USER, max_tokens=100, tools=[bare], tool_choice=NAMED, parallel_tool_calls=False
    )
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {}


def test_a_prompt_that_is_too_long_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="own", messages=[{"role": "user", "content": "a" * 3000}])
    assert caught.value.code == "context_length_exceeded"
