"""Properties of the codecs, the mappers and the readers, for inputs that nobody thought of."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from itertools import count, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.wire.strategies import (
    ARGUMENTS,
    DEFS,
    PIXEL,
    SCHEMAS,
    TEXTS,
    chunk,
    cut,
    histories,
    streamed_calls,
    texts_of,
    tool_lists,
)
from wire.answer import WholeAnswer
from wire.check_chat import check_chat
from wire.dialects import DIALECTS, Facets
from wire.errors import BadRequest, Garbled
from wire.ndjson import NdjsonDecoder
from wire.openai import ChatRequest, Delta, Json, Prefill, Translated
from wire.sse import Event, SseDecoder, comment

MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

OLLAMA = (
    "ollama",
    Facets(num_ctx=4096, keep_alive="5m", capabilities=frozenset({"completion", "tools", "vision", "thinking"})),
)
UNKNOWN = ("ollama", Facets())
DEEPSEEK = ("openai", Facets(profile="deepseek"))
COMPAT = ("openai", Facets(profile="compat"))
EVERYWHERE = pytest.mark.parametrize(
    "where", [OLLAMA, UNKNOWN, DEEPSEEK, COMPAT], ids=["ollama", "unknown", "deepseek", "compat"]
)

type Where = tuple[str, Facets]


def translated(where: Where, request: ChatRequest) -> Translated:
    dialect, facets = where
    return DIALECTS[dialect].operations["chat"].translate(request, "target-model", facets)


def asked(messages: list[Json], **more: Any) -> Json:
    return {"model": "m", "messages": messages, **more}


# -- codecs

WIRE = st.lists(
    st.sampled_from(
        [b"data:", b"data: ", b"event:", b"event: x", b": hush", b"\n", b"\r\n", b"\r", b"{}", b'{"a":1}', b" "]
    )
    | st.binary(max_size=6),
    max_size=12,
).map(b"".join)


def pieces_of(data: bytes, edges: Iterable[int]) -> list[bytes]:
    """The data cut at these places, some pieces maybe empty."""
    places = sorted(edge % (len(data) + 1) for edge in edges)
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


EDGES = st.lists(st.integers(0, 10_000), max_size=8)


@MANY
@given(data=WIRE, edges=EDGES)
def test_any_bytes_in_any_pieces_are_the_same_events(data: bytes, edges: list[int]) -> None:
    def events(pieces: list[bytes]) -> list[Event]:
        decoder = SseDecoder()
        return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()

    once = events([data])
    assert events(pieces_of(data, edges)) == once
    assert events([data[at : at + 1] for at in range(len(data))]) == once
    assert not any(b"\n" in event.name for event in once)


@MANY
@given(
    sent=st.lists(
        st.lists(st.binary(max_size=6).filter(lambda line: not set(line) & set(b"\r\n")), min_size=1, max_size=3)
    ),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    edges=EDGES,
)
def test_events_that_are_written_are_read(sent: list[list[bytes]], ending: bytes, edges: list[int]) -> None:
    written = b"".join(
        comment(b"hush") + b"".join(b"data: " + line + ending for line in lines) + ending for lines in sent
    )
    decoder = SseDecoder()
    read = [event for piece in pieces_of(written, edges) for event in decoder.feed(piece)] + decoder.close()
    assert read == [Event(b"", b"\n".join(lines)) for lines in sent]


@MANY
@given(data=WIRE, edges=EDGES)
def test_any_bytes_in_any_pieces_are_the_same_objects(data: bytes, edges: list[int]) -> None:
    def objects(pieces: list[bytes]) -> list[str]:
        decoder = NdjsonDecoder()
        found = [one for piece in pieces for one in decoder.feed(piece)] + decoder.close()
        assert all(isinstance(one, dict | Garbled) for one in found)
        return [repr(one) for one in found]

    assert objects(pieces_of(data, edges)) == objects([data])
    assert objects([data[at : at + 1] for at in range(len(data))]) == objects([data])


@MANY
@given(
    sent=st.lists(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), st.integers(-9, 9), max_size=2)),
    ending=st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"]),
    edges=EDGES,
)
def test_objects_that_are_written_are_read(sent: list[Json], ending: bytes, edges: list[int]) -> None:
    written = b"".join(orjson.dumps(one) + ending for one in sent)
    decoder = NdjsonDecoder()
    assert [one for piece in pieces_of(written, edges) for one in decoder.feed(piece)] + decoder.close() == sent


# -- histories


@EVERYWHERE
@MANY
@given(messages=histories(), prefill=st.sampled_from([None, Prefill("so far", 3)]))
def test_a_history_is_translated_or_refused_and_left_alone(
    where: Where, messages: list[Json], prefill: Prefill | None
) -> None:
    body = asked(messages)
    before = copy.deepcopy(body)
    request = check_chat(body)
    assert body == before
    if prefill is not None:
        request = ChatRequest(body=body, model="m", prefill=prefill)
    found: Translated | BadRequest
    try:
        found = translated(where, request)
    except BadRequest as fault:
        found = fault
    assert body == before
    if isinstance(found, BadRequest):
        assert found.message
        assert found.param is not None
    else:
        assert isinstance(orjson.loads(found.body), dict)
        assert len(set(found.dropped)) == len(found.dropped)


@EVERYWHERE
@MANY
@given(messages=histories(custom=False))
def test_each_message_stays_one_and_none_of_its_text_is_lost(where: Where, messages: list[Json]) -> None:
    sent = orjson.loads(translated(where, check_chat(asked(messages))).body)["messages"]
    assert len(sent) == len(messages)
    for message, native in zip(messages, sent, strict=True):
        roles = {message["role"], "system"} if message["role"] == "developer" else {message["role"]}
        assert native["role"] in roles
        said = orjson.dumps(native.get("content")).decode() + orjson.dumps(native.get("refusal")).decode()
        for text in texts_of(message):
            assert orjson.dumps(text).decode()[1:-1] in said
        images = (
            sum(PIXEL in str(part) for part in message["content"] or ())
            if isinstance(message.get("content"), list)
            else 0
        )
        assert str(native).count(PIXEL.partition(",")[2]) == images
        thought = message.get("reasoning_content")
        assert not thought or thought in native.values()


@EVERYWHERE
@MANY
@given(messages=histories())
def test_each_call_and_each_result_keep_their_names_and_arguments(where: Where, messages: list[Json]) -> None:
    request = check_chat(asked(messages))
    sent = orjson.loads(translated(where, request).body)["messages"]
    names: dict[str, str] = {}
    for message, native in zip(messages, sent, strict=True):
        calls = message.get("tool_calls") or []
        assert len(native.get("tool_calls") or []) == len(calls)
        for call, told in zip(calls, native.get("tool_calls") or [], strict=True):
            assert told["id"] == call["id"]
            kind = call.get("type")
            names[call["id"]] = call[kind]["name"]
            said = told.get("function") or told.get("custom")
            assert said["name"] == names[call["id"]]
            if kind == "function":
                assert _object(said["arguments"]) == _object(call["function"]["arguments"])
            else:
                assert call["custom"]["input"] in (said.get("input"), _object(said.get("arguments", "")).get("input"))
        if message["role"] == "tool":
            assert native["tool_call_id"] == message["tool_call_id"]
            assert native.get("tool_name", names[message["tool_call_id"]]) == names[message["tool_call_id"]]


def _object(arguments: Any) -> Json:
    found: Json = arguments if isinstance(arguments, dict) else orjson.loads(arguments or "{}")
    return found


@FEW
@given(messages=histories(), tools=tool_lists(), more=st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2), "next_years_field": st.just({"a": [1]}), "n": st.just(2)}))  # fmt: skip
def test_a_compatible_server_is_told_what_the_caller_said(messages: list[Json], tools: list[Json], more: Json) -> None:
    body = asked(messages, tools=tools, **more)
    found = translated(COMPAT, check_chat(body))
    sent = orjson.loads(found.body)
    assert sent.pop("stream_options")["include_usage"] is True
    assert sent == orjson.loads(orjson.dumps(body | {"model": "target-model", "stream": True}))
    assert found.dropped == ()


# -- tools


@EVERYWHERE
@MANY
@given(tools=tool_lists())
def test_every_tool_is_sent_with_its_properties(where: Where, tools: list[Json]) -> None:
    body = asked([{"role": "user", "content": "go"}], tools=tools)
    before = copy.deepcopy(body)
    sent = orjson.loads(translated(where, check_chat(body)).body)["tools"]
    assert body == before
    assert [tool["function"]["name"] for tool in sent] == [tool["function"]["name"] for tool in tools]
    for tool, told in zip(tools, sent, strict=True):
        wanted = ((tool["function"].get("parameters") or {}).get("properties") or {}).keys()
        found = told["function"].get("parameters") or {}
        assert (found.get("properties") or {}).keys() == wanted
        if where[0] == "ollama":
            assert isinstance(found["properties"], dict)
            assert found["type"] == "object"
        assert (tool["function"].get("description") or "") in (told["function"].get("description") or "")


def _sayings(schema: Json) -> Iterable[tuple[str, Any]]:
    """Every keyword and its value, of this schema and of all within it."""
    for keyword, value in schema.items():
        match keyword, value:
            case "properties", dict():
                for inner in value.values():
                    yield from _sayings(inner)
            case "items", dict():
                yield from _sayings(value)
            case "anyOf" | "oneOf" | "allOf", list():
                for inner in value:
                    yield from _sayings(inner)
            case "enum", _ if "const" in schema:
                pass  # which says more
            case _:
                yield keyword, value


def _descriptions(value: Any) -> str:
    match value:
        case dict():
            own = value["description"] if isinstance(value.get("description"), str) else ""
            return "\n".join([own, *map(_descriptions, value.values())])
        case list():
            return "\n".join(map(_descriptions, value))
        case _:
            return ""


SAID_IN_WORDS = frozenset(
    {"default", "minimum", "maximum", "minLength", "pattern", "format", "examples", "title", "minItems"}
)
KEPT = frozenset({"enum", "const", "type", "required"})


@MANY
@given(schema=st.dictionaries(st.sampled_from(["p", "q"]), SCHEMAS, min_size=1, max_size=2))
def test_no_keyword_of_a_schema_is_lost_on_ollama(schema: Json) -> None:
    # Of two schemas that must both hold the second has the last word where they say the same keyword.
    assume("allOf" not in str(schema))
    function = {"name": "f", "parameters": {"type": "object", "properties": schema, "$defs": DEFS}}
    body = asked([{"role": "user", "content": "go"}], tools=[{"type": "function", "function": function}])
    (tool,) = orjson.loads(translated(OLLAMA, check_chat(body)).body)["tools"]
    words, whole = _descriptions(tool), orjson.dumps(tool["function"]["parameters"]).decode()
    for keyword, value in _sayings(schema):
        text = value if keyword in ("pattern", "format") else orjson.dumps(value).decode()
        if keyword in SAID_IN_WORDS:
            assert f"{keyword}: {text}" in words
        elif keyword in KEPT:
            assert text in whole
        elif keyword == "description":
            assert value in words
    assert "oneOf" not in whole


# -- calls in a stream


def answered(where: Where, body: Json, lines: list[bytes]) -> tuple[Json, list[Json]]:
    """The whole reply's one choice, and the deltas of the stream, for what an upstream sends."""
    dialect, facets = where
    request = check_chat(body)
    chat = DIALECTS[dialect].operations["chat"]
    made = (f"call_made_{number}" for number in count())
    reply = chat.read(lambda: next(made), "text/event-stream", facets, request)
    readings = [reading for line in lines for reading in reply.feed(line)] + reply.close()
    (choice,) = orjson.loads(WholeAnswer(call_id="c", created=1, model="m").write(readings))["choices"]
    return choice, [reading.delta for reading in readings if isinstance(reading, Delta)]


