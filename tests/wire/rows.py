"""The table of laws: each endpoint of OpenAI's with the replies that it must answer, its schemas and its strict types.

A new endpoint that is answered from readings is a row here, and every law of test_laws.py holds it to account. What a
client makes of a stream is written down a second time, on purpose: it must come to the whole reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.audio import Transcription, TranscriptionStreamEvent, TranscriptionVerbose
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from tests.wire.cases import CREATED, MODEL, Case, asked, cases, is_read, made_ids, reader
from tests.wire.cases import body as body_of
from tests.wire.forms import read, recording
from wire.answer import Opening
from wire.compat_reply import CompatReply
from wire.dialects import DIALECTS, Facets
from wire.errors import DONE, Fault, fault_object
from wire.media import check_transcription
from wire.openai import Finished, Json, ModelRequest, Reading, Reply
from wire.profiles import PROFILES
from wire.surfaces import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, TRANSCRIPTION, Surface

CALL_ID = "test"


def without_nulls(value: Json) -> Json:
    """Without the nulls that the live service sends and the strict schemas do not know (openai_api section 8)."""
    kept = {name: inner for name, inner in value.items() if inner is not None or name not in _NULLS}
    return kept | {"response": without_nulls(kept["response"])} if isinstance(kept.get("response"), dict) else kept


_NULLS = ("usage", "user", "system_fingerprint")


@dataclass(frozen=True, eq=False)
class Row:
    """One surface, with one kind of request."""

    name: str
    surface: Surface
    replies: tuple[Case, ...]
    """What upstreams sent, and ended by themselves or broke off."""
    request: Callable[[Case, bool], ModelRequest]
    """(the reply's case, whether a stream is asked for) -> a request that such a reply could answer."""
    reader: Callable[[Case, ModelRequest], Reply]
    reply_schema: str
    """Name in OpenAI's published schemas."""
    reply_type: TypeAdapter[Any]
    """The SDK's own."""
    event_schema: str = ""
    """Of each event in a stream; "" where nothing is streamed, or its schema is not published."""
    event_type: TypeAdapter[Any] | None = None
    parsed: Callable[[bytes], list[Json]] = lambda stream: []
    """A stream as its events. It is nothing but events, and has its proper end."""
    unfolded: Callable[[list[Json]], Json] = lambda events: {}
    """What a client makes of all events of a complete stream: a whole reply."""
    says: Callable[[Json, Fault], bool] = lambda event, fault: event == fault_object(fault)
    """Whether the last event of a broken stream says why."""
    looks_complete: Callable[[list[Json]], bool] = lambda events: False
    """Whether the events before it would do for a whole answer."""
    body: Callable[[Case], bytes] = body_of
    """What the upstream sent."""
    published: Callable[[Json], Json] = lambda value: value
    """A reply or an event without what the live service sends and no published type knows."""
    strictly: Callable[[Json], Json] = without_nulls
    """An event without what the live service sends and the strict types do not know."""
    reads: bool = True
    """False: its bytes are read as another row's are."""

    @property
    def complete(self) -> list[Case]:
        return [case for case in self.replies if "fault" not in case.row]

    @property
    def broken(self) -> list[Case]:
        return [case for case in self.replies if "fault" in case.row]


def misfits(kind: TypeAdapter[Any], value: Json) -> list[str]:
    """What the SDK's own type does not take of a reply or an event, read strictly from its JSON."""
    try:
        kind.validate_json(orjson.dumps(value), strict=True)
    except ValidationError as error:
        return [str(error)]
    return []


def opening(request: ModelRequest) -> Opening:
    return Opening(CALL_ID, CREATED, MODEL, request)


def readings_of(row: Row, case: Case, pieces: Iterable[bytes]) -> list[Reading]:
    """Up to the end or the fault."""
    reply = row.reader(case, row.request(case, row.event_type is not None))
    found = [reading for piece in pieces for reading in reply.feed(piece)]
    found += reply.close()
    ends = [number for number, reading in enumerate(found) if isinstance(reading, Fault | Finished)]
    assert ends, "a reply ended with neither a fault nor its end"
    return found[: ends[0] + 1]


def streamed(row: Row, case: Case, pieces: Iterable[bytes]) -> bytes:
    """The whole stream that the caller gets."""
    request = row.request(case, True)
    reply, answer = row.reader(case, request), row.surface.streamed(opening(request))
    out = [answer.write(reply.feed(piece)) for piece in pieces]
    out.append(answer.write(reply.close()))
    assert answer.done
    return b"".join(out)


def whole(row: Row, case: Case, pieces: Iterable[bytes]) -> Json:
    """The whole reply; raises the Fault if there is one."""
    request = row.request(case, False)
    reply, answer = row.reader(case, request), row.surface.whole(opening(request))
    out = [answer.write(reply.feed(piece)) for piece in pieces]
    out.append(answer.write(reply.close()))
    assert answer.done
    value: Json = orjson.loads(b"".join(out))
    return value


# -- streams that end in [DONE]


def data_events(stream: bytes) -> list[Json]:
    assert stream.endswith(DONE)
    events = stream.removesuffix(DONE).split(b"\n\n")
    assert events.pop() == b""
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


def transcript_events(stream: bytes) -> list[Json]:
    """Only a stream that broke off ends in [DONE]."""
    return data_events(stream if stream.endswith(DONE) else stream + DONE)


def _choices_complete(events: list[Json]) -> bool:
    """Whether every choice has its finish_reason."""
    choices = [choice for event in events for choice in event["choices"]]
    finished = {choice["index"] for choice in choices if choice["finish_reason"]}
    return bool(choices) and finished == {choice["index"] for choice in choices}


def read_back(stream: bytes) -> list[Reading]:
    """A stream of ours, read as one of an OpenAI-compatible server."""
    reply = CompatReply(lambda: "never", PROFILES["compat"], "text/event-stream")
    return [*reply.feed(stream), *reply.close()]


def _chat_unfolded(events: list[Json]) -> Json:
    frames = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    answer = CHAT.whole(opening(ModelRequest(body={}, model=MODEL)))
    value: Json = orjson.loads(answer.write(read_back(frames + DONE)))
    return value


def _with_functions_only(value: Json) -> Json:
    """Whole replies may have calls of custom tools; of chunks the published types know none, and they say no other way."""
    if not any("custom" in str(choice.get("delta")) for choice in value.get("choices", ())):
        return value
    copied: Json = orjson.loads(orjson.dumps(value))
    for choice in copied["choices"]:
        for fragment in choice["delta"].get("tool_calls", ()):
            custom = fragment.pop("custom", None)
            if custom is not None:
                fragment["function"] = {"arguments" if key == "input" else key: text for key, text in custom.items()}
            if fragment.get("type") == "custom":
                fragment["type"] = "function"
    return copied


def _functions_unfolded(events: list[Json]) -> Json:
    """As _chat_unfolded(), with each `function_call` as the tool call that it would be today."""
    modern = orjson.loads(orjson.dumps(events))
    for event in modern:
        for choice in event["choices"]:
            if choice["finish_reason"] == "function_call":
                choice["finish_reason"] = "tool_calls"
            called = choice["delta"].pop("function_call", None)
            if called is not None:
                choice["delta"]["tool_calls"] = [{"index": 0, "id": "a", "type": "function", "function": called}]
    reply = _chat_unfolded(modern)
    for choice in reply["choices"]:
        calls = choice["message"].pop("tool_calls", None)
        if calls is not None:
            (call,) = calls
            choice["message"]["function_call"] = call["function"]
        if choice["finish_reason"] == "tool_calls":
            choice["finish_reason"] = "function_call"
    return reply


def _completion_unfolded(events: list[Json]) -> Json:
    choices: dict[int, Json] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            known = choices.setdefault(choice["index"], choice | {"text": "", "logprobs": None})
            known["text"] += choice["text"]
            known["finish_reason"] = choice["finish_reason"] or known["finish_reason"]
            if choice["logprobs"] is not None:
                before = known["logprobs"] or {}
                known["logprobs"] = {name: [*before.get(name, ()), *more] for name, more in choice["logprobs"].items()}
    head = {name: events[0][name] for name in ("id", "object", "created", "model")}
    return head | {"choices": [choices[index] for index in sorted(choices)]} | ({"usage": usage} if usage else {})


# -- streams of named events


def named_events(stream: bytes) -> list[Json]:
    frames = stream.split(b"\n\n")
    assert frames.pop() == b""
    events: list[Json] = []
    for number, frame in enumerate(frames):
        name, data = frame.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        events.append(event)
    assert events[-1]["type"] in ("response.completed", "response.incomplete", "response.failed", "error")
    return events


def _response_unfolded(events: list[Json]) -> Json:
    """The last event's response, if the events before it say the same, piece by piece."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    items: list[Json] = []
    done: list[Json | None] = []
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"] | {"content": []} if "content" in event["item"] else dict(event["item"]))
            done.append(None)
            continue
        place = event["output_index"]
        item = items[place]
        assert done[place] is None, "nothing is said of an item that is done"
        assert event.get("item_id", item["id"]) == item["id"]
        _add_to(item, kind, event)
        if kind == "output_item.done":
            done[place] = event["item"]
            assert event["item"] == item | {"status": event["item"]["status"]} | {
                name: event["item"][name] for name in ("encrypted_content",) if name in event["item"]
            }
    assert None not in done
    final: Json = events[-1]["response"]
    assert final["output"] == done
    return final


def _response_says(event: Json, fault: Fault) -> bool:
    if event["type"] == "error":
        return (event["message"], event["param"]) == (fault.message, fault.param)
    response = event["response"]
    assert response["error"]["code"] in ("server_error", "rate_limit_exceeded", "invalid_prompt")
    return (event["type"], response["status"], response["error"]["message"]) == (
        "response.failed",
        "failed",
        fault.message,
    )


def _add_to(item: Json, kind: str, event: Json) -> None:
    """What one event says of an item that is open."""
    match kind:
        case "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(dict(event["part"]))
        case "content_part.done":
            assert event["part"] == item["content"][event["content_index"]]
        case "output_text.delta" | "refusal.delta" | "reasoning_text.delta":
            part = item["content"][event["content_index"]]
            part["refusal" if "refusal" in part else "text"] += event["delta"]
            if event.get("logprobs"):
                part["logprobs"] = [*part["logprobs"], *event["logprobs"]]
        case "output_text.done" | "reasoning_text.done":
            assert event["text"] == item["content"][event["content_index"]]["text"]
        case "refusal.done":
            assert event["refusal"] == item["content"][event["content_index"]]["refusal"]
        case "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        case "function_call_arguments.done":
            assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
        case "custom_tool_call_input.delta":
            item["input"] += event["delta"]
        case "custom_tool_call_input.done":
            assert event["input"] == item["input"]
        case _:
            assert kind == "output_item.done"


# -- the table

_CHATS = tuple(
    case for folder in ("ollama", "ollama_made", "compat", "deepseek") for case in cases(folder) if is_read(case)
)


def _chat(case: Case, stream: bool) -> ModelRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | asked(case).body
    body |= {"messages": [{"role": "user", "content": "Hi"}]}
    return CHAT.check(body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {}))


def _functions(_case: Case, stream: bool) -> ModelRequest:
    body: Json = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "functions": [{"name": "f"}]}
    return CHAT.check(body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {}))


def _functions_reader(case: Case, request: ModelRequest) -> Reply:
    ids = made_ids()
    facets = Facets(profile=case.common.get("profile", "compat"))
    content_type = case.row["upstream"].get("content_type", "text/event-stream")
    operation = DIALECTS[case.common["dialect"]].operations["chat"]
    return operation.read(lambda: next(ids), content_type, facets, request)


def _responses(**more: Any) -> Callable[[Case, bool], ModelRequest]:
    return lambda case, stream: RESPONSES.check({"model": "m", "input": "Hi", "stream": stream, **more})


def _chat_reader(case: Case, request: ModelRequest) -> Reply:
    return reader(case)


_RESPONSES: Any = {
    "surface": RESPONSES,
    "reader": _chat_reader,
    "reply_schema": "Response",
    "reply_type": TypeAdapter(Response),
    "event_schema": "ResponseStreamEvent",
    "event_type": TypeAdapter(ResponseStreamEvent),
    "parsed": named_events,
    "unfolded": _response_unfolded,
    "says": _response_says,
    "looks_complete": lambda events: any(event["type"] == "response.completed" for event in events),
    "reads": False,
}


def _embeddings(case: Case, _stream: bool) -> ModelRequest:
    return EMBEDDINGS.check({"model": "m", "input": ["a", "b"]} | case.row.get("request", {}))


def _embeddings_reader(case: Case, request: ModelRequest) -> Reply:
    operation = DIALECTS[case.row["to"]].operations["embeddings"]
    return operation.read(str, "application/json", Facets(), request)


def _in_base64(case: Case) -> bool:
    return bool(case.row.get("request", {}).get("encoding_format") == "base64")


def _completions(case: Case, stream: bool) -> ModelRequest:
    body = {"model": "m", "prompt": "Once upon"} | case.row.get("request", {})
    return COMPLETIONS.check(body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {}))


def _completions_reader(case: Case, request: ModelRequest) -> Reply:
    operation = DIALECTS[case.row["to"]].operations["completions"]
    facets = Facets(profile=case.row.get("profile", "compat"))
    return operation.read(lambda: "never", case.row.get("content_type", "text/event-stream"), facets, request)


def _with_probabilities(value: Json) -> Json:
    """The first token of a prompt has no probability: that is null, and no type has a null there."""
    if "choices" not in value:
        return value
    choices = [choice | {"logprobs": _no_null_in(choice["logprobs"])} for choice in value["choices"]]
    return value | {"choices": choices}


def _no_null_in(logprobs: Json | None) -> Json | None:
    return logprobs and logprobs | {
        "token_logprobs": [0.0 if one is None else one for one in logprobs["token_logprobs"]],
        "top_logprobs": [{} if one is None else one for one in logprobs["top_logprobs"]],
    }


_COMPLETED = tuple(case for case in cases("completions") if case.file == "replies")
_COMPLETIONS: Any = {
    "surface": COMPLETIONS,
    "request": _completions,
    "reader": _completions_reader,
    "reply_schema": "CreateCompletionResponse",
    "reply_type": TypeAdapter(Completion),
    "body": lambda case: case.row["upstream"].encode(),
    "published": _with_probabilities,
}


def _with_reasons(event: Json) -> Json:
    """By the strict types the chunks of a completion have no way to say that it goes on."""
    if "choices" not in event:
        return event
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in event["choices"]]
    return without_nulls(event) | {"choices": choices}


def _transcription(form: str) -> Callable[[Case, bool], ModelRequest]:
    return lambda _case, stream: check_transcription(
        read(recording(response_format=form, **({"stream": "true"} if stream else {})))
    )


def _transcription_reader(_case: Case, request: ModelRequest) -> Reply:
    return DIALECTS["ollama"].operations["transcription"].read(lambda: "never", "", Facets(), request)


def _transcript_unfolded(events: list[Json]) -> Json:
    *deltas, done = events
    assert "".join(event["delta"] for event in deltas) == done["text"]
    return {"text": done["text"]} | ({"usage": done["usage"]} if "usage" in done else {})


_TRANSCRIPTIONS: Any = {
    "surface": TRANSCRIPTION,
    # One that is cut off by the limit is a fault here, and a whole answer to a chat.
    "replies": tuple(
        case for case in cases("ollama") if is_read(case) and b'"done_reason":"length"' not in body_of(case)
    ),
    "reader": _transcription_reader,
    "reads": False,
}
_EMBEDDED = tuple(case for case in cases("embeddings") if case.file == "replies")
_EMBEDDINGS: Any = {
    "surface": EMBEDDINGS,
    "request": _embeddings,
    "reader": _embeddings_reader,
    "body": lambda case: case.row["upstream"].encode(),
}

ROWS: tuple[Row, ...] = (
    Row(
        name="chat",
        surface=CHAT,
        replies=_CHATS,
        request=_chat,
        reader=_chat_reader,
        reply_schema="CreateChatCompletionResponse",
        reply_type=TypeAdapter(ChatCompletion),
        event_schema="CreateChatCompletionStreamResponse",
        event_type=TypeAdapter(ChatCompletionChunk),
        parsed=data_events,
        unfolded=_chat_unfolded,
        looks_complete=_choices_complete,
        published=_with_functions_only,
    ),
    Row(
        name="chat with functions",
        surface=CHAT,
        replies=tuple(case for case in _CHATS if not asked(case).body.get("tools")),
        request=_functions,
        reader=_functions_reader,
        reply_schema="CreateChatCompletionResponse",
        reply_type=TypeAdapter(ChatCompletion),
        event_schema="CreateChatCompletionStreamResponse",
        event_type=TypeAdapter(ChatCompletionChunk),
        parsed=data_events,
        unfolded=_functions_unfolded,
        looks_complete=_choices_complete,
        reads=False,
    ),
    Row(name="responses", replies=_CHATS, request=_responses(), **_RESPONSES),
    Row(
        name="responses in full",
        replies=tuple(
            case for case in _CHATS if any(word in body_of(case) for word in (b"logprobs", b"thinking", b"reason"))
        ),
        request=_responses(
            include=["message.output_text.logprobs", "reasoning.encrypted_content"],
            instructions="Be brief.",
            max_output_tokens=100,
            metadata={"a": "b"},
            reasoning={"effort": "low"},
            store=False,
            temperature=0.5,
            text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
            tools=[
                {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
            ],
            top_logprobs=2,
            user="u",
        ),
        **_RESPONSES,
    ),
    Row(
        name="completions",
        replies=tuple(case for case in _COMPLETED if "best_of" not in case.row.get("request", {})),
        event_schema="CreateCompletionResponse",
        event_type=TypeAdapter(Completion),
        parsed=data_events,
        unfolded=_completion_unfolded,
        looks_complete=_choices_complete,
        strictly=_with_reasons,
        **_COMPLETIONS,
    ),
    Row(
        name="the best of completions",
        replies=tuple(case for case in _COMPLETED if "best_of" in case.row.get("request", {})),
        **_COMPLETIONS,
    ),
    Row(
        name="transcriptions",
        request=_transcription("json"),
        reply_schema="CreateTranscriptionResponseJson",
        reply_type=TypeAdapter(Transcription),
        event_type=TypeAdapter(TranscriptionStreamEvent),
        parsed=transcript_events,
        unfolded=_transcript_unfolded,
        looks_complete=lambda events: any(event["type"] == "transcript.text.done" for event in events),
        **_TRANSCRIPTIONS,
    ),
    Row(
        name="transcriptions in full",
        request=_transcription("verbose_json"),
        reply_schema="CreateTranscriptionResponseVerboseJson",
        reply_type=TypeAdapter(TranscriptionVerbose),
        **_TRANSCRIPTIONS,
    ),
    Row(
        name="embeddings",
        replies=tuple(case for case in _EMBEDDED if not _in_base64(case)),
        reply_schema="CreateEmbeddingResponse",
        reply_type=TypeAdapter(CreateEmbeddingResponse),
        **_EMBEDDINGS,
    ),
    Row(
        name="embeddings in base64",
        replies=tuple(case for case in _EMBEDDED if _in_base64(case)),
        reply_schema="X_EmbeddingBase64Response",
        reply_type=TypeAdapter(dict[str, Any]),  # the SDK's own has vectors only
        **_EMBEDDINGS,
    ),
)
