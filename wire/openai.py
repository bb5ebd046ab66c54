"""The common language: what every dialect is read into and written from.

A caller's request is a ChatRequest (the original dict is kept: what we do not know we carry). An upstream's reply, of
whatever dialect, is read into Reading values, in order, and answer.py writes those as OpenAI chunks or folds them into
a whole reply. One mapping per dialect serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import orjson

from wire.errors import BadRequest, Fault
from wire.upload import Upload

type Json = dict[str, Any]
"""A JSON object as orjson gives it. Foreign: its values are looked at before they are believed."""

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
"""OpenAI's enum; anything else breaks strict clients."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The beginning of an answer that another target is to go on with."""

    text: str
    """What the caller has seen of it."""
    tokens: int
    """How many tokens the caller had, at the least: the rest of the caller's limit is what is left to say."""

    def limit(self, asked: int) -> int:
        """What is left of a limit of the caller's. One token at least: servers take 0 for no limit at all."""
        return max(1, asked - self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A checked request to a model, whichever endpoint it came to. Nobody changes `body`."""

    operation: ClassVar[str]
    """What is asked of a target: a key of Dialect.operations."""
    binary: ClassVar[bool] = False
    """The answer goes out as it comes and is no stream of events: nothing else may be in it."""
    body: Json
    """As the caller sent it; where the endpoint was translated onto another one's, the body of that one."""
    model: str
    stream: bool = False
    include_usage: bool = False
    prompt_chars: int = 0
    """Characters of text in its messages, prompt or inputs: what rules go by."""
    beside_chars: int = 0
    """Those of the other text that any server puts before its model: tools, calls of earlier turns, files of text."""
    maybe_chars: int = 0
    """Those of text that some servers put there and others do not: reasoning of earlier turns, a schema, documents."""
    has_tools: bool = False
    has_images: bool = False
    wants_json: bool = False
    """The answer must be JSON: blanks are none."""
    prefill: Prefill | None = None
    """Where the answer has begun already."""
    origin: Json | None = None
    """The caller's own body, where `body` is a translation of it."""
    lost: tuple[str, ...] = ()
    """Fields of `origin` that the translation could not carry, whoever answers."""

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.body.get("n") or 1

    @property
    def certain_chars(self) -> int:
        """Characters of text that its model reads in any case."""
        return self.prompt_chars + self.beside_chars

    @property
    def sent_chars(self) -> int:
        """Characters of all text that its model may read: what estimates of its tokens go by. No image, sound or PDF
        has any.
        """
        return self.prompt_chars + self.beside_chars + self.maybe_chars


_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(ModelRequest):
    """A checked request for a chat completion, in the words of /v1/chat/completions."""

    operation: ClassVar[str] = "chat"
    fetched: Mapping[str, str] = _NOTHING
    """http(s) URL of an image -> its data URL, for targets that take no URLs."""
    unfetched: Mapping[str, str] = _NOTHING
    """http(s) URL of an image -> why it could not be fetched, in words for the caller."""
    thoughts: Mapping[str, str] = _NOTHING
    """Tool call id -> the reasoning that led to it, where it is remembered: some servers want it back."""


class Delta(NamedTuple):
    """A piece of one choice, as in an OpenAI chunk: `delta` never holds a role, nor keys without content.

    Of other replies than texts: `{"embedding": [...]}` is the vector of the input with the number `choice` (numbers, or
    little-endian float32 in base64), `{"raw": b"..."}` a piece of a body that is relayed as it is.
    """

    delta: Json
    finish_reason: str | None = None
    choice: int = 0
    logprobs: Any = None
    server: Json | None = None
    """What the server says of itself (`system_fingerprint`, `service_tier`), with a reply's first piece only."""


class Usage(NamedTuple):
    """OpenAI's usage object; the last one seen counts."""

    usage: Json


class Finished(NamedTuple):
    """The upstream said by itself that the reply is complete. Without it an ending is a cut."""


type Reading = Delta | Usage | Finished | Fault
"""What a reply is read into. A Fault is a value here, so that what came before it is not lost."""

FINISHED = Finished()


class Reply(Protocol):
    """One upstream reply being read: bytes in any pieces in, readings out."""

    def feed(self, data: bytes) -> list[Reading]: ...

    def close(self) -> list[Reading]:
        """The upstream's side is at its clean end. A reply that is not complete gives a Cut."""
        ...


class Translated(NamedTuple):
    """A request in an upstream's own dialect."""

    body: bytes
    dropped: tuple[str, ...]
    """Fields of the caller's that this upstream cannot be told."""
    upload: Upload | None = None
    """Takes the place of `body` where that is too large to be held."""


def encoded(body: Json) -> bytes:
    """A request's JSON. What is read may nest 1024 deep, what is written only 254: beyond it raises BadRequest."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise BadRequest("The request is nested too deeply: its JSON may have about 250 levels.") from None


def can_be_written(value: Any) -> bool:
    """False for JSON that was read and cannot be written again as a part of what goes out: it is nested too deeply, or
    has a number of more than 64 bits.
    """
    try:
        orjson.dumps([[[[[[value]]]]]])
    except orjson.JSONEncodeError:
        return False
    return True


def json_chars(value: Any) -> int:
    """Characters of a value's JSON, in which a model is shown it; 0 for what cannot be written, so is sent to nobody.

    To write it takes a tenth of the time of a walk through it, and the body's own length says nothing: one half of the
    world's programs write six characters for each of another alphabet, and bodies are full of pictures.
    """
    try:
        return len(orjson.dumps(value).decode())
    except orjson.JSONEncodeError:
        return 0


def arguments_text(arguments: Any) -> str | None:
    """A call's arguments as OpenAI has them, JSON in a string; None where they nest too deeply to be written."""
    try:
        return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:
        return None


def is_content(reading: Reading) -> bool:
    """True for what a caller waits for: text, reasoning, a tool call, a refusal. A bare finish is not content."""
    return isinstance(reading, Delta) and bool(reading.delta)


MAX_COUNT = 2**53
"""Tokens. No honest server counts as far; JavaScript could not, and twice that must still fit into 64 bits."""


def count(value: Any) -> int:
    """A count of tokens as a server gave it; what cannot be one is 0."""
    return int(value) if isinstance(value, int) and 0 <= value <= MAX_COUNT else 0


def usage_object(prompt: int, completion: int) -> Json:
    """A usage object of the three counts that OpenAI requires."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def is_neutral(name: str, value: Any) -> bool:
    """True where a request field asks for what happens anyway: leaving it out loses nothing and is not reported."""
    return value is None or value in _NEUTRAL.get(name, ())


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "metadata": ({},),
    "response_format": ({"type": "text"},),
}
"""Values that ask for what happens anyway: leaving them out loses nothing, so they are not reported."""
