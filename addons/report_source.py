"""Opening the ledger for reading: read-only, and with words for whatever is in the way.

SQLite is opened so that nothing can be written, while a gateway goes on writing. A file that was written ahead (WAL)
needs files beside it even for reading; where its folder allows none and nobody writes, it is read as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, func, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from addons.ledger_store import BUSY, VERSION, StoreAway, engine_for
from addons.logs import one_line
from addons.settings import SettingsError
from addons.tables import calls, metadata

_PRAGMAS = ("query_only=ON", f"mmap_size={1 << 40}", "cache_size=-32768")
"""A map of the file is the fastest way through it; SQLite takes as much of that size as it may."""
_versions = metadata.tables["ledger_version"]


def open_ledger(url: str) -> Engine:
    """A ledger's database for reading; raises SettingsError where there is none, or none that we can read."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("the ledger's url is none of a SQLite or PostgreSQL database") from None
    shown = _shown(parsed)
    if parsed.get_backend_name() != "sqlite":
        try:
            engine = engine_for(url, reads=True)
        except StoreAway as error:
            raise SettingsError(f"the ledger cannot be read: {error}") from None
        with said_plainly(shown):
            _look(engine, shown)
        return engine
    file = Path(parsed.database or "")
    if not file.is_file():
        raise SettingsError(
            f"there is no ledger at {shown}: the gateway makes it when it starts with `ledger:` in its rules"
        )
    engine = _sqlite(file, "mode=ro")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first()
    except DBAPIError as error:
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


def shown_url(url: str) -> str:
    """A ledger's address without its password; raises nothing that open_ledger() has not raised."""
    return _shown(make_url(url))


def _shown(url: URL) -> str:
    return one_line(url.database or "" if url.get_backend_name() == "sqlite" else url.set(query={}).render_as_string())


def _sqlite(file: Path, how: str) -> Engine:
    address = f"file:{quote(str(file.absolute()))}?{how}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=BUSY, check_same_thread=False)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _look(engine: Engine, shown: str) -> None:
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if not {calls.name, _versions.name} <= tables:
            raise SettingsError(f"{shown} is no ledger: it has no table `{calls.name}` of unigate's")
        version = connection.execute(select(func.max(_versions.c.version))).scalar() or 0
    if version != VERSION:
        which = "a later" if version > VERSION else "an earlier"
        todo = "use that one" if version > VERSION else "start the gateway once, which brings it up to date"
        raise SettingsError(
            f"the ledger {shown} is of {which} unigate (version {version} of its tables, here {VERSION}): {todo}"
        )


def _name_of(error: SQLAlchemyError) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else None
    return cause.sqlite_errorname if isinstance(cause, sqlite3.Error) and hasattr(cause, "sqlite_errorname") else None
