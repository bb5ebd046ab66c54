"""The laws of the ledger's database, in SQLite and, where there is one, in PostgreSQL."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from addons.account import Account
from addons.ledger import BATCH, Ledger
from addons.ledger_faults import LedgerAway, Refused
from addons.ledger_rows import Ids, written
from addons.ledger_store import LedgerStore, engine_for
from tests.addons.ledgers import TRIED, account, how_many, read, running, sqlite_url, until
from tests.gateway import ROOT

type NewUrl = Callable[[], str]


@pytest.fixture
def url(new_url: NewUrl) -> str:
    return new_url()


def put_all(ledger: Ledger, accounts: list[Account]) -> None:
    for one in accounts:
        ledger.put(one)
    until(lambda: ledger.backlog == 0, "all is written")


def test_what_is_put_is_written_soon_and_in_order(url: str) -> None:
    made = [account(model=f"m{number}", tried=(TRIED,) * (number % 3)) for number in range(50)]
    with running(url) as ledger:
        put_all(ledger, made)
        found, tried = read(url)
        assert [row["request_id"] for row in found] == [one.request_id for one in made]
        assert [row["attempts"] for row in found] == [number % 3 for number in range(50)]
        ids = {row["id"]: row["attempts"] for row in found}
        assert {number: sum(row["call_id"] == number for row in tried) for number in ids} == ids
        assert (ledger.written, ledger.lost) == (50, 0)


def test_the_end_writes_what_was_put(url: str) -> None:
    with running(url) as ledger:
        for _ in range(3 * BATCH + 7):
            ledger.put(account())
    assert how_many(url) == ledger.written == 3 * BATCH + 7


def test_two_processes_may_keep_the_same_ledger(url: str) -> None:
    with running(url) as one, running(url) as other:
        threads = [
            threading.Thread(target=put_all, args=(ledger, [account() for _ in range(700)])) for ledger in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.written == other.written == 700
    assert how_many(url) == 1400


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(lambda one: one._replace(cost=2**63), id="a number too large"),
        pytest.param(lambda one: one._replace(time="yesterday", total="long"), id="no time at all"),
        pytest.param(lambda one: one._replace(rule=None, endpoint=None), id="a value that is missing"),
        pytest.param(lambda one: one._replace(rule="\ud800"), id="a text that is none"),
    ],
)
def test_a_row_that_cannot_be_written_keeps_no_other_from_it(url: str, poison: Callable[[Account], Account]) -> None:
    made = [account() for _ in range(40)]
    for place in (0, 17, 39):
        made[place] = poison(made[place])
    good = {one.request_id for place, one in enumerate(made) if place not in (0, 17, 39)}
    with running(url) as ledger:
        put_all(ledger, made)
        assert {row["request_id"] for row in read(url)[0]} == good
        assert (ledger.written, ledger.lost) == (37, 3)
        put_all(ledger, [account()])
    assert how_many(url) == 38


@pytest.mark.parametrize(
    "name", ["zero\0character", "half a pair \ud83d", "'; DROP TABLE calls; --", "\U0001f600", "%s ? :x"]
)
def test_any_text_can_be_kept(url: str, name: str) -> None:
    store = LedgerStore(url)
    store.write([written(account(model=name, error=name, prompt=name), Ids(1), time.time())])
    store.close()
    (call,), _ = read(url)
    mended = name.replace("\0", "\ufffd").replace("\ud83d", "?")
    assert (call["model"], call["error"], call["prompt"]) == (mended, mended, mended)


def test_a_batch_of_which_nobody_knows_whether_it_was_written_is_written_once(url: str) -> None:
    store, ids = LedgerStore(url), Ids(1)
    batch = [written(account(), ids, time.time()) for _ in range(3)]
    store.write(batch, again=True)
    store.write(batch, again=True)
    assert how_many(url) == 3
    with pytest.raises(Refused):
        store.write(batch)
    store.close()


def test_numbers_of_rows_grow_and_are_of_one_process_alone() -> None:
    one, other = Ids(3), Ids(4)
    given = [ids.next(moment) for moment in (1.8e9, 1.8e9, 1.7e9, 1.8e9 + 1) for ids in (one, other)]
    assert len(set(given)) == 8
    assert given[::2] == sorted(given[::2])
    assert max(Ids(2**32).next(3.6e9), *given) < 2**63


# -- keeping it small


def test_what_is_too_old_goes_with_its_attempts_and_the_oldest_first(url: str) -> None:
    now = time.time()
    made = [account(time=now - age * 86400) for age in (9, 1, 8, 2, 7, 3)]
    with running(url, keep="5d") as ledger:
        put_all(ledger, made)
        until(lambda: ledger._check_at > 0, "it was looked for what is too old")
        ledger._check_at = 0.0
        ledger.put(account(time=now))
        until(lambda: how_many(url) == 4, "what is too old is gone")
        found, tried = read(url)
        assert {row["request_id"] for row in found[:-1]} == {made[number].request_id for number in (1, 3, 5)}
        assert {row["call_id"] for row in tried} == {row["id"] for row in found}


def test_many_old_calls_go_in_steps_between_which_is_written(url: str) -> None:
    store, ids = LedgerStore(url), Ids(1)
    store.write([written(account(time=time.time() - 1000), ids, time.time()) for _ in range(3000)])
    store.write([written(account(), ids, time.time())])
    steps = [store.expire(time.time() - 500)]
    left = how_many(url)
    assert steps[0]
    assert 2001 <= left < 3001
    while store.expire(time.time() - 500):
        steps.append(True)
        assert len(steps) < 200
    assert how_many(url) == 1
    store.close()


def test_what_is_too_much_goes_the_oldest_first_and_never_all_of_it(url: str) -> None:
    store, ids, now = LedgerStore(url), Ids(1), time.time()
    for start in range(0, 4000, 1000):
        store.write([written(account(time=now + start + more), ids, now) for more in range(1000)])
    assert not store.shrink(2**30)
    assert how_many(url) == 4000
    bound = 4000 * 180
    for _ in range(200):
        if not store.shrink(bound):
            break
    left, _ = read(url)
    assert 1000 < len(left) < 3500
    assert [row["time"] for row in left] == [now + number for number in range(4000 - len(left), 4000)]
    assert not store.shrink(bound)  # it is enough, also to the database
    assert how_many(url) == len(left)
    store.close()


def test_a_sqlite_file_shrinks_when_rows_go(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    store, ids = LedgerStore(url), Ids(1)
    for _ in range(3):
        store.write([written(account(time=1.0, prompt="x" * 2000), ids, time.time()) for _ in range(1000)])
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        while store.expire(time.time()):
            pass
        for _ in range(20):
            store.write([written(account(time=1.0), ids, time.time())])
            store.expire(time.time())
        assert connection.execute("PRAGMA page_count").fetchone()[0] < pages / 2
    store.close()


# -- versions


def test_a_ledger_of_a_later_version_is_left_alone(url: str) -> None:
    LedgerStore(url).open()
    execute(url, "UPDATE ledger_version SET version = 99")
    with pytest.raises(LedgerAway, match="made by a later unigate: its tables are of version 99, and 2 is known"):
        LedgerStore(url).open()


def test_a_ledger_of_a_version_that_never_was_is_left_alone(url: str) -> None:
    LedgerStore(url).open()
    execute(url, "UPDATE ledger_version SET version = 0")
    with pytest.raises(
        LedgerAway,
        match=r"its tables are of an earlier unigate \(version 0, here 2\) and cannot be brought up to date: move it",
    ):
        LedgerStore(url).open()


def test_a_database_of_something_else_is_left_alone(url: str) -> None:
    execute(url, "CREATE TABLE calls (number TEXT)")
    with pytest.raises(LedgerAway, match="it has a table 'calls' that is no ledger's"):
        LedgerStore(url).open()


def execute(url: str, statement: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_a_new_file_is_for_its_owner_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    for name in ("new", "known"):
        file = tmp_path / name
        if name == "known":
            file.touch(0o640)
            file.chmod(0o640)
        store = LedgerStore(f"sqlite:///{file}")
        store.open()
        store.close()
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if name == "new" else 0o640)


def test_without_a_ledger_what_writes_one_is_not_even_loaded() -> None:
    code = "import sys, addons.gateway; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
