"""The ledger's database: SQLite or PostgreSQL. Everything here blocks, and belongs to the ledger's own thread.

SQLite writes ahead (WAL) with synchronous=NORMAL: the end of a process, however sudden, loses nothing that was
committed; the loss of power may lose the last commits, and never harms the file. Several processes may write one file,
each waiting for the others' turn.

The trap of bounding PostgreSQL by size: its tables do not shrink when rows go, so whoever deletes until they are small
deletes everything. There the size of what is left is told from the number of rows.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from addons.ledger_faults import LedgerAway, Refused
from addons.ledger_file import BUSY, VERSION, why_unusable
from addons.ledger_rows import Row, Written
from addons.tables import attempts, calls, metadata

_MIGRATIONS: dict[int, tuple[str, ...]] = {}
"""version -> the statements that make the tables of the next one out of its tables. Each VERSION adds its own."""
versions = Table(
    "ledger_version",
    metadata,
    Column("version", Integer, nullable=False),
    Column("name", Text),  # made up; gateways that have the same one share a ledger
)

STEP = 1000
"""Calls that are deleted in one transaction, at most."""
SLICE = 0.04
"""Seconds that a transaction which deletes may take: writing waits for it."""
_VACUUM_PAGES = 256
_OF_A_ROW = 100
"""Bytes that PostgreSQL adds to a row, with its entries in the indexes; more or less."""
_FREED = 0.98
"""How full the ledger is after it was too full: not for every new row is an old one looked for."""


def engine_for(url: str | URL, *, reads: bool = False) -> Engine:
    """An engine that opens a connection for each use, without waiting for ever; raises LedgerAway.

    `reads`: what is done with it takes no lock that writing would wait for.
    """
    try:
        parsed = make_url(url)
        return _ENGINES[parsed.get_backend_name()](parsed, reads)
    except (ArgumentError, KeyError, ImportError) as error:
        raise LedgerAway(f"its url is none of a SQLite or PostgreSQL database ({type(error).__name__})") from None


def _sqlite(url: URL, reads: bool) -> Engine:
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"timeout": BUSY, "check_same_thread": False, "isolation_level": None}
    )
    if reads:
        return engine

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # auto_vacuum counts only before the first table is made.
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that first reads and then writes would not be waited for, but refused.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL, _reads: bool) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        connect_args={
            "connect_timeout": 5,
            "application_name": "unigate",
            "keepalives_idle": 10,
            "tcp_user_timeout": 10_000,
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '30s'; SET lock_timeout = '5s'; SET timezone = 'UTC'")
        connection.commit()

    return engine


_ENGINES = {"sqlite": _sqlite, "postgresql": _postgresql}


class LedgerStore:
    """One connection to the database, which is opened when it is first needed and after each failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._path: str | None = None
        """Of a SQLite file."""
        self._file: tuple[int, int] | None = None
        """Which file of that path is open."""
        self.replaced = ""
        """The path, where the file there is not the one that was open; for who tells of it to take away."""
        self._step = STEP // 4

    # -- opening

    def open(self) -> None:
        """Makes the tables where there are none; raises LedgerAway."""
        with self._guarded():
            self._opened()

    def _opened(self) -> Connection:
        if self._connection is not None and self._file is not None and _file_of(self._path) != self._file:
            self.close()  # what is written to a file that was removed or replaced is gone
            self.replaced = self._path or ""
        if self._connection is None:
            if self._engine is None:
                self._engine = engine_for(self._url)
                self._path = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
            _make_private(self._path)
            self._connection = self._engine.connect()
            with self._connection.begin():
                _prepare(self._connection)
            self._file = _file_of(self._path)
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong, in two kinds; after any of them the connection is opened anew."""
        try:
            yield
        except Exception as error:
            self.close()
            if isinstance(error, LedgerAway):
                raise
            raise (Refused if _is_about_rows(error) else LedgerAway)(words(error, self._path)) from None

    # -- writing

    def write(self, batch: Sequence[Written], *, again: bool = False) -> None:
        """Writes calls with their attempts, all or none of them; raises LedgerAway or Refused.

        `again`: it was tried before, and nobody knows whether the database did it: the connection may have been lost
        after the commit.
        """
        with self._guarded():
            connection = self._opened()
            with connection.begin():
                if again and _has(connection, batch[0]):
                    return
                insert = _INSERT[connection.dialect.name]
                insert(connection, calls, [one.call for one in batch])
                insert(connection, attempts, [row for one in batch for row in one.attempts])

    # -- keeping it small

    def expire(self, before: float) -> bool:
        """Deletes some calls from before a moment (Unix time), the oldest first; says whether there may be more."""
        return self._delete(before, self._step)

    def shrink(self, size: int) -> bool:
        """Deletes some of the oldest calls where all take more than `size` bytes; says whether that was so."""
        with self._guarded():
            connection = self._opened()
            with connection.begin():
                over = _OVER[connection.dialect.name](connection, size)
        if over > 0:
            self._delete(None, min(over, self._step))
        return over > 0

    def _delete(self, before: float | None, count: int) -> bool:
        with self._guarded():
            connection = self._opened()
            oldest = select(calls.c.id).order_by(calls.c.time).limit(count)
            if before is not None:
                oldest = oldest.where(calls.c.time < before)
            begun = time.monotonic()
            with connection.begin():
                gone = connection.execute(calls.delete().where(calls.c.id.in_(oldest))).rowcount
            took = time.monotonic() - begun
            if gone:
                self._step = max(20, min(STEP, int(count * SLICE / max(took, 0.001))))
                if self._path is not None:
                    # Around SQLAlchemy, for it works only outside of a transaction.
                    connection.connection.cursor().execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            return gone >= count


def _make_private(path: str | None) -> None:
    """A new file is for its owner alone: it says who calls, and may hold prompts."""
    if path and path != ":memory:":
        with suppress(OSError):  # whether it is there already, or cannot be made: SQLite will say
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _file_of(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _is_about_rows(error: Exception) -> bool:
    """Whether it will be the same next time. Drivers share the names of their exceptions, and nothing else."""
    cause = _cause(error)
    said_by_driver = any(kind.__name__ in ("DataError", "IntegrityError") for kind in type(cause).__mro__)
    return said_by_driver or isinstance(cause, UnicodeError | OverflowError)


def words(error: Exception, path: str | None) -> str:
    """What went wrong, in one line. `path`: of a SQLite file, which is looked at: its driver says little."""
    cause = _cause(error)
    said = " ".join(str(cause).partition("\n")[0].split()) or type(cause).__name__
    if path is None:
        return said
    wrong = "" if path.startswith("file:") else why_unusable(Path(path))  # a URI is for SQLite to read
    return wrong or f"{said} ({path})"


def _prepare(connection: Connection) -> None:
    """Makes the tables, or looks whether they are ours; raises LedgerAway. Within a transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('unigate ledger'))"))  # others may do the same
    there = set(inspect(connection).get_table_names())
    if versions.name in there:
        _bring_up(connection, connection.execute(select(func.max(versions.c.version))).scalar() or 0)
        return
    foreign = sorted(there & {calls.name, attempts.name})
    if foreign:
        raise LedgerAway(f"it has a table '{foreign[0]}' that is no ledger's; give the ledger a database of its own")
    metadata.create_all(connection)
    connection.execute(versions.insert().values(version=VERSION, name=os.urandom(8).hex()))


