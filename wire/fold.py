"""Folds what a stream says into the whole reply. A whole reply is never mapped on its own: two mappings drift apart."""

from __future__ import annotations

from typing import Any

from wire.openai import Delta, Json


class Fold:
    """Collects deltas; reply() gives the whole `chat.completion`. Joining waits for the end: long ones stay linear."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._server: Json = {}

    def add(self, piece: Delta) -> None:
        if piece.server is not None:
            self._server = self._server or piece.server
        choice = self._choices.get(piece.choice)
        if choice is None:
            choice = self._choices[piece.choice] = _Choice()
        choice.add(piece)

    @property
    def complete(self) -> bool:
        """Every choice that began has its finish_reason."""
        return bool(self._choices) and all(choice.finish_reason is not None for choice in self._choices.values())

    @property
    def text(self) -> str:
        """What the first choice said so far."""
        return "".join(self._choices[0].texts.get("content", ())) if 0 in self._choices else ""

    def reply(self, *, call_id: str, created: int, model: str, usage: Json | None) -> Json:
        """The whole reply so far; `usage` is left out where there is none."""
        choices = self._choices or {0: _Choice()}
        reply: Json = {
            "id": call_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [choices[index].whole(index) for index in sorted(choices)],
            **self._server,
        }
        if usage is not None:
            reply["usage"] = usage
        return reply


_OF_CALLS = frozenset({"index", "id", "type", "function", "custom"})
"""Keys of a call's fragments that are read for themselves."""


class _Choice:
    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.calls: dict[int, Json] = {}
        self.arguments: dict[int, list[str]] = {}
        """Of a call, what grows: the arguments of a function, the input of a custom tool."""
        self.function: dict[str, list[str]] | None = None
        """A `function_call`, which is what callers see who asked with `functions`."""
        self.other: Json = {}
        self.finish_reason: str | None = None
        self.logprobs: Json | None = None
        """Its lists are our own: they grow with every token."""

    def add(self, piece: Delta) -> None:
        if self.finish_reason is not None:
            return  # as in the stream, where nothing follows a finish chunk
        for key, value in piece.delta.items():
            if key == "tool_calls":
                for call in value:
                    self._add_call(call)
            elif key == "function_call" and isinstance(value, dict):
                self.function = self.function or {"name": [], "arguments": []}
                for name, pieces in self.function.items():
                    pieces.append(str(value.get(name) or ""))
            elif isinstance(value, str):
                self.texts.setdefault(key, []).append(value)
            elif isinstance(value, list) and isinstance(self.other.get(key), list):
                self.other[key] = [*self.other[key], *value]
            else:
                self.other[key] = value
        self.finish_reason = piece.finish_reason
        if isinstance(piece.logprobs, dict):
            self._add_logprobs(piece.logprobs)

    def _add_call(self, fragment: Json) -> None:
        index = fragment["index"]
        known = self.calls.get(index)
        if known is None:
            kind = "custom" if "custom" in fragment else "function"
            known = self.calls[index] = {"id": "", "type": kind, kind: {"name": ""}}
        called = fragment.get("function") or fragment.get("custom") or {}
        # Some servers say more of a call than OpenAI does, and want it back: Gemini's `extra_content`.
        known |= {key: value for key, value in fragment.items() if key not in _OF_CALLS}
        known["id"] = known["id"] or fragment.get("id") or ""
        known["type"] = fragment.get("type") or known["type"]
        known["custom" if "custom" in known else "function"]["name"] += called.get("name") or ""
        self.arguments.setdefault(index, []).append(called.get("arguments") or called.get("input") or "")

    def _add_logprobs(self, logprobs: Json) -> None:
        whole: Json = self.logprobs or {"content": None, "refusal": None}
        for key, value in logprobs.items():
            known: Any = whole.get(key)
            if isinstance(known, list) and isinstance(value, list):
                known += value
            else:
                whole[key] = [*value] if isinstance(value, list) and value else value or known
        self.logprobs = whole

    def whole(self, index: int) -> Json:
        message: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        message |= self.other
        message |= {key: "".join(pieces) for key, pieces in self.texts.items()}
        if "reasoning_content" in message:
            message["reasoning"] = message["reasoning_content"]  # clients read either
        if self.function is not None:
            message["function_call"] = {key: "".join(pieces) for key, pieces in self.function.items()}
        if self.calls:
            message["tool_calls"] = [
                _called(call, "".join(self.arguments[number])) for number, call in sorted(self.calls.items())
            ]
        elif message["content"] is None and message["refusal"] is None and self.function is None:
            message["content"] = ""
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason or "stop",
        }


def _called(call: Json, text: str) -> Json:
    if "custom" in call:
        return call | {"custom": call["custom"] | {"input": text}}
    return call | {"function": call["function"] | {"arguments": text}}
