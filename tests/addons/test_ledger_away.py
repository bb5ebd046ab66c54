"""The ledger's database is away: calls wait, are written when it is back, and what is lost is counted and said."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from loguru import logger
from pydantic import ByteSize

from addons import ledger as module
from addons.account import Account
from addons.ledger import BATCH, BOUND, TEXTS, Ledger
from addons.ledger_faults import LedgerAway
from addons.ledger_store import LedgerStore
from rules.terms import Ledger as Terms
from tests.addons.ledgers import account, how_many, read, running, sqlite_url, until
from tests.gateway import ROOT


@pytest.fixture
def log() -> Iterator[StringIO]:
    out = StringIO()
    number = logger.add(out, level="DEBUG", format="{level} {message}")
    yield out
    logger.remove(number)


def warnings(log: StringIO) -> list[str]:
    return [line.removeprefix("WARNING ") for line in log.getvalue().splitlines() if line.startswith("WARNING ")]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon."""
    monkeypatch.setattr(module, "BACKOFF", (0.05,))


def test_a_file_that_another_program_locks_for_a_while(tmp_path: Path, log: StringIO) -> None:
    url = sqlite_url(tmp_path)
    with running(url) as ledger:
        ledger.put(account())
        until(lambda: ledger.written == 1, "it is there")
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(30):
                ledger.put(account())
            until(lambda: bool(warnings(log)), "it is said")
            assert ledger.backlog == 30
            other.execute("COMMIT")
        until(lambda: ledger.backlog == 0, "it is written")
        assert (ledger.written, ledger.lost, how_many(url)) == (31, 0, 31)
    said = warnings(log)
    assert len(said) == 2
    assert "cannot be written" in said[0]
    assert "locked" in said[0]
    assert said[1] == "the ledger is written again; 0 call(s) were lost"


@pytest.mark.usefixtures("hasty")
def test_a_folder_that_is_not_there_yet(tmp_path: Path, log: StringIO) -> None:
    folder = tmp_path / "later"
    with running(sqlite_url(folder)) as ledger:
        ledger.put(account())
        until(lambda: bool(warnings(log)), "it is said")
        time.sleep(0.3)
        assert (ledger.backlog, ledger.written, ledger.away) == (1, 0, True)
        folder.mkdir()
        until(lambda: ledger.written == 1, "it is written")
        until(lambda: not ledger.away, "it is known")
    assert f"calls wait: the folder {folder} does not exist; make it, or" in warnings(log)[0]
    assert len(warnings(log)) == 2


@pytest.mark.usefixtures("hasty")
def test_a_folder_that_is_removed_while_it_is_written_to(tmp_path: Path, log: StringIO) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    url = sqlite_url(folder)
    with running(url) as ledger:
        ledger.put(account())
        until(lambda: ledger.written == 1, "it is written")
        shutil.rmtree(folder)
        made = account()
        ledger.put(made)
        until(lambda: bool(warnings(log)), "it is noticed")
        assert ledger.backlog == 1
        folder.mkdir()
        until(lambda: ledger.backlog == 0, "it is written to a new file")
    assert [row["request_id"] for row in read(url)[0]] == [made.request_id]


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_moved_away_while_it_is_written_to(tmp_path: Path, log: StringIO) -> None:
    url, file = sqlite_url(tmp_path), tmp_path / "ledger.sqlite"
    with running(url) as ledger:
        ledger.put(account())
        until(lambda: ledger.written == 1, "it is written")
        for beside in tmp_path.iterdir():
            beside.rename(beside.with_name(f"old-{beside.name}"))
        ledger.put(account())
        until(lambda: ledger.written == 2, "it is written to a new file")
        ledger.put(account())
        until(lambda: ledger.written == 3, "it is written there too")
    assert how_many(url) == 2
    assert warnings(log) == [
        f"the ledger's file was moved, removed or replaced; from now on calls are kept in the one at {file}"
    ]


@pytest.mark.usefixtures("hasty")
def test_a_file_that_is_no_database(tmp_path: Path, log: StringIO) -> None:
    file = tmp_path / "ledger.sqlite"
    file.write_text("a shopping list\n" * 100)
    with running(sqlite_url(tmp_path)) as ledger:
        ledger.put(account())
        until(lambda: bool(warnings(log)), "it is said")
        assert "is not a SQLite file; take it away" in warnings(log)[0]
        assert str(file) in warnings(log)[0]
        assert file.read_text() == "a shopping list\n" * 100
        file.unlink()
        until(lambda: ledger.written == 1, "it is written to a new file")