def _bring_up(connection: Connection, version: int) -> None:
    """Leads the tables of an earlier version to this one."""
    if version > VERSION:
        raise LedgerAway(f"it was made by a later unigate: its tables are of version {version}, and {VERSION} is known")
    while version < VERSION:
        if version not in _MIGRATIONS:
            raise LedgerAway(
                f"its tables are of an earlier unigate (version {version}, here {VERSION}) and cannot be brought up to "
                "date: move it away, or name another one in `ledger: {url: ...}`, and new ones are made"
            )
        for statement in _MIGRATIONS[version]:
            connection.exec_driver_sql(statement)
        version += 1
        connection.execute(versions.update().values(version=version))


_REQUEST_ID = [column.name for column in calls.columns].index("request_id")


def _has(connection: Connection, one: Written) -> bool:
    found = connection.execute(select(calls.c.request_id).where(calls.c.id == one.call[0])).scalar()
    return found == one.call[_REQUEST_ID]


def _insert_sqlite(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """In as few statements as can be: with each of them the interpreter's lock is given away and asked for again, which
    costs the calls more than the row itself. Around SQLAlchemy, which costs half as much again.
    """
    driver: Any = connection.connection.cursor()
    start = 0
    for count, statement in _STATEMENTS[table.name]:
        while len(rows) - start >= count:
            driver.execute(statement, tuple(chain.from_iterable(rows[start : start + count])))
            start += count


_COUNTS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of a statement. No more: its values are handed over while the lock is held, a millisecond's work is enough."""


def _statements(table: Table) -> list[tuple[int, str]]:
    head, values = str(table.insert().compile(dialect=sqlite.dialect())).split(" VALUES ")
    return [(count, f"{head} VALUES {', '.join([values] * count)}") for count in _COUNTS]


_STATEMENTS = {table.name: _statements(table) for table in (calls, attempts)}


def _insert_postgresql(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """COPY costs a third of the processor time of as many INSERTs (psycopg 3.3)."""
    columns = ", ".join(column.name for column in table.columns)
    driver: Any = connection.connection.cursor()
    with driver as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _over_sqlite(connection: Connection, size: int) -> int:
    """How many of the oldest calls must go."""
    pages, free, a_page = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return _share(connection, (pages - free) * a_page, size)


def _over_postgresql(connection: Connection, size: int) -> int:
    on_disk = sum(
        connection.execute(select(func.pg_total_relation_size(table.name))).scalar_one() for table in (calls, attempts)
    )
    if on_disk <= size:
        return 0
    used = 0
    for table in (calls, attempts):
        latest = select(table).order_by(*(key.desc() for key in table.primary_key)).limit(500).subquery("latest")
        each = connection.execute(select(func.avg(func.pg_column_size(text("latest.*")))).select_from(latest)).scalar()
        rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
        used += int(rows * (float(each or 0) + _OF_A_ROW))
    return _share(connection, used, size)


def _share(connection: Connection, used: int, size: int) -> int:
    if used <= size:
        return 0
    rows = connection.execute(select(func.count()).select_from(calls)).scalar_one()
    return math.ceil(rows * (1 - _FREED * size / used))


_OVER: dict[str, Callable[[Connection, int], int]] = {"sqlite": _over_sqlite, "postgresql": _over_postgresql}


_INSERT: dict[str, Callable[[Connection, Table, Sequence[Row]], None]] = {
    "sqlite": _insert_sqlite,
    "postgresql": _insert_postgresql,
}
