"""A DeepSeek stand-in: the chat endpoint and the list of models, as strict as the service's documentation.

What it refuses follows the documentation of November 2026 and what its users report; the wording of a refusal
is the documented or reported one where the method does not say otherwise. Every answer carries a cookie, which
a gateway must not relay.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .compat import completion, write
from .documents import compact, example
from .framing import Answer, Seen
from .server import StandIn
from .texts import differing, halves, rest_of, words

BETA_PATH = "/beta/chat/completions"
FILL_PATH = "/beta/completions"
"""The service calls it fill-in-the-middle; without a suffix it goes on with a text."""
_MODELS = ("deepseek-flash", "deepseek-v4-pro")
_ALIASES = ("deepseek-v4-flash", "deepseek-v4-flash-vision-exp")
_ROLES = ("system", "user", "assistant", "tool", "latest_reminder")
_EFFORTS = ("low", "high", "max", "minimal", "medium", "xhigh", "ultra")
_TYPES: dict[str, tuple[type, ...]] = {
    "messages": (list,),
    "model": (str,),
    "thinking": (dict,),
    "reasoning_effort": (str,),
    "max_tokens": (int,),
    "temperature": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "top_p": (int, float),
    "response_format": (dict,),
    "tools": (list,),
    "tool_choice": (str, dict),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "stop": (str, list),
    "stream": (bool,),
    "stream_options": (dict,),
    "user_id": (str,),
}
"""The documented fields and their types; any may be null."""
_FILL_FIELDS = {
    *("model", "prompt", "suffix", "max_tokens", "echo", "logprobs", "stop", "stream", "stream_options"),
    *("temperature", "top_p", "frequency_penalty", "presence_penalty"),
}
"""The documented fields of FILL_PATH."""
_STATUSES = {
    400: ("Invalid request", "invalid_request_error"),
    401: ("Authentication Fails", "authentication_error"),
    402: ("Insufficient Balance", "unknown_error"),
    422: ("Invalid parameters", "invalid_request_error"),
    429: ("Rate limit reached for requests", "rate_limit_error"),
    500: ("Internal server error", "server_error"),
    503: ("Service is too busy. We advise users to temporarily switch to alternative models.", "service_unavailable"),
}


class RefusalError(Exception):
    """A request the service refuses."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass
class _Spoken:
    thoughts: Sequence[str]
    pieces: Sequence[str]
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str = "stop"


