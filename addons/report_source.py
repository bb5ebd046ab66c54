"""Opening the ledger for reading: read-only, and with words for whatever is in the way.

SQLite is opened so that nothing can be written, while a gateway goes on writing: what is read in one transaction is of
one moment. A file that was written ahead (WAL) needs files beside it even for reading; where its folder allows none and
nobody writes, it is read as it is.

The trap is the start: SQLAlchemy takes longer to load than a usual ledger to be read. So a SQLite file is read through
Python's own driver, and what PostgreSQL needs is loaded where a ledger is kept in it.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from addons.ledger_file import BUSY, VERSION
from addons.lines import one_line
from addons.settings import SettingsError

_PRAGMAS = ("query_only=ON", f"mmap_size={1 << 40}", "cache_size=-32768")
"""A map of the file is the fastest way through it; SQLite takes as much of that size as it may."""
_POSTGRESQL = "addons.report_postgresql"
"""The module whose open_ledger() opens a URL of PostgreSQL."""

type Rows = list[tuple[Any, ...]]


class Reader(Protocol):
    """A connection for one thread."""

    @property
    def strings(self) -> str:
        """The function that joins texts, as this database calls it."""

    @property
    def like(self) -> str:
        """The operator that compares a text with a pattern, whatever the case of its letters. To ask lower() of both
        would be the same everywhere, but in SQLite two threads wait for each other's memory in it.
        """

    def ask(self, statement: str, values: Mapping[str, float | str] = ...) -> Rows:
        """What a statement finds, whose parameters are written `:name`."""

    def moment(self) -> AbstractContextManager[None]:
        """All that is asked in it is answered as things are at one moment."""


@dataclass(frozen=True, slots=True)
class Source:
    """A ledger that can be read."""

    shown: str
    """Its address, without a password."""
    connect: Callable[[], AbstractContextManager[Reader]]
    errors: tuple[type[Exception], ...]
    """What the database raises."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ledger is."""

    kind: str
    """sqlite or postgresql."""
    at: str
    """A SQLite file's path, or a URL."""


def ledger_at(named: str) -> Address:
    """The address that a person's words mean: that of a database, or the path of a SQLite file. Raises
    SettingsError.
    """
    scheme, is_url, rest = named.partition("://")
    if not is_url:
        return Address("sqlite", named)
    kind = scheme.partition("+")[0]
    if kind == "sqlite":
        return Address(kind, rest.partition("/")[2].partition("?")[0])
    if kind == "postgresql":
        return Address(kind, named)
    raise SettingsError(
        "the ledger's url is none of a SQLite or PostgreSQL database: it must be the path of a file, "
        "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
    )


def open_ledger(address: Address) -> Source:
    """A ledger's database for reading; raises SettingsError where there is none, or none that we can read."""
    if address.kind == "postgresql":
        found: Source = import_module(_POSTGRESQL).open_ledger(address.at)
        return found
    file, shown = Path(address.at), one_line(address.at)
    _look_at(file, shown)
    source = _sqlite(file, shown, "mode=ro")
    try:
        with source.connect() as reader:
            reader.ask("SELECT 1 FROM sqlite_master")
    except sqlite3.Error as error:  # where it is another one, look() meets it again
        if _name_of(error) == "SQLITE_CANTOPEN" and not Path(f"{file}-wal").exists():
            source = _sqlite(file, shown, "mode=ro&immutable=1")
    look(source, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return source


def look(source: Source, tables: str) -> None:
    """Raises SettingsError for what is no ledger, or that of another unigate. `tables` asks for the tables' names."""
    shown = source.shown
    with said_plainly(shown, source.errors), source.connect() as reader, reader.moment():
        if not {"calls", "ledger_version"} <= {name for (name,) in reader.ask(tables)}:
            raise SettingsError(f"{shown} is no ledger: it has no table `calls` of unigate's")
        version = reader.ask("SELECT max(version) FROM ledger_version")[0][0] or 0
    if version != VERSION:
        which = "a later" if version > VERSION else "an earlier"
        todo = "use that one" if version > VERSION else "start the gateway once, which updates it or says why not"
        raise SettingsError(
            f"the ledger {shown} is of {which} unigate (version {version} of its tables, here {VERSION}): {todo}"
        )


@contextmanager
def said_plainly(shown: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """What the database complains of, as a SettingsError. `shown`: which ledger it is."""
    try:
        yield
    except errors as error:
        if _name_of(error) == "SQLITE_NOTADB":
            raise SettingsError(f"{shown} is no ledger: it is not a SQLite file") from None
        cause = getattr(error, "orig", None) or error  # SQLAlchemy says much beside it
        said = one_line(str(cause).partition("\n")[0])
        raise SettingsError(f"the ledger {shown} cannot be read: {said or type(cause).__name__}") from None


def _look_at(file: Path, shown: str) -> None:
    """Says what a person can put right, before SQLite says less."""
    right = "name the file that `ledger: {url: sqlite:///FILE}` in the rules names"
    try:
        found = file.stat()
        regular = stat.S_ISREG(found.st_mode)
        if regular:
            file.open("rb").close()
    except FileNotFoundError:
        raise SettingsError(
            f"there is no ledger at {shown}: the gateway makes it when it starts with `ledger:` in its rules; {right}"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingsError(f"the ledger {shown} cannot be read: {one_line(why)}") from None
    if not regular:
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no file"
        raise SettingsError(f"{shown or '.'} is {kind}, so no ledger: {right}")
    if not found.st_size:
        raise SettingsError(f"{shown} is empty, so no ledger: {right}")


class _SqliteReader:
    strings = "group_concat"
    like = "LIKE"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def ask(self, statement: str, values: Mapping[str, float | str] = {}) -> Rows:
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def moment(self) -> Iterator[None]:
        self._connection.execute("BEGIN")  # the driver begins none for what only reads
        try:
            yield
        finally:
            self._connection.rollback()


def _sqlite(file: Path, shown: str, how: str) -> Source:
    address = f"file:{quote(str(file.absolute()))}?{how}"
    return Source(shown, partial(_connected, address), (sqlite3.Error,))


@contextmanager
def _connected(address: str) -> Iterator[Reader]:
    connection = sqlite3.connect(address, uri=True, timeout=BUSY, check_same_thread=False, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        yield _SqliteReader(connection)
    finally:
        connection.close()


def _name_of(error: Exception) -> str | None:
    return error.sqlite_errorname if isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorname") else None
