"""Reads Ollama's replies: NDJSON lines into readings, whether the reply comes as a stream or whole.

The trap: a stream can end with neither `done` nor an error, a line can hold thinking, text and calls at once, all calls
of a reply are numbered 0, and under a `format` a call comes as text (wire/ollama_tools.py). Facts:
ollama_api section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from wire.call_text import CallText, Piece
from wire.errors import Cut, Fault, Garbled
from wire.ndjson import NdjsonDecoder
from wire.openai import FINISHED, Delta, Finished, Json, Reading, Usage, arguments_text, count, usage_object
from wire.rejections import in_stream_error

_ENDS = (Fault, Finished)


class OllamaReply:
    """Reads one /api/chat reply, streamed or whole (a whole one is a stream of one line)."""

    __slots__ = ("_call", "_calls", "_decoder", "_formatted", "_ids", "_make_id", "_over", "_said", "_thought")

    def __init__(
        self,
        make_id: Callable[[], str],
        *,
        call: CallText | None = None,
        formatted: bool = False,
    ) -> None:
        """`make_id` gives an id for a tool call that came without one (the jinja path leaves it empty).

        `call` reads the text, where that can be a call.
        """
        self._decoder = NdjsonDecoder()
        self._make_id = make_id
        self._call = call
        self._formatted = formatted
        self._calls = 0
        self._ids: set[str] = set()
        self._thought = 0
        self._said = 0
        """Characters of thinking, and of all that followed it."""
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
            if readings and isinstance(readings[-1], _ENDS):
                self._over = True
                break
        return readings

    def _read_line(self, line: Json, readings: list[Reading]) -> None:
        begun = len(readings)
        message = line.get("message")
        if isinstance(message, dict):
            thinking = message.get("thinking")
            if thinking and isinstance(thinking, str):
                self._thought += len(thinking)
                readings.append(Delta({"reasoning_content": thinking}))
            content = message.get("content")
            if content and isinstance(content, str):
                if self._thought:
                    self._said += len(content)
                if self._call is None:
                    readings.append(Delta({"content": content}))
                elif not self._read_text(self._call, content, readings):
                    return
            calls = message.get("tool_calls")
            if calls and not self._read_calls(calls, readings):
                return
        elif message is not None:
            readings.append(Garbled("sent a message that is not an object"))
            return
        logprobs = line.get("logprobs")
        if logprobs and isinstance(logprobs, list):
            _add_logprobs(_entries(logprobs), readings, begun)
        if line.get("done") is True:
            self._finish(line, readings)

    def _finish(self, line: Json, readings: list[Reading]) -> None:
        is_short = line.get("done_reason") == "length"
        if self._call is not None:
            if self._call.is_open and not is_short:
                readings.append(Garbled("ended in the middle of a call"))
                return
            self._add_piece(self._call.rest(), readings)
        reason = "length" if is_short else "tool_calls" if self._calls else "stop"
        readings += (Delta({}, reason), Usage(self._usage(line)), FINISHED)

    def _read_text(self, call: CallText, content: str, readings: list[Reading]) -> bool:
        """Text that can be a call. False where it ends in a fault."""
        try:
            self._add_piece(call.take(content), readings)
        except Garbled as fault:
            readings.append(fault)
            return False
        return True

    def _add_piece(self, piece: Piece, readings: list[Reading]) -> None:
        """A call's name goes out as soon as it is known, its arguments as they come."""
        name, arguments, text = piece
        if text:
            readings.append(Delta({"content": text}))
        if name is not None:
            function = {"name": name, "arguments": arguments}
            call = {"index": self._calls, "id": self._make_id(), "type": "function", "function": function}
            self._calls += 1
            readings.append(Delta({"tool_calls": [call]}))
        elif arguments:
            readings.append(Delta({"tool_calls": [{"index": self._calls - 1, "function": {"arguments": arguments}}]}))

    def _read_calls(self, calls: Any, readings: list[Reading]) -> bool:
        """False where they end in a fault."""
        fragments: list[Json] = []
        for call in calls if isinstance(calls, list) else [calls]:
            match call:
                case {"function": {"name": str(name), **rest}}:
                    arguments = rest.get("arguments")
                case _:
                    readings.append(Garbled("sent a tool call without a function name"))
                    return False
            text = arguments_text(arguments or {})
            if text is None:
                readings.append(Garbled("sent a tool call that is nested too deeply"))
                return False
            self._said += len(name) + len(text)
            fragments.append(
                {
                    # Ollama numbers the calls of one reply 0, 0, 0: its own index says nothing.
                    "index": self._calls,
                    "id": self._id(call.get("id")),
                    "type": "function",
                    "function": {"name": name, "arguments": text},
                }
            )
            self._calls += 1
        readings.append(Delta({"tool_calls": fragments}))
        return True

    def _id(self, given: Any) -> str:
        """The id of a call: that of no other call of the reply, or nobody could tell whose result is whose."""
        call_id = given if given and isinstance(given, str) and given not in self._ids else self._make_id()
        self._ids.add(call_id)
        return call_id

    def _usage(self, line: Json) -> Json:
        """Counts that are zero are left out by Ollama.

        It counts thinking and answer as one: how many of the tokens were thought is estimated from the characters.
        Where the answer had a format, thinking was a call of its own, and is not counted at all.
        """
        completion = count(line.get("eval_count"))
        usage = usage_object(count(line.get("prompt_eval_count")), completion)
        if self._thought and not self._formatted:
            reasoning = round(completion * self._thought / (self._thought + self._said))
            usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        return usage


def _add_logprobs(entries: list[Json], readings: list[Reading], begun: int) -> None:
    """Adds the logprobs of a line to the first of its readings; a line may have nothing else.

    Those of a thought have a name of their own, as at DeepSeek: they are not those of the content.
    """
    if not entries:
        return
    logprobs: Json = {"content": entries, "refusal": None}
    first = readings[begun] if len(readings) > begun else None
    if len(readings) == begun + 1 and isinstance(first, Delta) and "reasoning_content" in first.delta:
        logprobs = {"content": None, "refusal": None, "reasoning_content": entries}
    if isinstance(first, Delta):
        readings[begun] = first._replace(logprobs=logprobs)
    else:
        readings.append(Delta({}, logprobs=logprobs))


def _entries(given: list[Any]) -> list[Json]:
    """Logprobs as OpenAI has them: every entry with `bytes` and `top_logprobs`."""
    entries: list[Json] = []
    for one in given:
        entry = _entry(one)
        if entry is not None:
            top = one.get("top_logprobs")
            found = [_entry(other) for other in top] if isinstance(top, list) else []
            entries.append(entry | {"top_logprobs": [other for other in found if other is not None]})
    return entries


def _entry(given: Any) -> Json | None:
    match given:
        case {"token": str(token), "logprob": int() | float() as logprob} if math.isfinite(logprob):
            # Half a character is shown as U+FFFD, and so are its bytes: what they were is not known.
            return {"token": token, "logprob": float(logprob), "bytes": _bytes(token)}
        case _:
            return None


def _bytes(token: str) -> list[int] | None:
    return None if "\ufffd" in token else list(token.encode())
