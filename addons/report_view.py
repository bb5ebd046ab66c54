"""A report as people see it: a table that fits their terminal.

The names in it were chosen by callers: none of them may steer a terminal, or be taken for rich's markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from addons.figures import Figures, percentile, share, sum_of
from addons.lines import one_line
from addons.report import Comparison, Key, Report, day_text, moment_text
from rules.quota import NANOS

_ONLY = {"client": " of the client {}", "model": " that asked for the model {}"}
SHOWN = 25
"""Groups in the table; the rest are one line."""
_NAME, _SHORT_NAME = 32, 16
"""How wide names may be, and where there is little room."""
_BAR = 24
_MOST_DAYS = 60
"""Days in the line of days; of a longer period, the last ones."""


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
    yield Text(f"{moment_text(report.since)} to {moment_text(report.until)}", style="bold")
    only = "".join(words.format(one_line(report.only[name])) for name, words in _ONLY.items() if name in report.only)
    if not total.calls:
        yield Text(f"No calls in this period{only}.")
        return
    if only:
        yield Text(f"Only calls{only}.")
    yield from (Text(words) for words in _summary(total, plain))
    if comparison is not None:
        yield Text()
        yield from _bars(comparison, width, plain)
    if len(report.days) > 1:
        yield Text()
        yield Text(_days(report, plain))
    if report.groups:
        yield Text()
        yield _table(report, width, plain)
    yield from (Text(note, style="dim") for note in _notes(report, plain))


def _notes(report: Report, plain: bool) -> Iterator[str]:
    total = report.total
    unanswered = total.calls - total.answered
    if report.of_attempts and unanswered:
        refused = f" ({total.refused:,} refused)" if total.refused else ""
        yield f"{_count(unanswered, 'call was', 'calls were')} answered by no target{refused}."
    if total.unpriced:
        yield f"{_at_least(plain)}: at least; what has no price, or one for tokens that nobody counted, is not in it."
    if total.estimated:
        yield f"{_about(plain)}: some tokens are an estimate: their calls were cut off, or nobody counted them."
    if total.refused:
        yield "Refused: by the gateway itself (4xx), before any target was asked. Errors and times leave these out."
    of_what = "attempts" if report.of_attempts else "calls"
    yield f"Times: half of the {of_what} took no longer/95 % of them, about. All moments are in UTC."


def _summary(total: Figures, plain: bool) -> Iterator[str]:
    shares = (
        (share(total.streamed, total.calls), "streamed"), (total.error_share, "errors"),
        (share(total.left, total.calls), "left by the caller"),
        (share(total.failed_over, total.calls), "answered after a failure"),
    )  # fmt: skip
    refused = f", {total.refused:,} of them refused" if total.refused else ""
    words = [f"{percent(part)} {word}" for part, word in shares if part]
    yield "; ".join([f"Calls   {total.calls:,}{refused}", *words])
    estimate = f"; {percent(share(total.estimated, total.calls))} of the calls estimated" if total.estimated else ""
    yield f"Tokens  {total.prompt:,} read ({total.cached:,} cached)"
    yield f"        {total.completion:,} written ({total.reasoning:,} reasoning){estimate}"
    unpriced = f"; {_count(total.unpriced, 'call', 'calls')} unpriced" if total.unpriced else ""
    failed = f"; {dollars(total.failed_cost)} USD on failed attempts" if total.failed_cost else ""
    yield f"Cost    {_cost(total, plain)} USD{unpriced}{failed}"
    for label, buckets in (("First token", total.first_token), ("Whole call ", total.total)):
        half, most = percentile(buckets, 0.5), percentile(buckets, 0.95)
        if half is not None and most is not None:
            yield f"{label}  about {_time(half)} s for half of the calls, {_time(most)} s for 95 % of them"


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _bars(comparison: Comparison, width: int, plain: bool) -> Iterator[Text]:
    saved = comparison.cloud - comparison.mixed
    ran = f"{dollars(comparison.mixed)} USD"
    if comparison.cloud:
        ran += f", {_difference(saved / comparison.cloud)}"
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
    if comparison.calls != comparison.of:
        known = f"Compared, and saved: of {comparison.calls:,} of {comparison.of:,} calls"
        yield Text(f"{known}. The others have no price, here or there, or are no text.", style="dim")


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


def _columns(report: Report, plain: bool) -> list[_Column]:
    """(head, how soon it goes where there is no room for it, cell)"""

    def tokens(one: Figures, count: int) -> str:
        return (_about(plain) if one.estimated else "") + short(count)

    read: _Column = ("read", 3, lambda one: tokens(one, one.prompt))
    cached: _Column = ("cached", 9, lambda one: short(one.cached))
    written: _Column = ("written", 2, lambda one: tokens(one, one.completion))
    cost: _Column = ("cost USD", 0, lambda one: _cost(one, plain))
    times: tuple[_Column, _Column] = (
        ("first s", 6, lambda one: _times(one.first_token)),
        ("whole s", 5, lambda one: _times(one.total)),
    )
    if report.of_attempts:
        failed: _Column = ("failed", 1, lambda one: percent(share(one.failed_attempts, one.attempts)))
        return [("attempts", 0, lambda one: f"{one.attempts:,}"), read, cached, written, cost, failed, *times]
    columns: list[_Column] = [
        ("calls", 0, lambda one: f"{one.calls:,}"),
        ("streamed", 8, lambda one: percent(share(one.streamed, one.calls))),
        *(read, cached, written, cost),
        ("saved", 1, lambda one: "-" if one.saved_share is None else _saved(one.saved_share)),
        ("refused", 7, lambda one: f"{one.refused:,}"),
        ("errors", 4, lambda one: percent(one.error_share)),
        ("failover", 7, lambda one: percent(share(one.failed_over, one.calls))),
        *times,
    ]
    wanted = {"saved": report.total.compared_calls, "refused": report.total.refused}
    return [column for column in columns if wanted.get(column[0], True)]


def _table(report: Report, width: int, plain: bool) -> Table:
    rows = report.ordered()
    hidden = rows[SHOWN:] if len(rows) > SHOWN + 1 and report.by != "day" else []
    lines = [(_name(key, plain), one) for key, one in rows[: len(rows) - len(hidden)]]
    if hidden:
        lines.append((f"{len(hidden):,} more", sum_of(one for _, one in hidden)))
    lines.append(("total", report.total_of_groups))
    columns = [(head, goes, [cell(one) for _, one in lines]) for head, goes, cell in _columns(report, plain)]
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


def _name(key: Key, plain: bool) -> str:
    name = one_line(key or "-")
    return name.encode("ascii", "replace").decode() if plain else name


def _cut(name: str, width: int, plain: bool) -> str:
    """A name that is no wider on the screen than that many columns."""
    return name if cell_len(name) <= width else set_cell_size(name, width - 1) + ("~" if plain else "…")


def _at_least(plain: bool) -> str:
    return ">=" if plain else "≥"


def _about(plain: bool) -> str:
    return "~" if plain else "≈"


def _cost(one: Figures, plain: bool) -> str:
    """`≥` where something is missing, `≈` where something is estimated: then also what that cost."""
    marks = _at_least(plain) * bool(one.unpriced) + _about(plain) * bool(one.estimated and one.cost)
    return f"{marks} {dollars(one.cost)}" if marks else dollars(one.cost)


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


_MOST = 10
"""Times as much, from which on a percentage says nothing any more."""


def _difference(saved: float) -> str:
    """In words, what a share that was saved means: it may be negative, without end."""
    if saved <= 1 - _MOST:
        return f"{1 - saved:,.0f} times as much"
    return f"{percent(abs(saved))} {'saved' if saved >= 0 else 'more'}"


def _saved(saved: float) -> str:
    """As _difference(), in a cell."""
    return f"cost x{1 - saved:,.0f}" if saved <= 1 - _MOST else percent(saved)


def percent(share: float) -> str:
    """Nothing is 0 % that was, and nothing 100 % that was not all."""
    if share not in (0, 1) and (abs(share) < 0.001 or 0.999 < share < 1):
        return "<0.1 %" if abs(share) < 0.001 else ">99.9 %"
    whole = share == 0 or 0.0995 <= abs(share) < 0.995 or abs(share) >= 1
    return f"{share * 100:.{0 if whole else 1}f} %"


def _times(buckets: Counter[int]) -> str:
    half, most = percentile(buckets, 0.5), percentile(buckets, 0.95)
    return "-" if half is None or most is None else f"{_time(half)}/{_time(most)}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"
