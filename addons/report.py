"""What the ledger's calls came to, in groups: the figures behind `unigate report`.

Of all groupings `target` is another kind: a call may have asked several targets, so its groups are made of attempts.
Their sum is what the calls came to, all the same; only calls that asked nobody are in none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import Engine

from addons.figures import Figures, sum_of
from addons.report_rows import COLUMNS, Names, of_attempts, of_calls, pieces_of, read
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
    local: Figures | None
    """Of calls that local models answered, where that was asked for."""
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
    mixed: int
    """Of these, as `cloud` is."""
    cloud: int
    local: int | None
    """All calls at local models, by their machine's hours; None: these have a price, and no call tells how many."""


def compare(report: Report, model: str | None) -> Comparison | None:
    """None where the rules name no model to compare to, or no call can be compared."""
    total, machine = report.total, report.local
    if model is None or not total.compared_calls:
        return None
    local: int | None = 0
    if machine is not None:
        paid = machine.cost - machine.failed_cost
        local = round(Decimal(paid) * total.tokens / machine.tokens) if machine.tokens else None
    return Comparison(model, total.compared_calls, total.cost_of_compared, total.compared, local)


def day_text(day: int) -> str:
    """Of a day since 1970, UTC."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def moment_text(time: float) -> str:
    """Of Unix time, in UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def make_report(
    engine: Engine,
    by: str,
    since: float,
    until: float,
    *,
    client: str | None = None,
    model: str | None = None,
    is_local: Callable[[str], bool] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Reads the calls that began in a period. Times in Unix seconds; `until` itself is not in it.

    `client`, `model`: patterns, as in the rules; only calls that fit them count. `is_local`: whether a target
    (provider/model) is a local one; given, `Report.local` is filled, which costs time. `told` hears, in this thread,
    how many of how many calls are read. Raises what SQLAlchemy raises.
    """
    only = {name: pattern for name, pattern in (("client", client), ("model", model)) if pattern is not None}
    fits = {name: glob((pattern,)) for name, pattern in only.items()}
    with engine.connect() as connection:
        pieces = list(pieces_of(connection, since, until))
    keys = [*((by,) if by in COLUMNS else ()), *only, *(("target",) if is_local is not None else ())]
    queries = [of_calls(tuple(dict.fromkeys(keys)), only)]
    if by == OF_ATTEMPTS:
        queries.append(of_attempts(only))
    report = Report(by, since, until, Figures(), {}, {}, Figures() if is_local is not None else None, only)
    whole, done = sum(piece.count for piece in pieces), 0
    for piece, founds in read(engine, queries, pieces):
        for number, found in enumerate(founds):
            for names, figures in found:
                if all(fit(names[name] or "") for name, fit in fits.items()):
                    _add(report, number == 0, piece.day, names, figures, is_local)
        done += piece.count
        told(done, whole)
    return report


def _add(
    report: Report, calls: bool, day: int, names: Names, figures: Figures, is_local: Callable[[str], bool] | None
) -> None:
    """`calls`: whether the figures are of calls."""
    if calls != report.of_attempts:
        group = day_text(day) if report.by == "day" else names[report.by]
        report.groups.setdefault(group, Figures()).add(figures)
    if calls:
        report.days.setdefault(day, Figures()).add(figures)
        report.total.add(figures)
        target = names.get("target")
        if is_local is not None and report.local is not None and target is not None and is_local(target):
            report.local.add(figures)
