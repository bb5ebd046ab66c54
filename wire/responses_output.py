"""The output of a response as it grows: readings in, items out, and an event for every bracket on the way.

Both kinds of answer are made here: the stream writes the events down, the whole reply takes the items alone. The SDKs'
helpers break where a bracket is missing (openai_api section 2.3), so nothing is said before its item and its part are
open, and nothing is left open at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from wire.openai import Json, count
from wire.responses_items import sealed

type Tell = Callable[[str, Json], None]
"""(type of an event without its `response.`, its fields) -> it is written, or not."""


@dataclass(slots=True, eq=False)
class Part:
    """A piece of a message's or of a reasoning item's content."""

    kind: str
    """output_text, refusal or reasoning_text."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)

    def content(self) -> Json:
        noted: Json = {"annotations": self.annotations} if self.kind == "output_text" else {}
        return {"type": self.kind} | self.text() | noted

    def text(self) -> Json:
        """The text under its own name, with its logprobs where it can have some."""
        name = "refusal" if self.kind == "refusal" else "text"
        text: Json = {name: "".join(self.pieces)}
        return text | {"logprobs": self.logprobs} if self.kind == "output_text" else text


@dataclass(slots=True, eq=False)
class Spoken:
    """An item that says something: a message, or reasoning."""

    kind: str
    """message or reasoning."""
    number: int
    """Its place in the output."""
    id: str
    parts: list[Part] = field(default_factory=list)

    @property
    def place(self) -> Json:
        """Where its last part is, as events say it."""
        return {"item_id": self.id, "output_index": self.number, "content_index": len(self.parts) - 1}

    def item(self, status: str) -> Json:
        content = [part.content() for part in self.parts]
        if self.kind == "message":
            return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}


@dataclass(slots=True, eq=False)
class Called:
    """A call of a tool."""

    custom: bool
    call_id: str
    name: str = ""
    number: int = -1
    """Its place in the output; -1 while it waits for the rest of its name."""
    id: str = ""
    namespace: str | None = None
    pieces: list[str] = field(default_factory=list)
    """Of its arguments, or of a custom tool's input."""
    closed: bool = False

    @property
    def events(self) -> str:
        return "custom_tool_call_input" if self.custom else "function_call_arguments"

    def given(self) -> Json:
        return {"input" if self.custom else "arguments": "".join(self.pieces)}

    def item(self, status: str) -> Json:
        kind = "custom_tool_call" if self.custom else "function_call"
        item: Json = {"id": self.id, "type": kind, "status": status, "call_id": self.call_id, "name": self.name}
        if self.namespace is not None:
            item["namespace"] = self.namespace
        return item | self.given()

    def is_whole(self) -> bool:
        """Whether nothing can be missing. Of a custom tool's input nobody can tell."""
        try:
            orjson.loads("".join(self.pieces))
        except orjson.JSONDecodeError:
            return False
        return not self.custom