class DeepSeekStandIn(StandIn):
    """DeepSeek's OpenAI-shaped API on a loopback socket.

    `reply` and `reasoning` fix the pieces that are said. `thinking=False` makes not thinking the default,
    which shortens the streams; a request may still ask for it. The beta path alone goes on with a last message
    that has `"prefix": true`; without it, a last assistant message is a turn that is over, and answered anew.
    """

    chat_paths = ("/chat/completions", "/v1/chat/completions", BETA_PATH, FILL_PATH)
    line_end = b"\n\n"
    stream_type = "text/event-stream; charset=utf-8"

    def __init__(
        self,
        key: str = "sk-ds-stand-in",
        *,
        reply: Sequence[str] | None = None,
        reasoning: Sequence[str] = ("The", " user", " wants", " an", " answer."),
        thinking: bool = True,
    ) -> None:
        super().__init__(reply)
        self.key = key
        self.reasoning = tuple(reasoning)
        self.thinking = thinking
        self.undocumented: set[str] = set()
        """Request fields that arrived and that the documentation does not know."""

    # The dialect

    def answer(self, seen: Seen) -> Answer:
        """Route a request: the key first, then the path."""
        path = seen.path.partition("?")[0]
        try:
            self._authenticate(seen)
            if seen.method == "GET" and path in ("/models", "/v1/models"):
                rows = [{"id": name, "object": "model", "owned_by": "deepseek"} for name in _MODELS]
                return self._answer(json.dumps({"object": "list", "data": rows}).encode())
            if not self.is_chat(seen):
                raise RefusalError("Not Found", 404)
            if path == FILL_PATH:
                return self._fill(seen)
            return self._chat(seen, beta=path == BETA_PATH)
        except RefusalError as refusal:
            return self._answer(self.error_body(refusal.status, refusal.text), refusal.status)

    def error_body(self, status: int, message: str | None = None) -> bytes:
        """An OpenAI-shaped error; its code is nearly always `invalid_request_error`."""
        text, kind = _STATUSES.get(status, (f"Error {status}", "invalid_request_error"))
        error = {"message": message or text, "type": kind, "param": None, "code": "invalid_request_error"}
        return compact({"error": error}).encode()

    def error_piece(self, message: str) -> bytes:
        """An error in a stream: an event with the error in the place of the choices."""
        error = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
        return _event({"error": error})

    def empty_piece(self, seen: Seen) -> bytes:
        """A chunk with an empty delta."""
        request = seen.json if isinstance(seen.json, dict) else {}
        choice = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": None}
        common = self._common({"model": None, **request}, "chat.completion.chunk")
        return _event({**common, "choices": [choice]})

    def finished(self, pieces: Sequence[bytes], n: int | None, reason: str, *, streamed: bool) -> tuple[bytes, ...]:
        """The last chunk with another `finish_reason`, and [DONE]; or the whole answer with that reason."""
        *said, last, done = pieces if streamed else (b"".join(pieces), b"")
        document = json.loads(last.removeprefix(b"data: "))
        document["choices"][0]["finish_reason"] = reason
        return (*said[:n], _event(document), done) if streamed else halves(compact(document).encode())

    def life_sign(self, streamed: bool) -> bytes:
        """A comment in a stream, a blank line before a whole answer."""
        return b": keep-alive\n\n" if streamed else b"\n"

    def unwanted(self, seen: Seen) -> list[str]:
        """As for every server, and besides any key but this service's own."""
        names = super().unwanted(seen)
        if (seen.header("authorization") or "") not in ("", f"Bearer {self.key}"):
            names.append("authorization")
        return names

    def _headers(self, kind: str) -> tuple[tuple[str, str], ...]:
        return (
            ("Content-Type", kind),
            ("x-ds-trace-id", uuid.uuid4().hex),
            ("Set-Cookie", "HWWAFSESID=stand-in; path=/"),
        )

    def _answer(self, body: bytes, status: int = 200) -> Answer:
        return Answer(status, self._headers("application/json"), (body,))

    def _authenticate(self, seen: Seen) -> None:
        """Bearer key; the exact words around "Authentication Fails" have varied."""
        given = seen.header("authorization")
        if given is None:
            raise RefusalError("Authentication Fails (auth header format should be Bearer sk-...)", 401)
        if given != f"Bearer {self.key}":
            raise RefusalError(f"Authentication Fails, Your api key: ****{given[-4:]} is invalid", 401)

    def _fill(self, seen: Seen) -> Answer:
        """One prompt, which is a string, and one choice; the answer is never thought over."""
        if not isinstance(seen.json, dict):
            raise RefusalError("Failed to parse the request body as JSON")
        request: dict[str, Any] = seen.json
        self.undocumented |= set(request) - _FILL_FIELDS
        _model(request)
        for name in ("prompt", "suffix"):
            if not isinstance(request.get(name) or "", str) or (name == "prompt" and not request.get(name)):
                raise RefusalError(_place(f"{name}: invalid type: {compact(request.get(name))}, expected a string"))
        _numbers(request | {"top_logprobs": None})
        made = completion(request, [write(request, request["prompt"], self.reply, self.prefill, _stops(request))])
        kind = dict(made.headers)["Content-Type"]
        return replace(made, headers=self._headers(kind), prelude=(self.life_sign(made.streamed),))

    # Chat

    def _chat(self, seen: Seen, *, beta: bool) -> Answer:
        if not isinstance(seen.json, dict):
            raise RefusalError("Failed to parse the request body as JSON")
        request: dict[str, Any] = seen.json
        self.undocumented |= set(request) - set(_TYPES)
        _types(request)
        thinks = _thinks(request, self.thinking)
        messages = _messages(request, thinks=thinks)
        _model(request)
        prefix = _prefix(messages, beta=beta)
        if messages[-1]["role"] == "assistant" and self.prefill == "refuse":
            raise RefusalError("The last message of the conversation must be from role user or tool")
        tools = _tools(request, beta=beta)
        _tool_choice(request, tools, thinks=thinks)
        wants_json = _wants_json(request, messages)
        _numbers(request)
        stops = _stops(request)
        spoken = self._speak(request, messages, tools, stops, prefix, thinks=thinks, wants_json=wants_json)
        usage = self._usage(messages, spoken)
        top = (request.get("top_logprobs") or 0) if request.get("logprobs") else None
        if request.get("stream"):
            events = self._events(request, spoken, usage, top)
            kind = self._headers(self.stream_type)
            return Answer(200, kind, tuple(events), (self.life_sign(True),), chunked=True, streamed=True)
        body = compact(self._whole(request, spoken, usage, top)).encode()
        kind = self._headers("application/json")
        return Answer(200, kind, halves(body), (b"\n", b"\n"), chunked=True)

    def _speak(
        self,
        request: Mapping[str, Any],
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        stops: Sequence[str],
        prefix: str,
        *,
        thinks: bool,
        wants_json: bool,
    ) -> _Spoken:
        """Reason, then talk or call. Both count against max_tokens; max_completion_tokens is not read."""
        last = messages[-1]
        user = next((_text_of(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
        spoken = _Spoken(list(self.reasoning) if thinks else [], [])
        choice = request.get("tool_choice")
        forced = choice == "required" or isinstance(choice, dict)
        if self.reply is not None:
            spoken.pieces = list(self.reply)
        elif tools and choice != "none" and (forced or last.get("role") == "user"):
            named = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
            function = next(tool["function"] for tool in tools if tool["function"]["name"] == named)
            arguments = json.dumps(example(function.get("parameters") or {"type": "object"}), ensure_ascii=False)
            spoken.reason = "tool_calls"
            for number in range(2 if "twice" in user else 1):
                made = f"call_{number:02d}_{uuid.uuid4().hex[:24]}"
                call = {"name": named, "arguments": arguments}
                spoken.calls.append({"index": number, "id": made, "type": "function", "function": call})
        elif last.get("role") == "tool":
            spoken.pieces = words(f"The tool said: {_text_of(last.get('content'))}")
        elif wants_json:
            spoken.pieces = words(compact({"said": user}))
        else:
            spoken.pieces = words(f"You said: {user}")
        if prefix and self.prefill == "differ":
            spoken.pieces = differing(prefix)
        elif prefix and self.prefill == "continue" and (rest := rest_of(spoken.pieces, prefix)) is not None:
            spoken.pieces = rest
        text = "".join(spoken.pieces)
        if found := [at for stop in stops if stop and (at := text.find(stop)) >= 0]:
            spoken.pieces = words(text[: min(found)])
        limit = request.get("max_tokens")
        if limit is not None and len(spoken.thoughts) + len(spoken.pieces) + 10 * len(spoken.calls) > limit:
            left = max(limit - len(spoken.thoughts), 0)
            spoken = _Spoken(spoken.thoughts[:limit], spoken.pieces[:left], [], "length")
        return spoken

    def _usage(self, messages: Sequence[Mapping[str, Any]], spoken: _Spoken) -> dict[str, object]:
        """Counts with the service's cache fields: hit and miss add up to the prompt; a word is a token."""
        prompt = sum(len(_text_of(message.get("content")).split()) + 3 for message in messages)
        hit = prompt // 2
        said = len(spoken.thoughts) + len(spoken.pieces) + 10 * len(spoken.calls)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said,
            "prompt_tokens_details": {"cached_tokens": hit},
            "completion_tokens_details": {"reasoning_tokens": len(spoken.thoughts)},
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": prompt - hit,
        }

    def _common(self, request: Mapping[str, Any], kind: str) -> dict[str, object]:
        return {
            "id": str(uuid.uuid4()),
            "object": kind,
            "created": int(time.time()),
            "model": request["model"],
            "system_fingerprint": "fp_stand_in_prod",
        }

    def _whole(self, request: Mapping[str, Any], spoken: _Spoken, usage: object, top: int | None) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": "".join(spoken.pieces)}
        if spoken.thoughts:
            message["reasoning_content"] = "".join(spoken.thoughts)
        if spoken.calls:
            message["tool_calls"] = spoken.calls
        logprobs = None if top is None else _logprobs(spoken.pieces, spoken.thoughts, top)
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": spoken.reason}
        return {**self._common(request, "chat.completion"), "choices": [choice], "usage": usage}

    def _events(self, request: Mapping[str, Any], spoken: _Spoken, usage: object, top: int | None) -> list[bytes]:
        """The events. Usage rides on the last chunk, asked for or not; if asked for, the others have null."""
        common = self._common(request, "chat.completion.chunk")
        asked = bool((request.get("stream_options") or {}).get("include_usage"))
        events: list[bytes] = []

        def event(delta: object, *, last: bool = False, logprobs: object = None) -> None:
            reason = spoken.reason if last else None
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            more = {"usage": usage} if last else {"usage": None} if asked else {}
            events.append(_event({**common, "choices": [choice], **more}))

        if spoken.thoughts:
            event({"role": "assistant", "content": None, "reasoning_content": ""})
            for thought in spoken.thoughts:
                sure = None if top is None else _logprobs([], [thought], top)
                event({"content": None, "reasoning_content": thought}, logprobs=sure)
        else:
            event({"role": "assistant", "content": ""})
        beside = {"reasoning_content": None} if spoken.thoughts else {}
        for piece in spoken.pieces:
            event({"content": piece, **beside}, logprobs=None if top is None else _logprobs([piece], [], top))
        for call in spoken.calls:
            function = call["function"]
            event({"tool_calls": [{**call, "function": {"name": function["name"], "arguments": ""}}]})
            for fragment in re.findall(r"(?s).{1,5}", function["arguments"]):
                event({"tool_calls": [{"index": call["index"], "function": {"arguments": fragment}}]})
        event({"content": "", **beside}, last=True)
        return [*events, b"data: [DONE]\n\n"]


# ---------------------------------------------------------------------------------------------------------
# What the service refuses


def _place(what: str) -> str:
    column = random.Random(what).randrange(20, 400)
    return f"Failed to deserialize the JSON body into the target type: {what} at line 1 column {column}"


def _types(request: Mapping[str, Any]) -> None:
    """Fields of the wrong type; the words are those of the service's JSON library."""
    for name, kinds in _TYPES.items():
        value = request.get(name)
        if value is not None and not (isinstance(value, kinds) and (kinds == (bool,) or not isinstance(value, bool))):
            raise RefusalError(_place(f"{name}: invalid type: {compact(value)}, expected {kinds[0].__name__}"))


def _variant(path: str, given: object, expected: Sequence[str]) -> str:
    names = ", ".join(f"`{name}`" for name in expected)
    many = f"one of {names}" if len(expected) > 1 else names
    return _place(f"{path}: unknown variant `{given}`, expected {many}")


def _thinks(request: Mapping[str, Any], default: bool) -> bool:
    """Thinking is on by default; "none" is no documented effort."""
    effort = request.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise RefusalError(_variant("reasoning_effort", effort, _EFFORTS))
    given = request.get("thinking")
    if given is None:
        return default
    kind = given.get("type") if isinstance(given, dict) else given
    if kind not in ("enabled", "disabled"):
        raise RefusalError(_variant("thinking.type", kind, ("enabled", "disabled")))
    return bool(kind == "enabled")


def _messages(request: Mapping[str, Any], *, thinks: bool) -> list[dict[str, Any]]:
    """Roles, contents, and calls with their results.

    That results must follow their calls is reported by users and not in the documentation.
    """
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusalError(_place("messages: invalid length 0, expected a sequence of messages"))
    waiting: set[object] = set()
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise RefusalError(_variant(f"{path}.role", role, _ROLES))
        _content(request, path, message)
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                raise RefusalError(
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
                )
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            raise RefusalError(_INSUFFICIENT)
        if role == "assistant":
            waiting = _assistant(path, message, thinks=thinks)
    if waiting:
        raise RefusalError(_INSUFFICIENT)
    return messages


_INSUFFICIENT = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
    "'tool_call_id'. (insufficient tool messages following tool_calls message)"
)


def _prefix(messages: Sequence[Mapping[str, Any]], *, beta: bool) -> str:
    """The text to go on with, empty where there is none. The words of the refusals are a guess."""
    for number, message in enumerate(messages):
        given = message.get("prefix")
        if given is None:
            continue
        if not beta:
            raise RefusalError("Chat prefix completion is available only with the beta base URL")
        if not isinstance(given, bool):
            raise RefusalError(_place(f"messages[{number}].prefix: invalid type: {compact(given)}, expected a boolean"))
        if given and (number != len(messages) - 1 or message.get("role") != "assistant"):
            raise RefusalError("Invalid 'prefix': only the last message, of role assistant, may have it")
    last = messages[-1]
    return _text_of(last.get("content")) if last.get("prefix") and not last.get("tool_calls") else ""


def _assistant(path: str, message: Mapping[str, Any], *, thinks: bool) -> set[object]:
    """An assistant turn needs content or calls; while thinking, calls need the reasoning they came from."""
    calls = message.get("tool_calls")
    if message.get("content") is None and not calls:
        raise RefusalError("Invalid assistant message: content or tool_calls must be set")
    ids: set[object] = set()
    for index, call in enumerate(calls or []):
        kind = call.get("type") if isinstance(call, dict) else None
        if kind != "function":
            raise RefusalError(_variant(f"{path}.tool_calls[{index}].type", kind, ("function",)))
        for name in ("id", "function"):
            if not call.get(name):
                raise RefusalError(_place(f"{path}.tool_calls[{index}]: missing field `{name}`"))
        if not isinstance(call["function"], dict) or not isinstance(call["function"].get("arguments"), str):
            raise RefusalError(_place(f"{path}.tool_calls[{index}]: invalid type: map, expected a string"))
        ids.add(call["id"])
    if calls and thinks and not isinstance(message.get("reasoning_content"), str):
        raise RefusalError("The `reasoning_content` in the thinking mode must be passed back to the API.")
    return ids


def _content(request: Mapping[str, Any], path: str, message: Mapping[str, Any]) -> None:
    """A string or parts; images only for the model that sees."""
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise RefusalError(_place(f"{path}: missing field `content`"))
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url", "file"):
            raise RefusalError(_variant(f"{path}.content", kind, ("text", "image_url", "file")))
        if kind == "image_url" and request.get("model") == "deepseek-v4-pro":
            raise RefusalError("This model does not support image input")


def _model(request: Mapping[str, Any]) -> None:
    """Only today's names and their aliases are known."""
    name = request.get("model")
    if not isinstance(name, str):
        raise RefusalError(_place("missing field `model`"))
    if name not in (*_MODELS, *_ALIASES):
        known = " or ".join(_MODELS)
        raise RefusalError(f"The supported API model names are {known}, but you passed {name}.")


def _tools(request: Mapping[str, Any], *, beta: bool) -> list[dict[str, Any]]:
    """Functions only, and none of them strict outside the beta endpoint."""
    tools = request.get("tools") or []
    for number, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind != "function":
            raise RefusalError(_variant(f"tools[{number}].type", kind, ("function",)))
        function = tool.get("function")
        if not isinstance(function, dict) or not re.fullmatch(r"[\w-]{1,64}", function.get("name") or ""):
            raise RefusalError(f"Invalid 'tools[{number}].function.name'")
        if function.get("strict") and not beta:
            raise RefusalError("Strict mode for functions is available only with the beta base URL")
    return list(tools)


def _tool_choice(request: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], *, thinks: bool) -> None:
    """While thinking, a call cannot be demanded."""
    choice = request.get("tool_choice")
    if choice in (None, "none", "auto"):
        return
    if choice != "required" and not (isinstance(choice, dict) and choice.get("type") == "function"):
        raise RefusalError(_variant("tool_choice", choice, ("none", "auto", "required", "function")))
    if thinks:
        raise RefusalError("Thinking mode does not support this tool_choice")
    names = [tool["function"]["name"] for tool in tools]
    if not names or (isinstance(choice, dict) and choice.get("function", {}).get("name") not in names):
        raise RefusalError("Invalid 'tool_choice': no such tool")