@pytest.mark.usefixtures("hasty")
def test_a_disk_that_is_full(tmp_path: Path, log: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path)
    opened = LedgerStore._opened

    def bounded(self: LedgerStore) -> object:
        connection = opened(self)
        connection.connection.cursor().execute(f"PRAGMA max_page_count = {pages}")
        return connection

    pages = 60
    monkeypatch.setattr(LedgerStore, "_opened", bounded)
    with running(url) as ledger:
        for _ in range(2 * BATCH):
            ledger.put(account())
        until(lambda: bool(warnings(log)), "it is said")
        assert "database or disk is full" in warnings(log)[0]
        assert ledger.backlog > 0
        pages = 10**6
        until(lambda: ledger.backlog == 0, "there is room again")
        assert (how_many(url), ledger.lost) == (2 * BATCH, 0)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system itself refuses, in a process whose files may not be larger than 200 kB."""
    program = f"""
import asyncio, resource, signal, sys
from addons.ledger import Ledger
from rules.terms import Ledger as Terms
from tests.addons.ledgers import account, until
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Terms(url={sqlite_url(tmp_path)!r}))
ledger.start()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for _ in range(2000):
    ledger.put(account())
until(lambda: ledger._failures > 0, "it is full")
assert ledger.backlog > 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
until(lambda: ledger.backlog == 0, "there is room again")
asyncio.run(ledger.stop())
assert (ledger.written, ledger.lost) == (2000, 0), (ledger.written, ledger.lost)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert how_many(sqlite_url(tmp_path)) == 2000
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    LedgerStore(url).open()
    store = LedgerStore(f"sqlite:///file:{tmp_path / 'ledger.sqlite'}?mode=ro&uri=true")
    with pytest.raises(LedgerAway, match="readonly database"):
        store.open()


def test_when_too_many_wait_the_oldest_go_and_are_counted(tmp_path: Path, log: StringIO) -> None:
    url = sqlite_url(tmp_path)
    ledger = Ledger(Terms(url=url))  # its thread does not run yet
    made = [account(tried=()) for _ in range(BOUND + 5)]
    for one in made:
        ledger.put(one)
    assert (ledger.backlog, ledger.lost, ledger.written) == (BOUND, 5, 0)
    ledger.start()
    until(lambda: ledger.backlog == 0, "all that waited is written", 30)
    asyncio.run(ledger.stop())
    assert [row["request_id"] for row in read(url)[0]] == [one.request_id for one in made[5:]]


def test_of_calls_with_long_texts_fewer_wait_and_all_are_written(tmp_path: Path) -> None:
    bound = TEXTS // (2 * 1024**2)
    folder = tmp_path / "later"
    ledger = Ledger(Terms(url=sqlite_url(folder), content=ByteSize(1024**2)))
    for number in range(bound + 3):
        ledger.put(account(prompt=str(number)))
    assert (ledger.backlog, ledger.lost) == (bound, 3)
    folder.mkdir()
    ledger.start()
    until(lambda: ledger.written == bound, "all of them are written", 2)
    asyncio.run(ledger.stop())
    assert [row["prompt"] for row in read(sqlite_url(folder))[0]] == [str(number) for number in range(3, bound + 3)]


def test_where_old_calls_cannot_be_deleted_new_ones_are_written_without_a_pause(
    tmp_path: Path, log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def broken(_store: LedgerStore, before: float) -> bool:
        tried.append(before)
        raise LedgerAway("canceling statement due to statement timeout")

    monkeypatch.setattr(LedgerStore, "expire", broken)
    with running(sqlite_url(tmp_path)) as ledger:
        for number in range(1, 4):
            ledger.put(account())
            until(lambda number=number: ledger.written == number, "it is written", 2)  # type: ignore[misc]
            time.sleep(0.3)
        assert (len(tried), ledger._failures) == (1, 0)
    assert warnings(log) == ["the ledger cannot delete old calls: canceling statement due to statement timeout"]


def test_the_end_gives_up_after_a_few_seconds_and_says_what_is_lost(
    tmp_path: Path, log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST", 0.5)
    with running(sqlite_url(tmp_path / "nowhere")) as ledger:
        for _ in range(7):
            ledger.put(account())
        until(lambda: bool(warnings(log)), "it is away")
        begun = time.monotonic()
        asyncio.run(ledger.stop())
        assert time.monotonic() - begun < 2
    assert warnings(log)[1].startswith("the ledger lost the last 7 call(s): the folder ")
    until(lambda: not ledger._thread.is_alive(), "its thread ends")


def test_putting_costs_a_call_next_to_nothing(tmp_path: Path) -> None:
    ledger = Ledger(Terms(url=sqlite_url(tmp_path)))
    made = account()
    # Its rows are made there, six or seven microseconds' work; on a busy machine three times as much.
    work = min(_time_of(ledger, made, 2000, time.thread_time) for _ in range(5))
    assert work < 30e-6, f"{work * 1e6:.2f} us"
    # Nor does it wait for anything: of a hundred at a time, some were not interrupted.
    took = min(_time_of(ledger, made, 100, time.perf_counter) for _ in range(50))
    assert took < 30e-6, f"{took * 1e6:.2f} us"


def _time_of(ledger: Ledger, made: Account, calls: int, clock: Callable[[], float]) -> float:
    begun = clock()
    for _ in range(calls):
        ledger.put(made)
    return (clock() - begun) / calls
