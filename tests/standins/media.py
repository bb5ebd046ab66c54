"""A server of sound and images that speaks as OpenAI does, reads as slowly as it is told, and breaks where it is told.

It is written on blocking sockets, a thread for each connection, because what is tested here is what happens while a
body is half sent: the other stand-ins read whatever comes at once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

SOUND = b"ID3\x04\x00" + bytes(range(256)) * 400
"""A hundred KB that no text codec could carry."""
PICTURE = base64.b64encode(b"\x89PNG\r\n" + bytes(range(256)) * 40).decode()
USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
_PIECE = 64 * 1024


@dataclass(frozen=True)
class Slowly:
    """Read the body in pieces of 64 KiB with a pause after each, and answer."""

    pause: float


@dataclass(frozen=True)
class RefuseAt:
    """Answer with an error after so many bytes of the body; then read on, or close at once."""

    at: int
    status: int = 413
    reads_on: bool = True


@dataclass(frozen=True)
class ResetAt:
    """Reset the connection after so many bytes of the body."""

    at: int


@dataclass(frozen=True)
class StallAt:
    """Read no further after so many bytes of the body."""

    at: int
    seconds: float = 10.0


@dataclass(frozen=True)
class AnswerAt:
    """Answer in good form after so many bytes of the body, and read no further."""

    at: int
    seconds: float = 10.0
    pause: float = 0.0
    """Seconds before the answer's head, and before its body."""


@dataclass(frozen=True)
class CutAt:
    """End the connection after so many bytes of the answer's body, by a reset or without a word."""

    at: int
    reset: bool = False


@dataclass(frozen=True)
class HushAt:
    """Say nothing more after so many bytes of the answer's body."""

    at: int
    seconds: float = 10.0


@dataclass(frozen=True)
class Reply:
    """This answer, whatever was asked."""

    body: bytes
    kind: str = "application/json"
    status: int = 200
    after: float = 0.0
    """Seconds of silence before it."""


Plan = Slowly | RefuseAt | ResetAt | StallAt | AnswerAt | CutAt | HushAt | Reply


