"""A stand-in for servers that are compatible with OpenAI's: /v1/completions, /v1/embeddings and the list of models.

It does what such servers do: gives `n` choices to each of several prompts, echoes with probabilities, takes tokens (a
token stands for the character of that number), and answers in base64 where that is asked for.
"""

from __future__ import annotations

import base64
import json
import struct
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .documents import compact
from .framing import Answer, Seen
from .server import StandIn
from .texts import Prefill, continuation, halves, vector

_JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Written:
    """One choice of a completion."""

    prompt: str
    pieces: Sequence[str]
    reason: str


def write(
    request: Mapping[str, Any], prompt: object, reply: Sequence[str] | None, prefill: Prefill, stops: Sequence[str]
) -> Written:
    """What comes after one prompt, as far as max_tokens (16 by default) and the stop strings allow."""
    text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt if isinstance(prompt, list) else []))
    pieces = continuation(text, reply, prefill)
    whole = "".join(pieces)
    if found := [at for stop in stops if stop and (at := whole.find(stop)) >= 0]:
        pieces = [whole[: min(found)]]
    limit = request.get("max_tokens")
    limit = 16 if limit is None else limit
    return Written(text, pieces[:limit], "length" if len(pieces) > limit else "stop")


def logprobs(tokens: Sequence[str], top: int | None, offset: int, *, first: bool) -> dict[str, object] | None:
    """The four lists. The first token of all has no probability; likely others are longer and less likely."""
    if top is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    likely: list[dict[str, float] | None] = [
        {f"{token}{'!' * number}": -0.5 - number for number in range(max(top, 1))} for token in tokens
    ]
    own: list[float | None] = [-0.5] * len(tokens)
    if first and tokens:
        own[0] = likely[0] = None
    return {"tokens": list(tokens), "token_logprobs": own, "top_logprobs": likely, "text_offset": offsets}


def completion(request: Mapping[str, Any], written: Sequence[Written]) -> Answer:
    """The answer of /completions to a checked request: a stream or one object."""
    common = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request["model"],
    }
    top, echo = request.get("logprobs"), bool(request.get("echo"))
    prompt_tokens = sum(len(text.split()) for text in {one.prompt for one in written})
    said = sum(len(one.pieces) for one in written)
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": said, "total_tokens": prompt_tokens + said}
    asked = bool((request.get("stream_options") or {}).get("include_usage"))
    documents: list[dict[str, Any]] = []
    for index, one in enumerate(written):
        tokens = [*([one.prompt] if echo else []), *one.pieces]
        if not request.get("stream"):
            probable = logprobs(tokens, top, 0, first=echo)
            text = "".join(tokens)
            documents.append({"index": index, "text": text, "logprobs": probable, "finish_reason": one.reason})
            continue
        at = 0
        for number, token in enumerate(tokens):
            probable = logprobs([token], top, at, first=echo and number == 0)
            at += len(token)
            documents.append({"index": index, "text": token, "logprobs": probable, "finish_reason": None})
        documents.append({"index": index, "text": "", "logprobs": None, "finish_reason": one.reason})
    if not request.get("stream"):
        body = compact({**common, "choices": documents, "usage": usage}).encode()
        return Answer(200, _JSON, halves(body), chunked=True)
    more = {"usage": None} if asked else {}
    events = [event({**common, "choices": [document], **more}) for document in documents]
    if asked:
        events.append(event({**common, "choices": [], "usage": usage}))
    kind = (("Content-Type", CompatStandIn.stream_type),)
    return Answer(200, kind, (*events, b"data: [DONE]\n\n"), chunked=True, streamed=True)


def event(document: object) -> bytes:
    return b"data: " + compact(document).encode() + b"\n\n"


