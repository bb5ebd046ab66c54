"""What the ledger's calls came to, in groups: the figures behind `unigate report`.

Of all groupings `target` is another kind: a call may have asked several targets, so its groups are made of attempts.
Their sum is what the calls came to, all the same; only calls that asked nobody are in none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from addons.figures import SPENT, Figures, Pile, sum_of
from addons.report_rows import COLUMNS, of_attempts, of_calls, pieces_of, read
from addons.report_source import Source
from rules.conditions import glob

OF_ATTEMPTS = "target"
GROUPINGS = ("client", "model", "rule", OF_ATTEMPTS, "endpoint", "day")

type Key = str | None
"""The value of a group: of a day 2026-11-21; None where a call has none."""


@dataclass(frozen=True, slots=True)
class Report:
    by: str
    since: float
    """Unix time; the period's first moment."""
    until: float
    """The first moment after it."""
    total: Figures
    """Of the calls."""
    groups: dict[Key, Figures]
    """In no order; by target, of attempts."""
    days: dict[int, Figures]
    """Day since 1970, UTC -> its figures; days without calls are left out."""
    machines: bool = False
    """Whether local models cost something: `local_` figures were asked for."""
    only: Mapping[str, str] = field(default_factory=dict)
    """client, model -> the pattern that its calls fit."""

    @property
    def of_attempts(self) -> bool:
        return self.by == OF_ATTEMPTS

    @property
    def total_of_groups(self) -> Figures:
        return sum_of(self.groups.values()) if self.of_attempts else self.total

    def ordered(self) -> list[tuple[Key, Figures]]:
        """The groups: days as they come, others with the most expensive one first."""
        if self.by == "day":
            return sorted(self.groups.items(), key=lambda item: str(item[0]))
        return sorted(
            self.groups.items(), key=lambda item: (-item[1].cost, -item[1].calls, -item[1].attempts, str(item[0]))
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the calls cost, and what they would have cost. NANOS."""

    model: str
    """All at this one, in the cloud."""
    calls: int
    """For how many calls that is known."""
    of: int
    """Of how many: refused ones would have cost nothing anywhere."""
    mixed: int
    """Of these, as `cloud` is."""
    cloud: int
    local: int | None
    """All calls at local models, by their machine's hours; None: these have a price, and no call tells how many."""


def compare(report: Report, model: str | None) -> Comparison | None:
    """None where the rules name no model to compare to, or no call can be compared."""
    total = report.total
    if model is None or not total.compared_calls:
        return None
    local: int | None = 0
    if report.machines:
        local = round(Decimal(total.local_cost) * total.tokens / total.local_tokens) if total.local_tokens else None
    return Comparison(
        model, total.compared_calls, total.calls - total.refused, total.cost_of_compared, total.compared, local
    )


def day_text(day: int) -> str:
    """Of a day since 1970, UTC."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def moment_text(time: float) -> str:
    """Of Unix time, in UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def make_report(
    source: Source,
    by: str,
    since: float,
    until: float,
    *,
    client: str | None = None,
    model: str | None = None,
    local: Sequence[str] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Reads the calls that began in a period. Times in Unix seconds; `until` itself is not in it.

    `client`, `model`: patterns, as in the rules; only calls that fit them count. `local`: how the names of
    local targets begin (`ollama/`); given, the `local_` figures of calls are filled, which costs time. `told` hears, in
    this thread, how many of how many calls are read. Raises what the database raises (Source.errors).
    """
    only = {name: pattern for name, pattern in (("client", client), ("model", model)) if pattern is not None}
    fits = {name: glob((pattern,)) for name, pattern in only.items()}
    with source.connect() as reader:
        pieces = list(pieces_of(reader, since, until))
    keys = tuple(dict.fromkeys([*((by,) if by in COLUMNS else ()), *only]))
    queries = [of_calls(keys, only, spent=by != OF_ATTEMPTS, local=local or ())]
    if by == OF_ATTEMPTS:
        queries.append(of_attempts(only))
    days: defaultdict[int, Pile] = defaultdict(Pile)
    groups: defaultdict[Key, Pile] = defaultdict(Pile)
    whole, done = sum(piece.count for piece in pieces), 0
    for piece, founds in read(source, queries, pieces):
        for number, found in enumerate(founds):
            for part in found:
                if all(fit(part.names[name] or "") for name, fit in fits.items()):
                    if number == 0:
                        days[piece.day].put(part.sums, part.marks)
                    else:  # of attempts
                        days[piece.day].figures.put({name: part.sums[name] for name in SPENT})
                    if number == len(queries) - 1 and by != "day":
                        groups[part.names[by]].put(part.sums, part.marks)
        done += piece.count
        told(done, whole)
    of_days = {day: pile.whole() for day, pile in days.items()}
    of_groups: dict[Key, Figures] = {group: pile.whole() for group, pile in groups.items()}
    if by == "day":
        of_groups = {day_text(day): figures for day, figures in of_days.items()}
    return Report(by, since, until, sum_of(of_days.values()), of_groups, of_days, local is not None, only)
