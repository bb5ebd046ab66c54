"""Input items of /v1/responses -> chat messages, and the way back from a message's place to its item's.

The trap: a turn of the assistant's is several items there and one message here. Reasoning, text and calls that follow
one another belong together, and nothing may stand between a call and its results, or strict servers refuse the history.
What a tool message cannot hold (an image that a tool gave) follows in a message of the user's.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter
from wire.errors import BadRequest
from wire.openai import Json

SEALED = "unigate1."
"""What our own `encrypted_content` begins with. It hides nothing: the caller was sent the same text in the open."""
MOST_SHOWN = 64
"""Characters of a caller's word that an error quotes."""


class UnsupportedValue(BadRequest):
    code = "unsupported_value"


def sealed(reasoning: str) -> str:
    """Reasoning as the opaque text that stateless callers send back."""
    return SEALED + b64encode(reasoning.encode()).decode()


def unsealed(blob: Any) -> str:
    """The reasoning of such a text; nothing where it is somebody else's."""
    if not (isinstance(blob, str) and blob.startswith(SEALED)):
        return ""
    try:
        return b64decode(blob.removeprefix(SEALED), validate=True).decode()
    except ValueError:
        return ""


def item_type(item: Json) -> Any:
    """An item's type. Messages and references may leave it out."""
    kind = item.get("type")
    return kind if kind is not None else "message" if "role" in item else "item_reference"


def messages_of(
    items: Iterable[tuple[str, Any]], flat: Mapping[tuple[str, str], str]
) -> tuple[list[Json], dict[str, str]]:
    """(place, item) -> chat messages, and where each came from: `messages[1].tool_calls[0]` -> `input[3]`.

    References are resolved already. `flat`: (namespace, name) of a function -> the name that it has in chat. Raises
    BadRequest with a `param` in the caller's words.
    """
    writer = _Writer(flat)
    for place, item in items:
        if not isinstance(item, dict):
            raise InvalidType(f"'{place}' must be an object.", param=place)
        if not isinstance(item.get("id"), str | None):
            raise InvalidType(f"'{place}.id' must be a string.", param=f"{place}.id")
        kind = item_type(item)
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            said = str(kind)[:MOST_SHOWN]
            raise UnsupportedValue(
                f"'{place}.type' is '{said}', which no model behind this gateway knows. Use one of "
                f"{_list(_READERS)} or 'item_reference'.",
                param=f"{place}.type",
            )
        read(writer, item, place)
    return writer.finished()