def _wants_json(request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    """JSON mode needs the word in the prompt; schemas are not to be had on this endpoint."""
    form = request.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if form is None or kind == "text":
        return False
    if kind != "json_object":
        raise RefusalError("This response_format type is unavailable now")
    if not any("json" in _text_of(message.get("content")).lower() for message in messages):
        raise RefusalError(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'."
        )
    return True


def _numbers(request: Mapping[str, Any]) -> None:
    """Ranges. Those of n and temperature are reported by users and not in the documentation."""
    limit = request.get("max_tokens")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 393216):
        raise RefusalError("Invalid max_tokens value, the valid range of max_tokens is [1, 393216]")
    if (heat := request.get("temperature")) is not None and not 0 <= heat <= 2:
        raise RefusalError("Invalid temperature value, the valid range of temperature is [0, 2]")
    if request.get("n") not in (None, 1):
        raise RefusalError("Invalid n value (currently only n = 1 is supported)")
    if (top := request.get("top_logprobs")) is not None and not 0 <= top <= 20:
        raise RefusalError("Invalid top_logprobs value, the valid range of top_logprobs is [0, 20]")
    if request.get("top_logprobs") and not request.get("logprobs"):
        raise RefusalError("Invalid top_logprobs value, logprobs must be true when top_logprobs is set")
    if request.get("stream_options") and not request.get("stream"):
        raise RefusalError("stream_options should be set along with stream = true")
    user = request.get("user_id")
    if user is not None and not (isinstance(user, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,512}", user)):
        raise RefusalError("Invalid user_id")


def _stops(request: Mapping[str, Any]) -> list[str]:
    """A string or up to 16."""
    given = request.get("stop")
    stops = [given] if isinstance(given, str) else given or []
    if len(stops) > 16 or not all(isinstance(stop, str) for stop in stops):
        raise RefusalError("Invalid stop value, at most 16 strings are allowed")
    return stops


# ---------------------------------------------------------------------------------------------------------
# Writing


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _event(document: object) -> bytes:
    return b"data: " + compact(document).encode() + b"\n\n"


def _logprobs(pieces: Sequence[str], thoughts: Sequence[str], top: int) -> dict[str, object]:
    """Log probabilities of the text and of the reasoning, in arrays of their own."""

    def entry(piece: str) -> dict[str, object]:
        own: dict[str, object] = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
        others = [
            {"token": f"{piece}{number or ''}", "logprob": -0.5 - number, "bytes": list(piece.encode())}
            for number in range(top)
        ]
        return {**own, "top_logprobs": others}

    return {
        "content": [entry(piece) for piece in pieces] or None,
        "reasoning_content": [entry(thought) for thought in thoughts] or None,
    }
