"""The built-in sandbox model: for trying routing, streaming and failover with nothing installed.

It speaks on loopback exactly as Ollama does, so that a call to it takes the same way as a call to a real model. It is
deterministic, paced like a model, and says in every answer that it is the sandbox. Its embeddings know words and no
meaning: texts are near each other as far as they share words. What `format` asks for it answers with an example.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from addons.example import example
from wire.openai import Json

MAX_BODY = 64 * 1024 * 1024
CAPABILITIES = ("completion", "tools", "insert", "vision", "audio", "embedding")
EMBEDDING_LENGTH = 256
_CONTINUATION = " - so it goes on, says unigate's sandbox model, which is not a real one."


@dataclass(frozen=True, slots=True)
class SandboxModel:
    """One row of the table below."""

    does: str
    thinks: bool = False
    pace: float = 0.02
    """Seconds between two pieces."""
    fails: str = ""
    """`status`: 503 at once. `cut`: breaks off after some pieces. `silent`: never says a word."""


MODELS: dict[str, SandboxModel] = {
    "echo": SandboxModel("says back what you said; calls your tools"),
    "fast": SandboxModel("the same, without a pause", pace=0.0),
    "think": SandboxModel("thinks before it answers", thinks=True),
    "fail": SandboxModel("answers 503, to try failover", fails="status"),
    "cut": SandboxModel("breaks off in the middle, to try failover", fails="cut"),
    "silent": SandboxModel("never answers, to try time limits", fails="silent"),
}


class Sandbox:
    """The server. start() gives its port on loopback."""

    def __init__(self) -> None:
        self._server: HTTPServer | None = None

    def start(self, port: int = 0) -> int:
        application = Application(
            [
                (r"/", _Root),
                (r"/api/version", _Version),
                (r"/api/tags", _Tags),
                (r"/api/show", _Show),
                (r"/api/chat", _Chat),
                (r"/api/generate", _Generate),
                (r"/api/embed", _Embed),
            ],
            default_handler_class=_Missing,
            log_function=lambda handler: None,
        )
        self._server = HTTPServer(application, max_buffer_size=MAX_BODY, max_body_size=MAX_BODY)
        sockets = bind_sockets(port, "127.0.0.1")
        self._server.add_sockets(sockets)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()


def answer_words(request: Json) -> Iterator[Json]:
    """The messages of an answer, piece by piece: {"thinking"}, {"content"} or {"tool_calls"}."""
    name = str(request.get("model"))
    messages: list[Json] = request["messages"]
    # The beginning of an answer, as a last message: it is gone on with, as a real model would.
    begun = str(messages[-1].get("content") or "") if messages and messages[-1].get("role") == "assistant" else ""
    messages = messages[:-1] if begun else messages
    last = messages[-1] if messages else {"role": "user", "content": ""}
    said = str(last.get("content") or "")
    tools = request.get("tools")
    if MODELS[name].thinks and request.get("think") is not False:
        yield from ({"thinking": word} for word in _words(f"The user says {len(said)} characters. I say them back."))
    form = request.get("format")
    if tools and last.get("role") == "user" and not isinstance(form, dict):
        function = tools[0]["function"]
        parameters = function.get("parameters")
        schema = {**parameters, "type": "object"} if isinstance(parameters, dict) else {"type": "object"}
        arguments = example(schema, "arguments")
        yield {"tool_calls": [{"function": {"index": 0, "name": function["name"], "arguments": arguments}}]}
        return
    if isinstance(form, dict):
        # One that has its result gives its answer, where it may do either.
        avoid = _is_call if last.get("role") == "tool" else _is_no_call
        text = json.dumps(example(form, "answer", avoid=avoid), ensure_ascii=False)
    elif form == "json":
        text = json.dumps({"said": f"You said: {said}", "by": "unigate's sandbox model"}, ensure_ascii=False)
    elif last.get("role") == "tool":
        text = f"This is unigate's sandbox model, not a real one. The tool {last.get('tool_name')} said: {said}"
    else:
        text = f"This is unigate's sandbox model, not a real one. You said: {said}"
    if begun and text.startswith(begun):
        text = text[len(begun) :]
    yield from ({"content": word} for word in _words(text))


def continuation(prompt: str) -> str:
    """What comes after a text. One that ends with the beginning of that is gone on with."""
    begun = next((n for n in range(len(_CONTINUATION), 0, -1) if prompt.endswith(_CONTINUATION[:n])), 0)
    return _CONTINUATION[begun:]


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1: the sum of one for each word, which is made of the word's hash."""
    words = re.findall(r"\w+", text.lower()) or [text]
    digests = [hashlib.shake_256(word.encode("utf-8", "replace")).digest(2 * EMBEDDING_LENGTH) for word in words]
    columns = zip(*(struct.unpack(f"<{EMBEDDING_LENGTH}h", digest) for digest in digests), strict=True)
    numbers = [float(sum(column)) for column in columns][:dimensions]
    norm = math.hypot(*numbers) or 1.0
    return [number / norm for number in numbers]


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _is_call(schema: Json) -> bool:
    """Whether it is the schema of a call, as the gateway writes them (wire/ollama_format.py)."""
    match schema:
        case {"properties": {"name": {"const": str()}, "arguments": _}}:
            return True
        case _:
            return False


