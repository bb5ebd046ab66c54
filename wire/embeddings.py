"""/v1/embeddings: the check, Ollama's /api/embed, OpenAI-compatible servers, and the answer.

The traps: the SDKs ask for base64 when their caller asked for nothing, and an older one reads a list of numbers as an
empty vector, so the caller's format is kept to the letter whatever the server makes of it. Ollama cuts a long input in
silence (so `truncate: false` is always sent) and ignores `dimensions` beyond the model's own (so the length of every
vector is looked at). Facts: openai_api section 3, ollama_api section 4.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass, replace
from typing import Any, ClassVar, assert_never, cast

import orjson

from wire.answer import Opening, Whole
from wire.check import InvalidValue, check_fields, check_model, integer, kind_of
from wire.errors import Cut, Fault, Garbled, Untranslatable
from wire.fields import Fate, lost
from wire.inputs import MAX_INPUTS, Inputs, chars_of, read_inputs
from wire.ndjson import json_object
from wire.openai import (
    FINISHED,
    Delta,
    Finished,
    Json,
    ModelRequest,
    Reading,
    Translated,
    Usage,
    count,
    encoded,
    usage_object,
)
from wire.parts import Part
from wire.profiles import Profile
from wire.rejections import in_stream_error

AT_ONCE = 64
"""Inputs that Ollama is sent in one call. It is answered as a whole: a small one is cheaply asked again."""
_MAX_REPLY = 256 * 1024 * 1024
"""Bytes: 2048 vectors of 3072 numbers in decimals are half of it."""

_NO_NUMBERS = "sent an embedding that cannot be read"
_NUMBERS = {float, int}
_MAX_FLOAT32 = 3.4028234663852886e38
"""What is larger cannot be said in the SDKs' format."""

