"""Ways to a gateway that no HTTP library takes: raw bytes on a socket, and the stock tools as processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loguru import logger

from tests.journals import JOURNALS

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx clients that speak plain HTTP: without it each loads a list of authorities, which takes longer than a call."""
ERROR_KEYS = {"message", "type", "param", "code"}


async def until(holds: Callable[[], bool], patience: float = 5.0) -> None:
    """Waits, in a loop of the test's own, for something that goes on in the background."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@contextmanager
def logging_restored() -> Iterator[None]:
    """For tests that set up logging in their own process."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    level, handlers = root.level, [*root.handlers]
    try:
        yield
    finally:
        logger.remove()
        logging.setLogRecordFactory(factory)
        root.setLevel(level)
        root.handlers[:] = handlers


@dataclass(frozen=True)
class Reply:
    """One answer, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; fails where it is not exactly one."""
        found = json.loads(self.body)
        assert set(found) == {"error"}
        assert set(found["error"]) == ERROR_KEYS
        return dict(found["error"])


class Door:
    """One client connection, spoken to in bytes."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, line: str | bytes, *headers: str | bytes, body: bytes = b"") -> Reply:
        """Sends one request; `line` is its first line without the version."""
        self.send(request(line, *headers, body=body))
        return self.reply(bodiless=line[:4] in ("HEAD", b"HEAD"))

    def reply(self, bodiless: bool = False) -> Reply:
        """Reads one answer that has its length."""
        first = self._file.readline()
        assert first.startswith(b"HTTP/1.1 "), first
        headers = {}
        while (row := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = row.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = b"" if bodiless else self._file.read(int(headers["content-length"]))
        return Reply(int(first.split()[1]), headers, body)

    @property
    def closed(self) -> bool:
        """Whether the other side has closed, after what was read."""
        return self._file.read(1) == b""


def request(line: str | bytes, *headers: str | bytes, body: bytes = b"") -> bytes:
    rows = [_bytes(line) + b" HTTP/1.1", b"Host: gateway", *(_bytes(header) for header in headers)]
    if body:
        rows.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*rows, b"", b""]) + body


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def environment(**more: str) -> dict[str, str]:
    """What a child process gets: nothing of ours but the way to find programs, and no PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE")}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def unigate(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "addons.cli", *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), COLUMNS="100", **more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Child:
    """A process that serves until it is ended; its output is in a file."""

    def __init__(self, folder: Path, command: list[str], ready: str, **more: str) -> None:
        self._folder = folder
        self._command = command
        self._ready = re.compile(ready)
        self._environment = environment(**more)
        self._output = folder / "output.log"
        self.process: subprocess.Popen[bytes]
        self.found: re.Match[str]
        """Where the output said that it is ready."""

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def __enter__(self) -> Self:
        self._end_of_log = JOURNALS.open(" ".join(self._command[:3]), lambda: self.output)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=output, stderr=output
            )
        try:
            self.found = self.until(self._ready)
        except BaseException:
            self._end()
            raise
        return self

    def until(self, said: re.Pattern[str], patience: float = 25.0) -> re.Match[str]:
        end = time.monotonic() + patience
        while (found := said.search(self.output)) is None:
            assert self.process.poll() is None, f"it ended at once:\n{self.output}"
            assert time.monotonic() < end, f"it never said {said.pattern!r}:\n{self.output}"
            time.sleep(0.02)
        return found

    def stop(self) -> int:
        """Asks it to end, and tells its exit code."""
        self.process.terminate()
        return self.process.wait(15)

    def _end(self) -> None:
        self._end_of_log()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()


class StockTool(Child):
    """mitmdump or mitmweb with the gateway as its script, in a folder that is not the project's."""

    def __init__(self, tool: str, folder: Path, rules: str, *arguments: str, **more: str) -> None:
        (folder / "rules.yaml").write_text(rules)
        script = str(ROOT / "addons" / "gateway.py")
        command = [
            *(str(BIN / tool), "-s", script, "--mode", "reverse:http://127.0.0.1:9", "--listen-port", "0"),
            *("--set", f"confdir={folder / 'conf'}", *arguments),
        ]
        super().__init__(folder, command, r"listening at 127\.0\.0\.1:(\d+)\.", **more)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.found[1]}"

    @property
    def port(self) -> int:
        return int(self.found[1])