def _is_no_call(schema: Json) -> bool:
    return not _is_call(schema)


class _Handler(RequestHandler):
    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        self.finish({"error": self._reason})

    def fail(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish({"error": message})

    def json(self) -> Json | None:
        try:
            value = orjson.loads(self.request.body)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            return value
        self.fail(400, "the body is not a JSON object")
        return None


class _Missing(_Handler):
    def prepare(self) -> None:
        self.fail(404, "not found")


class _Root(_Handler):
    def get(self) -> None:
        self.finish("unigate's sandbox is running")

    head = get  # the `ollama` command knocks like this


class _Version(_Handler):
    def get(self) -> None:
        self.finish({"version": "0.0.0-sandbox"})


class _Tags(_Handler):
    def get(self) -> None:
        rows = [
            {"name": f"{name}:latest", "model": f"{name}:latest", "details": {"family": "sandbox"}} for name in MODELS
        ]
        self.finish({"models": rows})


class _Show(_Handler):
    def post(self) -> None:
        body = self.json()
        if body is None:
            return
        model = MODELS.get(_plain(body))
        if model is None:
            self.fail(404, f"model '{body.get('model')}' not found")
            return
        capabilities = [*CAPABILITIES, *(["thinking"] if model.thinks else [])]
        info = {"general.architecture": "sandbox", "sandbox.embedding_length": EMBEDDING_LENGTH}
        self.finish({"capabilities": capabilities, "details": {"family": "sandbox"}, "model_info": info})


class _Chat(_Handler):
    refusal = "messages must be an array of objects, tools an array of functions"

    def initialize(self) -> None:
        self.gone = asyncio.Event()
        """The caller has left, or the server stops."""

    def on_connection_close(self) -> None:
        self.gone.set()

    async def post(self) -> None:
        body = self.json()
        if body is None:
            return
        name = _plain(body)
        model = MODELS.get(name)
        if model is None:
            self.fail(404, f"model '{body.get('model')}' not found")
        elif not self.is_sound(body):
            self.fail(400, self.refusal)
        elif self.is_empty(body):
            self.finish(self.line(body, {}, {"done": True, "done_reason": "load"}))
        elif model.fails == "status":
            self.fail(503, "the sandbox model 'fail' always fails")
        else:
            await self._answer(body | {"model": name}, model)

    def is_sound(self, body: Json) -> bool:
        return _sound(body)

    def is_empty(self, body: Json) -> bool:
        """Nothing is asked: the model is only to be loaded."""
        return not body.get("messages")

    def said(self, body: Json) -> Iterator[Json]:
        """The pieces of the answer."""
        return answer_words(body)

    def heard(self, body: Json) -> str:
        """The prompt."""
        return " ".join(str(message.get("content") or "") for message in body["messages"])

    def line(self, body: Json, message: Json, rest: Json) -> bytes:
        """One line of the answer."""
        return _line(body, {"message": {"role": "assistant", "content": "", **message}, **rest})

    async def _answer(self, body: Json, model: SandboxModel) -> None:
        streamed = body.get("stream") is not False
        self.set_header("content-type", "application/x-ndjson" if streamed else "application/json; charset=utf-8")
        options = body.get("options")
        limit = options.get("num_predict") if isinstance(options, dict) else None
        count = 0
        said: list[Json] = []
        reason = "stop"
        try:
            if model.fails == "silent":
                await self.flush()
                await self.gone.wait()
            for message in self.said(body):
                if isinstance(limit, int) and count >= limit:
                    reason = "length"
                    break
                if model.fails == "cut" and count >= 5:
                    self.detach().close()  # a connection that ends in the middle of its reply
                    return
                if model.pace:
                    await asyncio.sleep(model.pace)
                count += 1
                said.append(message)
                if streamed:
                    self.write(self.line(body, message, {"done": False}))
                    await self.flush()
            prompt = len(self.heard(body).split())
            ending = {"done": True, "done_reason": reason, "prompt_eval_count": prompt, "eval_count": count}
            await self.finish(self.line(body, {} if streamed else _whole(said), ending))
        except StreamClosedError:
            return  # the caller went away: nothing is left to say


class _Generate(_Chat):
    refusal = "prompt must be a string"

    def is_sound(self, body: Json) -> bool:
        return isinstance(body.get("prompt") or "", str)

    def is_empty(self, body: Json) -> bool:
        return not body.get("prompt")

    def said(self, body: Json) -> Iterator[Json]:
        return ({"content": word} for word in _words(continuation(body["prompt"])))

    def heard(self, body: Json) -> str:
        return str(body["prompt"])

    def line(self, body: Json, message: Json, rest: Json) -> bytes:
        return _line(body, {"response": message.get("content", ""), **rest})


class _Embed(_Handler):
    def post(self) -> None:
        body = self.json()
        if body is None:
            return
        model = MODELS.get(_plain(body))
        given = body.get("input") or []
        inputs = [given] if isinstance(given, str) else given
        dimensions = body.get("dimensions") or EMBEDDING_LENGTH
        if model is None:
            self.fail(404, f"model '{body.get('model')}' not found")
        elif model.fails:
            self.fail(503, f"the sandbox model '{_plain(body)}' always fails")
        elif not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
            self.fail(400, "invalid input type")
        elif not isinstance(dimensions, int) or dimensions < 1:
            self.fail(400, "dimensions must be a whole number above 0")
        else:
            vectors = [embedding(text, dimensions) for text in inputs]
            count = sum(len(text.split()) for text in inputs)
            self.finish({"model": body["model"], "embeddings": vectors, "prompt_eval_count": count})


def _sound(body: Json) -> bool:
    messages, tools = body.get("messages") or [], body.get("tools") or []
    if not (isinstance(messages, list) and all(isinstance(message, dict) for message in messages)):
        return False
    return isinstance(tools, list) and all(
        isinstance(tool, dict) and isinstance(tool.get("function"), dict) and "name" in tool["function"]
        for tool in tools
    )


def _whole(said: list[Json]) -> Json:
    """The pieces of an answer as one message."""
    message: Json = {"role": "assistant", "content": "".join(piece.get("content", "") for piece in said)}
    thinking = "".join(piece.get("thinking", "") for piece in said)
    calls = [call for piece in said for call in piece.get("tool_calls", ())]
    return message | ({"thinking": thinking} if thinking else {}) | ({"tool_calls": calls} if calls else {})


def _line(body: Json, said: Json) -> bytes:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps({"model": body["model"], "created_at": now, **said}) + b"\n"


def _plain(body: Json) -> str:
    return str(body.get("model", "")).removesuffix(":latest")
