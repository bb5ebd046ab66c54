"""Start what is measured, look at its memory and processor time, and end it.

The trap: a proxy variable, an `API_KEYS` or an `OLLAMA_URL` in the caller's environment would be measured
too. Children therefore get an environment without them, and a home and working directory of their own, so
no `.env` is found and nothing is written outside of the temporary folder.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from .client import HEADERS, PATHS, Load, Unexpected, Wire, chat_request, connect, get_request

ROOT = Path(__file__).resolve().parents[2]

_FOREIGN = frozenset(
    {
        *("HOST", "PORT", "DEBUG", "LOG_LEVEL", "API_KEYS", "RATE_LIMIT_REQUESTS", "RATE_LIMIT_WINDOW"),
        *("OLLAMA_URL", "DEEPSEEK_URL", "DEEPSEEK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
        *("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"),
    }
)

STREAMING_ADDON = '''"""Relay event streams as they come: without this mitmdump collects them first."""


def responseheaders(flow):
    flow.response.stream = True
'''

RULES = """proxy: {{host: 127.0.0.1, port: 0}}
providers:
  ollama: {{dialect: ollama, urls: ["http://127.0.0.1:{port}"]}}
rules:
  - {{name: local, use: ["ollama/{{model}}"]}}
# This upstream takes all calls at once; what bounds and queues cost is not what is measured here.
defaults: {{admission: {{parallel: 1000}}}}
"""


class NotStarted(Exception):
    """Something that is to be measured did not come up; the message has the end of its own output."""


def cancel_when_ended() -> None:
    """Ctrl-C cancels by itself; being ended or hung up on must not leave processes behind either."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


