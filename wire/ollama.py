"""Ollama's native /api/chat: foreign enough to be built, not patched.

The trap: Ollama is lenient where it should not be. It truncates a long history in silence (so `truncate: false` is
always sent), takes a missing `stream` for true, answers wrong option types with 500, reads only string content, and can
end a stream with neither `done` nor an error. Facts: ollama_api sections 2, 3 and 5, measured on a running server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from wire.errors import BadRequest, Cut, Fault, Garbled, Untranslatable, in_stream_error
from wire.ndjson import NdjsonDecoder
from wire.openai import (
    FINISHED,
    ChatRequest,
    Delta,
    Finished,
    Json,
    Reading,
    Translated,
    Usage,
    arguments_text,
    count,
    encoded,
    is_neutral,
    usage_object,
)

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)


def to_ollama(request: ChatRequest, model: str, *, num_ctx: int | None, keep_alive: str | None) -> Translated:
    """The /api/chat body for a checked request; raises Untranslatable where dropping would change the meaning.

    From a last message of the assistant's Ollama goes on, if the model's template lets it; some start over.
    """
    asked = request.body
    tools = _tools(asked)
    messages = _messages(asked["messages"])
    if request.prefill is not None:
        _begin_answer(messages, request.prefill.text)
    body: Json = {
        "model": model,
        "messages": messages,
        "stream": True,
        "truncate": False,
    }
    options = {name: asked[name] for name in _SAME_OPTIONS if asked.get(name) is not None}
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
    if limit is not None:
        options["num_predict"] = limit if request.prefill is None else request.prefill.limit(limit)
    stop = asked.get("stop") or []
    # An empty stop string ends the answer at once here, and means nothing at OpenAI.
    stops = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    if stops:
        options["stop"] = stops
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    if options:
        body["options"] = options
    if tools:
        body["tools"] = tools
    form = _format(asked.get("response_format"))
    if form is not None:
        body["format"] = form
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return Translated(encoded(body), _dropped(asked))


def _messages(messages: list[Json]) -> list[Json]:
    names: dict[str, str] = {}
    return [_message(message, f"messages[{number}]", names) for number, message in enumerate(messages)]


def _message(message: Json, where: str, names: dict[str, str]) -> Json:
    """One native message per OpenAI message. `names` remembers call id -> function name for the results to come."""
    role = message["role"]
    content, images = _content(message.get("content"), where)
    native: Json = {"role": "system" if role == "developer" else role, "content": content}
    if images:
        native["images"] = images
    if role == "assistant":
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(reasoning, str):
            native["thinking"] = reasoning
        refusal = message.get("refusal")
        if isinstance(refusal, str) and not content:
            native["content"] = refusal
        calls = message.get("tool_calls")
        if calls:
            native["tool_calls"] = [
                _call(call, f"{where}.tool_calls[{number}]", number, names) for number, call in enumerate(calls)
            ]
    elif role == "tool":
        native["tool_call_id"] = message["tool_call_id"]
        native["tool_name"] = names[message["tool_call_id"]]
    return native


def _begin_answer(messages: list[Json], text: str) -> None:
    """Native messages whose last one is the beginning of the answer: the caller's own beginning comes before it."""
    last = messages[-1]
    if last["role"] == "assistant" and "tool_calls" not in last:
        last["content"] += text
    else:
        messages.append({"role": "assistant", "content": text})


def _content(content: Any, where: str) -> tuple[str, list[str]]:
    """Text and bare base64 images of string, array or null content."""
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[str] = []
    for number, part in enumerate(content):
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                head = _DATA_URL.match(url)
                if head is None:
                    spot = f"{where}.content[{number}].image_url.url"
                    raise Untranslatable(
                        f"'{spot}' must be a data URL (data:image/png;base64,..., jpeg or webp) for a local model.",
                        param=spot,
                    )
                images.append(url[head.end() :])
            case _:
                spot = f"{where}.content[{number}]"
                raise Untranslatable(f"'{spot}': a local model cannot be sent '{part['type']}' parts.", param=spot)
    return "\n".join(texts), images


def _call(call: Json, where: str, number: int, names: dict[str, str]) -> Json:
    """A call of an earlier turn: the arguments string becomes an object, which is all that Ollama reads."""
    function = call.get("function")
    if function is None:
        raise Untranslatable(f"'{where}': a local model knows function calls only, not '{call['type']}'.", param=where)
    names[call["id"]] = function["name"]
    text = function["arguments"]
    try:
        arguments = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        spot = f"{where}.function.arguments"
        raise BadRequest(f"'{spot}' must be a JSON object in a string.", param=spot)
    return {"id": call["id"], "function": {"index": number, "name": function["name"], "arguments": arguments}}