def native_lines(pieces: list[str]) -> list[bytes]:
    lines: list[Json] = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
    return [
        orjson.dumps(line) + b"\n"
        for line in [*lines, {"message": {"content": ""}, "done": True, "done_reason": "stop"}]
    ]


TOOLS: list[Json] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"a": {}}}}}
    for name in ("look", "add", "send_mail")
]


@MANY
@given(draw=st.data(), name=st.sampled_from(["look", "add"]), arguments=ARGUMENTS, indent=st.sampled_from([None, 0, 2]))
def test_a_forced_call_in_any_pieces_of_text_is_that_call(
    draw: st.DataObject, name: str, arguments: Json, indent: int | None
) -> None:
    ascii_only = draw.draw(st.booleans())
    text = json.dumps({"name": name, "arguments": arguments}, indent=indent, ensure_ascii=ascii_only)
    pieces = draw.draw(cut(draw.draw(st.sampled_from(["", " ", "\n"])) + text + draw.draw(st.sampled_from(["", "\n"]))))
    choice, deltas = answered(
        UNKNOWN, asked([{"role": "user", "content": "go"}], tools=TOOLS, tool_choice="required"), native_lines(pieces)
    )
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], choice["finish_reason"]) == (name, "tool_calls")
    assert orjson.loads(call["function"]["arguments"]) == orjson.loads(orjson.dumps(arguments))
    assert choice["message"]["content"] is None
    assert not any("content" in delta for delta in deltas)


