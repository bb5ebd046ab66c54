"""An Ollama stand-in: the native endpoints a gateway uses, as strict as the real server.

What it refuses, and in which words, follows replies recorded from a real server of August 2026; where the
wording of a refusal was never recorded, the method says so. A model here is a parrot: it says back the last
user text, calls the first tool it is offered, and repeats what a tool told it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import random
import re
import socket
import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from .documents import compact, example
from .framing import Answer, Seen
from .server import StandIn
from .texts import continuation, differing, rest_of, vector, words

_JSON = "application/json; charset=utf-8"
_TEXT = "text/plain"

_INTEGERS = (
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch"),
    *("num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
)
_FLOATS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
_LEVELS = ("high", "medium", "low", "max")
_SCHEMA_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ROUTES: dict[str, tuple[str, ...]] = {
    "/": ("GET", "HEAD"),
    "/api/version": ("GET", "HEAD"),
    "/api/tags": ("GET", "HEAD"),
    "/api/ps": ("GET",),
    "/api/show": ("POST",),
    "/api/chat": ("POST",),
    "/api/generate": ("POST",),
    "/api/embed": ("POST",),
}
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
_ALTERNATE = (
    "\n------------\nWhile executing CallExpression at line 10, column 21 in source:\n...\nError: Jinja Exception: "
    "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
)
"""What the runner says when a template raises; the last sentence is the template's own."""
_STATUS_TEXTS = {
    404: "model 'x' not found",
    500: "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error",
    503: "server busy, please try again.  maximum pending requests exceeded",
}


