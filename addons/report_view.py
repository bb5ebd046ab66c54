"""A report as people see it (a table that fits their terminal), and as programs read it (JSON, CSV).

The names in it were chosen by callers: none of them may steer a terminal, be taken for rich's markup, or be run by a
spreadsheet as a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from addons.logs import one_line
from addons.report import Figures, Key, Report, percentile
from rules.quota import NANOS

SHOWN = 25
"""Groups in the table; the rest are one line."""
_NAME, _SHORT_NAME = 32, 16
"""How wide names may be, and where there is little room."""
_BAR = 24
_MOST_DAYS = 60
"""Days in the line of days; of a longer period, the last ones."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the calls cost, and what they would have cost. NANOS."""

    model: str
    """All at this one, in the cloud."""
    calls: int
    """For how many calls that is known: the other figures are of these alone."""
    mixed: int
    cloud: int
    local: int | None
    """All at local models, by the price of their machine's hour; None: there is one, and no call to tell it from."""


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


# -- for programs


def as_json(report: Report, comparison: Comparison | None) -> dict[str, Any]:
    """Names that stay. Money as an exact decimal text, and in whole billionths of a USD."""
    return {
        "since": _moment(report.since),
        "until": _moment(report.until),
        "timezone": "UTC",
        "by": report.by,
        "total": _fields(report.total),
        "groups": [{report.by: name_of(report, key), **_fields(one)} for key, one in ordered(report)],
        "days": [{"day": day_text(day), **_fields(report.days[day])} for day in sorted(report.days)],
        "comparison": None
        if comparison is None
        else {
            "model": comparison.model,
            "calls": comparison.calls,
            **_money("mixed", comparison.mixed),
            **_money("cloud", comparison.cloud),
            **_money("local", comparison.local),
        },
    }


def as_csv(report: Report) -> str:
    """A header, a row for each group, and one of the total, whose group is empty and whose `row` says so."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows: list[tuple[str, str, Figures]] = [("group", name_of(report, key) or "", one) for key, one in ordered(report)]
    for number, (kind, name, one) in enumerate([*rows, ("total", "", report.total)]):
        fields = _fields(one)
        if number == 0:
            writer.writerow(["row", report.by, *fields])
        writer.writerow([kind, _cell(name), *fields.values()])
    return out.getvalue()


def _cell(name: str) -> str:
    return f"'{one_line(name)}" if name.startswith(_FORMULA) else one_line(name)


def _fields(one: Figures) -> dict[str, Any]:
    return {
        "calls": one.calls,
        "streamed": one.streamed,
        "prompt_tokens": one.prompt,
        "cached_tokens": one.cached,
        "completion_tokens": one.completion,
        "reasoning_tokens": one.reasoning,
        "estimated_calls": one.estimated,
        **_money("cost", one.cost),
        **_money("failed_cost", one.failed_cost),
        "unpriced_calls": one.unpriced,
        "compared_calls": one.compared_calls,
        **_money("compared", one.compared if one.compared_calls else None),
        **_money("saved", one.saved),
        "saved_share": one.saved_share,
        "errors": one.errors,
        "left": one.left,
        "failed_over": one.failed_over,
        "first_token_p50_s": _seconds(one.first_token, 0.5),
        "first_token_p95_s": _seconds(one.first_token, 0.95),
        "total_p50_s": _seconds(one.total, 0.5),
        "total_p95_s": _seconds(one.total, 0.95),
    }


def _money(name: str, nanos: int | None) -> dict[str, Any]:
    return {f"{name}_usd": None if nanos is None else exact(nanos), f"{name}_nanos": nanos}


def exact(nanos: int) -> str:
    """USD, to the last digit."""
    return f"{'-' * (nanos < 0)}{abs(nanos) // NANOS}.{abs(nanos) % NANOS:09d}"


def _seconds(buckets: Any, share: float) -> float | None:
    found = percentile(buckets, share)
    return None if found is None else round(found, 4)


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def day_text(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def name_of(report: Report, key: Key) -> str | None:
    """A group's name: days are numbers."""
    return day_text(key) if isinstance(key, int) else key


def ordered(report: Report) -> list[tuple[Key, Figures]]:
    """Days as they come; other groups with the most expensive one first."""
    if report.by == "day":
        return sorted(report.groups.items(), key=lambda item: str(item[0]).zfill(9))
    return sorted(report.groups.items(), key=lambda item: (-item[1].cost, -item[1].calls, str(item[0])))


# -- for people


