"""A canned Ollama for the benchmark: one process, one loop, no parsing that is not needed.

What to answer is read from a marker in the last message, because a message's text is the one thing that
reaches the upstream unchanged, whichever dialect the caller spoke: `@bench:MODE:COUNT@`.

    whole   COUNT words. Asked with `"stream": false`: one JSON object; else about five lines, in one write
    burst   COUNT tokens, one line and one HTTP chunk each, fifty of them per write
    paced   COUNT tokens; each one after the first is sent when a byte arrives on the side channel
    first   COUNT tokens: the first at once, the others a little later in one write

The trap: HTTP has no way to say "I have seen this token". Without the side channel a server that writes
token by token is soon far ahead of the reader, and what is then measured is once more a burst.

Run as a module it prints `{"port": …, "side": …}` on stdout and ends when its stdin is closed, so it cannot
outlive the process that started it.
"""

import asyncio
import gc
import json
import re
import signal
import sys
from typing import cast

import uvloop

MODEL = "bench:latest"
WORD = "tok "
BURST = 50
LATER = 0.003
"""Seconds between the first token and the others in mode `first`: the first has long left every buffer."""

_MARKER = re.compile(rb"@bench:([a-z]+):([0-9]+)@")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_WHOLE = re.compile(rb'"stream": ?false')
_STAMP = "2026-01-01T00:00:00.123456789Z"

_TAGS = {
    "models": [
        {
            "name": MODEL,
            "model": MODEL,
            "modified_at": _STAMP,
            "size": 1_000_000,
            "digest": "0" * 64,
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "bench",
                "families": ["bench"],
                "parameter_size": "1B",
                "quantization_level": "Q4_0",
            },
        }
    ]
}
_SHOW = {
    "details": _TAGS["models"][0]["details"],
    "model_info": {"general.architecture": "bench", "bench.context_length": 4_194_304},
    "capabilities": ["completion"],
}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _line(content: str) -> bytes:
    """One line of a reply in progress, already framed as one HTTP chunk."""
    message = {"role": "assistant", "content": content}
    return _chunk(_encode({"model": MODEL, "created_at": _STAMP, "message": message, "done": False}) + b"\n")


def _done(tokens: int, content: str = "") -> dict[str, object]:
    return {
        "model": MODEL,
        "created_at": _STAMP,
        "message": {"role": "assistant", "content": content},
        "done": True,
        "done_reason": "stop",
        "total_duration": 5_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 1_000_000,
        "eval_count": tokens,
        "eval_duration": 3_000_000,
    }


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _end(tokens: int) -> bytes:
    return _chunk(_encode(_done(tokens)) + b"\n") + b"0\r\n\r\n"


