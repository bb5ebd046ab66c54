"""The answer to /v1/completions: `text_completion` objects, in a stream or whole, of the same readings as a chat's.

The traps: a stream's chunks are the same kind of object as the whole answer, so only a finish_reason that is not null
tells a client that a choice is over. The prompt that `echo` puts before a text was not said by the model: where another
target goes on with an answer, it is no part of what was said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, assert_never, cast

import orjson

from wire.answer import Opening, Streamed, Whole
from wire.completions import CompletionRequest
from wire.completions_logprobs import joined, legacy, mean
from wire.errors import DONE, Fault, fault_frame
from wire.openai import Delta, Finished, Json, Reading, Usage
from wire.resume import Said

_REASONS = frozenset({"stop", "length", "content_filter"})
"""OpenAI's enum here; there are no tools to call."""


@dataclass(slots=True)
class _Choice:
    """What of a choice's text was written so far."""

    prompt: str = ""
    """What comes before it, where `echo` is asked for and the prompt is a text."""
    length: int = 0
    """In characters, the prompt's among them."""
    finish_reason: str | None = None

    def pieces(self, piece: Delta, most: int | None) -> list[tuple[str, Json | None]]:
        """The texts that a reading adds, each with its logprobs in the legacy form."""
        given = piece.logprobs if isinstance(piece.logprobs, dict) and most is not None else {}
        found: list[tuple[str, Json | None]] = []
        if self.prompt:
            found.append((self.prompt, self._logprobs(given.get("prompt"), most)))
            self.length += len(self.prompt)
            self.prompt = ""
        text = piece.delta.get("content", "")
        entries = given.get("content")
        if text or entries:
            found.append((text, self._logprobs(entries, most)))
            self.length += len(text)
        return found

    def _logprobs(self, entries: Any, most: int | None) -> Json | None:
        return legacy(entries, most or 0, self.length) if entries else None


