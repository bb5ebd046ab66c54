"""Five servers that fail in every way there is: what the storm blows with.

Two speak Ollama, three are OpenAI-compatible. The answer to a call is a text that its number stands for, the same
everywhere, of words that never repeat: an answer that is cut short, doubled or glued together wrongly cannot look
right. Which fault a request meets derives from the seed, the call, the server and how often the call has asked there
before, so neither the clock nor the order of arrival has a say.

The trap: a reset takes bytes with it that were sent a moment before, so a server that wants its caller to have seen
something waits a moment before it breaks off.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

KEY = "sk-storm"
MODEL = "storm:7b"
TOTAL = 15.0
"""Seconds that the rules give one call."""
HUNG = TOTAL + 5.0
"""Seconds after which a call that has not ended never will."""

_SILENCE = 4.0
"""Seconds; every limit of the rules is shorter."""
_SETTLE = 0.02
"""Seconds between the last bytes and a break, in which they arrive."""
_MARKER = re.compile(r"@storm:([0-9]+)@")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@cache
def expected(call: int) -> str:
    """The answer to a call: 20 to 60 words, none of them twice."""
    chance = random.Random(f"text {call}")
    made: dict[str, None] = {}
    count = chance.randint(20, 60)
    while len(made) < count:
        made["".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3))] = None
    return " ".join(made)


def pieces_of(text: str) -> list[str]:
    """A text as a model says it: each word with the blank before it."""
    return re.findall(r"\s*\S+", text)


# ---------------------------------------------------------------------------------------------------------
# Faults

FAULTS: Mapping[str, float] = {
    "reset_before_headers": 2.5,
    "reset_after_headers": 2.0,
    "garbage": 1.5,
    "status_429": 1.5,
    "status_429_with_retry_after": 0.3,
    "status_500": 2.5,
    "status_503": 2.5,
    "model_missing": 1.5,
    "key_refused": 1.0,
    "silent_before_headers": 1.5,
    "life_signs_only": 1.5,
    "silent_midway": 2.5,
    "cut_midway": 3.0,
    "reset_midway": 3.0,
    "error_midway": 2.5,
    "bad_line_midway": 2.0,
    "half_line": 2.0,
    "resources": 1.5,
}
"""How many of a hundred requests meet which fault."""
SLOW = 4.0
"""How many of a hundred answers trickle; they must succeed."""
MIDWAY = frozenset({"silent_midway", "cut_midway", "reset_midway", "error_midway", "bad_line_midway", "half_line"})
"""Faults after the caller may have seen text; so is `resources`, where the dialect has it."""
REFUSED_AT_THE_DOOR = 0.01
"""The part of the connections that are reset as soon as they are made."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of one request."""

    fault: str | None
    after: int
    """Words that are said before it, of the words that are still to be said; as many as there are at the most."""
    pace: float
    """Seconds between words."""


def turn(seed: int, call: int, server: str, attempt: int, percent: Mapping[str, float] = FAULTS) -> Turn:
    """What becomes of the attempt-th request of a call at a server."""
    chance = random.Random(f"turn {seed} {call} {server} {attempt}")
    drawn, fault = chance.uniform(0, 100), None
    for name, weight in percent.items():
        drawn -= weight
        if drawn < 0:
            fault = name
            break
    pace = chance.uniform(0.005, 0.03) if chance.uniform(0, 100) < SLOW else 0.0
    return Turn(fault, chance.randint(1, 40), pace)


# ---------------------------------------------------------------------------------------------------------
# The servers

Prefill = Literal["continue", "start_over", "refuse"]


@dataclass(frozen=True, slots=True)
class Berth:
    """One of the targets, as the rules and the calls know it."""

    name: str
    dialect: Literal["ollama", "openai"]
    prefill: Prefill
    profile: str = "compat"


BERTHS = (
    Berth("home", "ollama", "continue"),
    Berth("attic", "ollama", "start_over"),
    Berth("cloud", "openai", "continue", "deepseek"),
    Berth("east", "openai", "refuse"),
    Berth("west", "openai", "continue"),
)


