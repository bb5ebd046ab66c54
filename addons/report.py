"""What the ledger's calls came to, in groups: the figures behind `unigate report`.

The trap is a million rows. In SQLite a GROUP BY sorts, and each sort and each aggregate costs as much as the reading
itself. So there is one scan and one sort: durations and yes-or-no facts come back as one string for each group and are
counted here (marks.py). The period is cut at midnights, UTC, so that the days' figures fall off as well, and its pieces
are read by several threads at once: SQLite works without Python's lock.

All money is whole NANOS of a USD and every sum is exact, so the groups add up to the total to the last digit.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine, Select, bindparam, case, func, select

from addons.marks import durations_in, facts_in, seconds_in
from addons.tables import calls

DAY = 86400
PIECE = 50_000
"""Calls that are read at once, about."""
READERS = max(1, min(4, os.cpu_count() or 1))

COLUMNS = ("client", "model", "rule", "target", "endpoint")
GROUPINGS = (*COLUMNS, "day")

_COUNTS = (
    "calls", "prompt", "cached", "completion", "reasoning", "cost", "failed_cost", "compared", "compared_calls",
    "cost_of_compared",
)  # fmt: skip
"""The columns of _statement() after those of the group, and before the marks."""
_COUNTED = len(_COUNTS) + 1


@dataclass(slots=True)
class Figures:
    """What some calls came to. Money in NANOS."""

    calls: int = 0
    prompt: int = 0
    """Tokens; `cached` ones are a part of them."""
    cached: int = 0
    completion: int = 0
    """Tokens; `reasoning` is a part of them."""
    reasoning: int = 0
    cost: int = 0
    """As far as prices are known: see `unpriced`."""
    failed_cost: int = 0
    """That part of `cost` that went into attempts which failed."""
    compared: int = 0
    """What `compared_calls` of the calls would have cost at the model that the rules compare to."""
    compared_calls: int = 0
    cost_of_compared: int = 0
    """What those calls did cost."""
    streamed: int = 0
    estimated: int = 0
    """Calls some of whose tokens are an estimate."""
    unpriced: int = 0
    """Calls with an attempt whose model has no price: they cost more than is known."""
    errors: int = 0
    """Calls that were answered with 400 or more, but not those in `left`."""
    left: int = 0
    """Calls whose callers did not wait for the end."""
    failed_over: int = 0
    """Calls that were answered although an attempt of theirs failed."""
    first_token: Counter[int] = field(default_factory=Counter)
    """bucket -> calls. Calls that never came to a first token are not in it."""
    total: Counter[int] = field(default_factory=Counter)
    """bucket -> calls."""

    def add(self, other: Figures) -> None:
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_token.update(other.first_token)
        self.total.update(other.total)

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    @property
    def saved(self) -> int | None:
        """NANOS, of the calls that can be compared."""
        return self.compared - self.cost_of_compared if self.compared_calls else None

    @property
    def saved_share(self) -> float | None:
        """Of what those calls would have cost."""
        return None if self.saved is None or self.compared == 0 else self.saved / self.compared

    def share(self, count: int) -> float:
        """Of all calls; 0 where there are none."""
        return count / self.calls if self.calls else 0.0


_SUMMED = tuple(name for name in Figures.__dataclass_fields__ if name not in ("first_token", "total"))

type Key = str | int | None
"""The value of a group: a text, the number of a day since 1970, or None where a call has none."""


@dataclass(frozen=True, slots=True)
class Report:
    by: str
    since: float
    """Unix time; the period's first moment."""
    until: float
    """The first moment after it."""
    total: Figures
    groups: dict[Key, Figures]
    days: dict[int, Figures]
    """Day since 1970, UTC -> its figures; days without calls are left out."""
    local: Figures | None
    """Of calls that local models answered, where that was asked for."""


