"""What callers may send, as hypothesis draws it: valid chat histories, tools with JSON Schemas, streams of calls.

Small on purpose: many small examples find more than few large ones, and a failure can be read.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from wire.openai import Json

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
SAID = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
NAMES = st.sampled_from(["look", "add", "send_mail", "f-1"])
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

TEXT_PARTS = st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
IMAGE_PARTS = st.just({"type": "image_url", "image_url": {"url": PIXEL}})
REFUSAL_PARTS = st.builds(lambda text: {"type": "refusal", "refusal": text}, TEXTS)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "b", "größe"]),
    st.none() | st.booleans() | st.integers(-5, 5) | TEXTS | st.lists(st.integers(0, 3), max_size=2),
    max_size=3,
)


@st.composite
def _spoken(draw: st.DrawFn, role: str) -> Json:
    """A message of the caller's own."""
    parts = TEXT_PARTS | IMAGE_PARTS if role == "user" else TEXT_PARTS
    message: Json = {"role": role, "content": draw(TEXTS | st.lists(parts, min_size=1, max_size=3))}
    if draw(st.booleans()):
        message["name"] = draw(NAMES)
    return message


@st.composite
def _turn(draw: st.DrawFn, number: int, custom: bool) -> list[Json]:
    """An answer of an earlier turn, with the results of its calls."""
    kind = draw(st.sampled_from(["text", "parts", "refusal", "calls", "calls and text", "thought"]))
    message: Json = {"role": "assistant"}
    match kind:
        case "text":
            message["content"] = draw(TEXTS)
        case "parts":
            message["content"] = draw(st.lists(TEXT_PARTS | REFUSAL_PARTS, min_size=1, max_size=2))
        case "refusal":
            message |= {"content": None, "refusal": draw(SAID)}
        case "thought":
            message |= {"content": draw(TEXTS), "reasoning_content": draw(TEXTS)}
        case "calls and text":
            message["content"] = draw(TEXTS)
        case _:
            message |= draw(st.sampled_from([{}, {"content": None}, {"content": None, "refusal": None}]))
    if not kind.startswith("calls"):
        return [message]
    calls, results = [], []
    for place in range(draw(st.integers(1, 3))):
        call_id = f"call_{number}_{place}"
        if custom and draw(st.booleans()):
            called: Json = {"type": "custom", "custom": {"name": draw(NAMES), "input": draw(TEXTS)}}
        else:
            text = draw(st.just("") | ARGUMENTS.map(json.dumps))
            called = {"type": "function", "function": {"name": draw(NAMES), "arguments": text}}
        calls.append({"id": call_id, **called})
        content = draw(TEXTS | st.lists(TEXT_PARTS, min_size=1, max_size=2))
        results.append({"role": "tool", "tool_call_id": call_id, "content": content})
    return [message | {"tool_calls": calls}, *draw(st.permutations(results))]


@st.composite
def histories(draw: st.DrawFn, *, custom: bool = True) -> list[Json]:
    """The messages of a valid request, of at most some twenty; without `custom` all calls are of functions."""
    messages = [draw(_spoken(role)) for role in draw(st.lists(st.sampled_from(["system", "developer"]), max_size=2))]
    for number in range(draw(st.integers(0, 4))):
        messages.append(draw(_spoken("user")))
        messages += draw(_turn(number, custom))
    return [*messages, draw(_spoken("user"))]


def texts_of(message: Json) -> list[str]:
    """Every piece of text that a message of OpenAI's says."""
    content = message.get("content")
    match content:
        case str():
            said = [content]
        case list():
            said = [part.get("text") or part.get("refusal") or "" for part in content]
        case _:
            said = []
    refusal = message.get("refusal")
    return [*said, *([refusal] if refusal else [])]


# -- tools

SCALAR_KEYWORDS: Json = {
    "default": st.integers(0, 99) | st.sampled_from(["dflt", True, None]),
    "minimum": st.integers(100, 199),
    "maximum": st.integers(200, 299),
    "minLength": st.integers(300, 399),
    "pattern": st.sampled_from(["^a+$", "[0-9]{3}"]),
    "format": st.sampled_from(["date-time", "email"]),
    "examples": st.lists(st.sampled_from(["eg1", "eg2"]), min_size=1, max_size=2),
    "title": st.sampled_from(["A Title"]),
    "additionalProperties": st.booleans(),
    "enum": st.lists(st.sampled_from(["red", "green", 3]), min_size=1, max_size=3, unique=True),
    "const": st.sampled_from(["only", 7]),
    "description": TEXTS,
}
"""Keywords of a property, with values that can be told apart where they are found again."""
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null"])


