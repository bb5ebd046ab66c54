"""What was measured, held against the goals, for eyes and for machines.

A goal is judged on the ratio within the run where there is one, because the absolute figures of two runs on
a shared machine can differ by half.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HEADINGS = ("measure", "unit", "direct", "bare", "gateway", "ratio", "95 %", "goal", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Figures that do not exist for a measure are None."""

    key: str
    """Stable name for machine use."""
    label: str
    unit: str
    direct: float | None = None
    bare: float | None = None
    gateway: float | None = None
    ratio: float | None = None
    """Gateway to bare: the median of the ratios of the single rounds."""
    between: tuple[float, float] | None = None
    """Where that median lies with a confidence of about 95 %."""
    rounds: int | None = None
    """How many rounds there were."""
    goal: str = ""
    """In words; empty for a row that only informs."""
    met: bool | None = None
    certain: bool = True
    """Whether the verdict is the same at both ends of `between`."""


def _figure(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    between = "-" if row.between is None else f"{row.between[0]:.2f}..{row.between[1]:.2f}"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met] + ("" if row.certain else "?")
    figures = (_figure(row.direct), _figure(row.bare), _figure(row.gateway))
    return (row.label, row.unit, *figures, ratio, between, row.goal, verdict)


def show(rows: Sequence[Row], notes: Sequence[str]) -> None:
    """A coloured table on a terminal, aligned text elsewhere."""
    console = Console()
    if console.is_terminal:
        table = Table(*HEADINGS, header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(table.columns):
            column.no_wrap = number not in (0, 7)  # on a narrow terminal the words give way, not the figures
            column.justify = "right" if 2 <= number < 7 else "left"
        for row in rows:
            style = {True: "green", False: "red", None: None}[row.met]
            table.add_row(*_cells(row), style=style)
        console.print(table)
    else:
        lines = [HEADINGS, *(_cells(row) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
        for line in lines:
            cells = (
                cell.rjust(width) if 2 <= column < 7 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            print("  ".join(cells).rstrip())
    for note in notes:
        print(note)


def as_json(rows: Sequence[Row], facts: dict[str, object]) -> str:
    """The rows by their keys, and the facts of the run."""
    missed = [row.key for row in rows if row.met is False]
    table = {row.key: {name: value for name, value in asdict(row).items() if name != "key"} for row in rows}
    return json.dumps({**facts, "missed": missed, "rows": table}, indent=2)