@dataclass(slots=True)
class Record:
    """What the servers saw; calls by their numbers."""

    requests: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often a call has asked at a server."""
    faults: Counter[str] = field(default_factory=Counter)
    broken: set[int] = field(default_factory=set)
    """Calls of which an answer broke off after its first word."""
    prefills: int = 0
    """Requests that brought the beginning of an answer along."""
    strange: list[str] = field(default_factory=list)
    """Requests that no gateway of sound mind sends."""


class Server:
    """One target: answers calls by their numbers, or fails as `turn_of` says."""

    def __init__(self, berth: Berth, record: Record, turn_of: Callable[[int, int], Turn], seed: int = 0) -> None:
        self.berth = berth
        self.record = record
        self.port = 0
        self.answered = 0
        """Answers given in full."""
        self.mode: Literal["up", "reset", "error"] = "up"
        """Whether it is well, resets every call, or answers each with a 500; beside the faults of single requests."""
        self.on_answered: Callable[[], None] = lambda: None
        """Called after each answer given in full."""
        self._turn_of = turn_of
        self._door = random.Random(f"door {seed} {berth.name}")
        self._listener: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens; known from the first start on."""
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Listen, from the second time on at the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._meet, "127.0.0.1", self.port, backlog=512, reuse_address=True
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse connections from now on, and reset those there are."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side left
        except asyncio.CancelledError:
            pass  # we refuse connections from now on; asyncio would log it
        finally:
            self._conversations.discard(task)
            _reset(writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._door.random() < REFUSED_AT_THE_DOOR and self._turn_of is not well:
            return
        keep = True
        while keep:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            if self.mode == "reset":
                return
            if self.mode == "error":
                self._say(writer, 500, self._error("all at sea", 500))
            elif method == "GET" or not path.endswith(("/chat", "/chat/completions")):
                self._say(writer, *self._catalogue(path))
            else:
                keep = await self._chat(_Voice(self.berth, reader, writer), path, json.loads(body))
        if not writer.is_closing():  # an end in good order: what was written arrives
            writer.close()
            await writer.wait_closed()

    def _catalogue(self, path: str) -> tuple[int, object]:
        if path == "/api/tags" and self.berth.dialect == "ollama":
            return 200, {"models": [{"name": MODEL, "model": MODEL, "size": 1, "digest": "0" * 64, "details": {}}]}
        if path.endswith("/models") and self.berth.dialect == "openai":
            return 200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "storm"}]}
        return (200, {"models": []}) if path == "/api/ps" else (404, self._error("not found", 404))

    def _error(self, message: str, status: int, code: str | None = None) -> object:
        if self.berth.dialect == "ollama":
            return {"error": message}
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def _say(self, writer: asyncio.StreamWriter, status: int, document: object, more: str = "") -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def _chat(self, voice: "_Voice", path: str, request: dict[str, Any]) -> bool:
        """Answer one call; whether the connection may serve another."""
        messages = request["messages"]
        marker = _MARKER.search(str(next(m["content"] for m in messages if m["role"] == "user")))
        assert marker is not None, "a call without its number"
        call = int(marker[1])
        name = self.berth.name
        attempt = self.record.requests[call, name]
        self.record.requests[call, name] += 1
        plan = self._turn_of(call, attempt)
        if request.get("stream", self.berth.dialect == "ollama") is not True:
            self.record.strange.append(f"{name}, call {call}: not asked for a stream")
        text = expected(call)
        if messages[-1]["role"] == "assistant":
            self.record.prefills += 1
            known = str(messages[-1]["content"])
            if not text.startswith(known):
                self.record.strange.append(f"{name}, call {call}: asked to go on from {known[-60:]!r}")
            if self.berth.prefill == "refuse":
                say = "conversation roles must alternate user/assistant/user/assistant/..."
                self._say(voice.writer, 400, self._error(say, 400))
                return True
            if self.berth.prefill == "continue" and self._is_asked_to_go_on(path, messages[-1]):
                text = text.removeprefix(known)
        return await self._perform(voice, call, plan, pieces_of(text), request)

    def _is_asked_to_go_on(self, path: str, last: Mapping[str, Any]) -> bool:
        if self.berth.profile != "deepseek":
            return True
        return path == "/beta/chat/completions" and last.get("prefix") is True

    async def _perform(
        self, voice: "_Voice", call: int, plan: Turn, words: Sequence[str], request: Mapping[str, Any]
    ) -> bool:
        fault, writer = plan.fault, voice.writer
        if fault == "resources" and self.berth.profile != "deepseek":
            fault = None  # nobody else says that
        self.record.faults[fault or "none"] += 1
        after = min(plan.after, max(len(words) - 1, 0))
        midway = fault in MIDWAY or fault == "resources"
        if midway and after:
            self.record.broken.add(call)
        match fault:
            case "reset_before_headers":
                return False
            case "garbage":
                writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                await asyncio.sleep(_SETTLE)
                return False
            case "status_429" | "status_429_with_retry_after":
                more = "Retry-After: 1\r\n" if fault != "status_429" else ""
                self._say(writer, 429, self._error("too many calls", 429, "rate_limit_exceeded"), more)
                return True
            case "status_500" | "status_503":
                self._say(writer, int(fault[-3:]), self._error("out of order", 500))
                return True
            case "model_missing":
                self._say(writer, 404, self._error(f"model '{MODEL}' not found", 404, "model_not_found"))
                return True
            case "key_refused":
                self._say(writer, 401, self._error("unauthorized", 401, "invalid_api_key"))
                return True
            case "silent_before_headers":
                await voice.silence()
                return False
            case _:
                pass
        voice.begin()
        match fault:
            case "reset_after_headers":
                await asyncio.sleep(_SETTLE)
                _reset(writer)
                return False
            case "life_signs_only":
                await voice.life_signs()
                return False
            case _:
                pass
        await voice.say(words[:after] if midway else words, plan.pace)
        if midway and fault != "resources":
            await asyncio.sleep(_SETTLE)
        match fault:
            case "silent_midway":
                await voice.silence()
                return False
            case "reset_midway":
                _reset(writer)
                return False
            case "error_midway":
                voice.write(voice.line(self._error("the model runner crashed", 500)))
            case "half_line":
                half = voice.word(words[after] if after < len(words) else "")
                voice.write(half[: len(half) // 2])
            case "bad_line_midway":
                voice.write(voice.bad_line())
                await voice.say(words[after:], plan.pace)
                voice.finish("stop", len(words), request)
            case "resources":
                voice.finish("insufficient_system_resource", after, request)
            case "cut_midway":
                pass
            case _:
                voice.finish("stop", len(words), request)
                self.answered += 1
                self.on_answered()
        voice.end()
        await writer.drain()
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset at once: with linger on and zero, closing a socket sends a reset."""
    if not writer.is_closing():
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


class _Voice:
    """Writes one streamed answer in the words of a dialect."""

    def __init__(self, berth: Berth, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._native = berth.dialect == "ollama"
        self._common = {"id": "chatcmpl-storm", "object": "chat.completion.chunk", "created": 1, "model": MODEL}

    def write(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def line(self, document: object) -> bytes:
        text = json.dumps(document, separators=(",", ":")).encode()
        return text + b"\n" if self._native else b"data: " + text + b"\n\n"

    def bad_line(self) -> bytes:
        return b'{"model":"storm:7b","mess\n' if self._native else b'data: {"id":"chatcmpl-storm","cho\n\n'

    def _chunk(self, delta: object, reason: str | None = None) -> bytes:
        return self.line({**self._common, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def word(self, word: str) -> bytes:
        if self._native:
            message = {"role": "assistant", "content": word}
            return self.line({"model": MODEL, "created_at": _STAMP, "message": message, "done": False})
        return self._chunk({"content": word})

    def begin(self) -> None:
        kind = b"application/x-ndjson" if self._native else b"text/event-stream"
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        if not self._native:
            self.write(self._chunk({"role": "assistant", "content": ""}))

    async def say(self, words: Sequence[str], pace: float) -> None:
        """Several words at a time, or each by itself where the answer trickles."""
        step = 1 if pace else 4
        for start in range(0, len(words), step):
            self.write(b"".join(map(self.word, words[start : start + step])))
            await asyncio.sleep(pace)
            await self.writer.drain()

    def finish(self, reason: str, said: int, request: Mapping[str, Any]) -> None:
        """The dialect's own end; a word is a token."""
        if self._native:
            counts = {"prompt_eval_count": 9, "eval_count": max(said, 1), "total_duration": 5_000_000}
            message = {"role": "assistant", "content": ""}
            done = {"model": MODEL, "created_at": _STAMP, "message": message, "done": True, "done_reason": reason}
            self.write(self.line(done | counts))
            return
        self.write(self._chunk({}, reason))
        if (request.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 9, "completion_tokens": said, "total_tokens": 9 + said}
            self.write(self.line({**self._common, "choices": [], "usage": usage}))
        self.write(b"data: [DONE]\n\n")

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    async def silence(self) -> None:
        """Say nothing until the other side leaves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE):
                await self._reader.read(1)

    async def life_signs(self) -> None:
        """Comments and nothing else, until the other side leaves; Ollama has nothing of the kind."""
        for _ in range(int(_SILENCE / 0.1)):
            if self._reader.at_eof() or self.writer.is_closing():
                return
            if not self._native:
                self.write(b": keep-alive\n\n")
            await asyncio.sleep(0.1)


_STAMP = "2026-01-01T00:00:00.123456789Z"


def well(call: int, attempt: int) -> Turn:
    return Turn(None, 0, 0.0)


@asynccontextmanager
async def sky(seed: int, percent: Mapping[str, float] = FAULTS) -> AsyncIterator[tuple[list[Server], Record]]:
    """The five servers, listening, and what they see. A fair sky is one without faults: `percent={}`."""
    record = Record()

    def of(name: str) -> Callable[[int, int], Turn]:
        return lambda call, attempt: turn(seed, call, name, attempt, percent)

    servers = [Server(berth, record, of(berth.name) if percent else well, seed) for berth in BERTHS]
    try:
        for server in servers:
            await server.listen()
        yield servers, record
    finally:
        for server in servers:
            await server.refuse()


def rules(servers: Sequence[Server]) -> str:
    """Rules with short limits; the model `storm-NAME` asks the target NAME first, then the others in turn."""
    lines = ["providers:"]
    for server in servers:
        berth = server.berth
        more = f", profile: {berth.profile}, key: {KEY}, patience: 500ms" if berth.dialect == "openai" else ""
        lines.append(f"  {berth.name}: {{dialect: {berth.dialect}, urls: [{server.url}]{more}}}")
    lines.append("rules:")
    for first, server in enumerate(servers):
        use = ", ".join(f'"{other.berth.name}/{MODEL}"' for other in (*servers[first:], *servers[:first]))
        name = server.berth.name
        lines.append(f"  - {{name: {name}-first, when: {{model: storm-{name}}}, use: [{use}]}}")
    return "\n".join(
        [
            *lines,
            "defaults:",
            f"  timeouts: {{connect: 500ms, first_token: 500ms, idle: 500ms, total: {TOTAL:.0f}s}}",
            "  failover: {attempts: 2, backoff: 20ms, wait: 2s}",
            # A key refused once in a while is this storm's whim; a refused key would rule its server out for long.
            "  breaker: {failures: 5, cool_down: 500ms, weights: {key: 0}}",
            "  admission: {parallel: 64, queue: 200, wait: 5s}",
            "  refresh: 500ms",
            "",
        ]
    )
