"""A report as programs read it: JSON and CSV, whose names stay.

The names in it were chosen by callers: none of them may be run by a spreadsheet as a formula.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import Any

from addons.figures import Figures, percentile
from addons.lines import one_line
from addons.report import Comparison, Report, day_text, moment_text
from rules.quota import NANOS

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_json(report: Report, comparison: Comparison | None) -> dict[str, Any]:
    """Names that stay. Money as an exact decimal text, and in whole billionths of a USD."""
    fields = _of_attempts if report.of_attempts else _of_calls
    return {
        "since": moment_text(report.since),
        "until": moment_text(report.until),
        "timezone": "UTC",
        "client": report.only.get("client"),
        "model": report.only.get("model"),
        "by": report.by,
        "total": _of_calls(report.total),
        "groups": [{report.by: name, **fields(one)} for name, one in report.ordered()],
        "days": [{"day": day_text(day), **_of_calls(report.days[day])} for day in sorted(report.days)],
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


def json_text(report: dict[str, Any]) -> str:
    # Sums may have more than the 64 bits that orjson takes.
    return json.dumps(report, ensure_ascii=False, indent=2) + "\n"


def as_csv(report: Report) -> str:
    """A header, a row for each group, and one of the total, whose group is empty and whose `row` says so."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = _of_attempts if report.of_attempts else _of_calls
    writer.writerow(["row", report.by, *fields(Figures())])
    for name, one in report.ordered():
        writer.writerow(["group", _cell(name or ""), *fields(one).values()])
    writer.writerow(["total", "", *fields(report.total_of_groups).values()])
    return out.getvalue()


def _cell(name: str) -> str:
    return f"'{one_line(name)}" if name.startswith(_FORMULA) else one_line(name)


def _of_calls(one: Figures) -> dict[str, Any]:
    return {
        "calls": one.calls,
        "streamed": one.streamed,
        **_tokens(one),
        "estimated_calls": one.estimated,
        **_money("cost", one.cost),
        **_money("failed_cost", one.failed_cost),
        "unpriced_calls": one.unpriced,
        "compared_calls": one.compared_calls,
        **_money("compared", one.compared if one.compared_calls else None),
        **_money("saved", one.saved),
        "saved_share": one.saved_share,
        "refused": one.refused,
        "errors": one.errors,
        "error_share": one.error_share,
        "left": one.left,
        "failed_over": one.failed_over,
        "unanswered": one.calls - one.answered,
        **_durations(one),
    }


def _of_attempts(one: Figures) -> dict[str, Any]:
    """Where a name is one of _of_calls(), it means the same, of attempts."""
    return {
        "attempts": one.attempts,
        "failed_attempts": one.failed_attempts,
        "left": one.left,
        **_tokens(one),
        "estimated_attempts": one.estimated,
        **_money("cost", one.cost),
        **_money("failed_cost", one.failed_cost),
        "unpriced_attempts": one.unpriced,
        **_durations(one),
    }


def _tokens(one: Figures) -> dict[str, int]:
    return {
        "prompt_tokens": one.prompt,
        "cached_tokens": one.cached,
        "completion_tokens": one.completion,
        "reasoning_tokens": one.reasoning,
    }


def _durations(one: Figures) -> dict[str, float | None]:
    return {
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


def _seconds(buckets: Counter[int], share: float) -> float | None:
    found = percentile(buckets, share)
    return None if found is None else round(found, 4)
