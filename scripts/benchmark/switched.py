"""A gateway whose ledger can be switched off and on while it serves.

The trap: two processes of the same program differ by more than a ledger costs, for as long as they live. So one
process is measured, as it is with a ledger and as it is without.

Run as a module with a rules file it prints `{"port": …}` on stdout. Each line on stdin is a command, `on`, `off` or
`look`, and is answered with a line: {"asked": calls answered while it was on, "written": rows, "waiting": calls that
are not in the ledger yet, or not over, "cpu": seconds}. It ends when its stdin is closed, so it cannot outlive the
process that started it.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from time import process_time

import uvloop

from addons.account import Account
from addons.logs import set_up_logging
from addons.master import ProxyServer
from addons.settings import read_rules
from rules.snapshot import Rules


class Switched:
    """The gateway, and what its ledger was told."""

    def __init__(self, gateway: ProxyServer) -> None:
        self._state = gateway.state
        if self._state.ledger is None:
            raise ValueError("the rules have no ledger")
        self._ledger = self._state.ledger
        self._asked = 0

    def command(self, word: str) -> dict[str, float]:
        watchers = self._state.watchers
        if word in ("on", "off"):
            watchers[:] = [tell for tell in watchers if tell not in (self._ledger.put, self._count)]
        if word == "on":
            watchers += [self._ledger.put, self._count]
        return {
            "asked": self._asked,
            "written": self._ledger.written,
            "waiting": self._ledger.backlog + len(self._state.in_flight()),
            "cpu": process_time(),
        }

    def _count(self, _account: Account) -> None:
        self._asked += 1


async def serve(file: Path) -> None:
    """Serves on a port of its own until stdin is closed."""
    rules, _ = read_rules(file, {})
    with file.with_suffix(".log").open("w") as log:
        set_up_logging(level="INFO", form="", secrets=(), out=log)
        await _serve(rules)


async def _serve(rules: Rules) -> None:
    gateway = ProxyServer(rules, host="127.0.0.1", port=0)
    await gateway.start()
    switched = Switched(gateway)
    switched.command("off")
    print(json.dumps({"port": gateway.port}), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        print(json.dumps(switched.command(line.decode().strip())), flush=True)
    await gateway.stop(drain=0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too: our starter decides
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1])))