class Output:
    """Items in the order in which they begin; their ids are made from the call's."""

    def __init__(
        self, call_id: str, full_names: Mapping[str, tuple[str, str]], tell: Tell, *, logprobs: bool, seals: bool
    ) -> None:
        """`logprobs`: the caller asked for them. `seals`: reasoning also comes as `encrypted_content`."""
        self._call_id = call_id
        self._full_names = full_names
        self._tell = tell
        self._logprobs = logprobs
        self._seals = seals
        self._items: list[Spoken | Called] = []
        self._done: dict[int, Json] = {}
        """Closed items, by their place."""
        self.speaking: Spoken | None = None
        self._calls: dict[int, Called] = {}
        self._tokens: list[Json] = []
        """Logprobs that came before the text that they are of."""

    def add(self, delta: Json, logprobs: Json | None) -> None:
        """One delta of choice 0."""
        reasoning = delta.get("reasoning_content")
        if reasoning:
            self._tokens.clear()
            self._say("reasoning", "reasoning_text", reasoning)
        content = delta.get("content")
        if logprobs is not None and self._logprobs and (content or not reasoning):
            given = logprobs.get("content") or ()
            self._tokens += [_token(token) for token in given if isinstance(token.get("token"), str)]
        if content or (self._tokens and self._is_writing()):
            tokens, self._tokens = self._tokens, []
            self._say("message", "output_text", content or "", tokens)
        noted = delta.get("annotations")
        for annotation in noted if isinstance(noted, list) else ():
            self._annotate(annotation)
        if delta.get("refusal"):
            self._say("message", "refusal", delta["refusal"])
        for fragment in delta.get("tool_calls") or ():
            self._add_call(fragment)

    def close(self, *, cut: bool) -> None:
        """Nothing follows. `cut`: what is still open was cut short."""
        if not (cut or self._calls or any(isinstance(item, Spoken) and item.kind == "message" for item in self._items)):
            self._open_part("message", "output_text")  # whoever looks for a text must find one
        self._stop_speaking("incomplete" if cut else "completed")
        self._settle_calls()
        for call in self._open_calls():
            self._close_call(call, "incomplete" if cut else "completed")

    def items(self) -> list[Json]:
        """The output so far."""
        return [self._done.get(number) or item.item("incomplete") for number, item in enumerate(self._items)]

    # -- what is said

    def _say(self, kind: str, part_kind: str, text: str, logprobs: list[Json] | None = None) -> None:
        item = self.speaking
        if item is None or item.kind != kind or item.parts[-1].kind != part_kind:
            item = self._open_part(kind, part_kind)
        part = item.parts[-1]
        part.pieces.append(text)
        said: Json = {"delta": text}
        if logprobs is not None:
            part.logprobs += logprobs
            said["logprobs"] = logprobs
        self._tell(f"{part_kind}.delta", item.place | said)

    def _is_writing(self) -> bool:
        """Whether there is a text that more can be added to."""
        return self.speaking is not None and self.speaking.parts[-1].kind == "output_text"

    def _annotate(self, given: Any) -> None:
        """A source of what was said. It is flat here, and nested in chat."""
        match given:
            case {"type": "url_citation", "url_citation": {"url": str(url), "title": str(title), **where}}:
                pass
            case _:
                return
        item = self.speaking if self._is_writing() else None
        item = item or self._open_part("message", "output_text")
        places = {key: count(where.get(key)) for key in ("start_index", "end_index")}
        annotation: Json = {"type": "url_citation", "url": url, "title": title, **places}
        known = item.parts[-1].annotations
        place = item.place | {"annotation_index": len(known), "annotation": annotation}
        known.append(annotation)
        self._tell("output_text.annotation.added", place)

    def _open_part(self, kind: str, part_kind: str) -> Spoken:
        item = self.speaking
        if item is None or item.kind != kind:
            self._stop_speaking("completed")
            self._settle_calls()
            number = len(self._items)
            item = self.speaking = Spoken(kind, number, self._id("msg" if kind == "message" else "rs", number))
            self._items.append(item)
            self._tell("output_item.added", {"output_index": number, "item": item.item("in_progress")})
        else:
            self._close_part(item)
        part = Part(part_kind)
        item.parts.append(part)
        self._tell("content_part.added", item.place | {"part": part.content()})
        return item

    def _close_part(self, item: Spoken) -> None:
        part = item.parts[-1]
        self._tell(f"{part.kind}.done", item.place | part.text())
        self._tell("content_part.done", item.place | {"part": part.content()})

    def _stop_speaking(self, status: str) -> None:
        item, self.speaking = self.speaking, None
        if item is None:
            return
        self._close_part(item)
        whole = item.item(status)
        if item.kind == "reasoning" and self._seals:
            whole["encrypted_content"] = sealed("".join(item.parts[0].pieces))
        self._done[item.number] = whole
        self._tell("output_item.done", {"output_index": item.number, "item": whole})

    # -- calls

    def _add_call(self, fragment: Json) -> None:
        call = self._calls.get(fragment["index"])
        if call is None:
            self._stop_speaking("completed")
            self._settle_calls()
            number = len(self._calls)
            call = Called(fragment.get("type") == "custom", _text(fragment, "id") or self._id("call", number))
            self._calls[fragment["index"]] = call
        if call.closed:
            return
        kind, key = ("custom", "input") if call.custom else ("function", "arguments")
        if call.number < 0:
            call.name += _text(fragment.get(kind), "name")
        given = _text(fragment.get(kind), key)
        if given:
            if call.number < 0:
                self._announce(call)
            call.pieces.append(given)
            place: Json = {"item_id": call.id, "output_index": call.number}
            self._tell(f"{call.events}.delta", place | {"delta": given})

    def _open_calls(self) -> list[Called]:
        return [call for call in self._calls.values() if not call.closed]

    def _settle_calls(self) -> None:
        """Something else begins: names are whole now, and a call that can have no more to it is closed."""
        for call in self._open_calls():
            if call.number < 0:
                self._announce(call)
            if call.is_whole():
                self._close_call(call, "completed")

    def _announce(self, call: Called) -> None:
        """A call's item is begun when its name is known to be whole."""
        call.number = len(self._items)
        call.id = self._id("ctc" if call.custom else "fc", call.number)
        full = self._full_names.get(call.name)
        if full is not None:
            call.namespace, call.name = full
        self._items.append(call)
        self._tell("output_item.added", {"output_index": call.number, "item": call.item("in_progress")})

    def _close_call(self, call: Called, status: str) -> None:
        call.closed = True
        place: Json = {"item_id": call.id, "output_index": call.number}
        self._tell(f"{call.events}.done", place | ({} if call.custom else {"name": call.name}) | call.given())
        self._done[call.number] = call.item(status)
        self._tell("output_item.done", {"output_index": call.number, "item": self._done[call.number]})

    def _id(self, prefix: str, number: int) -> str:
        return f"{prefix}_{self._call_id}{number:04d}"


def _text(value: Any, key: str) -> str:
    """A text in what a server sent; nothing where it is none."""
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _token(given: Json) -> Json:
    """A token's logprob with the bytes that the strict schema wants."""
    tops = [_with_bytes(top) for top in given.get("top_logprobs") or () if isinstance(top.get("token"), str)]
    return _with_bytes(given) | {"top_logprobs": tops}


def _with_bytes(given: Json) -> Json:
    token, logprob, known = given["token"], given.get("logprob"), given.get("bytes")
    return {
        "token": token,
        "logprob": logprob if isinstance(logprob, int | float) else 0.0,
        "bytes": known if isinstance(known, list) else list(token.encode()),
    }
