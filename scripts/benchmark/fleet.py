"""The five servers of the storm, two that speak Ollama and three that are OpenAI-compatible; each fails as it is told.

The trap: a reset takes bytes with it that were sent a moment before, so a server that wants its caller to have seen
something waits a moment before it breaks off.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from .voice import MODEL, Dialect, Voice, reset
from .weather import FAULTS, MIDWAY, REFUSED_AT_THE_DOOR, TOTAL, Turn, expected, pieces_of, turn, well

KEY = "sk-storm"
_SETTLE = 0.02
"""Seconds between the last bytes and a break, in which they arrive."""
_MARKER = re.compile(r"@storm:([0-9]+)@")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

Prefill = Literal["continue", "start_over", "refuse"]


@dataclass(frozen=True, slots=True)
class Berth:
    """One of the targets, as the rules and the calls know it."""

    name: str
    dialect: Dialect
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
            reset(writer)

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
                keep = await self._chat(Voice(self.berth.dialect, reader, writer), path, json.loads(body))
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

    async def _chat(self, voice: Voice, path: str, request: dict[str, Any]) -> bool:
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
        self, voice: Voice, call: int, plan: Turn, words: Sequence[str], request: Mapping[str, Any]
    ) -> bool:
        """Give the answer, or fail as planned; whether the connection may serve another call."""
        fault = plan.fault
        if fault == "resources" and self.berth.profile != "deepseek":
            fault = None  # nobody else says that
        self.record.faults[fault or "none"] += 1
        after = min(plan.after, max(len(words) - 1, 0))
        midway = fault in MIDWAY or fault == "resources"
        if midway and after:
            self.record.broken.add(call)
        if fault is not None and not midway:
            return await self._fail_at_once(voice, fault)
        voice.begin()
        if not midway:
            await voice.say(words, plan.pace)
            voice.finish("stop", len(words), request)
            self.answered += 1
            self.on_answered()
        else:
            await voice.say(words[:after], plan.pace)
            if fault != "resources":
                await asyncio.sleep(_SETTLE)
            if fault == "silent_midway":
                await voice.silence()
                return False
            if fault == "reset_midway":
                reset(voice.writer)
                return False
            await self._spoil(voice, str(fault), words, after, plan.pace, request)
        voice.end()
        await voice.writer.drain()
        return True

    async def _fail_at_once(self, voice: Voice, fault: str) -> bool:
        """A fault before the first word; whether the connection may serve another call."""
        writer = voice.writer
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
            case "status_500" | "status_503":
                self._say(writer, int(fault[-3:]), self._error("out of order", 500))
            case "model_missing":
                self._say(writer, 404, self._error(f"model '{MODEL}' not found", 404, "model_not_found"))
            case "key_refused":
                self._say(writer, 401, self._error("unauthorized", 401, "invalid_api_key"))
            case "silent_before_headers":
                await voice.silence()
                return False
            case "reset_after_headers":
                voice.begin()
                await asyncio.sleep(_SETTLE)
                reset(writer)
                return False
            case "life_signs_only":
                voice.begin()
                await voice.life_signs()
                return False
            case _:
                raise ValueError(f"no such fault: {fault}")
        return True

    async def _spoil(
        self, voice: Voice, fault: str, words: Sequence[str], after: int, pace: float, request: Mapping[str, Any]
    ) -> None:
        """What is written of an answer after the words that it breaks off with; its end follows."""
        match fault:
            case "error_midway":
                voice.write(voice.line(self._error("the model runner crashed", 500)))
            case "half_line":
                half = voice.word(words[after] if after < len(words) else "")
                voice.write(half[: len(half) // 2])
            case "bad_line_midway":
                voice.write(voice.bad_line())
                await voice.say(words[after:], pace)
                voice.finish("stop", len(words), request)
            case "resources":
                voice.finish("insufficient_system_resource", after, request)
            case "cut_midway":
                pass
            case _:
                raise ValueError(f"no such fault: {fault}")


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