@MANY
@given(draw=st.data(), text=TEXTS, whole=st.booleans())
def test_the_input_of_a_custom_tool_in_any_pieces_is_the_same_text(draw: st.DataObject, text: str, whole: bool) -> None:
    body = asked([{"role": "user", "content": "go"}], tools=[{"type": "custom", "custom": {"name": "run"}}])
    arguments = json.dumps({"input": text}, ensure_ascii=draw.draw(st.booleans()))
    call: Json = {"index": 0, "id": "a", "type": "function", "function": {"name": "run", "arguments": ""}}
    pieces = [arguments] if whole else draw.draw(cut(arguments))
    lines = [chunk({"tool_calls": [call]})]
    lines += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces]
    choice, deltas = answered(DEEPSEEK, body, [*lines, chunk({}, finish_reason="tool_calls"), b"data: [DONE]\n\n"])
    assert choice["message"]["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "run", "input": text}}]
    fragments = [fragment for delta in deltas for fragment in delta.get("tool_calls", ())]
    assert "".join(fragment["custom"].get("input", "") for fragment in fragments) == text
    assert not any("function" in fragment for fragment in fragments)


@MANY
@given(found=streamed_calls(), edges=EDGES, profile=st.sampled_from(["compat", "deepseek"]))
def test_calls_in_any_fragments_are_the_same_calls(
    found: tuple[list[tuple[str, str, str]], list[Json]], edges: list[int], profile: str
) -> None:
    calls, deltas = found
    data = b"".join(map(chunk, deltas)) + chunk({}, finish_reason="tool_calls") + b"data: [DONE]\n\n"
    request = ChatRequest(body={"messages": []}, model="m")
    reply = (
        DIALECTS["openai"]
        .operations["chat"]
        .read(lambda: "call_made", "text/event-stream", Facets(profile=profile), request)
    )
    readings = [reading for piece in pieces_of(data, edges) for reading in reply.feed(piece)] + reply.close()
    (choice,) = orjson.loads(WholeAnswer(call_id="c", created=1, model="m").write(readings))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in choice["message"]["tool_calls"]
    ] == calls