class RefusalError(Exception):
    """A request the real server refuses, with the status and the text it gives."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class ModelCard:
    """One model: its full name, what it can do, and how long a context it is loaded with."""

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    context: int = 4096
    trained_context: int = 131072
    family: str = "llama"
    size: int = 4_683_087_332
    digest: str = ""
    """64 hex digits; by default always the same for the same name."""
    model_info: Mapping[str, Any] = field(default_factory=dict)
    """What /api/show says in `model_info` besides architecture, context and embedding length, or in their place."""
    embedding_length: int = 8
    """Numbers in an embedding."""

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", random.Random(self.name).randbytes(32).hex())

    @classmethod
    def guess(cls, name: str) -> ModelCard:
        """A card for a well-known name: what such models can do, judged by the name."""
        full = name if ":" in name else f"{name}:latest"
        family = re.split(r"[^a-z]", name.lower())[0] or "llama"
        if "embed" in name:
            return cls(full, ("embedding",), family=family)
        can = ["completion", "tools"]
        if any(part in name for part in ("deepseek-r1", "qwen3", "gpt-oss")):
            can.append("thinking")
        if any(part in name for part in ("vision", "llava", "gemma3", "-vl")):
            can.append("vision")
        return cls(full, tuple(can), family=family)


class OllamaStandIn(StandIn):
    """Ollama's native API on a loopback socket.

    `reply` and `thinking` fix the pieces that are said. `jinja` chooses the chat path of the real server that
    leaves templates to its runner: tool calls then come on the done line, and images on a model without
    vision are a 500. `empty_tool_ids` leaves the ids of tool calls empty, as that path may. `parallel` is the
    server's OLLAMA_NUM_PARALLEL.
    """

    chat_paths = ("/api/chat", "/api/generate", "/api/embed")
    stream_type = "application/x-ndjson"
    forbidden = (*StandIn.forbidden, "authorization")

    def __init__(
        self,
        models: Sequence[str | ModelCard] = ("qwen2.5:7b", "llama3.2:3b", "deepseek-r1:7b"),
        *,
        reply: Sequence[str] | None = None,
        thinking: Sequence[str] = ("The", " user", " wants", " an", " answer."),
        jinja: bool = False,
        tool_calls_on_done: bool | None = None,
        empty_tool_ids: bool = False,
        capabilities_in_tags: bool = False,
        version: str = "0.32.1",
        parallel: int | None = None,
    ) -> None:
        super().__init__(reply)
        self.parallel = parallel
        self.models = [model if isinstance(model, ModelCard) else ModelCard.guess(model) for model in models]
        self.thinking = tuple(thinking)
        self.jinja = jinja
        self.tool_calls_on_done = jinja if tool_calls_on_done is None else tool_calls_on_done
        self.empty_tool_ids = empty_tool_ids
        self.capabilities_in_tags = capabilities_in_tags
        self.version = version
        self.loads: list[tuple[str, int, bool | None]] = []
        """Each load of a model with its context and shift: a change of either loads it anew."""
        self._loaded: dict[str, tuple[int, bool | None]] = {}

    # The dialect

    def answer(self, seen: Seen) -> Answer:
        """Route a request as the real server does: host and origin first, then path, then method."""
        path = seen.path.partition("?")[0]
        if not _host_allowed(seen) or not _origin_allowed(seen):
            return Answer(403)
        methods = _ROUTES.get(path)
        if methods is None:
            return Answer(404, (("Content-Type", _TEXT),), (b"404 page not found",))
        if seen.method not in methods:
            return Answer(405, (("Content-Type", _TEXT),), (b"405 method not allowed",))
        try:
            match path:
                case "/":
                    return Answer(200, (("Content-Type", "text/plain; charset=utf-8"),), (b"Ollama is running",))
                case "/api/version":
                    return self._json({"version": self.version})
                case "/api/tags":
                    return self._json({"models": [self._tag(card) for card in self.models]})
                case "/api/ps":
                    return self._json({"models": self._running()})
                case "/api/show":
                    return self._json(self._show(_decoded(seen.body)))
                case "/api/generate":
                    return self._generate(_decoded(seen.body))
                case "/api/embed":
                    return self._embed(_decoded(seen.body))
                case _:
                    return self._chat(_decoded(seen.body))
        except RefusalError as refusal:
            # Recorded: what the runner refuses (an error with JSON in it) has no charset when a stream was asked for.
            asked = isinstance(seen.json, dict) and seen.json.get("stream") is not False
            kind = "application/json" if asked and refusal.text.startswith("{") else _JSON
            return self._json({"error": refusal.text}, refusal.status, kind)

    def error_body(self, status: int, message: str | None = None) -> bytes:
        """`{"error": "text"}`, with the words the real server has for this status."""
        return _line({"error": message or _STATUS_TEXTS.get(status, f"error {status}")})[:-1]

    def error_piece(self, message: str) -> bytes:
        """An error in a stream is a line like any other; the status stays 200 and no done line follows."""
        return _line({"error": message})

    def empty_piece(self, seen: Seen) -> bytes:
        """A line with empty content."""
        name = seen.json.get("model") if isinstance(seen.json, dict) else None
        message = {"role": "assistant", "content": ""}
        line = {"model": name, "created_at": _now(), "message": message, "done": False}
        return _line(_generated(line) if seen.path.startswith("/api/generate") else line)

    def finished(self, pieces: Sequence[bytes], n: int | None, reason: str, *, streamed: bool) -> tuple[bytes, ...]:
        """The done line with another `done_reason`; the counts on it stay."""
        *said, last = pieces if streamed else (b"".join(pieces),)
        done = {**json.loads(last), "done_reason": reason}
        return (*said[:n], _line(done) if streamed else _line(done)[:-1])

    def _json(self, document: object, status: int = 200, kind: str = _JSON) -> Answer:
        """One JSON document. Go's HTTP server sends bodies of more than 2048 bytes chunked."""
        body = _line(document)[:-1]
        return Answer(status, (("Content-Type", kind),), (body,), chunked=len(body) > 2048)

    # Models

    def _find(self, name: str) -> ModelCard | None:
        """Names match in any case of letters; the tag is `latest` by default."""
        wanted = name.lower().removesuffix(":local")
        wanted = wanted if ":" in wanted else f"{wanted}:latest"
        return next((card for card in self.models if card.name.lower() == wanted), None)

    def _details(self, card: ModelCard) -> dict[str, object]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": card.family,
            "families": [card.family],
            "parameter_size": "7.6B",
            "quantization_level": "Q4_K_M",
        }

    def _tag(self, card: ModelCard) -> dict[str, object]:
        tag: dict[str, object] = {
            "name": card.name,
            "model": card.name,
            "modified_at": "2026-10-01T12:00:00.123456789Z",
            "size": card.size,
            "digest": card.digest,
            "details": self._details(card),
        }
        if self.capabilities_in_tags:
            tag["capabilities"] = list(card.capabilities)
        return tag

    def _running(self) -> list[dict[str, object]]:
        expires = (datetime.now(UTC) + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
        return [
            {
                "name": card.name,
                "model": card.name,
                "size": card.size,
                "digest": card.digest,
                "details": self._details(card),
                "expires_at": expires,
                "size_vram": 0,
                "context_length": self._loaded[card.name][0],
            }
            for card in self.models
            if card.name in self._loaded
        ]

    def _show(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Unlike chat, a missing model is named with the tag filled in."""
        name = request.get("model") or request.get("name") or ""
        if not name:
            raise RefusalError(400, "model is required")
        card = self._find(_text(name, "ShowRequest.model"))
        if card is None:
            raise RefusalError(404, f"model '{name if ':' in name else f'{name}:latest'}' not found")
        return {
            "license": "",
            "modelfile": f"FROM {card.name}\n",
            "parameters": 'stop                           "<|im_end|>"',
            "template": "{{ .Prompt }}",
            "details": self._details(card),
            "model_info": {
                "general.architecture": card.family,
                f"{card.family}.context_length": card.trained_context,
                f"{card.family}.embedding_length": card.embedding_length,
                **card.model_info,
            },
            "capabilities": list(card.capabilities),
            "modified_at": "2026-10-01T12:00:00.123456789Z",
        }

    # Chat

    def _chat(self, request: Mapping[str, Any]) -> Answer:
        messages = _messages(request)
        tools = _tools(request)
        options = _options(request)
        form = _format(request)
        stream = request.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise RefusalError(400, _mismatch(stream, "ChatRequest.stream", "bool"))
        name = _text(request.get("model") or "", "ChatRequest.model")
        if not name:
            raise RefusalError(400, "model is required")
        top = request.get("top_logprobs") or 0
        if isinstance(top, bool) or not isinstance(top, int):
            raise RefusalError(400, _mismatch(top, "ChatRequest.top_logprobs", "int"))
        if not 0 <= top <= 20:
            raise RefusalError(400, "top_logprobs must be between 0 and 20")
        unload = _keep_alive(request) == 0
        think = _think(request)
        card = self._checked(name, tools=bool(tools), think=think)
        if request.get("logprobs") and tools and self.jinja:
            text = "logprobs is not supported with tools + stream"
            raise RefusalError(400, _nested(400, text, "invalid_request_error"))
        begun = _begun(messages)
        if begun is not None and self.prefill == "refuse":
            raise RefusalError(500, _nested(500, _ALTERNATE, "server_error"))
        self._load(card, options, request.get("shift"), unload=unload)
        if not messages:
            done = {"model": name, "created_at": _now(), "message": {"role": "assistant", "content": ""}}
            return self._json({**done, "done": True, "done_reason": "unload" if unload else "load"})
        self._look_at_images(card, messages)
        context = _context(card, options)
        truncate, shift = (request.get(name) is not False for name in ("truncate", "shift"))
        prompt = self._prompt_tokens(messages, context, truncate=truncate, shift=shift)
        thinks = "thinking" in card.capabilities and think is not False
        spoken = self._speak(messages, tools, form, options, thinks=thinks)
        lines = self._lines(name, spoken, prompt, logprobs=bool(request.get("logprobs")), top=top)
        if stream is False:
            return self._json(_joined(lines))
        kind = (("Content-Type", self.stream_type),)
        return Answer(200, kind, tuple(map(_line, lines)), chunked=True, streamed=True)

    # Texts outside of a conversation

    def _generate(self, request: Mapping[str, Any]) -> Answer:
        """Raw prompts are gone on with, others are a user's turn; a suffix needs a model that can fill in."""
        name, prompt, suffix = (
            _text(request.get(key) or "", f"GenerateRequest.{key}") for key in ("model", "prompt", "suffix")
        )
        raw = bool(request.get("raw"))
        options, stream = _options(request), request.get("stream")
        top = request.get("top_logprobs") or 0
        if not name:
            raise RefusalError(404, "model '' not found")
        if not 0 <= top <= 20:
            raise RefusalError(400, "top_logprobs must be between 0 and 20")
        if raw and (request.get("system") or request.get("template") or request.get("context")):
            raise RefusalError(400, "raw mode does not support template, system, or context")
        unload = _keep_alive(request) == 0
        think = _think(request)
        card = self._checked(name, tools=False, think=think, what="generate")
        if suffix and "insert" not in card.capabilities:
            raise RefusalError(400, f"registry.ollama.ai/library/{card.name} does not support insert")
        self._load(card, options, request.get("shift"), unload=unload)
        if not prompt:
            done = {"model": name, "created_at": _now(), "response": ""}
            return self._json({**done, "done": True, "done_reason": "unload" if unload else "load"})
        messages = [{"role": "user", "content": prompt}]
        truncate, shift = (request.get(key) is not False for key in ("truncate", "shift"))
        count = self._prompt_tokens(messages, _context(card, options), truncate=truncate, shift=shift)
        if raw or suffix:
            pieces = continuation(prompt, self.reply, self.prefill)
            if suffix:
                pieces.append(f" before {suffix.split()[0]}")
            spoken = _limited(_Spoken([], pieces, [], "stop"), options)
        else:
            thinks = "thinking" in card.capabilities and think is not False
            spoken = self._speak(messages, [], _format(request), options, thinks=thinks)
        lines = self._lines(name, spoken, count, logprobs=bool(request.get("logprobs")), top=top)
        if not raw:
            lines[-1]["context"] = [1, 2, 3]
        if stream is False:
            return self._json(_generated(_joined(lines)))
        kind = (("Content-Type", self.stream_type),)
        said = tuple(_line(_generated(line)) for line in lines)
        return Answer(200, kind, said, chunked=True, streamed=True)

    def _embed(self, request: Mapping[str, Any]) -> Answer:
        """Unit vectors. Too long an input is cut, or refused without `truncate`; the words of the 501 are a guess."""
        name = _text(request.get("model") or "", "EmbedRequest.model")
        given = request.get("input")
        inputs = [given] if isinstance(given, str) and given else given or []
        if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
            raise RefusalError(400, "invalid input type")
        dimensions = request.get("dimensions")
        if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
            raise RefusalError(400, _mismatch(dimensions, "EmbedRequest.dimensions", "int"))
        unload = _keep_alive(request) == 0
        card = self._find(name)
        if card is None:
            raise RefusalError(404, f'model "{name}" not found, try pulling it first')
        if "embedding" not in card.capabilities:
            raise RefusalError(501, "this model does not support embeddings")
        options = _options(request)
        self._load(card, options, request.get("shift"), unload=unload)
        context = _context(card, options)
        counts = [len(text.split()) + 1 for text in inputs]
        if request.get("truncate") is False and any(count > context for count in counts):
            raise RefusalError(400, "the input length exceeds the context length")
        length = card.embedding_length
        document: dict[str, object] = {
            "model": name,
            "embeddings": [vector(text, length, dimensions) for text in inputs],
            "total_duration": 5_000_000,
            "load_duration": 1_000_000,
        }
        if total := sum(min(count, context) for count in counts):
            document["prompt_eval_count"] = total
        return self._json(document)

    def _checked(self, name: str, *, tools: bool, think: bool | str | None, what: str = "chat") -> ModelCard:
        """Find the model and check that it can do what is asked."""
        lower = name.lower()
        if lower.endswith((":cloud", "-cloud")):
            raise RefusalError(403, "ollama cloud is disabled: remote model is unavailable")
        if not re.fullmatch(r"(?:\w[\w.-]*(?::\d+)?/)?(?:\w[\w-]*/)?\w[\w.-]*(?::\w[\w.-]*)?(?::local)?", name):
            raise RefusalError(400, "invalid model name")
        card = self._find(name)
        if card is None:
            raise RefusalError(404, f"model '{name}' not found")
        if "completion" not in card.capabilities:
            raise RefusalError(400, f'"{name}" does not support {what}')
        if tools and "tools" not in card.capabilities:
            raise RefusalError(400, f"registry.ollama.ai/library/{card.name} does not support tools")
        if think and "thinking" not in card.capabilities:
            raise RefusalError(400, f'"{name}" does not support thinking')
        return card

    def _load(self, card: ModelCard, options: Mapping[str, Any], shift: bool | None, *, unload: bool) -> None:
        """Load the model if it is not loaded in this way: another context or shift is another runner."""
        state = (_context(card, options), shift)
        if self._loaded.get(card.name) != state:
            self._loaded[card.name] = state
            self.loads.append((card.name, *state))
        if unload:
            del self._loaded[card.name]

    def _look_at_images(self, card: ModelCard, messages: Sequence[Mapping[str, Any]]) -> None:
        """Without vision the runner refuses images, in other words and statuses on the two chat paths.

        Sound comes in the same place, is told by its first bytes, and needs another capability.
        """
        sent = [image for message in messages for image in message.get("images") or ()]
        if {"audio" if _is_sound(image) else "vision" for image in sent} <= set(card.capabilities):
            return
        if self.jinja:
            text = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
            raise RefusalError(500, _nested(500, text, "server_error"))
        text = "Multimodal data provided, but model does not support multimodal requests."
        raise RefusalError(400, _nested(400, text, "invalid_request_error"))

    def _prompt_tokens(
        self, messages: Sequence[Mapping[str, Any]], context: int, *, truncate: bool, shift: bool
    ) -> int:
        """Count the prompt, a word being a token, and do what the real server does when it is too long.

        Silently drops history, or cuts the last message to half a window (template path), or refuses: with an
        error that is itself a JSON string, or without shift in prose.
        """
        counts = [len(str(message.get("content") or "").split()) + 3 for message in messages]
        total = sum(counts)
        if total <= context:
            return total
        if not truncate or (counts[-1] > context and self.jinja):
            text = f"request ({total} tokens) exceeds the available context size ({context} tokens), try increasing it"
            more = {"n_prompt_tokens": total, "n_ctx": context}
            raise RefusalError(400, _nested(400, text, "exceed_context_size_error", more))
        if counts[-1] > context and not shift:
            raise RefusalError(400, _TOO_LONG)
        if counts[-1] > context:
            return context // 2
        while total > context:
            total -= counts.pop(0)
        return total

    def _speak(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        form: object,
        options: Mapping[str, Any],
        *,
        thinks: bool,
    ) -> _Spoken:
        """Think, then talk or call, as far as num_predict (at least one piece) and stop strings allow.

        An answer that is gone on with was thought over when it began.
        """
        thoughts = list(self.thinking) if thinks else []
        last = messages[-1]
        user = next((str(m.get("content") or "") for m in reversed(messages) if m.get("role") == "user"), "")
        calls: list[dict[str, object]] = []
        pieces: list[str] = []
        if self.reply is not None:
            pieces = list(self.reply)
        elif form is not None:
            value = _formatted(form, tools, user, after_result=last.get("role") == "tool")
            # What describes a call is a call on the template path, and text on the other.
            if not self.jinja and tools and isinstance(value, dict) and value.keys() == {"name", "arguments"}:
                calls = [self._call(value["name"], value["arguments"])]
            else:
                pieces = words(compact(value))
        elif last.get("role") == "tool":
            pieces = words(f"The tool said: {last.get('content') or ''}")
        elif tools and last.get("role") == "user":
            function = tools[0]["function"]
            arguments = example(function["parameters"])
            times = 2 if "twice" in user else 1
            calls = [self._call(function["name"], arguments) for _ in range(times)]
        else:
            pieces = words(f"You said: {user}")
        begun = _begun(messages)
        if begun and self.prefill == "differ":
            pieces, calls = differing(begun), []
        elif begun and self.prefill == "continue" and (rest := rest_of(pieces, begun)) is not None:
            pieces, thoughts = rest, []
        return _limited(_Spoken(thoughts, pieces, calls, "stop"), options)

    def _call(self, name: str, arguments: object) -> dict[str, object]:
        """A whole call. The index sits inside the function, and is often 0 for all of several calls."""
        letters = string.ascii_lowercase + string.digits
        made = "" if self.empty_tool_ids else "call_" + "".join(random.choices(letters, k=8))
        function = {"index": 0, "name": name, "arguments": arguments}
        return {"id": made, "function": function} if made else {"function": function}

    def _lines(self, name: str, spoken: _Spoken, prompt: int, *, logprobs: bool, top: int) -> list[dict[str, Any]]:
        """The lines of the stream; the last has done, the reason and the counts (zero counts are omitted)."""
        began = time.monotonic_ns()
        lines: list[dict[str, Any]] = []

        def line(**message: object) -> dict[str, Any]:
            made = {"role": "assistant", "content": "", **message}
            lines.append({"model": name, "created_at": _now(), "message": made, "done": False})
            return lines[-1]

        for thought in spoken.thoughts:
            line(thinking=thought)
        for piece in spoken.pieces:
            said = line(content=piece)
            if logprobs:
                said["logprobs"] = [_logprob(piece, top)]
        if spoken.calls and not self.tool_calls_on_done:
            line(tool_calls=spoken.calls)
        last = line(tool_calls=spoken.calls) if spoken.calls and self.tool_calls_on_done else line()
        last |= {"done": True, "done_reason": spoken.reason}
        count = len(spoken.thoughts) + len(spoken.pieces) + 10 * len(spoken.calls)
        counts = {
            "total_duration": time.monotonic_ns() - began + 5_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 2_000_000,
            "eval_count": max(count, 1),
            "eval_duration": 2_000_000,
        }
        last |= {key: value for key, value in counts.items() if value}
        return lines


@dataclass(frozen=True)
class _Spoken:
    thoughts: Sequence[str]
    pieces: Sequence[str]
    calls: Sequence[dict[str, object]]
    reason: str


def _limited(spoken: _Spoken, options: Mapping[str, Any]) -> _Spoken:
    """As much of it as the stop strings and num_predict (at least one piece) allow."""
    thoughts, calls = spoken.thoughts, spoken.calls
    pieces = _stopped(list(spoken.pieces), options.get("stop") or [])
    given = options.get("num_predict")
    limit = -1 if given is None else int(given)
    if limit < 0 or len(thoughts) + len(pieces) + 10 * len(calls) <= (limit := max(limit, 1)):
        return _Spoken(thoughts, pieces, calls, "stop")
    return _Spoken(thoughts[:limit], pieces[: max(limit - len(thoughts), 0)], [], "length")


def _formatted(form: object, tools: Sequence[Mapping[str, Any]], user: str, *, after_result: bool) -> Any:
    """What fits a format: of several schemas the first, which is a call if there can be one; after a tool's result the
    last. Where any object does, the first tool is called, or what the user said is said back.
    """
    if isinstance(form, dict):
        choices = form.get("anyOf") or [form]
        return example(choices[-1 if tools and after_result else 0], form)
    if tools and not after_result:
        function = tools[0]["function"]
        return {"name": function["name"], "arguments": example(function["parameters"])}
    return {"said": user}


def _generated(line: dict[str, Any]) -> dict[str, Any]:
    """A line of /api/chat as /api/generate says it."""
    message = line["message"]
    told = {"response": message["content"]}
    if message.get("thinking"):
        told["thinking"] = message["thinking"]
    return {key: value for key, value in line.items() if key != "message"} | told


def _joined(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The lines of a stream as the one document that `stream: false` gives."""
    last = dict(lines[-1])
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    logprobs: list[object] = []
    for line in lines:
        said = line["message"]
        message["content"] += said["content"]
        if said.get("thinking"):
            message["thinking"] = message.get("thinking", "") + said["thinking"]
        if said.get("tool_calls"):
            message["tool_calls"] = [*message.get("tool_calls", []), *said["tool_calls"]]
        logprobs += line.get("logprobs", [])
    last["message"] = message
    if not logprobs:
        return last
    first = {key: last.pop(key) for key in ("model", "created_at", "message", "done", "done_reason")}
    return {**first, "logprobs": logprobs, **last}


def _logprob(piece: str, top: int) -> dict[str, object]:
    entry: dict[str, object] = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
    if top:
        others = [piece, *(f"other{number}" for number in range(1, top))]
        entry["top_logprobs"] = [
            {"token": other, "logprob": -0.5 - number, "bytes": list(other.encode())}
            for number, other in enumerate(others)
        ]
    return entry


def _begun(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of a last message that is the model's own; None where somebody else spoke last, or it called."""
    if not messages or messages[-1].get("role") != "assistant" or messages[-1].get("tool_calls"):
        return None
    return str(messages[-1].get("content") or "")


def _stopped(pieces: list[str], stops: Sequence[str]) -> list[str]:
    """Cut the pieces before the first stop string; an empty stop string stops at once."""
    text = "".join(pieces)
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return pieces
    left, kept = min(found), []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept


def _context(card: ModelCard, options: Mapping[str, Any]) -> int:
    """The context a model is loaded with: at least 4, at most what it was trained for."""
    asked = options.get("num_ctx")
    return min(max(int(asked), 4), card.trained_context) if asked is not None else card.context


# ---------------------------------------------------------------------------------------------------------
# Who may ask


def _host_allowed(seen: Seen) -> bool:
    """Bound to loopback, only local names and loopback or private addresses may be the Host."""
    host = seen.header("host")
    if not host:
        return True
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        local = ("", "localhost", socket.gethostname().lower())
        return name in local or name.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified


def _origin_allowed(seen: Seen) -> bool:
    """The default list of origins: local ones on any port, and the schemes of desktop apps."""
    origin = seen.header("origin")
    if origin is None:
        return True
    if re.match(r"(?:app|file|tauri)://|vscode-[\w-]+://", origin):
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0")


# ---------------------------------------------------------------------------------------------------------
# Reading a request the way a Go server does


def _decoded(body: bytes) -> dict[str, Any]:
    """Decode a body: keys in any case of letters, the first JSON value only, content type of no account.

    The words for an empty body are recorded; those for broken JSON are the usual ones of Go's decoder.
    """
    if not body:
        raise RefusalError(400, "missing request body")
    text = body.decode(errors="replace").lstrip(" \t\r\n")
    try:
        value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text)
    except RecursionError:
        raise RefusalError(400, "exceeded max depth") from None
    except ValueError as error:
        rest = text[getattr(error, "pos", 0) :].strip()
        if not rest or "Unterminated" in str(error):
            raise RefusalError(400, "unexpected EOF" if text else "EOF") from None
        raise RefusalError(400, f"invalid character '{rest[0]}' looking for beginning of value") from None
    if not isinstance(value, dict):
        raise RefusalError(400, _mismatch(value, None, "api.ChatRequest"))
    return _folded(value)


def _no_constant(name: str) -> object:
    raise RefusalError(400, f"invalid character '{name[0]}' looking for beginning of value")


def _folded(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): inner for key, inner in value.items()}


def _go_name(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return f"number {value}"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _mismatch(value: object, place: str | None, kind: str) -> str:
    """The words of Go's decoder for a value of the wrong type."""
    where = f"Go struct field {place} of type" if place else "Go value of type"
    return f"json: cannot unmarshal {_go_name(value)} into {where} {kind}"


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise RefusalError(400, _mismatch(value, place, "string"))
    return value


def _messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages with content as a string (null is an empty one); roles are lower-cased and not checked."""
    given = request.get("messages")
    if given is None:
        return []
    if not isinstance(given, list):
        raise RefusalError(400, _mismatch(given, "ChatRequest.messages", "[]api.Message"))
    messages = []
    for entry in given:
        if not isinstance(entry, dict):
            raise RefusalError(400, _mismatch(entry, "ChatRequest.messages", "api.Message"))
        message = _folded(entry)
        for key in ("role", "content", "thinking", "tool_name", "tool_call_id"):
            if message.get(key) is not None:
                _text(message[key], f"Alias.{key}")
        message["role"] = (message.get("role") or "").lower()
        _images(message.get("images"))
        _history_calls(message.get("tool_calls"))
        messages.append(message)
    return messages


def _images(images: object) -> None:
    """Images are bare base64: a data: prefix is illegal at its colon."""
    if images is None:
        return
    if not isinstance(images, list):
        raise RefusalError(400, _mismatch(images, "Alias.images", "[]api.ImageData"))
    for number, image in enumerate(images):
        place = f"json: cannot unmarshal string into Alias.images.{number} of type api.ImageData"
        if not isinstance(image, str):
            raise RefusalError(400, _mismatch(image, f"Alias.images.{number}", "api.ImageData"))
        bad = re.search(r"[^A-Za-z0-9+/=\r\n]", image)
        try:
            base64.b64decode(image, validate=False)
        except (binascii.Error, ValueError):
            at = bad.start() if bad else len(image)
        else:
            if bad is None:
                continue
            at = bad.start()
        raise RefusalError(400, f"{place}: illegal base64 data at input byte {at}")


def _history_calls(calls: object) -> None:
    """Calls in the history carry their arguments as an object; a string or an array is refused."""
    if calls is None:
        return
    if not isinstance(calls, list):
        raise RefusalError(400, _mismatch(calls, "Alias.tool_calls", "[]api.ToolCall"))
    for call in calls:
        function = _folded(call).get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RefusalError(400, _mismatch(function, "Alias.tool_calls.function", "api.ToolCallFunction"))
        if not isinstance(_folded(function).get("arguments", {}), dict):
            raise RefusalError(400, "Value looks like object, but can't find closing '}' symbol")


def _tools(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tools with properties that are objects.

    Properties that are missing are refused only on the real server's jinja path; refused here on both, for a
    client cannot know which path its model takes.
    """
    given = request.get("tools")
    if given is None:
        return []
    if not isinstance(given, list):
        raise RefusalError(400, _mismatch(given, "ChatRequest.tools", "api.Tools"))
    for tool in given:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise RefusalError(400, _mismatch(function, "Tool.function", "api.ToolFunction"))
        _text(function.get("name") or "", "ToolFunction.name")
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        for inner in properties.values() if isinstance(properties, dict) else ():
            if not isinstance(inner, dict):
                raise RefusalError(400, _mismatch(inner, None, "api.ToolProperty"))
        if not isinstance(properties, dict):
            raise RefusalError(400, _bad_schema("properties must be an object"))
    return given


def _options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options by type: a wrong one is a 500, an unknown one is ignored, null is skipped, floats pass for ints."""
    given = request.get("options")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RefusalError(400, _mismatch(given, "ChatRequest.options", "map[string]interface {}"))
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            continue
        if name in _INTEGERS and not number:
            raise RefusalError(500, f'option "{name}" must be of type integer')
        if name in _FLOATS and not number:
            raise RefusalError(500, f'option "{name}" must be of type float32')
        if name == "use_mmap" and not isinstance(value, bool):
            raise RefusalError(500, f'option "{name}" must be of type boolean')
        if name == "stop":
            if not isinstance(value, list):
                raise RefusalError(500, f'option "{name}" must be of type array')
            if not all(isinstance(item, str) for item in value):
                raise RefusalError(500, f'option "{name}" must be of an array of strings')
    return given


def _format(request: Mapping[str, Any]) -> object:
    """`"json"` or a schema; an empty string or null is none, other values are a 500."""
    given = request.get("format")
    if given is None or given == "":
        return None
    if given != "json" and not isinstance(given, dict):
        quoted = json.dumps(json.dumps(given, ensure_ascii=False), ensure_ascii=False)
        raise RefusalError(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    kind = given.get("type") if isinstance(given, dict) else None
    if isinstance(kind, str) and kind not in _SCHEMA_TYPES:
        raise RefusalError(400, _bad_schema(f"unrecognized type {kind}"))
    return given


def _think(request: Mapping[str, Any]) -> bool | str | None:
    """true, false or a level. The words for a bad string are recorded; for other types they are a guess."""
    given = request.get("think")
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, str) and given in _LEVELS:
        return given
    must = '(must be "high", "medium", "low", "max", true, or false)'
    raise RefusalError(400, f"invalid think value: {json.dumps(given)} {must}")


def _keep_alive(request: Mapping[str, Any]) -> float | None:
    """Seconds or a Go duration. The words for an unknown duration are recorded."""
    given = request.get("keep_alive")
    if given is None:
        return None
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, str):
        raise RefusalError(400, f"Unsupported type: '{_go_name(given)}'")
    if given in ("0", "+0", "-0"):
        return 0.0
    if re.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", given):
        raise RefusalError(400, f'time: missing unit in duration "{given}"')
    if not re.fullmatch(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", given):
        raise RefusalError(400, f'time: invalid duration "{given}"')
    return 0.0 if not re.search(r"[1-9]", given) else -1.0 if given.startswith("-") else 1.0


# ---------------------------------------------------------------------------------------------------------
# Writing an answer the way a Go server does


def _is_sound(image: str) -> bool:
    head = base64.b64decode(image[:16])
    return (
        (head[:4] == b"RIFF" and head[8:12] == b"WAVE") or head[:3] == b"ID3" or head[:2] in (b"\xff\xfb", b"\xff\xf3")
    )


def _nested(code: int, message: str, kind: str, more: Mapping[str, object] | None = None) -> str:
    """An error of the runner: the text of the error is itself a JSON document."""
    return compact({"error": {"code": code, "message": message, "type": kind, **(more or {})}})


def _bad_schema(what: str) -> str:
    text = "Unable to generate parser for this template. Automatic parser generation failed: JSON schema error at #: "
    return _nested(400, text + what, "invalid_request_error")


def _line(document: object) -> bytes:
    """One JSON document on one line, with the escapes of Go's encoder."""
    text = compact(document)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode() + b"\n"


def _now() -> str:
    """RFC 3339 in UTC with nanoseconds, without the zeros at their end."""
    nanos = time.time_ns()
    seconds = datetime.fromtimestamp(nanos // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{nanos % 10**9:09d}".rstrip("0")
    return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"