def percentile(buckets: Counter[int], share: float) -> float | None:
    """The time, in seconds, within which this share of the calls were done; 5 % too much at most."""
    wanted = share * buckets.total()
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= wanted:
            return seconds_in(bucket)
    return None


@dataclass(frozen=True, slots=True)
class _Piece:
    day: int
    since: float
    until: float
    count: int


def make_report(
    engine: Engine,
    by: str,
    since: float,
    until: float,
    *,
    is_local: Callable[[str], bool] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Reads the calls that began in a period. Times in Unix seconds; `until` itself is not in it.

    `is_local`: whether a target (provider/model) is a local one; given, `Report.local` is filled, which costs time.
    `told` hears, in this thread, how many of how many calls are read. Raises what SQLAlchemy raises.
    """
    with engine.connect() as connection:
        pieces = deque(_pieces(connection, since, until))
    asked = tuple(dict.fromkeys((*((by,) if by != "day" else ()), *(("target",) if is_local is not None else ()))))
    report = Report(by, since, until, Figures(), {}, {}, Figures() if is_local is not None else None)
    whole, done = sum(piece.count for piece in pieces), 0
    statement = _statement(asked)
    for piece, found in _read(engine, statement, pieces):
        for names, figures in found:
            group: Key = piece.day if by == "day" else names[0]
            report.groups.setdefault(group, Figures()).add(figures)
            report.days.setdefault(piece.day, Figures()).add(figures)
            report.total.add(figures)
            if is_local is not None and report.local is not None and names[-1] is not None and is_local(names[-1]):
                report.local.add(figures)
        done += piece.count
        told(done, whole)
    return report


type _Found = list[tuple[tuple[str | None, ...], Figures]]


def _read(engine: Engine, statement: Select[Any], pieces: deque[_Piece]) -> Iterator[tuple[_Piece, _Found]]:
    """The pieces as they are read, in no order."""
    ready: SimpleQueue[tuple[_Piece, _Found]] = SimpleQueue()
    count = len(pieces)

    def work() -> None:
        with engine.connect() as connection:
            while pieces:
                try:
                    piece = pieces.popleft()
                except IndexError:  # another thread was faster
                    return
                ready.put((piece, _figures(connection, statement, piece)))

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
            pieces.clear()  # the readers stop after the piece that each is at


def _pieces(connection: Connection, since: float, until: float) -> Iterator[_Piece]:
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
            _Piece(day, begin, stop, count // parts + (number < count % parts))
            for number, (begin, stop) in enumerate(pairwise(edges))
        )
        at = end


def _statement(asked: Sequence[str]) -> Select[Any]:
    """The figures of a piece, by these columns. Their order is that of _figures()."""
    row = calls.c
    keys = [row[name] for name in asked]
    summed = (
        *(row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens),
        *(row.cost, row.failed_cost, row.compared),
    )
    return (
        select(
            *keys,
            func.count(),
            *map(func.sum, summed),
            func.count(row.compared),
            func.sum(case((row.compared.is_not(None), row.cost), else_=0)),
            func.aggregate_strings(row.marks, ""),
        )
        .where(row.time >= bindparam("since"), row.time < bindparam("until"))
        .group_by(*keys)
    )


def _figures(connection: Connection, statement: Select[Any], piece: _Piece) -> _Found:
    rows = connection.execute(statement, {"since": piece.since, "until": piece.until}).all()
    return [(tuple(row[:-_COUNTED]), _one(row[-_COUNTED:-1], row[-1])) for row in rows if row[-1] is not None]


def _one(counts: Sequence[Any], marks: str) -> Figures:
    figures = Figures()
    for name, count in zip(_COUNTS, counts, strict=True):
        setattr(figures, name, int(count or 0))  # a sum is a decimal in PostgreSQL, and NULL where nothing is known
    figures.total, figures.first_token = durations_in(marks), durations_in(marks, first=True)
    for name, count in facts_in(marks).items():
        setattr(figures, name, count)
    return figures
