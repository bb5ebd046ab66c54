"""Reading the ledger for a report: its figures, piece by piece, by several threads at once.

The trap is a million rows. In SQLite a GROUP BY sorts, and each sort and each aggregate costs as much as the reading
itself. So there is one scan and one sort: durations and yes-or-no facts, of calls and of attempts, come back as one
string for each group and are counted here (marks.py). What a call took is the sum of its attempts: whoever reads these
asks the calls for the rest alone, and looks up no attempt's call: attempts know when it began, and lie in its order.
The period is cut at midnights, UTC, so that the days' figures fall off as well, and its pieces are read by several
threads: SQLite works without Python's lock.

The statements are plain SQL that SQLite and PostgreSQL both know: to load a library that writes them would take as long
as to read half a million rows. No word of a caller's or a user's stands in them.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

from addons.marks import LENGTH, NOT_FAILED
from addons.report_source import Reader, Source

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

type Found = list[Part]


class Part(NamedTuple):
    """What a piece has of one group."""

    names: Mapping[str, str | None]
    """Column -> the group's value."""
    sums: Mapping[str, int]
    """By the names of the figures."""
    marks: str
    """Of each call, or of each attempt, in one string."""


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
    statement: str
    """In it `{strings}` and `{like}` stand for the reader's words."""
    values: Mapping[str, str]
    """Of its parameters, beside the piece's."""
    sums: tuple[str, ...]
    """Of which figures; `saved` for that of cost_of_compared, which costs a database more."""
    of: Literal["calls", "attempts"]

    def read(self, reader: Reader, since: float, until: float) -> Found:
        """A group may come back in parts."""
        statement = self.statement.format(strings=reader.strings, like=reader.like)
        try:
            rows = reader.ask(statement, {**self.values, "since": since, "until": until})
        except sqlite3.OperationalError as error:
            middle = (since + until) / 2
            if "integer overflow" not in str(error) or not since < middle < until:
                raise
            # A server that lies about its tokens: SQLite's sums have 64 bits, and ours as many as they need.
            return self.read(reader, since, middle) + self.read(reader, middle, until)
        keys = len(self.keys)
        # Without a key there is a row of nothing, where there is nothing.
        return [
            Part(dict(zip(self.keys, row, strict=False)), self._sums(row[keys:]), row[-1]) for row in rows if row[-1]
        ]

    def _sums(self, row: Sequence[Any]) -> dict[str, int]:
        # A sum is a decimal in PostgreSQL, and NULL where nothing is known.
        found = {name: int(value or 0) for name, value in zip(self.sums, row, strict=False)}
        if "saved" in found:
            found["cost_of_compared"] = found["compared"] - found.pop("saved")
        return {**found, self.of: len(row[-1]) // LENGTH}


def read(source: Source, queries: Sequence[Query], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, list[Found]]]:
    """What the queries find in each piece, all at the same moment; pieces in no order."""
    to_do = deque(pieces)
    ready: SimpleQueue[tuple[Piece, list[Found]]] = SimpleQueue()
    count = len(to_do)

    def work() -> None:
        with source.connect() as reader:
            while to_do:
                try:
                    piece = to_do.popleft()
                except IndexError:  # another thread was faster
                    return
                with reader.moment():
                    found = [query.read(reader, piece.since, piece.until) for query in queries]
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


def pieces_of(reader: Reader, since: float, until: float) -> Iterator[Piece]:
    """The days of a period that have calls, those with many in parts. Only the index on `time` is read."""
    inside = f"FROM calls WHERE {_begun('time')}"
    at = since
    while (first := reader.ask(f"SELECT min(time) {inside}", {"since": at, "until": until})[0][0]) is not None:
        day = int(first // DAY)
        at, end = max(since, float(day * DAY)), min(until, float((day + 1) * DAY))
        count = reader.ask(f"SELECT count(*) {inside}", {"since": at, "until": end})[0][0]
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
    columns = {**_COLUMN, "failed_cost": "failed_cost"} if spent else {}
    sums = {name: _sum(column) for name, column in columns.items()}
    sums |= {"compared": "sum(compared)", "saved": "sum(compared - cost)"}
    values = {f"local_{number}": beginning for number, beginning in enumerate(local)}
    if local:
        here = " OR ".join(f"substr(target, 1, {len(start)}) = :{name}" for name, start in values.items())
        sums["local_tokens"] = f"sum(CASE WHEN {here} THEN prompt_tokens + completion_tokens END)"
        sums["local_cost"] = f"sum(CASE WHEN {here} THEN cost - failed_cost END)"
    found = ", ".join([*keys, *sums.values(), "{strings}(marks, '')"])
    statement = f"SELECT {found} FROM calls WHERE {_begun('time')}{_fits(only)}{_by(keys)}"  # noqa: S608 - see above
    return Query(tuple(keys), statement, {**values, **_patterns(only)}, tuple(sums), "calls")


def of_attempts(only: Mapping[str, str]) -> Query:
    """The figures of attempts by target, and by the columns of their calls in `only`, as of_calls() has them."""
    keys = ["attempts.target", *(f"calls.{name}" for name in only)]
    well = ", ".join(f"'{outcome}'" for outcome in NOT_FAILED)  # as parameters they cost a quarter of the time
    failed = f"sum(attempts.cost) FILTER (WHERE outcome NOT IN ({well}))"
    found = ", ".join([*keys, *(_sum(f"attempts.{name}") for name in _COLUMN.values()), failed])
    # They are those of the period's calls, whenever they began themselves: or they would not add up to the same. A call
    # has its id when it is over, so between the first and the last id of a period's calls there are a few others.
    ids = f"(SELECT min(id) AS first, max(id) AS last FROM calls WHERE {_begun('time')}) AS ids"  # noqa: S608 - see above
    rows = f"{ids} JOIN attempts ON call_id BETWEEN ids.first AND ids.last AND {_begun('call_time')}"
    if only:
        rows = f"calls JOIN attempts ON call_id = calls.id WHERE {_begun('calls.time')}{_fits(only)}"
    statement = f"SELECT {found}, {{strings}}(attempts.marks, '') FROM {rows}{_by(keys)}"  # noqa: S608 - see above
    return Query(("target", *only), statement, _patterns(only), (*_COLUMN, "failed_cost"), "attempts")


def _sum(column: str) -> str:
    zero = column.rpartition(".")[2] in _MOSTLY_ZERO
    return f"sum({column}) FILTER (WHERE {column} <> 0)" if zero else f"sum({column})"


def _begun(time: str) -> str:
    """`time`: the column that says when a call began."""
    return f"{time} >= :since AND {time} < :until"


def _by(keys: Sequence[str]) -> str:
    return f" GROUP BY {', '.join(keys)}" if keys else ""


def _fits(only: Mapping[str, str]) -> str:
    return "".join(f" AND calls.{name} {{like}} :like_{name} ESCAPE '\\'" for name in only)


def _patterns(only: Mapping[str, str]) -> dict[str, str]:
    return {f"like_{name}": _like(pattern) for name, pattern in only.items()}


def _like(pattern: str) -> str:
    """A pattern of the rules in SQL's words. What SQL cannot say, or databases say differently, fits all."""
    said = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    before, classes, _ = pattern.partition("[")
    return "".join(said.get(char, char) if char.isascii() else "%" for char in before) + "%" * bool(classes)