@dataclass(slots=True)
class Target:
    """One door through which the upstream can be reached."""

    name: str
    wire: Wire
    """Which dialect a client speaks at this door."""
    port: int
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    started_in: float = 0.0
    """Seconds from the start of the process to the first answered chat call."""

    def resident(self) -> float:
        """Resident memory of the process and its children, in MB."""
        pages = sum(int(_proc(pid, "statm").split()[1]) for pid in _family(self._pid()))
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Processor time used so far by the process and its children; in steps of a clock tick."""
        ticks = 0
        for pid in _family(self._pid()):
            fields = _proc(pid, "stat").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _pid(self) -> int:
        if self.process is None:
            raise ValueError(f"{self.name} has no process of its own")
        return self.process.pid


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_proc(int(entry.name), "stat").rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended while we were looking
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


class Machine:
    """All processes of one run. Whatever happens, leaving `machine()` ends every one of them, by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[asyncio.subprocess.Process] = []
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in _FOREIGN and not name.lower().endswith("_proxy") and not name.startswith("OTEL_")
        }
        self.environment |= {
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "LOG_LEVEL": "INFO",
        }

    async def spawn(
        self, *command: str, output: Path | int, stdin: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        """Start a child whose errors go to `output` (a file) or, with `PIPE`, whose stdout can be read."""
        if isinstance(output, int):
            out, close = output, None
        else:
            out = close = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=out,
                stderr=out if close is not None else None,
                cwd=self.folder,
                env=self.environment,
            )
        finally:
            if close is not None:
                os.close(close)
        self._running.append(process)
        return process

    async def end(self, process: asyncio.subprocess.Process) -> None:
        """Ask a child to end, and end it if it does not."""
        if process in self._running:
            self._running.remove(process)
        if process.returncode is not None:
            return
        family = _family(process.pid)[1:]
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 3)
        except TimeoutError:
            process.kill()
            await process.wait()
        for pid in family:
            # A child of a child that outlived it now belongs to nobody, and still has the number we saw.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def end_all(self) -> None:
        """End every child that is left."""
        await asyncio.gather(*(self.end(process) for process in list(self._running)))

    async def upstream(self) -> tuple[Target, int]:
        """The canned upstream and the port of its side channel."""
        pipe = asyncio.subprocess.PIPE
        process = await self.spawn(sys.executable, "-m", "scripts.benchmark.upstream", output=pipe, stdin=pipe)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        if not line:
            raise NotStarted("the upstream did not start; its errors are above")
        ports = json.loads(line)
        return Target("direct", "native", ports["port"], process), ports["side"]

    async def bare(self, upstream: Target, name: str = "bare", streaming: bool = False) -> Target:
        """`mitmdump -q` as it comes, or with the smallest addon that lets streams through."""
        beside = Path(sys.executable).parent / "mitmdump"
        program = str(beside) if beside.exists() else shutil.which("mitmdump")
        if program is None:
            raise NotStarted("mitmdump is neither beside this Python nor on PATH")
        port = _free_port()
        command = [program, "-q", "--mode", f"reverse:http://127.0.0.1:{upstream.port}"]
        command += ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
        if streaming:
            script = self.folder / "pass_through.py"
            script.write_text(STREAMING_ADDON)
            command += ["-s", str(script)]
        return await self._start(Target(name, "native", port), command, "/api/version")

    async def gateway(self, upstream: Target) -> Target:
        """The gateway of this checkout, with the upstream as its only provider."""
        rules = self.folder / "rules.yaml"
        rules.write_text(RULES.format(port=upstream.port))
        port = _free_port()
        command = [sys.executable, "-m", "addons.cli", "run", "--rules", str(rules)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        return await self._start(Target("gateway", "openai", port), command, "/health")

    async def _start(self, target: Target, command: list[str], health: str) -> Target:
        log = self.folder / f"{target.name}-{target.port}.log"
        begun = perf_counter()
        process = target.process = await self.spawn(*command, output=log)
        ask = chat_request(target.wire, "whole", 20)
        complaint = "it never listened"
        while perf_counter() - begun < 20:
            if process.returncode is not None:
                complaint = f"it ended with code {process.returncode}"
                break
            try:
                async with asyncio.timeout(10):
                    connection = await connect(target.port)
                    try:
                        ready = await connection.call(get_request(health))
                        reply = await connection.call(ask, keep=True)
                    finally:
                        connection.close()
            except (OSError, TimeoutError) as error:
                complaint = f"{type(error).__name__}: {error}"
                await asyncio.sleep(0.01)
                continue
            if ready.status == reply.status == 200:
                target.started_in = perf_counter() - begun
                return target
            complaint = f"{health} answered {ready.status}, a chat call {reply.status}: {reply.body[:300]!r}"
            await asyncio.sleep(0.05)
        await self.end(process)
        raise NotStarted(f"{target.name}: {complaint}\n{log.read_text(errors='replace')[-2000:]}".rstrip())

    async def wrk(self, port: int, wire: Wire, body: bytes, connections: int, seconds: int) -> Load:
        """What wrk gets answered; a failed call is a fault of the run."""
        script = self.folder / f"{wire}.lua"
        headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in HEADERS.items())
        # A long bracket: JSON has no ]==] in it.
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = [==[{body.decode()}]==]\n{headers}'
            "function done(summary, latency, requests)\n"
            "  local e = summary.errors\n"
            '  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration,\n'
            "    e.connect + e.read + e.write + e.status + e.timeout))\nend\n"
        )
        url = f"http://127.0.0.1:{port}{PATHS[wire]}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        process = await self.spawn(*command, output=asyncio.subprocess.PIPE)
        try:
            out, _ = await asyncio.wait_for(process.communicate(), seconds + 20)
        finally:
            await self.end(process)
        for line in out.decode().splitlines():
            if line.startswith("RESULT "):
                answered, microseconds, failed = (int(word) for word in line.split()[1:])
                if failed or not answered:
                    raise Unexpected(f"wrk: {failed} of {answered} calls failed")
                return Load(answered, microseconds / 1e6)
        raise Unexpected(f"wrk ended with {process.returncode} and no result")


def _free_port() -> int:
    """A port that was free a moment ago: the proxies take a number but do not tell one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def machine(folder: Path) -> AsyncIterator[Machine]:
    """A `Machine` whose processes do not outlive the block."""
    made = Machine(folder)
    try:
        yield made
    finally:
        # A second Ctrl-C must not stop the tidying up half way.
        await asyncio.shield(made.end_all())