class _Writer:
    """The messages so far, and what of the present turn may still join the last one."""

    def __init__(self, flat: Mapping[tuple[str, str], str]) -> None:
        self._flat = flat
        self._messages: list[Json] = []
        self._places: dict[str, str] = {}
        self._turn: Json | None = None
        """The last message, while it is the assistant's."""
        self._thoughts: list[str] = []
        """Reasoning that waits for the message it led to."""
        self._reasoned: list[str] = []
        """What led to the present turn; joined when that is over, for a turn may have many items."""
        self._open: dict[str, str] = {}
        """Calls without a result so far: id -> place."""
        self._called: set[str] = set()
        self._media: list[tuple[Json, str]] = []
        """What tools gave besides text, with the place of each."""

    def finished(self) -> tuple[list[Json], dict[str, str]]:
        for call_id, place in self._open.items():
            raise InvalidValue(
                f"'{place}': no output was given for the call '{call_id[:MOST_SHOWN]}'. Send a 'function_call_output' "
                "item with its 'call_id'.",
                param=place,
            )
        self._end_turn()
        self._flush_media()
        return self._messages, self._places

    def message(self, item: Json, place: str) -> None:
        role = item.get("role")
        if role is None:
            raise MissingParameter(f"'{place}.role' is missing.", param=f"{place}.role")
        if role not in _ROLES:
            raise InvalidValue(f"'{place}.role' must be one of {_list(_ROLES)}.", param=f"{place}.role")
        content = item.get("content")
        if content is None:
            raise MissingParameter(f"'{place}.content' is missing.", param=f"{place}.content")
        said = _content(content, f"{place}.content", _PARTS if role == "assistant" else _GIVEN_PARTS)
        if role != "assistant":
            self._thoughts.clear()
            self._add({"role": role, "content": said}, place)
            return
        if self._turn is not None and "tool_calls" in self._turn:  # its results are still to come
            known = self._turn["content"]
            if isinstance(known, list):
                known += _parts(said)
            else:
                self._turn["content"] = said if known is None else _parts(known, said)
        else:
            self._turn = self._add({"role": "assistant", "content": said}, place)
        self._think()

    def reasoning(self, item: Json, place: str) -> None:
        content = item.get("content")
        texts = [
            part["text"]
            for part in (content if isinstance(content, list) else [])
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        text = "".join(texts) or unsealed(item.get("encrypted_content"))
        if text:
            self._thoughts.append(text)

    def call(self, item: Json, place: str, key: str) -> None:
        """A call of a function (its `key` is arguments) or of a custom tool (input)."""
        call_id, name, given = (_text(item, word, place) for word in ("call_id", "name", key))
        namespace = item.get("namespace")
        if isinstance(namespace, str):
            name = self._flat.get((namespace, name), name)
        if self._turn is None:
            self._turn = self._add({"role": "assistant", "content": None}, place)
        calls = self._turn.setdefault("tool_calls", [])
        self._think()
        self._places[f"messages[{len(self._messages) - 1}].tool_calls[{len(calls)}]"] = place
        kind = "function" if key == "arguments" else "custom"
        calls.append({"id": call_id, "type": kind, kind: {"name": name, key: given}})
        self._open[call_id] = place
        self._called.add(call_id)

    def output(self, item: Json, place: str) -> None:
        call_id = _text(item, "call_id", place)
        if call_id not in self._called:
            raise InvalidValue(
                f"'{place}.call_id' is '{call_id[:MOST_SHOWN]}', but no call before it has that id.",
                param=f"{place}.call_id",
            )
        self._open.pop(call_id, None)
        given = item.get("output")
        if given is None:
            raise MissingParameter(f"'{place}.output' is missing.", param=f"{place}.output")
        said = _content(given, f"{place}.output", _GIVEN_PARTS)
        if not isinstance(said, str):
            texts = [part["text"] for part in said if part["type"] == "text"]
            media = [(part, f"{place}.output[{n}]") for n, part in enumerate(said) if part["type"] != "text"]
            if media:
                texts.append("(The rest of this result is in the next message.)")
                self._media += media
            said = "\n".join(texts)
        message = {"role": "tool", "tool_call_id": call_id, "content": said}
        self._add(message, place, is_output=True)
        self._places[f"messages[{len(self._messages) - 1}].content"] = f"{place}.output"

    def _think(self) -> None:
        """The turn gets the reasoning that led to it."""
        self._reasoned += self._thoughts
        self._thoughts.clear()

    def _end_turn(self) -> None:
        if self._turn is not None and self._reasoned:
            self._turn["reasoning_content"] = "\n".join(self._reasoned)
        self._reasoned.clear()
        self._turn = None

    def _add(self, message: Json, place: str, *, is_output: bool = False) -> Json:
        self._end_turn()
        if self._media and not is_output:
            self._flush_media()
        self._places[f"messages[{len(self._messages)}]"] = place
        self._messages.append(message)
        return message

    def _flush_media(self) -> None:
        media, self._media = self._media, []
        if media:
            number = len(self._messages)
            self._places[f"messages[{number}]"] = media[0][1]
            for at, (_, place) in enumerate(media):
                self._places[f"messages[{number}].content[{at}]"] = place
            self._messages.append({"role": "user", "content": [part for part, _ in media]})


def _text(item: Json, key: str, place: str) -> str:
    value = item.get(key)
    spot = f"{place}.{key}"
    if value is None:
        raise MissingParameter(f"'{spot}' is missing.", param=spot)
    if not isinstance(value, str):
        raise InvalidType(f"'{spot}' must be a string.", param=spot)
    return value


def _content(content: Any, place: str, allowed: Mapping[str, _PartReader]) -> str | list[Json]:
    """A string, or chat's parts, one for each, so that a part has the same number on both sides."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidType(f"'{place}' must be a string or an array of parts.", param=place)
    parts: list[Json] = []
    for number, part in enumerate(content):
        spot = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise InvalidType(f"'{spot}' must be an object with a 'type'.", param=spot)
        read = allowed.get(kind)
        if read is None:
            raise InvalidValue(
                f"'{spot}.type' is '{kind[:MOST_SHOWN]}'; use one of {_list(allowed)}.", param=f"{spot}.type"
            )
        parts.append(read(part, spot))
    match parts:
        case []:
            return ""
        case [{"type": "text", "text": str(text)}]:
            return text
        case _:
            return parts


def _parts(*contents: str | list[Json]) -> list[Json]:
    """Contents in one list of parts."""
    return [
        part
        for content in contents
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]


def _text_part(part: Json, place: str) -> Json:
    return {"type": "text", "text": _text(part, "text", place)}


def _refusal(part: Json, place: str) -> Json:
    return {"type": "refusal", "refusal": _text(part, "refusal", place)}


def _image(part: Json, place: str) -> Json:
    _no_stored_file(part, place, "Send the image as a URL or a data URL in 'image_url'.")
    image: Json = {"url": _text(part, "image_url", place)}
    if part.get("detail") in ("low", "high"):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Json, place: str) -> Json:
    _no_stored_file(part, place, "Send the file itself as a data URL in 'file_data'.")
    file: Json = {"file_data": _text(part, "file_data", place)}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _audio(part: Json, place: str) -> Json:
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        spot = f"{place}.input_audio"
        raise InvalidType(f"'{spot}' must be an object with 'data' and 'format'.", param=spot)
    return {"type": "input_audio", "input_audio": audio}


def _no_stored_file(part: Json, place: str, instead: str) -> None:
    for key in ("file_id", "file_url"):
        if part.get(key) is not None:
            spot = f"{place}.{key}"
            raise UnsupportedValue(f"'{spot}': no files are kept or fetched here. {instead}", param=spot)


def _list(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


_ROLES = ("user", "assistant", "system", "developer")
type _PartReader = Callable[[Json, str], Json]
_GIVEN_PARTS: Mapping[str, _PartReader] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
_PARTS: Mapping[str, _PartReader] = {
    "output_text": _text_part,
    "refusal": _refusal,
    "input_text": _text_part,
}
"""Of the assistant's messages."""

_READERS: Mapping[str, Callable[[_Writer, Json, str], None]] = {
    "message": _Writer.message,
    "reasoning": _Writer.reasoning,
    "function_call": lambda writer, item, place: writer.call(item, place, "arguments"),
    "function_call_output": _Writer.output,
    "custom_tool_call": lambda writer, item, place: writer.call(item, place, "input"),
    "custom_tool_call_output": _Writer.output,
}
"""How each type of item is read."""