class CompatStandIn(StandIn):
    """A server of texts without chats.

    `numbers_only` answers embeddings in numbers whatever is asked, `backwards` gives them in another order than their
    inputs had, and `dimensions` tells whether it heeds that field.
    """

    chat_paths = ("/v1/completions", "/v1/embeddings")
    line_end = b"\n\n"
    stream_type = "text/event-stream"

    def __init__(
        self,
        *,
        reply: Sequence[str] | None = None,
        length: int = 8,
        numbers_only: bool = False,
        backwards: bool = False,
        dimensions: bool = True,
    ) -> None:
        super().__init__(reply)
        self.length = length
        self.numbers_only = numbers_only
        self.backwards = backwards
        self.dimensions = dimensions

    def answer(self, seen: Seen) -> Answer:
        """Route a request; what a server refuses it refuses in OpenAI's form."""
        path = seen.path.partition("?")[0]
        if seen.method == "GET" and path == "/v1/models":
            rows = [{"id": "any", "object": "model", "created": 1, "owned_by": "stand-in"}]
            return Answer(200, _JSON, (json.dumps({"object": "list", "data": rows}).encode(),))
        if not self.is_chat(seen):
            return Answer(404, _JSON, (self.error_body(404, "Not Found"),))
        request = seen.json
        if not isinstance(request, dict) or not isinstance(request.get("model"), str):
            return Answer(400, _JSON, (self.error_body(400, "model: field required"),))
        return self._embeddings(request) if path.endswith("embeddings") else self._completion(request)

    def error_body(self, status: int, message: str | None = None) -> bytes:
        """OpenAI's object."""
        error = {"message": message or f"error {status}", "type": "invalid_request_error", "param": None, "code": None}
        return compact({"error": error}).encode()

    def error_piece(self, message: str) -> bytes:
        """An event with the error in it."""
        return event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})

    def empty_piece(self, seen: Seen) -> bytes:
        """A chunk without text."""
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
        return event({"id": "cmpl-0", "object": "text_completion", "created": 1, "model": "any", "choices": [choice]})

    def finished(self, pieces: Sequence[bytes], n: int | None, reason: str, *, streamed: bool) -> tuple[bytes, ...]:
        """The last chunk but [DONE] with another reason; or the whole answer with it."""
        *said, last, done = pieces if streamed else (b"".join(pieces), b"")
        document = json.loads(last.removeprefix(b"data: "))
        document["choices"][0]["finish_reason"] = reason
        return (*said[:n], event(document), done) if streamed else halves(compact(document).encode())

    def _completion(self, request: Mapping[str, Any]) -> Answer:
        given = request.get("prompt")
        several = isinstance(given, list) and given and not isinstance(given[0], int)
        prompts = given if several and isinstance(given, list) else [given]
        n, best_of = request.get("n") or 1, request.get("best_of")
        if best_of is not None and (request.get("stream") or best_of < n):
            return Answer(400, _JSON, (self.error_body(400, "best_of must be at least n, and not be streamed"),))
        if request.get("stream_options") and not request.get("stream"):
            return Answer(400, _JSON, (self.error_body(400, "stream_options needs stream"),))
        stop = request.get("stop") or []
        stops = [stop] if isinstance(stop, str) else stop
        written = [write(request, prompt, self.reply, self.prefill, stops) for prompt in prompts for _ in range(n)]
        return completion(request, written)

    def _embeddings(self, request: Mapping[str, Any]) -> Answer:
        given = request.get("input")
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        asked = request.get("dimensions") if self.dimensions else None
        rows: list[dict[str, object]] = []
        for number, one in enumerate(inputs):
            text = one if isinstance(one, str) else "".join(map(chr, one if isinstance(one, list) else []))
            numbers = vector(text, self.length, asked)
            packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
            in_text = request.get("encoding_format") == "base64" and not self.numbers_only
            rows.append({"object": "embedding", "index": number, "embedding": packed if in_text else numbers})
        rows = rows[::-1] if self.backwards else rows
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        document = {"object": "list", "data": rows, "model": request["model"], "usage": usage}
        return Answer(200, _JSON, halves(compact(document).encode()), chunked=True)
