"""Reading a ledger that is kept in PostgreSQL. report_source.py loads this where it is; with it comes SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from addons.ledger_faults import LedgerAway
from addons.ledger_store import engine_for
from addons.lines import one_line
from addons.report_source import Reader, Rows, Source, look
from addons.settings import SettingsError


class _PostgresqlReader:
    strings = "string_agg"
    like = "ILIKE"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, statement: str, values: Mapping[str, float | str] = {}) -> Rows:
        return [tuple(row) for row in self._connection.execute(text(statement), dict(values))]

    @contextmanager
    def moment(self) -> Iterator[None]:
        with self._connection.begin():
            yield


def open_ledger(url: str) -> Source:
    """Raises SettingsError where there is none, or none that we can read."""
    try:
        shown = one_line(make_url(url).set(query={}).render_as_string())
        engine: Engine = engine_for(url, reads=True).execution_options(isolation_level="REPEATABLE READ")
    except LedgerAway as error:
        raise SettingsError(f"the ledger cannot be read: {error}") from None
    except (ArgumentError, ValueError):  # a port that is no number; they repeat what was written
        raise SettingsError("the ledger's url must be written postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
    source = Source(shown, partial(_connected, engine), (SQLAlchemyError,))
    look(source, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    return source


@contextmanager
def _connected(engine: Engine) -> Iterator[Reader]:
    with engine.connect() as connection:
        yield _PostgresqlReader(connection)
