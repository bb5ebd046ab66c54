"""Real servers on loopback that the gateway shares with others, for tests. Where none is installed, the files that need
one are not collected (conftest.py)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

REDIS_SERVER = os.environ.get(
    "UNIGATE_REDIS_SERVER", shutil.which("redis-server") or shutil.which("valkey-server") or ""
)
"""scripts/test says where it is; empty: nowhere."""

# The shell lives as long as its input is open: the server ends with whoever started it, however that one ends.
_UNTIL_WE_END = '"$@" & server=$!; echo $server; read -r _; kill -9 $server; wait $server'


class RedisServer:
    """Runs from `with` to the end of it, keeps nothing on disk, and can be killed and started again on its port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._shell: subprocess.Popen[bytes] | None = None
        self._server = 0

    def start(self) -> None:
        assert REDIS_SERVER, "no redis-server on PATH, and UNIGATE_REDIS_SERVER names none"
        options = {
            "port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "no",
            "logfile": self._folder / "redis.log",
        }  # fmt: skip
        written = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = ["sh", "-c", _UNTIL_WE_END, "sh", REDIS_SERVER, *written, *self._arguments]
        self._shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._shell.stdout is not None
        self._server = int(self._shell.stdout.readline())
        end = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"no Redis server on port {self.port}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(1))  # also where it asks for a password first
        except OSError:
            return False

    def kill(self) -> None:
        """As `kill -9` does; all that it knew is lost."""
        if self._shell is not None:
            shell, self._shell = self._shell, None
            shell.communicate(timeout=10)

    def freeze(self) -> None:
        """It takes connections, and answers none."""
        os.kill(self._server, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server, signal.SIGCONT)

    def client(self, password: str | None = None) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, password=password)

    def empty(self, password: str | None = None) -> None:
        """Holds nothing any more, and has counted no commands."""
        with self.client(password) as client:
            client.flushall()
            client.config_resetstat()

    def calls(self, command: str, password: str | None = None) -> int:
        """How often a command came since the start."""
        with self.client(password) as client:
            stats: dict[str, Any] = client.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


@asynccontextmanager
async def behind_tls(port: int, certificate: Path) -> AsyncIterator[int]:
    """The port of a server that speaks TLS, and passes on what it hears to another one of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield int(server.sockets[0].getsockname()[1])
