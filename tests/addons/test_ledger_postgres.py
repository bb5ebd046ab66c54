"""A gateway whose ledger is in PostgreSQL: what it keeps, and what becomes of it when the server goes and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from addons import ledger as module
from addons.ledger_store import engine_for
from tests.addons.ledgers import account, how_many, read, running, settled, until
from tests.gateway import Gateway, quick_rules
from tests.postgres import Postgres
from tests.standins import OllamaStandIn


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as made:
        yield made


def test_calls_of_a_gateway_stand_in_it(server: Postgres) -> None:
    url = server.new_database()
    more = f"ledger: {{url: '{url}'}}"
    with OllamaStandIn(reply=["Hi"]) as ollama, Gateway(quick_rules(ollama=ollama.url, more=more)) as gateway:
        whole, streamed = gateway.chat(), gateway.chat(stream=True)
        settled(gateway)
    found, tried = read(url)
    assert [row["request_id"] for row in found] == [answer.headers["x-request-id"] for answer in (whole, streamed)]
    assert [(row["streamed"], row["status"], row["client"]) for row in found] == [
        (False, 200, "anonymous"), (True, 200, "anonymous"),
    ]  # fmt: skip
    assert [(row["call_id"], row["outcome"]) for row in tried] == [(row["id"], "ok") for row in found]


def test_a_server_that_goes_and_comes_back_loses_nothing(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", (0.1,))
    url = server.new_database()
    with running(url) as ledger:
        ledger.put(account())
        until(lambda: ledger.written == 1, "it is there")
        server.stop()
        for _ in range(50):
            ledger.put(account())
        until(lambda: ledger._failures > 0, "it is noticed")
        assert (ledger.backlog, ledger.lost) == (50, 0)
        server.start()
        until(lambda: ledger.backlog == 0, "it is written", 20)
        assert (ledger.written, ledger.lost) == (51, 0)
    assert how_many(url) == 51


def test_a_connection_that_is_ended_in_the_middle_writes_every_call_once(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF", (0.01,))
    url = server.new_database()
    ends = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'unigate' AND pid <> pg_backend_pid()")  # fmt: skip
    engine = engine_for(url)
    with running(url) as ledger:
        for number in range(3000):
            ledger.put(account())
            if number % 300 == 0:
                with engine.begin() as connection:
                    connection.execute(ends)
        until(lambda: ledger.backlog == 0, "it is written", 20)
        assert (ledger.written, ledger.lost) == (3000, 0)
    assert how_many(url) == 3000


def test_a_password_is_in_no_log(server: Postgres, tmp_path: Path) -> None:
    url = f"postgresql://unigate:hunter22@127.0.0.1:{server.port}/none_of_this_name"
    rules = quick_rules(ollama="http://127.0.0.1:9", more=f"ledger: {{url: '{url}'}}")
    with Gateway(rules) as gateway:
        gateway.chat()
        gateway.until(lambda: "the ledger cannot be written" in gateway.log.getvalue(), "it is said")
    assert "none_of_this_name" in gateway.log.getvalue()
    assert "hunter22" not in gateway.log.getvalue()
