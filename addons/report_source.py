"""Opening the ledger for reading: read-only, and with words for whatever is in the way.

SQLite is opened so that nothing can be written, while a gateway goes on writing: what is read in one transaction is of
one moment. A file that was written ahead (WAL)
needs files beside it even for reading; where its folder allows none and nobody writes, it is read as it is.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from addons.ledger_faults import LedgerAway
from addons.ledger_store import BUSY, VERSION, engine_for
from addons.logs import one_line
from addons.settings import SettingsError
from addons.tables import calls, metadata

_PRAGMAS = ("query_only=ON", f"mmap_size={1 << 40}", "cache_size=-32768")
"""A map of the file is the fastest way through it; SQLite takes as much of that size as it may."""
_versions = metadata.tables["ledger_version"]


def ledger_at(named: str) -> URL:
    """The address that a person's words mean: that of a database, or the path of a SQLite file. Raises
    SettingsError.
    """
    if "://" not in named:
        return URL.create("sqlite", database=named)
    try:
        url = make_url(named)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise SettingsError(
            "the ledger's url is none of a SQLite or PostgreSQL database: it must be the path of a file, "
            "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        )
    return url


def open_ledger(url: URL) -> Engine:
    """A ledger's database for reading; raises SettingsError where there is none, or none that we can read."""
    shown = shown_url(url)
    if url.get_backend_name() != "sqlite":
        try:
            engine: Engine = engine_for(url, reads=True).execution_options(isolation_level="REPEATABLE READ")
        except LedgerAway as error:
            raise SettingsError(f"the ledger cannot be read: {error}") from None
        with said_plainly(shown):
            _look(engine, shown)
        return engine
    file = Path(url.database or "")
    _look_at(file, shown)
    engine = _sqlite(file, "mode=ro")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first()
    except DBAPIError as error:  # where it is another one, _look() meets it again
        if _name_of(error) == "SQLITE_CANTOPEN" and not Path(f"{file}-wal").exists():
            engine = _sqlite(file, "mode=ro&immutable=1")
    with said_plainly(shown):
        _look(engine, shown)
    return engine


@contextmanager
def said_plainly(shown: str) -> Iterator[None]:
    """What the database complains of, as a SettingsError. `shown`: which ledger it is."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        if _name_of(error) == "SQLITE_NOTADB":
            raise SettingsError(f"{shown} is no ledger: it is not a SQLite file") from None
        said = one_line(str(cause).partition("\n")[0])
        raise SettingsError(f"the ledger {shown} cannot be read: {said or type(cause).__name__}") from None


def shown_url(url: URL) -> str:
    """A ledger's address without its password."""
    return one_line(url.database or "" if url.get_backend_name() == "sqlite" else url.set(query={}).render_as_string())


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


def _sqlite(file: Path, how: str) -> Engine:
    address = f"file:{quote(str(file.absolute()))}?{how}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=BUSY, check_same_thread=False, isolation_level=None)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # the driver begins none for what only reads

    return engine


def _look(engine: Engine, shown: str) -> None:
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if not {calls.name, _versions.name} <= tables:
            raise SettingsError(f"{shown} is no ledger: it has no table `{calls.name}` of unigate's")
        version = connection.execute(select(func.max(_versions.c.version))).scalar() or 0
    if version != VERSION:
        which = "a later" if version > VERSION else "an earlier"
        todo = "use that one" if version > VERSION else "start the gateway once, which updates it or says why not"
        raise SettingsError(
            f"the ledger {shown} is of {which} unigate (version {version} of its tables, here {VERSION}): {todo}"
        )


def _name_of(error: SQLAlchemyError) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else None
    return cause.sqlite_errorname if isinstance(cause, sqlite3.Error) and hasattr(cause, "sqlite_errorname") else None
