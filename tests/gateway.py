"""A gateway for tests: in a thread of this process (fast, and its parts can be reached), or as a process of its own."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvloop

from addons.logs import set_up_logging
from addons.master import ProxyServer
from addons.state import State
from rules.load import load_rules
from tests.journals import JOURNALS
from wire.profiles import PROFILES

ROOT = Path(__file__).resolve().parent.parent


def patient(**but: str) -> str:
    """`timeouts` for tests in which nothing is to be waited for, `but` for the limits that a test is about.

    On a busy machine everything stands still for a second now and then; a test must not fail of that.
    """
    waits = {"connect": "20s", "first_token": "20s", "idle": "20s", "total": "40s", "keep_alive": "20s"}
    return ", ".join(f"{name}: {limit}" for name, limit in {**waits, **but}.items())


def quick_rules(
    *,
    ollama: str | None = None,
    deepseek: str | None = None,
    key: str = "sk-ds-test",
    timeouts: str | None = None,
    more: str = "",
) -> str:
    """A rules file: every call goes to Ollama first, then to DeepSeek, as far as they exist. Timeouts: patient()."""
    providers, use = [], []
    if ollama is not None:
        providers.append(f"  ollama: {{dialect: ollama, urls: [{ollama}]}}")
        use.append('"ollama/{model}"')
    if deepseek is not None:
        providers.append(f"  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {key}}}")
        use.append("deepseek/deepseek-flash")
    return "\n".join(
        [
            "providers:",
            *providers,
            f"rules: [{{name: test, use: [{', '.join(use)}]}}]",
            "defaults:",
            f"  timeouts: {{{timeouts or patient()}}}",
            "  refresh: 200ms",
            more,
        ]
    )


class Gateway:
    """Serves in a thread from `with` to the end of it. One at a time: mitmproxy keeps its master in a global."""

    def __init__(self, rules: str, environment: Mapping[str, str] | None = None, *, log_form: str = "text") -> None:
        self.rules = load_rules(rules, environment or {}, profiles=PROFILES)
        self.log = io.StringIO()
        self._log_form = log_form
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")
        self.server: ProxyServer

    def __enter__(self) -> Self:
        self._end_of_log = JOURNALS.open("the gateway", self.log.getvalue)
        set_up_logging(level="DEBUG", form=self._log_form, secrets=self.rules.secrets, out=self.log)
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._end_thread()
            raise
        return self

    async def _start(self) -> None:
        self.server = ProxyServer(self.rules, host="127.0.0.1", port=0)
        await self.server.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.run(self.server.stop(drain=0))
            self.run(_end_tasks())
        finally:
            self._end_thread()

    def _end_thread(self) -> None:
        self._end_of_log()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def stand_still(self, seconds: float) -> None:
        """Blocks the gateway's loop for so long, soon. Does not wait for it."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """Calls that begin meanwhile wait for no server longer than that; as after a reload, earlier ones keep theirs."""
        rules = self.state.rules
        limits = rules.defaults.timeouts
        waits = {name: min(getattr(limits, name), seconds) for name in ("connect", "first_token", "idle")}
        defaults = rules.defaults.model_copy(update={"timeouts": limits.model_copy(update=waits)})
        self.state.rules = replace(rules, file=rules.file.model_copy(update={"defaults": defaults}))
        try:
            yield
        finally:
            self.state.rules = rules

    @property
    def state(self) -> State:
        return self.server.state

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "sk-caller") -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=15, trust_env=False, headers={"authorization": f"Bearer {key}"})

    def chat(self, text: str = "hello there", *, model: str = "qwen2.5:7b", **more: object) -> httpx.Response:
        """One whole or streamed call, read to its end."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def until(self, holds: Callable[[], bool], what: str, patience: float = 5.0) -> None:
        """Waits for something that the gateway does in the background; fails the test where it does not."""
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, f"not within {patience} s: {what}\n{self.log.getvalue()}"
            time.sleep(0.01)


async def _end_tasks() -> None:
    """As asyncio.Runner does it. A loop that is closed while transports wait to be told of their end never is."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)


class GatewayProcess:
    """`unigate run` as a process of its own, for signals, memory and the command itself."""

    def __init__(self, rules: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        file = folder / "rules.yaml"
        file.write_text(rules)
        self.log_file = folder / "gateway.log"
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "SSL_CERT_FILE", "LANG")}
        self._environment = {**kept, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._command = [
            sys.executable, "-m", "addons.cli", "run", "--rules", str(file), "--port", "0", *arguments
        ]  # fmt: skip
        self.url = ""
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._end_of_log = JOURNALS.open("the gateway's process", lambda: self.log)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stderr=log, stdout=log)
        try:
            self._await_start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.url = self.log.partition("unigate listens on ")[2].split("/v1")[0]
        return self

    def _await_start(self) -> None:
        end = time.monotonic() + 20
        while "unigate listens on " not in self.log:
            assert self.process.poll() is None, f"the gateway ended at once:\n{self.log}"
            assert time.monotonic() < end, f"the gateway did not start:\n{self.log}"
            time.sleep(0.02)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_of_log()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")  # it may be in the middle of a character
