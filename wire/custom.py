"""Custom tools for servers that know functions only: a function with one string in, the string out of its arguments.

A custom tool (openai_api section 1.1) is called with free text. The trap: the text comes as a JSON string in fragments,
and whoever waits for its end to decode it takes the stream from the caller; whoever parses all of it again at every
fragment takes quadratic time for a patch of a thousand lines. So it is decoded as it grows, each character once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from wire.openai import Delta, Finished, Json, Reading, Reply


def custom_names(tools: list[Json] | None) -> frozenset[str]:
    """The names of the custom tools among these, which are checked."""
    return frozenset(tool["custom"]["name"] for tool in tools or () if tool["type"] == "custom")


def as_function(tool: Json) -> Json:
    """A function for a checked custom tool: one required string, `input`. Its format is said in words."""
    custom = tool["custom"]
    words = [custom.get("description") or "", _format_in_words(custom.get("format"))]
    return {
        "type": "function",
        "function": {
            "name": custom["name"],
            "description": "\n".join(filter(None, words)),
            "parameters": {
                "type": "object",
                "properties": {"input": {"type": "string", "description": "The whole input of this tool, as text."}},
                "required": ["input"],
            },
        },
    }


def as_function_call(call: Json) -> Json:
    """A function call for a custom call of an earlier turn, as_function()'s counterpart."""
    custom = call["custom"]
    arguments = orjson.dumps({"input": custom["input"]}).decode()
    return {"id": call["id"], "type": "function", "function": {"name": custom["name"], "arguments": arguments}}


def _format_in_words(form: Any) -> str:
    match form:
        case {"type": "grammar", "grammar": {"syntax": str(syntax), "definition": str(definition)}}:
            return f"The input must match this grammar ({syntax}):\n{definition}"
        case _:
            return ""


_BEGINNING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_BEGUN_BY = 32
"""Fragments: arguments that have not begun as they should by then are looked at when they are complete."""
_TEXT = re.compile(r'(?:[^"\\]+|\\u[0-9a-fA-F]{4}|\\[^u]|\\u(?![0-9a-fA-F]{0,3}\Z))*+')
"""The inside of a JSON string as far as it can be decoded: up to its end, or to half an escape."""
_HALF_PAIR = re.compile(r"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})\Z")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}


def _decoded(text: str) -> str:
    """The inside of a JSON string, decoded. Models write escapes that JSON has not (`\\d`): those stay as they are."""
    if "\\" not in text:
        return text

    def character(found: re.Match[str]) -> str:
        if found[1] is not None:
            return chr(int(found[1], 16))
        return _ESCAPED.get(found[2], found[0])

    decoded = _ESCAPE.sub(character, text)
    # Escaped surrogates are joined in pairs; a lone one is no character.
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(slots=True)
class _Input:
    """The text of one custom call, out of the fragments of `{"input": "…"}`."""

    held: list[str] = field(default_factory=list)
    """What cannot be decoded yet."""
    begun: bool = False
    over: bool = False

    def take(self, fragment: str) -> str:
        """What is known more of the text."""
        if self.over or not fragment:
            return ""
        self.held.append(fragment)
        if not self.begun and ('"' not in fragment or len(self.held) > _BEGUN_BY):
            return ""
        given = "".join(self.held)
        if not self.begun:
            beginning = _BEGINNING.match(given)
            if beginning is None:
                return ""
            self.begun = True
            given = given[beginning.end() :]
        whole = _TEXT.match(given)
        end = whole.end() if whole is not None else 0
        self.over = given[end : end + 1] == '"'
        if (
            not self.over
            and "\\u" in given[max(0, end - 6) : end]
            and (half := _HALF_PAIR.search(given[:end])) is not None
        ):
            end = half.start(1)
        self.held = [given[end:]] if end < len(given) else []
        return _decoded(given[:end])

    def rest(self) -> str:
        """The call is over: what is left of the text, also where its arguments have another form than was asked for."""
        if self.over:
            return ""
        self.over = True
        given = "".join(self.held)
        if self.begun:
            return _decoded(given)
        try:
            value = orjson.loads(given) if given.strip() else ""
        except orjson.JSONDecodeError:
            return given
        match value:
            case str(text) | {"input": str(text)}:
                return text
            case dict() if len(value) == 1 and isinstance(text := next(iter(value.values())), str):
                return text
            case {}:
                return "" if not value else given
            case _:
                return given


class CustomCalls:
    """A reader whose calls of the functions with these names are custom calls again, as the caller knows them."""

    __slots__ = ("_inputs", "_names", "_reply")

    def __init__(self, reply: Reply, names: frozenset[str]) -> None:
        self._reply = reply
        self._names = names
        self._inputs: dict[tuple[int, int], _Input | None] = {}
        """(choice, index) of a call -> its text; None for a function of the caller's own."""

    def feed(self, data: bytes) -> list[Reading]:
        return self._read(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._read(self._reply.close())

    def _read(self, readings: list[Reading]) -> list[Reading]:
        out: list[Reading] = []
        for reading in readings:
            match reading:
                case Delta() if "tool_calls" in reading.delta or (reading.finish_reason is not None and self._inputs):
                    piece = self._delta(reading)
                    if piece.delta or piece.logprobs is not None or piece.finish_reason is not None:
                        out.append(piece)
                case Finished():
                    choices = sorted({choice for choice, _ in self._inputs})
                    out += [
                        Delta({"tool_calls": rest}, None, choice) for choice in choices if (rest := self._rest(choice))
                    ]
                    out.append(reading)
                case _:
                    out.append(reading)
        return out

    def _delta(self, piece: Delta) -> Delta:
        fragments = [self._fragment(piece.choice, call) for call in piece.delta.get("tool_calls", ())]
        calls = [fragment for fragment in fragments if fragment is not None]
        if piece.finish_reason is not None:
            calls += self._rest(piece.choice)
        delta = {key: value for key, value in piece.delta.items() if key != "tool_calls"}
        return piece._replace(delta=delta | {"tool_calls": calls} if calls else delta)

    def _fragment(self, choice: int, call: Json) -> Json | None:
        """The fragment as the caller gets it; None where nothing is known yet that is worth one."""
        index = call["index"]
        function = call.get("function") or {}
        place = (choice, index)
        is_new = place not in self._inputs
        if is_new:
            self._inputs[place] = _Input() if function.get("name") in self._names else None
        text = self._inputs[place]
        if text is None:
            return call
        more = text.take(function.get("arguments") or "")
        if is_new:
            return {
                "index": index,
                "id": call.get("id"),
                "type": "custom",
                "custom": {"name": function["name"], "input": more},
            }
        return {"index": index, "custom": {"input": more}} if more else None

    def _rest(self, choice: int) -> list[Json]:
        """The last fragments of this choice's calls."""
        rests = [
            (index, text.rest())
            for (spoke, index), text in self._inputs.items()
            if spoke == choice and text is not None
        ]
        return [{"index": index, "custom": {"input": rest}} for index, rest in rests if rest]