def _tools(asked: Json) -> list[Json]:
    if asked.get("tool_choice") == "none":
        return []
    native: list[Json] = []
    for number, tool in enumerate(asked.get("tools") or []):
        if tool["type"] != "function":
            spot = f"tools[{number}].type"
            raise Untranslatable(f"'{spot}': a local model takes 'function' tools, not '{tool['type']}'.", param=spot)
        function = tool["function"]
        parameters = function.get("parameters") or {}
        # Without `properties` the jinja path answers 400 "properties must be an object".
        schema = {"type": "object"} | parameters | {"properties": parameters.get("properties") or {}}
        native.append(
            {
                "type": "function",
                "function": {
                    "name": function["name"],
                    "description": function.get("description") or "",
                    "parameters": schema,
                },
            }
        )
    return native


def _format(response_format: Any) -> Any:
    match response_format:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_schema"}:
            return "json"
        case _:
            return None


_SAME_OPTIONS = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
_CARRIED = frozenset(
    {
        *_SAME_OPTIONS,
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "tools",
    }
)


def _dropped(asked: Json) -> tuple[str, ...]:
    formatted = _format(asked.get("response_format")) is not None
    names = [
        name
        for name, value in asked.items()
        if name not in _CARRIED and not (formatted and name == "response_format") and not is_neutral(name, value)
    ]
    if any(message.get("name") for message in asked["messages"]):
        names.append("messages.name")
    return tuple(names)


class OllamaReply:
    """Reads one /api/chat reply, streamed or whole (a whole one is a stream of one line)."""

    __slots__ = ("_calls", "_decoder", "_make_id", "_over")

    def __init__(self, make_id: Callable[[], str]) -> None:
        """`make_id` gives an id for a tool call that came without one (the jinja path leaves it empty)."""
        self._decoder = NdjsonDecoder()
        self._make_id = make_id
        self._calls = 0
        self._over = False
        """After the end, or a fault, nothing is read."""

    def feed(self, data: bytes) -> list[Reading]:
        if self._over:
            return []
        try:
            return self._read(self._decoder.feed(data))
        except Garbled as fault:
            self._over = True
            return [fault]

    def close(self) -> list[Reading]:
        if self._over:
            return []
        rest = self._decoder.close()
        if any(isinstance(line, Garbled) for line in rest):
            return [Cut("ended its answer in the middle of a line")]
        readings = self._read(rest)
        if not self._over:
            readings.append(Cut("stopped before its answer was complete"))
        return readings

    def _read(self, lines: list[Json | Garbled]) -> list[Reading]:
        readings: list[Reading] = []
        for line in lines:
            if isinstance(line, Garbled):
                readings.append(line)
            elif line.get("error") is not None:
                readings.append(in_stream_error(line["error"]))
            else:
                self._read_line(line, readings)
            if readings and isinstance(readings[-1], Fault | Finished):
                self._over = True
                break
        return readings

    def _read_line(self, line: Json, readings: list[Reading]) -> None:
        message = line.get("message")
        if isinstance(message, dict):
            thinking = message.get("thinking")
            if thinking and isinstance(thinking, str):
                readings.append(Delta({"reasoning_content": thinking}))
            content = message.get("content")
            if content and isinstance(content, str):
                readings.append(Delta({"content": content}))
            calls = message.get("tool_calls")
            if calls:
                read = self._read_calls(calls)
                readings.append(read)
                if isinstance(read, Fault):
                    return
        elif message is not None:
            readings.append(Garbled("sent a message that is not an object"))
            return
        if line.get("done") is True:
            reason = "length" if line.get("done_reason") == "length" else "tool_calls" if self._calls else "stop"
            readings += (Delta({}, reason), Usage(_usage(line)), FINISHED)

    def _read_calls(self, calls: Any) -> Reading:
        fragments: list[Json] = []
        for call in calls if isinstance(calls, list) else [calls]:
            match call:
                case {"function": {"name": str(name), **rest}}:
                    arguments = rest.get("arguments")
                case _:
                    return Garbled("sent a tool call without a function name")
            text = arguments_text(arguments or {})
            if text is None:
                return Garbled("sent a tool call that is nested too deeply")
            fragments.append(
                {
                    # Ollama numbers the calls of one reply 0, 0, 0: its own index says nothing.
                    "index": self._calls,
                    "id": call["id"] if call.get("id") and isinstance(call["id"], str) else self._make_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": text},
                }
            )
            self._calls += 1
        return Delta({"tool_calls": fragments})


def _usage(line: Json) -> Json:
    """Counts that are zero are left out by Ollama."""
    return usage_object(count(line.get("prompt_eval_count")), count(line.get("eval_count")))
