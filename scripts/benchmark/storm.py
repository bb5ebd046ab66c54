"""The storm: thousands of calls through the gateway while all of its targets fail, each in every way there is.

Five servers of our own stand behind it: two speak Ollama, three are OpenAI-compatible. The answer to a call is a
text that its number stands for, the same everywhere, of words that never repeat: an answer that is cut short,
doubled or glued together wrongly cannot look right. Which fault a request meets derives from the seed, the call,
the server and how often the call has asked there before, so neither the clock nor the order of arrival has a say.

A call must end with exactly its text or with an explicit error; anything else is WRONG. The trap: a reset takes
bytes with it that were sent a moment before, so a server that wants its caller to have seen something waits a
moment before it breaks off.

`flapping` is the other question: what a target costs that comes and goes, and how soon it is back in use.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from statistics import quantiles
from time import perf_counter
from typing import Any, Literal

KEY = "sk-storm"
MODEL = "storm:7b"
TOTAL = 15.0
"""Seconds that the rules give one call."""
HUNG = TOTAL + 5.0
"""Seconds after which a call that has not ended never will."""
COOL_DOWN = 1.0
"""Seconds that the rules of `flapping` leave a broken target alone."""
SLACK = 0.25
"""Seconds beyond the cool-down until a call comes by and is answered."""

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
        if self._door.random() < REFUSED_AT_THE_DOOR and self._turn_of is not _well:
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
            elif method == "GET":
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


def _well(call: int, attempt: int) -> Turn:
    return Turn(None, 0, 0.0)


@asynccontextmanager
async def sky(seed: int, percent: Mapping[str, float] = FAULTS) -> AsyncIterator[tuple[list[Server], Record]]:
    """The five servers, listening, and what they see. A fair sky is one without faults: `percent={}`."""
    record = Record()

    def of(name: str) -> Callable[[int, int], Turn]:
        return lambda call, attempt: turn(seed, call, name, attempt, percent)

    servers = [Server(berth, record, of(berth.name) if percent else _well, seed) for berth in BERTHS]
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


# ---------------------------------------------------------------------------------------------------------
# What came of a call

End = Literal["exact", "error", "WRONG"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended, and what was wrong or which error it was."""

    end: End
    why: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, its framing taken off."""

    status: int
    body: bytes
    kind: str = "application/json"
    """Its content type."""


def _wrong(why: str) -> Verdict:
    return Verdict("WRONG", why)


def judge(answer: Answer, text: str, *, streamed: bool, usage: bool = False) -> Verdict:
    """Judge an answer by the text that was due. `usage`: the caller of a stream asked for it."""
    if answer.status != 200:
        return _judge_refusal(answer)
    if streamed != answer.kind.startswith("text/event-stream"):
        return _wrong(f"content type {answer.kind}")
    try:
        return _judge_stream(answer.body, text, usage) if streamed else _judge_whole(answer.body, text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return _wrong(f"unreadable: {type(error).__name__}: {error}: {answer.body[-200:]!r}")


def _judge_refusal(answer: Answer) -> Verdict:
    try:
        error = json.loads(answer.body)["error"]
        said = f"{answer.status} {error['type']}: {error['message']}"
        named = {"message", "type", "param", "code"} <= set(error)
    except (ValueError, LookupError, TypeError):
        return _wrong(f"status {answer.status} with {answer.body[:200]!r}")
    if not 400 <= answer.status < 600 or not named or not error["message"]:
        return _wrong(f"no error of OpenAI's: {said}")
    return Verdict("error", said)


def _judge_text(text: str, due: str) -> Verdict:
    if text == due:
        return Verdict("exact")
    words = text.split()
    if due.startswith(text):
        return _wrong(f"cut short after {len(words)} of {len(due.split())} words")
    doubled = [word for word, count in Counter(words).items() if count > 1]
    if doubled:
        return _wrong(f"{len(doubled)} words doubled, {doubled[0]} among them")
    if [word for word in due.split() if word in words] == words:
        return _wrong(f"a gap: {len(words)} of {len(due.split())} words")
    return _wrong(f"garbled: {text[:300]!r}")


def _judge_usage(usage: Any, due: str) -> str | None:
    prompt, completion, total = (usage[f"{name}_tokens"] for name in ("prompt", "completion", "total"))
    most = len(due.split())
    if prompt < 0 or not 1 <= completion <= most or prompt + completion != total:
        return f"usage {prompt} + {completion} = {total} for {most} words"
    return None


def _judge_whole(body: bytes, due: str) -> Verdict:
    document = json.loads(body)
    choices = document["choices"]
    if document["object"] != "chat.completion" or len(choices) != 1:
        return _wrong(f"{document['object']} with {len(choices)} choices")
    (choice,) = choices
    if choice["finish_reason"] != "stop":
        return _wrong(f"finish_reason {choice['finish_reason']}")
    if strange := _judge_usage(document["usage"], due):
        return _wrong(strange)
    return _judge_text(choice["message"]["content"], due)


def _judge_stream(body: bytes, due: str, usage_due: bool) -> Verdict:
    """One role, the text, one finish_reason, usage if it was asked for, one [DONE]; or an error and then [DONE]."""
    events = list(_events(body))
    if events[-1:] != ["[DONE]"] or events.count("[DONE]") != 1:
        return _wrong(f"does not end in one [DONE]: {body[-200:]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    text, roles = "", 0
    reasons: list[str] = []
    usages: list[object] = []
    for number, chunk in enumerate(chunks):
        if "error" in chunk:
            if number != len(chunks) - 1 or reasons or not due.startswith(text):
                return _wrong(f"an error in the wrong place, after {text[-100:]!r}, {reasons}")
            return Verdict("error", f"in the stream: {chunk['error']['message']}")
        if chunk.get("usage") is not None:
            usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            roles += "role" in delta
            if reasons and delta.get("content"):
                return _wrong("text after the finish_reason")
            text += delta.get("content") or ""
            reasons += [choice["finish_reason"]] if choice["finish_reason"] is not None else []
    if len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) != 1:
        return _wrong("chunks of different answers")
    verdict = _judge_text(text, due)
    if verdict.end != "exact":
        return verdict
    if reasons != ["stop"]:
        return _wrong(f"finish_reasons {reasons}")
    if roles != 1:
        return _wrong(f"{roles} deltas with a role")
    if len(usages) != usage_due:
        return _wrong(f"{len(usages)} times usage where {int(usage_due)} was due")
    strange = _judge_usage(usages[0], due) if usages else None
    return _wrong(strange) if strange else verdict


def _events(body: bytes) -> Iterator[str]:
    """The data of each event. Half an event at the end is no event; comments are none either."""
    *whole, rest = body.decode().split("\n\n")
    if rest:
        raise ValueError("half an event at the end")
    for block in whole:
        data = [line[5:].strip() for line in block.split("\n") if line.startswith("data:")]
        if data:
            yield "\n".join(data)


# ---------------------------------------------------------------------------------------------------------
# The callers


class Caller:
    """One caller with one connection that it keeps as long as it is let."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.connections = 0

    async def ask(self, body: bytes) -> Answer:
        """One chat call. Raises OSError or EOFError where the connection breaks before the answer's end."""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer sk-caller\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._reader is None or self._writer is None or self._reader.at_eof() or self._writer.is_closing():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self.connections += 1
        self._writer.write(head.encode() + body)
        top = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")[:-2]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                parts.append((await self._reader.readexactly(size + 2))[:-2])
            await self._reader.readexactly(2)
            read = b"".join(parts)
        else:
            read = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split(" ")[1]), read, headers.get("content-type", ""))

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call and its end."""

    call: int
    streamed: bool
    verdict: Verdict
    seconds: float


def question(call: int) -> tuple[bytes, bool, bool]:
    """The body of a call; whether it asks for a stream, and whether for its usage."""
    streamed = call % 2 == 0
    usage = streamed and call % 4 == 0
    berth = BERTHS[call // 2 % len(BERTHS)]
    body: dict[str, object] = {
        "model": f"storm-{berth.name}",
        "messages": [{"role": "user", "content": f"What does this number stand for? @storm:{call}@"}],
        "stream": streamed,
    }
    if usage:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode(), streamed, usage


async def put(caller: Caller, call: int, ask: tuple[bytes, bool, bool] | None = None) -> Outcome:
    """Put one call and judge its answer."""
    body, streamed, usage = ask or question(call)
    begun = perf_counter()
    try:
        async with asyncio.timeout(HUNG):
            answer = await caller.ask(body)
        verdict = judge(answer, expected(call), streamed=streamed, usage=usage)
    except TimeoutError:
        caller.close()
        verdict = _wrong("hung")
    except (OSError, EOFError, ValueError, LookupError) as error:
        caller.close()
        verdict = _wrong(f"the connection broke: {type(error).__name__}: {error}")
    return Outcome(call, streamed, verdict, perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all calls."""

    outcomes: Sequence[Outcome]
    seconds: float
    connections: int
    record: Record

    def count(self, end: End) -> int:
        """How many calls ended so."""
        return sum(outcome.verdict.end == end for outcome in self.outcomes)

    @property
    def continued(self) -> int:
        """Streams that met a break after their first word and still came out exact."""
        return sum(
            outcome.streamed and outcome.verdict.end == "exact" and outcome.call in self.record.broken
            for outcome in self.outcomes
        )

    @property
    def failed(self) -> float:
        """The part of the upstream calls that met a fault."""
        faults = self.record.faults
        return 1 - faults["none"] / max(faults.total(), 1)

    def lines(self) -> list[str]:
        """The report in words."""
        calls = len(self.outcomes)
        times = quantiles((outcome.seconds for outcome in self.outcomes), n=100) if calls > 1 else [0.0] * 99
        errors = Counter(
            re.sub(r"[0-9]+(\.[0-9]+)?", "N", outcome.verdict.why)[:110]
            for outcome in self.outcomes
            if outcome.verdict.end == "error"
        )
        lines = [
            f"{calls} calls in {self.seconds:.1f} s over {self.connections} connections:"
            f" {self.count('exact')} exact, {self.count('error')} explicit errors, {self.count('WRONG')} WRONG",
            f"{self.record.requests.total() / max(calls, 1):.2f} upstream calls per call,"
            f" {self.failed:.0%} of those answered met a fault; {self.record.prefills} of them went on with an answer",
            f"{self.continued} streams broke off after their first word and still came out exact",
            f"a call took {times[49]:.3f} s (p50), {times[98]:.3f} s (p99)",
            "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.record.faults.items())),
            *(f"error, {count} times: {why}" for why, count in errors.most_common(8)),
        ]
        wrong = [one for one in self.outcomes if one.verdict.end == "WRONG"]
        lines += [
            f"WRONG: call {one.call}, {'streamed' if one.streamed else 'whole'}, {one.seconds:.1f} s: {one.verdict.why}"
            for one in wrong[:20]
        ]
        return lines + [f"STRANGE: {what}" for what in self.record.strange[:20]]

    @property
    def well(self) -> bool:
        """Whether no answer was wrong, and no request strange."""
        return not self.count("WRONG") and not self.record.strange


