"""Messages for Ollama's /api/chat: one native message per OpenAI message, with all that it says.

The trap: a native message has string content, bare base64 beside it, and nothing else. Audio goes where images go (its
bytes are sniffed), a file of text becomes text, and what it cannot hold is refused by name rather than left out.
"""

from __future__ import annotations

from typing import Any

import orjson

from wire.attached import data_url, file_text, plain_base64
from wire.custom import as_function_call
from wire.errors import Untranslatable
from wire.openai import ChatRequest, Json

IMAGE_TYPES = frozenset({"", "image/png", "image/jpeg", "image/jpg", "image/webp"})
"""What Ollama decodes, and "" for data URLs that leave the type out."""
SOUND_TYPES = ("wav", "mp3")


def native_messages(request: ChatRequest, capabilities: frozenset[str] | None) -> list[Json]:
    """One native message per message of the request; raises BadRequest with `param`.

    `capabilities` of the model, in Ollama's words; None where they are not known.
    """
    names: dict[str, str] = {}
    return [
        _message(message, f"messages[{number}]", names, request, capabilities)
        for number, message in enumerate(request.body["messages"])
    ]


def _message(
    message: Json, where: str, names: dict[str, str], request: ChatRequest, capabilities: frozenset[str] | None
) -> Json:
    """`names` remembers call id -> function name for the results to come."""
    role = message["role"]
    content, media = _content(message.get("content"), where, request, capabilities)
    native: Json = {"role": "system" if role == "developer" else role, "content": content}
    if media:
        native["images"] = media
    if role == "assistant":
        _add_turn(native, message, where, names, request)
    elif role == "tool":
        native["tool_call_id"] = message["tool_call_id"]
        native["tool_name"] = names[message["tool_call_id"]]
    return native


def _add_turn(native: Json, message: Json, where: str, names: dict[str, str], request: ChatRequest) -> None:
    """What an earlier turn of the model's holds besides content."""
    if message.get("audio") is not None:
        spot = f"{where}.audio"
        raise Untranslatable(f"'{spot}': this model cannot fetch the sound of an earlier answer.", param=spot)
    calls = message.get("tool_calls") or []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not reasoning:
        reasoning = next((request.thoughts[call["id"]] for call in calls if call["id"] in request.thoughts), None)
    if reasoning and isinstance(reasoning, str):
        native["thinking"] = reasoning
    refusal = message.get("refusal")
    if isinstance(refusal, str) and not native["content"]:
        native["content"] = refusal
    if calls:
        native["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{number}]", number, names) for number, call in enumerate(calls)
        ]


def _content(
    content: Any, where: str, request: ChatRequest, capabilities: frozenset[str] | None
) -> tuple[str, list[str]]:
    """Text, and bare base64 of images and sounds, of string, array or null content."""
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    media: list[str] = []
    for number, part in enumerate(content):
        spot = f"{where}.content[{number}]"
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                _check_able(capabilities, "vision", "images", spot)
                media.append(_image(url, f"{spot}.image_url.url", request))
            case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
                _check_able(capabilities, "audio", "sound", spot)
                media.append(_sound(data, kind, f"{spot}.input_audio"))
            case {"type": "file", "file": file}:
                texts.append(file_text(file, spot))
            case _:
                raise Untranslatable(f"'{spot}': this model cannot be sent '{part['type']}' parts.", param=spot)
    return "\n".join(texts), media


def _check_able(capabilities: frozenset[str] | None, capability: str, words: str, spot: str) -> None:
    if capabilities is not None and capability not in capabilities:
        raise Untranslatable(f"'{spot}': this model does not take {words}.", param=spot)


def _image(url: str, spot: str, request: ChatRequest) -> str:
    """Bare base64 of an image; one on the web was fetched before, or there is a reason why not."""
    if url in request.unfetched:
        raise Untranslatable(f"'{spot}' could not be fetched: {request.unfetched[url]}", param=spot)
    known = data_url(request.fetched.get(url, url))
    if known is None:
        raise Untranslatable(
            f"'{spot}' must be an http(s) URL or a data URL (data:image/png;base64,..., jpeg or webp).", param=spot
        )
    media_type, data = known
    if media_type not in IMAGE_TYPES:
        raise Untranslatable(
            f"'{spot}': this model reads image/png, image/jpeg and image/webp, not '{media_type[:60]}'.", param=spot
        )
    return plain_base64(data, spot)


def _sound(data: str, kind: str, spot: str) -> str:
    if kind not in SOUND_TYPES:
        spot = f"{spot}.format"
        raise Untranslatable(f"'{spot}': this model hears 'wav' and 'mp3', not '{kind[:60]}'.", param=spot)
    return plain_base64(data, f"{spot}.data")


def _call(call: Json, where: str, number: int, names: dict[str, str]) -> Json:
    """A call of an earlier turn: the arguments string becomes an object, which is all that Ollama reads."""
    function = (as_function_call(call) if call.get("type") == "custom" else call)["function"]
    names[call["id"]] = function["name"]
    text = function["arguments"]
    try:
        arguments = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        # Models write such calls, and programs send them back: to servers that take any text they are no mistake.
        spot = f"{where}.function.arguments"
        raise Untranslatable(f"'{spot}' must be a JSON object in a string for this model.", param=spot)
    return {"id": call["id"], "function": {"index": number, "name": function["name"], "arguments": arguments}}


def unsaid(messages: list[Json]) -> list[str]:
    """What these messages say that a native message has no place for, and the answer is as good without."""
    found: dict[str, None] = {}
    for message in messages:
        if message.get("name") and message["role"] != "tool":
            found["messages.name"] = None
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("prompt_cache_breakpoint") is not None:
                found["messages.content.prompt_cache_breakpoint"] = None
            if part["type"] == "image_url" and part["image_url"].get("detail") not in (None, "auto"):
                found["messages.content.image_url.detail"] = None
    return [*found]


def add_words(messages: list[Json], words: str) -> None:
    """Says something of ours to the model, within a native message of the caller's.

    A system message of its own would take the place of the one that the model has, and templates refuse any but the
    first: so it is added to the first one if there is one, else to what the user said last.
    """
    if messages[0]["role"] == "system":
        chosen = messages[0]
    else:
        users = [message for message in messages if message["role"] == "user"]
        if not users:
            messages.insert(0, {"role": "system", "content": words})
            return
        chosen = users[-1]
    chosen["content"] = f"{chosen['content']}\n\n{words}" if chosen["content"] else words


def begin_answer(messages: list[Json], text: str) -> None:
    """Makes the beginning of the answer the last message; the caller's own beginning of it comes before it."""
    last = messages[-1]
    if last["role"] == "assistant" and "tool_calls" not in last:
        last["content"] += text
    else:
        messages.append({"role": "assistant", "content": text})