def show(report: Report, comparison: Comparison | None, console: Console) -> None:
    """Prints a report on a console of any width."""
    plain = not console.encoding.lower().startswith("utf")
    for line in _lines(report, comparison, console.width, plain):
        if isinstance(line, Table):
            console.print(line)
        else:
            console.print(line, soft_wrap=False, overflow="fold")


def _lines(report: Report, comparison: Comparison | None, width: int, plain: bool) -> Iterator[Text | Table]:
    total = report.total
    yield Text(f"{_moment(report.since)} to {_moment(report.until)}", style="bold")
    if not total.calls:
        yield Text("No calls in this period.")
        return
    yield from (Text(words) for words in _summary(total, plain))
    if comparison is not None:
        yield Text()
        yield from _bars(comparison, total, width, plain)
    if len(report.days) > 1:
        yield Text()
        yield Text(_days(report, plain))
    yield Text()
    yield _table(report, width, plain)
    notes = []
    if total.unpriced:
        notes.append(f"{_at_least(plain)}: at least; calls to models without a price are not in it.")
    if total.estimated:
        notes.append(
            f"{_about(plain)}: some tokens are an estimate, of calls that were cut off before they were counted."
        )
    notes.append("Times are half of the calls/95 % of them, about; all moments are in UTC.")
    yield from (Text(note, style="dim") for note in notes)


def _summary(total: Figures, plain: bool) -> Iterator[str]:
    shares = (
        (total.streamed, "streamed"), (total.errors, "errors"), (total.left, "left by the caller"),
        (total.failed_over, "answered after a failure"),
    )  # fmt: skip
    yield "; ".join([f"Calls   {total.calls:,}", *(f"{percent(total.share(n))} {word}" for n, word in shares if n)])
    estimate = f"; {percent(total.share(total.estimated))} of the calls estimated" if total.estimated else ""
    yield f"Tokens  {total.prompt:,} read ({total.cached:,} cached)"
    yield f"        {total.completion:,} written ({total.reasoning:,} reasoning){estimate}"
    unpriced = f"; {_count(total.unpriced, 'call')} unpriced" if total.unpriced else ""
    failed = f"; {dollars(total.failed_cost)} USD on failed attempts" if total.failed_cost else ""
    yield f"Cost    {_cost(total, plain)} USD{unpriced}{failed}"
    for label, buckets in (("First token", total.first_token), ("Whole call ", total.total)):
        half, most = percentile(buckets, 0.5), percentile(buckets, 0.95)
        if half is not None and most is not None:
            yield f"{label}  about {_time(half)} s for half of the calls, {_time(most)} s for 95 % of them"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _bars(comparison: Comparison, total: Figures, width: int, plain: bool) -> Iterator[Text]:
    saved = comparison.cloud - comparison.mixed
    ran = f"{_at_least(plain)} " * bool(total.unpriced) + f"{dollars(comparison.mixed)} USD"
    if comparison.cloud:
        most = "at most " * (bool(total.unpriced) and saved > 0)
        ran += f", {most}{percent(abs(saved) / comparison.cloud)} {'saved' if saved >= 0 else 'more'}"
    if comparison.local is None:
        local = "not known: no local model answered"
    else:
        local = f"{dollars(comparison.local)} USD{' (no price of a machine)' * (comparison.local == 0)}"
    rows = (
        ("as it ran", comparison.mixed, ran),
        (f"all at {_cut(comparison.model, _NAME, plain)}", comparison.cloud, f"{dollars(comparison.cloud)} USD"),
        ("all local", comparison.local, local),
    )
    longest = max(len(name) for name, _, _ in rows)
    room = max(4, min(_BAR, width - longest - 3 - max(len(said) for _, _, said in rows)))
    highest = max(1, *(cost or 0 for _, cost, _ in rows))
    for name, cost, said in rows:
        bar = ("#" if plain else "█") * round(room * (cost or 0) / highest)
        yield Text(f"{name:<{longest}}  {bar:<{room}} {said}")
    if comparison.calls != total.calls:
        known = f"of the {comparison.calls:,} calls (of {total.calls:,}) whose price there is known"
        yield Text(f"The first two are {known}.", style="dim")