def _object_of(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    properties = st.dictionaries(st.sampled_from(["p", "q", "type", "größe"]), inner, max_size=3)
    return st.builds(
        lambda found, more: {"type": "object", "properties": found, "required": sorted(found)} | more,
        properties,
        st.fixed_dictionaries({}, optional={"additionalProperties": st.booleans(), "description": TEXTS}),
    )


SCHEMAS: st.SearchStrategy[Json] = st.recursive(
    st.builds(
        lambda kind, more: kind | more,
        st.one_of(
            st.just({}),
            TYPES.map(lambda name: {"type": name}),
            st.just({"type": ["string", "null"]}),
            st.just({"$ref": "#/$defs/thing"}),
            st.just({"$ref": "#/$defs/loop"}),
        ),
        st.fixed_dictionaries({}, optional=SCALAR_KEYWORDS),
    ),
    lambda inner: st.one_of(
        _object_of(inner),
        st.builds(
            lambda item, more: {"type": "array", "items": item} | more, inner, st.sampled_from([{}, {"minItems": 1}])
        ),
        st.builds(
            lambda word, members: {word: members},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=2),
        ),
    ),
    max_leaves=6,
)
"""Schemas of properties. Their references lead into DEFS."""
DEFS: Json = {
    "thing": {"type": "string", "enum": ["x", "y"], "description": "a thing"},
    "loop": {"type": "object", "properties": {"next": {"$ref": "#/$defs/loop"}}},
}


@st.composite
def tool_lists(draw: st.DrawFn) -> list[Json]:
    """Function tools with any parameters, at least one."""
    tools = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        function: Json = {"name": name}
        if draw(st.booleans()):
            function["description"] = draw(TEXTS)
        if draw(st.booleans()):
            function["strict"] = draw(st.booleans())
        kind = draw(st.sampled_from(["none", "null", "empty", "bare", "object", "object"]))
        match kind:
            case "null":
                function["parameters"] = None
            case "empty":
                function["parameters"] = {}
            case "bare":
                function["parameters"] = {"type": "object"}
            case "object":
                function["parameters"] = draw(_object_of(SCHEMAS)) | {"$defs": DEFS}
        tools.append({"type": "function", "function": function})
    return tools


# -- calls in a stream


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces, some of them empty; joined they are the text."""
    edges = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *edges], [*edges, len(text)], strict=True)]


@st.composite
def streamed_calls(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], list[Json]]:
    """Calls (id, name, arguments), and the deltas in which some server sends them."""
    manner = draw(st.sampled_from(["openai", "repeats", "all zero", "no index", "whole"]))
    calls = [
        (f"call_{number}", draw(NAMES), draw(ARGUMENTS.map(json.dumps))) for number in range(draw(st.integers(1, 3)))
    ]
    queues: list[list[Json]] = []
    for number, (call_id, name, arguments) in enumerate(calls):
        pieces = [arguments] if manner == "whole" else draw(cut(arguments))
        fragments: list[Json] = []
        for place, piece in enumerate(pieces):
            fragment: Json = {"function": {"arguments": piece}}
            if manner != "no index":
                fragment["index"] = 0 if manner == "all zero" else number
            if place == 0 or manner == "repeats":
                fragment |= {"id": call_id, "type": "function"}
                fragment["function"] = {"name": name, **fragment["function"]}
            fragments.append(fragment)
        queues.append(fragments)
    # Only where calls are numbered may their pieces come mixed; each call still begins in its turn.
    may_mix = manner in ("openai", "repeats")
    mixed: list[Json] = [queue.pop(0) for queue in queues] if may_mix else []
    while left := [queue for queue in queues if queue]:
        queue = draw(st.sampled_from(left)) if may_mix else left[0]
        mixed.append(queue.pop(0))
    deltas: list[Json] = []
    while mixed:
        size = draw(st.integers(1, 3))
        deltas.append({"tool_calls": mixed[:size]})
        mixed = mixed[size:]
    return calls, deltas


def chunk(delta: Json, **more: Any) -> bytes:
    """A chunk of an OpenAI-compatible server."""
    choice = {"index": 0, "delta": delta, "finish_reason": None} | more
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