@dataclass
class SeenUpload:
    """One call as far as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = False
    fields: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def digest(self, name: str = "file") -> str:
        """Of a file of the form."""
        return hashlib.sha256(self.fields[name][0]).hexdigest()


class _Gone(Exception):
    """The caller left."""


class MediaStandIn:
    """Transcribes, speaks and paints. A queue of plans makes the next calls go otherwise."""

    def __init__(self) -> None:
        self.seen: list[SeenUpload] = []
        self.plans: deque[Plan] = deque()
        self.connections = 0
        self._listener = socket.socket()
        # A small window, so that what this server has not read is the sender's business.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ends = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ends.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in [*self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(_Gone, OSError):
            reader = connection.makefile("rb")
            while self._one_call(connection, reader):
                pass
        self._open.discard(connection)

    # -- one call

    def _one_call(self, connection: socket.socket, reader: Any) -> bool:
        first = reader.readline().decode()
        if not first:
            return False
        method, path, _ = first.split(" ")
        headers: dict[str, str] = {}
        while (line := reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if method == "GET":
            self._send(connection, 200, "application/json", [b'{"object":"list","data":[]}'])
            return True
        seen = SeenUpload(path, headers)
        self.seen.append(seen)
        plan = self.plans.popleft() if self.plans else None
        if not self._read_body(connection, reader, seen, plan):
            return False
        self._look_into(seen)
        return self._answer(connection, seen, plan)

    def _read_body(self, connection: socket.socket, reader: Any, seen: SeenUpload, plan: Plan | None) -> bool:
        """True where the body is here, or an answer is wanted without it."""
        length = int(seen.headers["content-length"])
        at = plan.at if isinstance(plan, RefuseAt | ResetAt | StallAt | AnswerAt) else length
        pieces: list[bytes] = []
        for piece in self._pieces(reader, min(at, length)):
            pieces.append(piece)
            if isinstance(plan, Slowly):
                time.sleep(plan.pause)
        seen.body = b"".join(pieces)
        seen.whole = len(seen.body) == length
        match plan:
            case ResetAt():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case StallAt(seconds=seconds):
                self._ends.wait(seconds)
                return False
            case RefuseAt(status=status, reads_on=reads_on):
                error = {"error": {"message": "Maximum content size limit exceeded", "type": "server_error"}}
                self._send(connection, status, "application/json", [json.dumps(error).encode()], chunked=False)
                if reads_on:
                    for _ in self._pieces(reader, length - len(seen.body)):
                        pass
                return False
            case AnswerAt(seconds=seconds, pause=pause):
                body = b'{"text":"early"}'
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                self._ends.wait(pause)
                connection.sendall(head.encode() + (b"" if pause else body))
                if pause:
                    self._ends.wait(pause)
                    connection.sendall(body)
                self._ends.wait(seconds)
                return False
        return True

    @staticmethod
    def _pieces(reader: Any, size: int) -> Iterator[bytes]:
        while size:
            piece = reader.read(min(_PIECE, size))
            if not piece:
                raise _Gone
            size -= len(piece)
            yield piece

    @staticmethod
    def _look_into(seen: SeenUpload) -> None:
        """The parts of a form, cut at its boundary."""
        boundary = re.search('boundary="?([^";]+)', seen.headers.get("content-type", ""))
        if boundary is None:
            return
        mark = b"\r\n--" + boundary[1].encode()
        for part in (b"\r\n" + seen.body).split(mark)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]*)"', head)
            assert name is not None
            seen.fields.setdefault(name[1].decode(), []).append(content)

    # -- answers

    def _answer(self, connection: socket.socket, seen: SeenUpload, plan: Plan | None) -> bool:
        if isinstance(plan, Reply):
            self._ends.wait(plan.after)
            self._send(connection, plan.status, plan.kind, [plan.body], chunked=False)
            return True
        kind, pieces = self._said(seen)
        if isinstance(plan, CutAt | HushAt):
            self._send_some(connection, kind, b"".join(pieces)[: plan.at])
            if isinstance(plan, HushAt):
                self._ends.wait(plan.seconds)
            elif plan.reset:
                time.sleep(0.05)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        self._send(connection, 200, kind, pieces)
        return True

    def _said(self, seen: SeenUpload) -> tuple[str, list[bytes]]:
        """(content type, pieces of the body)"""
        asked = {
            name: values[0].decode() for name, values in seen.fields.items() if not name.startswith(("file", "im"))
        }
        if not seen.fields:
            asked = seen.json
        match seen.path.rpartition("/")[2]:
            case "speech" if asked.get("stream_format") == "sse":
                audio = base64.b64encode(SOUND).decode()
                return _events(
                    {"type": "speech.audio.delta", "audio": audio}, {"type": "speech.audio.done", "usage": USAGE}
                )
            case "speech":
                return "audio/mpeg", [SOUND[at : at + 7001] for at in range(0, len(SOUND), 7001)]
            case "transcriptions" | "translations" if asked.get("stream") == "true":
                return _events(
                    {"type": "transcript.text.delta", "delta": "Heard "},
                    {"type": "transcript.text.delta", "delta": "well."},
                    {"type": "transcript.text.done", "text": "Heard well.", "usage": USAGE},
                )
            case "transcriptions" | "translations" if asked.get("response_format") == "vtt":
                return "text/vtt", [b"WEBVTT\n\n00:00.000 --> 00:01.000\nHeard well.\n"]
            case "transcriptions" | "translations":
                return "application/json", [json.dumps({"text": "Heard well.", "usage": USAGE}).encode()]
            case _ if asked.get("stream") in (True, "true"):
                return _events(
                    {"type": "image_generation.partial_image", "b64_json": PICTURE, "partial_image_index": 0},
                    {"type": "image_generation.completed", "b64_json": PICTURE, "usage": USAGE},
                )
            case _:
                whole = json.dumps({"created": 1, "data": [{"b64_json": PICTURE}], "usage": USAGE}).encode()
                return "application/json", [whole[:1000], whole[1000:]]

    @staticmethod
    def _send(connection: socket.socket, status: int, kind: str, pieces: list[bytes], *, chunked: bool = True) -> None:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {sum(map(len, pieces))}"
        connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode())
        for piece in pieces:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.sendall(b"0\r\n\r\n")

    @staticmethod
    def _send_some(connection: socket.socket, kind: str, data: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        connection.sendall(head + (b"%x\r\n%b\r\n" % (len(data), data) if data else b""))


def _events(*values: dict[str, Any]) -> tuple[str, list[bytes]]:
    return "text/event-stream", [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
