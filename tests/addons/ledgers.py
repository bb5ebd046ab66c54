"""What the tests of the ledger share: accounts, ledgers that run, and what stands in their tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from addons.account import Account, Tried
from addons.ledger import Ledger
from addons.ledger_store import engine_for
from addons.tables import attempts, calls
from rules.prices import Tokens
from rules.terms import Ledger as Terms
from tests.gateway import Gateway

_NUMBERS = count(1)
TOKENS = Tokens(prompt=100, cached=20, completion=50, reasoning=10)
TRIED = Tried(
    target="ollama/qwen2.5:7b", provider="ollama", model="qwen2.5:7b", started=1.8e9, outcome="ok", tokens=TOKENS,
    estimated=False, cost=0, first_token=0.1, took=0.5, continues=False,
)  # fmt: skip


def account(*, tried: tuple[Tried, ...] = (TRIED,), **fields: Any) -> Account:
    """One call, of now, with a request id of its own."""
    made = Account(
        time=time.time(), request_id=f"req_{next(_NUMBERS):032x}", client="notebook", tags={}, endpoint="/chat/completions",
        operation="chat", model="qwen2.5:7b", rule="local", target="ollama/qwen2.5:7b", status=200, error=None,
        finish_reason="stop", streamed=False, tokens=TOKENS, estimated=False, cost=0, unpriced=False, failed_cost=0,
        compared=None, first_token=0.1, total=0.5, tried=tried,
    )  # fmt: skip
    return made._replace(**fields)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.sqlite'}"


@contextmanager
def running(url: str, wall: Callable[[], float] = time.time, **terms: Any) -> Iterator[Ledger]:
    """A ledger whose thread runs."""
    ledger = Ledger(Terms(url=url, **terms), wall)
    ledger.start()
    try:
        yield ledger
    finally:
        asyncio.run(ledger.stop())


def until(holds: Callable[[], bool], what: str, patience: float = 10.0) -> None:
    """Waits for something that the ledger's thread does; fails the test where it does not."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.01)


def settled(gateway: Gateway) -> None:
    """Waits until no call is under way, and all stand in the ledger."""
    ledger = gateway.state.ledger
    assert ledger is not None
    gateway.until(lambda: not gateway.state.in_flight(), "no call is under way")
    gateway.run(asyncio.sleep(0))  # what concludes a call has come to its end
    gateway.until(lambda: ledger.backlog == 0, "all is written")


def read(url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All calls and all attempts, in the order in which they were written."""
    with engine_for(url, reads=True).connect() as connection:
        found = [
            [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in (calls, attempts)
        ]
    return found[0], found[1]


def how_many(url: str) -> int:
    with engine_for(url, reads=True).connect() as connection:
        return int(connection.execute(select(func.count()).select_from(calls)).scalar_one())
