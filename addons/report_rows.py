"""Reading the ledger for a report: its figures, piece by piece, by several threads at once.

The trap is a million rows. In SQLite a GROUP BY sorts, and each sort and each aggregate costs as much as the reading
itself. So there is one scan and one sort: durations and yes-or-no facts, of calls and of attempts, come back as one
string for each group and are counted here (marks.py). What a call took is the sum of its attempts: whoever reads these
asks the calls for the rest alone, and looks up no attempt's call: attempts know when it began, and lie in its order.
The period is cut at midnights, UTC, so that the days' figures fall off as well, and its pieces are read by several
threads: SQLite works without Python's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.exc import DBAPIError

from addons.figures import Figures
from addons.marks import LENGTH, NOT_FAILED, counted
from addons.tables import attempts, calls

DAY = 86400
PIECE = 50_000
"""Calls that are read at once, about. With smaller pieces a sort is cheaper, and all else is dearer by more."""
READERS = max(1, min(4, os.cpu_count() or 1))
_COLUMN = {
    "prompt": "prompt_tokens", "cached": "cached_tokens", "completion": "completion_tokens",
    "reasoning": "reasoning_tokens", "cost": "cost",
}  # fmt: skip
"""Figure -> the column, of calls and of attempts alike."""
_MOSTLY_ZERO = ("cached_tokens", "reasoning_tokens", "failed_cost")
"""What is 0 in most rows: to leave a row out takes half as long as to add it."""
COLUMNS = ("client", "model", "rule", "endpoint")
"""Of a call, by which it is grouped."""

type Names = Mapping[str, str | None]
"""Of a group: column -> its value."""
type Found = list[tuple[Names, Figures]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one day, and about how many calls it has."""

    day: int
    since: float
    until: float
    count: int


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that is made for each piece, and what its rows are: keys, sums, and all marks in one string."""

    keys: tuple[str, ...]
    """Columns by which it is grouped."""
    statement: Select[Any]
    sums: tuple[str, ...]
    """Of which figures; `saved` for that of cost_of_compared, which costs a database more."""
    of: Literal["calls", "attempts"]

    def read(self, connection: Connection, since: float, until: float) -> Found:
        """A group may come back in parts."""
        try:
            rows = connection.execute(self.statement, {"since": since, "until": until}).all()
        except DBAPIError as error:
            middle = (since + until) / 2
            if "integer overflow" not in str(error.orig) or not since < middle < until:
                raise
            # A server that lies about its tokens: SQLite's sums have 64 bits, and ours as many as they need.
            return self.read(connection, since, middle) + self.read(connection, middle, until)
        keys = len(self.keys)
        # Without a key there is a row of nothing, where there is nothing.
        return [(dict(zip(self.keys, row, strict=False)), self._figures(row[keys:])) for row in rows if row[-1]]

    def _figures(self, row: Sequence[Any]) -> Figures:
        *sums, marks = row
        # A sum is a decimal in PostgreSQL, and NULL where nothing is known.
        found = {name: int(value or 0) for name, value in zip(self.sums, sums, strict=True)}
        if "saved" in found:
            found["cost_of_compared"] = found["compared"] - found.pop("saved")
        said = counted(marks)
        figures = Figures(first_token=said.first, total=said.total)
        for name, value in {**found, self.of: len(marks) // LENGTH, **said.facts}.items():
            setattr(figures, name, value)
        return figures


def read(engine: Engine, queries: Sequence[Query], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, list[Found]]]:
    """What the queries find in each piece, all at the same moment; pieces in no order."""
    to_do = deque(pieces)
    ready: SimpleQueue[tuple[Piece, list[Found]]] = SimpleQueue()
    count = len(to_do)

    def work() -> None:
        with engine.connect() as connection:
            while to_do:
                try:
                    piece = to_do.popleft()
                except IndexError:  # another thread was faster
                    return
                with connection.begin():
                    found = [query.read(connection, piece.since, piece.until) for query in queries]
                ready.put((piece, found))

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(work) for _ in range(min(READERS, count))]
        try:
            while count:
                try:
                    yield ready.get(timeout=0.05)
                    count -= 1
                except Empty:
                    for reader in readers:
                        if reader.done():
                            reader.result()  # raises what ended it
        finally:
            to_do.clear()  # the readers stop after the piece that each is at


def pieces_of(connection: Connection, since: float, until: float) -> Iterator[Piece]:
    """The days of a period that have calls, those with many in parts. Only the index on `time` is read."""
    time = calls.c.time
    inside = time >= bindparam("since"), time < bindparam("until")
    earliest, counted = select(func.min(time)).where(*inside), select(func.count()).where(*inside)
    at = since
    while (first := connection.execute(earliest, {"since": at, "until": until}).scalar()) is not None:
        day = int(first // DAY)
        at, end = max(since, float(day * DAY)), min(until, float((day + 1) * DAY))
        count = connection.execute(counted, {"since": at, "until": end}).scalar_one()
        parts = -(-count // PIECE)
        edges = [at + (end - at) * number / parts for number in range(parts)] + [end]
        yield from (
            Piece(day, begin, stop, count // parts + (number < count % parts))
            for number, (begin, stop) in enumerate(pairwise(edges))
        )
        at = end


def of_calls(keys: Sequence[str], only: Mapping[str, str], *, spent: bool = True, local: Sequence[str] = ()) -> Query:
    """The figures of calls by these columns. `only`: column -> pattern; more than what fits may be found.

    Without `spent` tokens and money are left out, for who has them from the attempts. `local`: how the names of local
    targets begin, as `ollama/`; then the `local_` figures are filled.
    """
    row = calls.c
    columns = {**_COLUMN, "failed_cost": "failed_cost"} if spent else {}
    sums: dict[str, ColumnElement[Any]] = {name: _sum(row[column]) for name, column in columns.items()}
    sums |= {"compared": func.sum(row.compared), "saved": func.sum(row.compared - row.cost)}
    if local:
        here = or_(*(func.substr(row.target, 1, len(beginning)) == beginning for beginning in local))
        sums["local_tokens"] = func.sum(case((here, row.prompt_tokens + row.completion_tokens)))
        sums["local_cost"] = func.sum(case((here, row.cost - row.failed_cost)))
    by = [row[name] for name in keys]
    statement = select(*by, *sums.values(), func.aggregate_strings(row.marks, ""))
    statement = statement.where(*_begun(row.time), *_fits(only)).group_by(*by)
    return Query(tuple(keys), statement, tuple(sums), "calls")


def of_attempts(only: Mapping[str, str]) -> Query:
    """The figures of attempts by target, and by the columns of their calls in `only`, as of_calls() has them."""
    row = attempts.c
    # Written into the statement: as parameters they cost a quarter of its time.
    well: BindParameter[str] = bindparam("well", NOT_FAILED, expanding=True, literal_execute=True)
    sums = *(_sum(row[name]) for name in _COLUMN.values()), func.sum(row.cost).filter(row.outcome.not_in(well))
    by = [row.target, *(calls.c[name] for name in only)]
    # They are those of the period's calls, whenever they began themselves: or they would not add up to the same. A call
    # has its id when it is over, so between the first and the last id of a period's calls there are a few others.
    number = calls.c.id
    ids = (
        select(func.min(number).label("first"), func.max(number).label("last")).where(*_begun(calls.c.time)).subquery()
    )
    inside = row.call_id.between(ids.c.first, ids.c.last), *_begun(row.call_time)
    statement = select(*by, *sums, func.aggregate_strings(row.marks, "")).join_from(ids, attempts, and_(*inside))
    if only:
        statement = statement.join(calls).where(*_fits(only))
    return Query(("target", *only), statement.group_by(*by), (*_COLUMN, "failed_cost"), "attempts")


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    summed = func.sum(column)
    return summed.filter(column != literal_column("0")) if column.key in _MOSTLY_ZERO else summed


def _begun(time: ColumnElement[float]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """`time`: when a call began."""
    return time >= bindparam("since"), time < bindparam("until")


def _fits(only: Mapping[str, str]) -> Iterator[ColumnElement[bool]]:
    for name, pattern in only.items():
        yield calls.c[name].ilike(_like(pattern), escape="\\")


def _like(pattern: str) -> str:
    """A pattern of the rules in SQL's words. What SQL cannot say, or databases say differently, fits all."""
    said = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    before, classes, _ = pattern.partition("[")
    return "".join(said.get(char, char) if char.isascii() else "%" for char in before) + "%" * bool(classes)