def _plain(status: str, value: object) -> bytes:
    body = _encode(value)
    head = (
        f"HTTP/1.1 {status}",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN = _line(WORD)


def _five_lines(words: int) -> bytes:
    """A whole reply as a stream of at most five lines and the last one."""
    step = max(1, -(-words // 5))
    lines = (_line(WORD * min(step, words - start)) for start in range(0, words, step))
    return _STREAM_HEAD + b"".join(lines) + _end(words)


class Upstream:
    """What all connections share: the canned answers, and the one stream that is paced."""

    def __init__(self) -> None:
        self.paced: Conversation | None = None
        self._whole: dict[tuple[int, bool], bytes] = {}
        self.fixed = {
            b"GET /api/tags ": _plain("200 OK", _TAGS),
            b"GET /api/version ": _plain("200 OK", {"version": "0.12.0"}),
            b"GET /api/ps ": _plain("200 OK", {"models": []}),
            b"POST /api/show ": _plain("200 OK", _SHOW),
        }
        self.missing = _plain("404 Not Found", {"error": "not found"})
        self.unmarked = _plain("400 Bad Request", {"error": "no marker in the last message"})
        self.unsized = _plain("411 Length Required", {"error": "content-length is required"})

    def whole(self, words: int, as_stream: bool) -> bytes:
        """The answer to a call whose reply is not measured token by token, made once and kept."""
        key = (words, as_stream)
        if key not in self._whole:
            single = _plain("200 OK", _done(words, WORD * words))
            self._whole[key] = _five_lines(words) if as_stream else single
        return self._whole[key]


class Conversation(asyncio.Protocol):
    """One keep-alive connection; requests are answered one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._needed = 0
        """Length of the whole request, 0 while its head is still incomplete."""
        self._head_end = 0
        self._left = 0
        """Tokens of the running stream that are still to be sent."""
        self._count = 0
        self._paused = False
        self._more_when_resumed = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._left = 0
        if self._upstream.paced is self:
            self._upstream.paced = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._more_when_resumed:
            self._more_when_resumed = False
            self._burst()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._take():
            pass

    def _take(self) -> bool:
        """Answer one request if it is all there; whether one was."""
        buffer = self._buffer
        if not self._needed:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            length = _LENGTH.search(buffer, 0, end + 2)
            if length is None and buffer.startswith(b"POST"):
                self._write(self._upstream.unsized)
                if self._transport is not None:
                    self._transport.close()
                return False
            self._head_end = end
            self._needed = end + 4 + (int(length[1]) if length else 0)
        if len(buffer) < self._needed:
            return False
        request = bytes(buffer[: self._needed])
        del buffer[: self._needed]
        self._needed = 0
        self._answer(request)
        return bool(buffer)

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"POST /api/chat "):
            self._chat(request)
            return
        path = request[: request.find(b" ", request.find(b" ") + 1) + 1]
        self._write(self._upstream.fixed.get(path, self._upstream.missing))

    def _chat(self, request: bytes) -> None:
        # The marker is at the end of the last message: looking from the back spares the long prompts.
        at = request.rfind(b"@bench:")
        marker = _MARKER.match(request, at) if at >= 0 else None
        if marker is None:
            self._write(self._upstream.unmarked)
            return
        mode, self._count = marker[1], int(marker[2])
        match mode:
            case b"whole":
                as_stream = _WHOLE.search(request, self._head_end) is None
                self._write(self._upstream.whole(self._count, as_stream))
            case b"burst":
                self._left = self._count
                self._write(_STREAM_HEAD)
                self._burst()
            case b"paced":
                self._left = self._count
                self._upstream.paced = self
                self._write(_STREAM_HEAD)
                self.next_token()
            case b"first":
                self._write(_STREAM_HEAD + _TOKEN)
                self._left = self._count - 1
                self._loop.call_later(LATER, self._rest)
            case _:
                self._write(self._upstream.unmarked)

    def _burst(self) -> None:
        if self._transport is None:
            return
        now = min(BURST, self._left)
        self._left -= now
        if not self._left:
            self._write(_TOKEN * now + _end(self._count))
            return
        self._write(_TOKEN * now)
        if self._paused:
            self._more_when_resumed = True
        else:
            self._loop.call_soon(self._burst)

    def _rest(self) -> None:
        self._write(_TOKEN * self._left + _end(self._count))
        self._left = 0

    def next_token(self) -> None:
        """Send one more token of the paced stream, and the end after the last."""
        if not self._left:
            return
        self._left -= 1
        if self._left:
            self._write(_TOKEN)
        else:
            self._upstream.paced = None
            self._write(_TOKEN + _end(self._count))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class SideChannel(asyncio.Protocol):
    """Each byte that arrives here means: the client has the last token."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def data_received(self, data: bytes) -> None:
        for _ in data:
            if self._upstream.paced is not None:
                self._upstream.paced.next_token()


async def serve() -> None:
    """Serve on two ephemeral ports until stdin is closed."""
    loop = asyncio.get_running_loop()
    upstream = Upstream()
    main = await loop.create_server(lambda: Conversation(upstream), "127.0.0.1", 0, backlog=512)
    side = await loop.create_server(lambda: SideChannel(upstream), "127.0.0.1", 0)
    ports = {"port": main.sockets[0].getsockname()[1], "side": side.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    ended = asyncio.Event()

    class Stdin(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    await loop.connect_read_pipe(Stdin, sys.stdin)
    await ended.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too: our starter decides
    gc.freeze()
    gc.disable()  # a collection in the middle of a round would be blamed on what is measured
    uvloop.run(serve())