def _prompt_of(request: CompletionRequest, index: int, each: int) -> str:
    """What is echoed before a choice. A prompt in tokens was echoed by the server, for only it knows the text."""
    prompt = request.prompts[min(index // each, len(request.prompts) - 1)]
    return prompt if request.echo and isinstance(prompt, str) else ""


def _reason(given: str) -> str:
    return given if given in _REASONS else "stop"


def _about(opening: Opening, server: Json | None) -> Json:
    """What the object says of itself, whole or as a chunk; `server` is what the upstream said of itself."""
    about: Json = {
        "id": f"cmpl-{opening.call_id}",
        "object": "text_completion",
        "created": opening.created,
        "model": opening.model,
    }
    fingerprint = (server or {}).get("system_fingerprint")
    return about if fingerprint is None else about | {"system_fingerprint": fingerprint}


class CompletionStreamed(Streamed):
    """write() gives the SSE bytes for readings. Those of several upstreams may follow one another, as in a chat's."""

    def __init__(self, opening: Opening) -> None:
        request = cast(CompletionRequest, opening.request)
        self._request = request
        self._opening = opening
        self._tail = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"
        self._plain_end = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._choices: dict[int, _Choice] = {}
        self._first: _Choice | None = None
        """Choice 0 while it speaks and nothing comes before its next piece."""
        self.said = Said()
        self._begin_chunks(None)

    @property
    def complete(self) -> bool:
        choices = self._choices.values()
        return bool(choices) and all(choice.finish_reason is not None for choice in choices)

    def write(self, readings: list[Reading]) -> bytes:
        """The bytes for these readings, `b""` where there are none. A Fault ends the answer."""
        out: list[bytes] = []
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta():
                    is_plain = reading.choice == 0 and reading.finish_reason is None and reading.logprobs is None
                    if is_plain and self._first is not None:
                        # Nearly all of them, so without a detour.
                        text = reading.delta.get("content")
                        if text:
                            out.append(self._plain_head + orjson.dumps(text) + self._plain_end)
                            self._first.length += len(text)
                            self.said.content.append(text)
                    else:
                        self._write_delta(reading, out)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self._finish(out)
                case Fault():
                    out.append(self.fail(reading))
                case _:
                    assert_never(reading)
        return b"".join(out)

    def fail(self, fault: Fault) -> bytes:
        self.done = True
        return fault_frame(fault)

    def _begin_chunks(self, server: Json | None) -> None:
        """Every chunk shares its beginning and its end: they are encoded once, and only the text each time."""
        self._head = b"data: " + orjson.dumps(_about(self._opening, server))[:-1] + b',"choices":['
        self._plain_head = self._head + b'{"index":0,"text":'

    def _write_delta(self, piece: Delta, out: list[bytes]) -> None:
        index = piece.choice
        if piece.server is not None and not self._choices:
            self._begin_chunks(piece.server)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(_prompt_of(self._request, index, self._request.n))
        if choice.finish_reason is not None:
            return
        for text, logprobs in choice.pieces(piece, self._request.logprobs):
            out.append(self._chunk(index, text, logprobs, None))
        text = piece.delta.get("content", "")
        if index:
            self.said.choices = True
        elif text:
            self.said.content.append(text)
        if piece.finish_reason is not None:
            choice.finish_reason = _reason(piece.finish_reason)
            self.finish_reason = self.finish_reason or choice.finish_reason
            out.append(self._chunk(index, "", None, choice.finish_reason))
        if index == 0:
            self._first = choice if choice.finish_reason is None else None

    def _finish(self, out: list[bytes]) -> None:
        unfinished = [index for index, choice in self._choices.items() if choice.finish_reason is None]
        for index in sorted(unfinished) if self._choices else [0]:
            self._write_delta(Delta({}, "stop", index), out)
        if self._request.include_usage and self.usage is not None:
            out.append(self._head + b'],"usage":' + orjson.dumps(self.usage) + b"}\n\n")
        out.append(DONE)
        self.done = True

    def _chunk(self, index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + orjson.dumps(choice) + self._tail


@dataclass(slots=True)
class _Sample:
    """One answer to one prompt: it is a choice if it is good enough."""

    pieces: list[Delta] = field(default_factory=list)
    finish_reason: str | None = None

    def likelihood(self) -> float:
        return mean([entry for piece in self.pieces if piece.logprobs for entry in piece.logprobs["content"] or ()])

    def choice(self, index: int, prompt: str, most: int | None) -> Json:
        """The fold of what the stream would have said."""
        choice = _Choice(prompt)
        said = [found for piece in self.pieces for found in choice.pieces(piece, most)]
        return {
            "text": "".join(text for text, _ in said),
            "index": index,
            "logprobs": joined([logprobs for _, logprobs in said if logprobs is not None]),
            "finish_reason": self.finish_reason or "stop",
        }


class CompletionWhole(Whole):
    """write() collects and gives nothing until the readings say Finished; then the whole reply, at once.

    Where more answers came than `n` for each prompt, those were made for the best to be chosen: the most likely ones,
    token by token, are the choices.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._request = cast(CompletionRequest, opening.request)
        self._server: Json | None = None
        self._samples: dict[int, _Sample] = {}

    @property
    def complete(self) -> bool:
        samples = self._samples.values()
        return bool(samples) and all(sample.finish_reason is not None for sample in samples)

    @property
    def text(self) -> str:
        pieces = self._samples[0].pieces if 0 in self._samples else ()
        return "".join(piece.delta.get("content") or "" for piece in pieces)

    def write(self, readings: list[Reading]) -> bytes:
        """The reply's bytes once it is complete, `b""` before. A Fault is the caller's to handle: nothing was sent."""
        for reading in readings:
            match reading:
                case Delta():
                    self._add(reading)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    self.finish_reason = self.finish_reason or "stop"
                    return self._reply()
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return b""

    def _add(self, piece: Delta) -> None:
        self._server = self._server or piece.server
        sample = self._samples.setdefault(piece.choice, _Sample())
        if sample.finish_reason is not None:
            return  # as in the stream, where nothing follows a finish_reason
        sample.pieces.append(piece)
        if piece.finish_reason is not None:
            sample.finish_reason = _reason(piece.finish_reason)
            self.finish_reason = self.finish_reason or sample.finish_reason

    def _best(self) -> list[tuple[str, _Sample]]:
        """The prompt to echo and the answer of each choice, in order."""
        request = self._request
        samples = sorted(self._samples.items()) or [(0, _Sample([Delta({})]))]
        if len(samples) <= request.choices:
            return [(_prompt_of(request, number, request.n), sample) for number, sample in samples]
        chosen: list[tuple[str, _Sample]] = []
        for start in range(0, request.samples, request.best_of):
            made = [sample for number, sample in samples if start <= number < start + request.best_of]
            made.sort(key=_Sample.likelihood, reverse=True)
            prompt = _prompt_of(request, start, request.best_of)
            chosen += [(prompt, sample) for sample in made[: request.n]]
        return chosen

    def _reply(self) -> bytes:
        reply: Json = _about(self._opening, self._server) | {
            "choices": [
                sample.choice(index, prompt, self._request.logprobs)
                for index, (prompt, sample) in enumerate(self._best())
            ],
        }
        if self.usage is not None:
            reply["usage"] = self.usage
        return orjson.dumps(reply)