def _days(report: Report, plain: bool) -> str:
    """The calls of each day, as a line of small columns."""
    last = max(report.days)
    first = max(min(report.days), last - _MOST_DAYS + 1)
    counts = [report.days[day].calls if day in report.days else 0 for day in range(first, last + 1)]
    steps = " .:-=+*#" if plain else " ▁▂▃▄▅▆▇█"
    most = max(counts)
    line = "".join(steps[-(-count * (len(steps) - 1) // most)] for count in counts)
    return f"Calls a day, {day_text(first)} to {day_text(last)}: {line} (at most {most:,})"


type _Column = tuple[str, int, Callable[[Figures], str]]


def _columns(total: Figures, plain: bool) -> list[_Column]:
    """(head, how soon it goes where there is no room for it, cell)"""

    def tokens(one: Figures, count: int) -> str:
        return (_about(plain) if one.estimated else "") + short(count)

    columns: list[_Column] = [
        ("calls", 0, lambda one: f"{one.calls:,}"),
        ("streamed", 8, lambda one: percent(one.share(one.streamed))),
        ("read", 3, lambda one: tokens(one, one.prompt)),
        ("cached", 9, lambda one: short(one.cached)),
        ("written", 2, lambda one: tokens(one, one.completion)),
        ("cost USD", 0, lambda one: _cost(one, plain)),
        ("saved", 1, lambda one: "-" if one.saved_share is None else percent(one.saved_share)),
        ("errors", 4, lambda one: percent(one.share(one.errors))),
        ("failover", 7, lambda one: percent(one.share(one.failed_over))),
        ("first s", 6, lambda one: _times(one.first_token)),
        ("whole s", 5, lambda one: _times(one.total)),
    ]
    return [column for column in columns if column[0] != "saved" or total.compared_calls]


def _table(report: Report, width: int, plain: bool) -> Table:
    rows = ordered(report)
    hidden = rows[SHOWN:] if len(rows) > SHOWN + 1 and report.by != "day" else []
    lines = [(_name(report, key, plain), one) for key, one in rows[: len(rows) - len(hidden)]]
    if hidden:
        rest = Figures()
        for _, one in hidden:
            rest.add(one)
        lines.append((f"{len(hidden):,} more", rest))
    lines.append(("total", report.total))
    columns = [(head, goes, [cell(one) for _, one in lines]) for head, goes, cell in _columns(report.total, plain)]
    names = min(_NAME, max(cell_len(name) for name in (report.by, *(name for name, _ in lines))))
    while names + sum(2 + max(map(cell_len, [head, *cells])) for head, _, cells in columns) > width:
        least = max(columns, key=lambda column: column[1])
        if names > _SHORT_NAME:
            names -= 1
        elif least[1]:
            columns.remove(least)
        else:
            break
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(report.by, no_wrap=True)
    for head, _, _ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for number, (name, _) in enumerate(lines):
        bold = "bold" if number == len(lines) - 1 else None
        cells = [Text(cells[number]) for _, _, cells in columns]
        table.add_row(Text(_cut(name, names, plain)), *cells, style=bold, end_section=number == len(lines) - 2)
    return table


def _name(report: Report, key: Key, plain: bool) -> str:
    name = one_line(name_of(report, key) or "-")
    return name.encode("ascii", "replace").decode() if plain else name


def _cut(name: str, width: int, plain: bool) -> str:
    """A name that is no wider on the screen than that many columns."""
    return name if cell_len(name) <= width else set_cell_size(name, width - 1) + ("~" if plain else "…")


def _at_least(plain: bool) -> str:
    return ">=" if plain else "≥"


def _about(plain: bool) -> str:
    return "~" if plain else "≈"


def _cost(one: Figures, plain: bool) -> str:
    return f"{_at_least(plain)} {dollars(one.cost)}" if one.unpriced else dollars(one.cost)


def dollars(nanos: int) -> str:
    """USD with as many digits as say something: cents of what is much, two digits of what is little."""
    amount = Decimal(nanos) / NANOS
    if amount == 0:
        return "0"
    if abs(amount) >= 10_000:
        return f"{round(amount):,}"
    digits = 2 if abs(amount) >= 1 else min(9, 1 - amount.adjusted() + (abs(amount) >= Decimal("0.01")) * 2)
    return f"{round(amount, digits):,f}"


def short(count: int) -> str:
    """A number of tokens in a few characters."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size * 10:
            return f"{count / size:,.0f}{unit}" if count >= size * 100 else f"{count / size:.1f}{unit}"
    return f"{count:,}"


def percent(share: float) -> str:
    """Nothing is 0 % that was, and nothing 100 % that was not all."""
    if share not in (0, 1) and (abs(share) < 0.001 or 0.999 < share < 1):
        return "<0.1 %" if abs(share) < 0.001 else ">99.9 %"
    return f"{share * 100:.0f} %" if share in (0, 1) or abs(share) >= 0.0995 else f"{share * 100:.1f} %"


def _times(buckets: Any) -> str:
    half, most = percentile(buckets, 0.5), percentile(buckets, 0.95)
    return "-" if half is None or most is None else f"{_time(half)}/{_time(most)}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"