async def ride(port: int, record: Record, *, calls: int, at_a_time: int) -> Report:
    """All the calls, so many at a time."""
    numbers = iter(range(calls))
    outcomes: list[Outcome] = []
    callers = [Caller(port) for _ in range(at_a_time)]

    async def work(caller: Caller) -> None:
        outcomes.extend([await put(caller, call) for call in numbers])

    begun = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(work(caller))
    finally:
        for caller in callers:
            caller.close()
    return Report(outcomes, perf_counter() - begun, sum(caller.connections for caller in callers), record)


# ---------------------------------------------------------------------------------------------------------
# A target that comes and goes

RATE = 40
"""Calls a second of the steady load."""
FLAPPER = Berth("flapper", "openai", "continue")
HEALTHY = Berth("healthy", "openai", "continue")
PASSED_OVER = "is not asked for a while"
"""What the log says of a target that was not asked, for its breaker is open: no attempt, and nothing wasted."""
State = Literal["up", "refused", "reset", "error"]


def phases(seed: int, seconds: float, longest: float = 7.0) -> list[tuple[State, float]]:
    """Up and down in turns, 1 s to `longest` each; up at first, and the last phase is cut to fit."""
    chance = random.Random(f"flapping {seed}")
    made: list[tuple[State, float]] = []
    down: tuple[State, ...] = ("refused", "reset", "error")
    left = seconds
    while left > 0:
        state: State = "up" if len(made) % 2 == 0 else down[(len(made) // 2 + seed) % 3]
        length = min(chance.uniform(1.0, longest), left)
        made.append((state, length))
        left -= length
    return made


def flapping_rules(flapper: Server, healthy: Server) -> str:
    """One rule: the flapping target first."""
    return "\n".join(
        [
            "providers:",
            *(f"  {s.berth.name}: {{dialect: openai, urls: [{s.url}], key: {KEY}}}" for s in (flapper, healthy)),
            f'rules: [{{name: flapping, use: ["flapper/{MODEL}", "healthy/{MODEL}"]}}]',
            "defaults:",
            f"  timeouts: {{connect: 500ms, first_token: 500ms, idle: 500ms, total: {TOTAL:.0f}s}}",
            "  failover: {attempts: 2, backoff: 20ms, wait: 2s}",
            f"  breaker: {{failures: 5, cool_down: {COOL_DOWN:.0f}s}}",
            "  refresh: 5s",
            "",
        ]
    )


@dataclass(slots=True)
class Flapping:
    """What a target that comes and goes did to a steady load."""

    outcomes: list[Outcome] = field(default_factory=list)
    returns: list[float | None] = field(default_factory=list)
    """Per recovery: seconds to the first answer, None where there was none in a phase long enough for one."""
    calls: int = 0
    """Calls since the breaker first opened."""
    wasted: int = 0
    """Failed attempts at the target since then."""
    openings: int = 0

    @property
    def waste(self) -> float:
        """Failed attempts at the target per call, since its breaker first opened."""
        return self.wasted / self.calls if self.calls else 0.0

    @property
    def longest(self) -> float | None:
        """The longest time from a recovery to the first answer; None: one recovery was never noticed."""
        known = [seconds for seconds in self.returns if seconds is not None]
        return max(known, default=0.0) if len(known) == len(self.returns) else None

    @property
    def well(self) -> bool:
        """Whether the goals are met."""
        back = self.longest is not None and self.longest <= COOL_DOWN + SLACK
        return self.waste < 0.1 and back and all(one.verdict.end == "exact" for one in self.outcomes)

    def lines(self) -> list[str]:
        """The report in words."""
        exact = sum(one.verdict.end == "exact" for one in self.outcomes)
        longest = "never in one phase" if self.longest is None else f"{self.longest:.2f} s at the longest"
        lines = [
            f"{len(self.outcomes)} calls, {exact} exact; the breaker opened {self.openings} times",
            f"{self.wasted} attempts wasted on {self.calls} calls since it first opened: {self.waste:.1%}"
            " (goal: less than 10 %)",
            f"{len(self.returns)} recoveries; back in use after {longest}"
            f" (goal: {COOL_DOWN:.0f} s, and {SLACK} s for a call to come by)",
        ]
        bad = [one for one in self.outcomes if one.verdict.end != "exact"]
        return lines + [f"{one.verdict.end}: call {one.call}: {one.verdict.why}" for one in bad[:10]]

    def read_log(self, log: str) -> None:
        """What the gateway's own log (as JSON) tells: attempts that failed, refused connections among them."""
        for text in log.splitlines():
            try:
                entry = json.loads(text)
            except ValueError:
                continue
            said = str(entry.get("message", ""))
            if said.startswith(FLAPPER.name) and "it is not asked for" in said:
                self.openings += 1
            if self.openings and "request_id" in entry:
                self.calls += 1
                failed = [str(one) for one in entry.get("failed", ()) if str(one).startswith(f"{FLAPPER.name}/")]
                self.wasted += sum(PASSED_OVER not in one for one in failed)


async def flap(port: int, flapper: Server, plan: Sequence[tuple[State, float]], log: Callable[[], str]) -> Flapping:
    """A steady load while the target goes through its phases. `log` gives the gateway's log, as JSON lines."""
    result = Flapping()
    idle: list[Caller] = []
    used: list[Caller] = []

    async def one(call: int) -> None:
        if idle:
            caller = idle.pop()
        else:
            caller = Caller(port)
            used.append(caller)
        result.outcomes.append(await put(caller, call))
        idle.append(caller)

    async def load() -> None:
        begun = perf_counter()
        seconds = sum(length for _, length in plan)
        async with asyncio.TaskGroup() as group:
            for call in range(int(seconds * RATE)):
                await asyncio.sleep(max(0.0, begun + call / RATE - perf_counter()))
                group.create_task(one(call))

    async def weather() -> None:
        for number, (state, length) in enumerate(plan):
            answered = asyncio.Event()
            flapper.on_answered = answered.set
            if state == "refused":
                await flapper.refuse()
            else:
                flapper.mode = state
                await flapper.listen()
            begun = perf_counter()
            if state == "up" and number:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), length)
                took = perf_counter() - begun
                if answered.is_set():
                    result.returns.append(took)
                elif length > COOL_DOWN + SLACK:
                    result.returns.append(None)
            await asyncio.sleep(max(0.0, length - (perf_counter() - begun)))
        flapper.mode = "up"

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(weather())
            group.create_task(load())
    finally:
        for caller in used:
            caller.close()
    result.read_log(log())
    return result


@asynccontextmanager
async def pair(seed: int) -> AsyncIterator[tuple[Server, Server]]:
    """The flapping server and the healthy one, listening."""
    servers = (Server(FLAPPER, Record(), _well, seed), Server(HEALTHY, Record(), _well, seed))
    try:
        for server in servers:
            await server.listen()
        yield servers
    finally:
        for server in servers:
            await server.refuse()


Door = Callable[[str], Awaitable[tuple[int, Callable[[], str]]]]
"""Starts a gateway with these rules: its port, and a function that gives its log."""


async def storm(door: Door, *, calls: int = 5000, seed: int = 1, at_a_time: int = 50) -> Report:
    """The whole storm."""
    async with sky(seed) as (servers, record):
        port, _ = await door(rules(servers))
        return await ride(port, record, calls=calls, at_a_time=at_a_time)


async def flapping(door: Door, *, seed: int = 1, seconds: float = 60.0, longest: float = 7.0) -> Flapping:
    """The whole measure of a target that comes and goes."""
    async with pair(seed) as (flapper, healthy):
        port, log = await door(flapping_rules(flapper, healthy))
        return await flap(port, flapper, phases(seed, seconds, longest), log)
