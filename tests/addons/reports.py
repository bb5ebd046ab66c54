"""What the tests of the report share: rows of the ledger made by hand, and the report as a plain sum over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import Engine, delete

from addons.figures import Figures
from addons.ledger_store import LedgerStore, engine_for
from addons.marks import bucket_of, marks_of, marks_of_attempt
from addons.report import day_text
from addons.report_rows import DAY
from addons.tables import attempts, calls

NOON = 1_800_014_400.0
"""2027-01-15 12:00:00 UTC."""
USUAL: Mapping[str, Any] = {
    "time": NOON, "request_id": "req_1", "client": "notebook", "tags": "{}", "endpoint": "/chat/completions",
    "operation": "chat", "model": "gpt-4o", "rule": "local", "target": "ollama/qwen2.5:7b", "status": 200, "error": None,
    "finish_reason": "stop", "streamed": False, "attempts": 1, "failed_attempts": 0, "prompt_tokens": 100,
    "cached_tokens": 0, "completion_tokens": 50, "reasoning_tokens": 0, "estimated": False, "cost": 0, "unpriced": False,
    "failed_cost": 0, "compared": None, "first_token_ms": None, "total_ms": 1000, "first_token_bucket": None,
    "total_bucket": 142, "prompt": None, "answer": None, "tried": (),
}  # fmt: skip
USUAL_ATTEMPT: Mapping[str, Any] = {
    "time": NOON, "target": "ollama/qwen2.5:7b", "outcome": "ok", "continues": False, "prompt_tokens": 100,
    "cached_tokens": 0, "completion_tokens": 50, "reasoning_tokens": 0, "estimated": False, "cost": 0,
    "first_token_ms": None, "total_ms": 1000,
}  # fmt: skip


_SUMS = "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost"


def row(**fields: Any) -> dict[str, Any]:
    """A call; its durations as buckets, for which the ledger has marks (stored), and its attempts as `tried`: what it
    took is what they did. What was refused would have cost nothing elsewhere either.
    """
    made = {**USUAL, **fields}
    if "tried" not in fields:
        made["tried"] = [attempt(**{name: made[name] for name in _SUMS})] if made["attempts"] else []
    for name in _SUMS:
        made[name] = sum(one[name] or 0 for one in made["tried"])
    made["attempts"] = len(made["tried"])
    if _refused(made) and made["compared"] is not None:
        made["compared"] = 0
    made["failed_cost"] = fields.get("failed_cost", plain_sum_of_attempts(made["tried"]).failed_cost)
    return made


def _refused(one: Mapping[str, Any]) -> bool:
    return not one["attempts"] and 400 <= one["status"] < 500 and one["status"] != 499


def attempt(**fields: Any) -> dict[str, Any]:
    return {**USUAL_ATTEMPT, **fields}


def stored(one: Mapping[str, Any]) -> dict[str, Any]:
    """As the ledger keeps it."""
    kept = {name: value for name, value in one.items() if not name.endswith("_bucket")}
    del kept["tried"]
    admitted = kept.pop("admitted", None)
    facts = {name: bool(one[name]) for name in ("streamed", "estimated", "unpriced")}
    total, first = one["total_bucket"] if one["attempts"] else None, one["first_token_bucket"]
    facts |= {"failed": one["failed_attempts"] > 0, "answered": one["target"] is not None}
    facts["compared"] = one["compared"] is not None
    return {**kept, "marks": marks_of(total, first, status=one["status"], admitted=admitted, **facts)}


def _stored_attempt(one: Mapping[str, Any]) -> dict[str, Any]:
    first = one["first_token_ms"]
    marks = marks_of_attempt(
        bucket_of(one["total_ms"] / 1000),
        None if first is None else bucket_of(first / 1000),
        outcome=one["outcome"], estimated=one["estimated"], unpriced=one["cost"] is None,
    )  # fmt: skip
    return {**one, "marks": marks}


def new_ledger(url: str, rows: Iterable[Mapping[str, Any]] = ()) -> Engine:
    store = LedgerStore(url)
    store.open()
    store.close()
    engine = engine_for(url)
    fill(engine, rows)
    return engine


def fill(engine: Engine, rows: Iterable[Mapping[str, Any]]) -> None:
    """These rows, and no others."""
    with engine.begin() as connection:
        connection.execute(delete(calls))
        rows = list(rows)
        made = [{"id": number, **stored(one)} for number, one in enumerate(rows, 1)]
        tried = [
            {"call_id": number, "number": place, "call_time": one["time"], **_stored_attempt(try_)}
            for number, one in enumerate(rows, 1)
            for place, try_ in enumerate(one["tried"], 1)
        ]
        for table, values in ((calls, made), (attempts, tried)):
            if values:
                connection.execute(table.insert(), values)


def plain_sum(rows: Iterable[Mapping[str, Any]], local: str = "no such target") -> Figures:
    figures = Figures()
    for one in rows:
        figures.calls += 1
        figures.answered += one["target"] is not None
        figures.prompt += one["prompt_tokens"]
        figures.cached += one["cached_tokens"]
        figures.completion += one["completion_tokens"]
        figures.reasoning += one["reasoning_tokens"]
        figures.cost += one["cost"]
        figures.failed_cost += one["failed_cost"]
        if (one["target"] or "").startswith(local):
            figures.local_tokens += one["prompt_tokens"] + one["completion_tokens"]
            figures.local_cost += one["cost"] - one["failed_cost"]
        refused = _refused(one)
        if one["compared"] is not None:
            figures.compared += one["compared"]
            figures.cost_of_compared += one["cost"]
            figures.compared_calls += not refused  # what is refused costs nothing, here or there
        figures.streamed += one["streamed"]
        figures.estimated += one["estimated"]
        figures.unpriced += one["unpriced"]
        figures.refused += refused
        figures.errors += one["status"] >= 400 and one["status"] != 499 and not refused
        figures.left += one["status"] == 499
        figures.failed_over += one["failed_attempts"] > 0 and one["status"] < 400
        if one["attempts"]:
            figures.total[one["total_bucket"]] += 1
        if one["first_token_bucket"] is not None:
            figures.first_token[one["first_token_bucket"]] += 1
    return figures


def plain_sum_of_attempts(tried: Iterable[Mapping[str, Any]]) -> Figures:
    figures = Figures()
    for one in tried:
        failed = one["outcome"] not in ("ok", "left")
        figures.attempts += 1
        figures.failed_attempts += failed
        figures.left += one["outcome"] == "left"
        figures.prompt += one["prompt_tokens"]
        figures.cached += one["cached_tokens"]
        figures.completion += one["completion_tokens"]
        figures.reasoning += one["reasoning_tokens"]
        figures.cost += one["cost"] or 0
        figures.failed_cost += (one["cost"] or 0) * failed
        figures.estimated += one["estimated"]
        figures.unpriced += one["cost"] is None
        figures.total[bucket_of(one["total_ms"] / 1000)] += 1
        if one["first_token_ms"] is not None:
            figures.first_token[bucket_of(one["first_token_ms"] / 1000)] += 1
    return figures


def plain_days(rows: Iterable[Mapping[str, Any]]) -> dict[int, Figures]:
    return _grouped(rows, lambda one: math.floor(one["time"] / DAY), plain_sum)


def plain_groups(rows: Iterable[Mapping[str, Any]], by: str) -> dict[Any, Figures]:
    if by == "target":
        return _grouped([tried for one in rows for tried in one["tried"]], itemgetter(by), plain_sum_of_attempts)
    if by == "day":
        return {day_text(day): one for day, one in plain_days(rows).items()}
    return _grouped(rows, itemgetter(by), plain_sum)


def _grouped(
    ones: Iterable[Mapping[str, Any]],
    key: Callable[[Mapping[str, Any]], Any],
    sum_: Callable[[Iterable[Mapping[str, Any]]], Figures],
) -> dict[Any, Figures]:
    members: dict[Any, list[Mapping[str, Any]]] = {}
    for one in ones:
        members.setdefault(key(one), []).append(one)
    return {name: sum_(found) for name, found in members.items()}
