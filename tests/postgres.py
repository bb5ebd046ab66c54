"""A real PostgreSQL for tests: a server of its own in a temporary folder, on loopback, and nothing of it left behind.

PostgreSQL refuses to run as root, so there it runs as `nobody`, in a folder that is nobody's. `UNIGATE_POSTGRES_BIN`
names the folder of its programs; where it is empty or missing, these tests are not collected.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

BIN = os.environ.get("UNIGATE_POSTGRES_BIN", "")


class Postgres:
    """Runs from `with` to the end of it. `stop()` and `start()` make it go away and come back."""

    def __init__(self) -> None:
        self._bin = Path(BIN)
        self._folder = Path(tempfile.mkdtemp(prefix="unigate-postgres-"))
        self._data = self._folder / "data"
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def __enter__(self) -> Self:
        try:
            self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "unigate", "--no-sync", "-E", "UTF8")
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://unigate@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        name = f"ledger{self._made}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        settings = ("fsync=off", f"unix_socket_directories={self._folder}", "listen_addresses=127.0.0.1")
        options = [word for setting in settings for word in ("-c", setting)]
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        end = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                log_text = (self._folder / "log").read_text()
                assert self._process.poll() is None, f"PostgreSQL ended at once:\n{log_text}"
                assert time.monotonic() < end, f"PostgreSQL did not start:\n{log_text}"
                time.sleep(0.05)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # at once, and its children with it
            process.wait(20)

    def _remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments], capture_output=True, check=False, **self._as_user()
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def _as_user(self) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TZ")}
        said: dict[str, Any] = {"cwd": self._folder, "env": {**kept, "LC_ALL": "C.UTF-8"}}
        if self._user is not None:
            said |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return said
