"""A gateway that is killed in the middle of its work: its ledger is whole, and lacks no more than the last second."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.addons.ledgers import read, sqlite_url, until
from tests.gateway import GatewayProcess, quick_rules
from tests.standins import OllamaStandIn

LEDGER = "ledger: {url: 'sqlite:///ledger.sqlite'}"
BODY = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello"}]}


class Callers:
    """Calls from several threads, until the gateway is gone: when each was answered, and its id."""

    def __init__(self, url: str) -> None:
        self.answered: dict[str, float] = {}
        self._url = url
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=10) as client:
            while True:
                try:
                    answer = client.post("/v1/chat/completions", json=BODY)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    self.answered[answer.headers["x-request-id"]] = time.monotonic()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(20)


@pytest.mark.parametrize("moment", [1.5, 2.11, 2.73])
def test_a_kill_loses_at_most_the_last_second(tmp_path: Path, moment: float) -> None:
    with OllamaStandIn(reply=["Hi"]) as ollama:
        rules = quick_rules(ollama=ollama.url, more=LEDGER)
        with GatewayProcess(rules, tmp_path) as gateway:
            callers = Callers(gateway.url)
            until(lambda: bool(callers.answered), "calls are answered")
            time.sleep(moment)
            gateway.process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            gateway.process.wait(10)
            callers.wait()
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        found, tried = read(sqlite_url(tmp_path))
        there = {row["request_id"] for row in found}
        due = {number for number, when in callers.answered.items() if when < killed - 1}
        assert due
        assert due <= there
        assert {row["call_id"] for row in tried} == {row["id"] for row in found if row["attempts"]}

        # and the next gateway goes on with it
        with GatewayProcess(rules, tmp_path) as gateway:
            httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, trust_env=False)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(20)
        assert len(read(sqlite_url(tmp_path))[0]) == len(found) + 1


def test_an_ordinary_end_loses_nothing(tmp_path: Path) -> None:
    with OllamaStandIn(reply=["Hi"]) as ollama:
        with GatewayProcess(quick_rules(ollama=ollama.url, more=LEDGER), tmp_path) as gateway:
            callers = Callers(gateway.url)
            until(lambda: bool(callers.answered), "calls are answered")
            time.sleep(1)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(20)
            callers.wait()
        found, _ = read(sqlite_url(tmp_path))
        assert callers.answered
        assert set(callers.answered) <= {row["request_id"] for row in found}