type Vector = list[float] | str
"""Numbers, or little-endian float32 in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest(ModelRequest):
    """A checked request for embeddings."""

    operation: ClassVar[str] = "embeddings"
    inputs: Inputs
    """One for each vector of the answer."""

    @property
    def choices(self) -> int:
        """Nothing is chosen from: each input has one vector."""
        return 1

    @property
    def dimensions(self) -> int | None:
        """How many numbers each vector shall have."""
        asked: int | None = self.body.get("dimensions")
        return asked

    @property
    def as_base64(self) -> bool:
        return self.body.get("encoding_format") == "base64"


def check_embeddings(body: Json) -> EmbeddingsRequest:
    """A request that every dialect can rely on; raises BadRequest with `param`."""
    model = check_model(body)
    inputs = read_inputs("input", body.get("input"), max_tokens=MAX_INPUTS)
    check_fields(body, {"encoding_format": _format, "dimensions": integer(1)})
    return EmbeddingsRequest(body=body, model=model, inputs=inputs, prompt_chars=chars_of(inputs))


def _format(name: str, value: Any) -> None:
    if value not in ("float", "base64"):
        said = f"'{value[:40]}'" if isinstance(value, str) else kind_of(value)
        raise InvalidValue(f"'{name}' must be 'float' or 'base64', but it is {said}.", param=name)


def split_embeddings(request: EmbeddingsRequest) -> tuple[Part, ...]:
    """Parts of AT_ONCE inputs each, none where one call takes them all. Their vectors are numbered through."""
    if not is_long(request):
        return ()
    parts: list[Part] = []
    for start in range(0, len(request.inputs), AT_ONCE):
        inputs = request.inputs[start : start + AT_ONCE]
        body = request.body | {"input": list(inputs)}
        part = replace(request, body=body, inputs=inputs, prompt_chars=chars_of(inputs))
        parts.append(Part(part, choice=start, prompt=len(parts)))
    return tuple(parts)


def is_long(request: EmbeddingsRequest) -> bool:
    """Whether it has more inputs than a local model should be sent at once."""
    return len(request.inputs) > AT_ONCE


# -- towards the servers


def to_ollama_embed(
    request: EmbeddingsRequest,
    model: str,
    *,
    num_ctx: int | None,
    keep_alive: str | None,
    capabilities: frozenset[str] | None,
) -> Translated:
    """The /api/embed body; raises Untranslatable for tokens, which only the model's own tokenizer could read, and for
    a model that is known to make no embeddings. Numbers always come as decimals: the answer has the caller's format.
    """
    if capabilities and "embedding" not in capabilities:
        raise Untranslatable(
            f"The local model '{model}' makes no embeddings. Name an embedding model, for example 'nomic-embed-text'.",
            param="model",
        )
    if not isinstance(request.inputs[0], str):
        raise Untranslatable(
            "'input' holds tokens, and only the model that they are meant for can read them. Send text.", param="input"
        )
    body: Json = {"model": model, "input": list(request.inputs), "truncate": False}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if num_ctx is not None:
        body["options"] = {"num_ctx": num_ctx}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    dropped = tuple(name for name, value in request.body.items() if name not in _CARRIED and value is not None)
    return Translated(encoded(body), dropped)


_CARRIED = frozenset({"model", "input", "encoding_format", "dimensions"})


def to_compat_embeddings(request: EmbeddingsRequest, model: str, profile: Profile) -> Translated:
    """The caller's body with the model's name, and without what the server does not document."""
    dropped = lost(request.body, profile.fate, unknown=Fate.CARRIED) if profile.fate is not None else ()
    body = {name: value for name, value in request.body.items() if name not in profile.drops}
    return Translated(encoded(body | {"model": model}), dropped)


# -- from the servers


class EmbedReply:
    """Reads one reply of /api/embed, or of /embeddings at an OpenAI-compatible server: one JSON object each.

    There is a vector for each input, all of one length, of finite numbers, or the reply is Garbled. One that has
    another length than `dimensions` says is a fault of the request's: the server made what it could.
    """

    __slots__ = ("_dimensions", "_inputs", "_limit", "_over", "_pieces", "_size")

    def __init__(self, request: EmbeddingsRequest, limit: int = _MAX_REPLY) -> None:
        self._inputs = len(request.inputs)
        self._dimensions = request.dimensions
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._over = False
        """After a fault nothing is read."""

    def feed(self, data: bytes) -> list[Reading]:
        if self._over:
            return []
        self._size += len(data)
        if self._size > self._limit:
            self._over = True
            return [Garbled("sent an endless reply")]
        self._pieces.append(data)
        return []

    def close(self) -> list[Reading]:
        if self._over:
            return []
        self._over = True
        body, self._pieces = b"".join(self._pieces).strip(), []
        reply = json_object(body)
        if isinstance(reply, Garbled):
            return [reply if body.endswith((b"}", b"]")) else Cut("ended its answer in the middle of it")]
        if reply.get("error") is not None:
            return [in_stream_error(reply["error"])]
        read = self._read(reply)
        return [read] if isinstance(read, Fault) else read

    def _read(self, reply: Json) -> list[Reading] | Fault:
        vectors = _native_vectors(reply) if "embeddings" in reply else _compat_vectors(reply)
        if vectors is None:
            return Garbled("sent something else than embeddings")
        if len(vectors) != self._inputs:
            return Garbled(f"sent {len(vectors)} embeddings for {self._inputs} inputs")
        lengths = {_length(vector) for vector in vectors}
        if None in lengths or len(lengths) > 1:
            return Garbled(_NO_NUMBERS)
        if self._dimensions is not None and self._dimensions not in lengths:
            return Untranslatable(
                f"'dimensions' is {self._dimensions}, but the embeddings of this model have {lengths.pop()} numbers "
                "and cannot be given another length.",
                param="dimensions",
            )
        readings: list[Reading] = [
            Delta({"embedding": vector}, "stop", number) for number, vector in enumerate(vectors)
        ]
        return [*readings, Usage(usage_object(_tokens(reply), 0)), FINISHED]


def _native_vectors(reply: Json) -> list[Any] | None:
    given = reply["embeddings"]
    return given if isinstance(given, list) else None


def _compat_vectors(reply: Json) -> list[Any] | None:
    """The vectors in the order of the inputs. Some servers answer in another one, some leave the numbers out."""
    rows = reply.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    places = [row.get("index") for row in rows]
    if set(map(type, places)) == {int} and sorted(places) == list(range(len(rows))):
        rows = sorted(rows, key=lambda row: row["index"])
    elif any(place is not None for place in places):
        return None
    return [row.get("embedding") for row in rows]


def _length(vector: Any) -> int | None:
    """How many numbers it has; None for what is no vector. Looks at each of them without a loop of our own."""
    match vector:
        case list() if vector and set(map(type, vector)) <= _NUMBERS:
            return len(vector) if max(vector) <= _MAX_FLOAT32 and min(vector) >= -_MAX_FLOAT32 else None
        case str():
            try:
                packed = base64.b64decode(vector, validate=True)
            except binascii.Error:
                return None
            return len(packed) // 4 if packed and len(packed) % 4 == 0 else None
        case _:
            return None


def _tokens(reply: Json) -> int:
    """Ollama counts beside the vectors and leaves out a zero, the others have an object for it."""
    usage = reply.get("usage")
    return count(usage.get("prompt_tokens") if isinstance(usage, dict) else reply.get("prompt_eval_count"))


# -- towards the caller


class EmbeddingsAnswer(Whole):
    """Collects the vectors and gives the list once all of them are there, in the format that the caller asked for."""

    def __init__(self, opening: Opening) -> None:
        request = cast(EmbeddingsRequest, opening.request)
        self._inputs = len(request.inputs)
        self._model = opening.model
        self._form = in_base64 if request.as_base64 else in_numbers
        self._vectors: dict[int, Vector] = {}
        """By the number of the input, in the caller's format: one by one, so that no moment has to form them all."""

    @property
    def complete(self) -> bool:
        """Every input has its vector."""
        return len(self._vectors) == self._inputs

    def write(self, readings: list[Reading]) -> bytes:
        """The reply's bytes once it is complete, `b""` before. A Fault is the caller's to handle: nothing was sent."""
        for reading in readings:
            match reading:
                case Delta():
                    self._vectors[reading.choice] = self._form(reading.delta["embedding"])
                    self.finish_reason = "stop"
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    return self._reply()
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return b""

    def _reply(self) -> bytes:
        tokens = self.usage["prompt_tokens"] if self.usage is not None else 0
        return orjson.dumps(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": number, "embedding": vector}
                    for number, vector in sorted(self._vectors.items())
                ],
                "model": self._model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )


def in_base64(vector: Vector) -> str:
    """Little-endian float32, as every SDK reads it on every machine."""
    if isinstance(vector, str):
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def in_numbers(vector: Vector) -> list[float]:
    """Raises Garbled where one of them is none."""
    if not isinstance(vector, str):
        return vector
    packed = base64.b64decode(vector)
    numbers = list(struct.unpack(f"<{len(packed) // 4}f", packed))
    if not math.isfinite(sum(numbers)):
        raise Garbled(_NO_NUMBERS)  # in JSON these would be nulls
    return numbers
