"""How the servers of the storm speak: one streamed answer in the words of a dialect."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

MODEL = "storm:7b"
type Dialect = Literal["ollama", "openai"]

_SILENCE = 4.0
"""Seconds; every limit of the rules is shorter."""
_STAMP = "2026-01-01T00:00:00.123456789Z"


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset at once: with linger on and zero, closing a socket sends a reset."""
    if not writer.is_closing():
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


class Voice:
    """Writes one streamed answer in the words of a dialect."""

    def __init__(self, dialect: Dialect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._native = dialect == "ollama"
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
