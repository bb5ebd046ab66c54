"""What the tests of the report share: rows of the ledger made by hand, and the report as a plain sum over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Engine, delete

from addons.ledger_store import LedgerStore, engine_for
from addons.marks import marks_of
from addons.report import DAY, Figures
from addons.tables import calls

NOON = 1_800_014_400.0
"""2027-01-15 12:00:00 UTC."""
USUAL: Mapping[str, Any] = {
    "time": NOON, "request_id": "req_1", "client": "notebook", "tags": "{}", "endpoint": "/chat/completions",
    "operation": "chat", "model": "gpt-4o", "rule": "local", "target": "ollama/qwen2.5:7b", "status": 200, "error": None,
    "finish_reason": "stop", "streamed": False, "attempts": 1, "failed_attempts": 0, "prompt_tokens": 100,
    "cached_tokens": 0, "completion_tokens": 50, "reasoning_tokens": 0, "estimated": False, "cost": 0, "unpriced": False,
    "failed_cost": 0, "compared": None, "first_token_ms": None, "total_ms": 1000, "first_token_bucket": None,
    "total_bucket": 142, "prompt": None, "answer": None,
}  # fmt: skip


def row(**fields: Any) -> dict[str, Any]:
    """A call; its durations as buckets, for which the ledger has marks (stored)."""
    return {**USUAL, **fields}


def stored(one: Mapping[str, Any]) -> dict[str, Any]:
    """As the ledger keeps it."""
    kept = {name: value for name, value in one.items() if not name.endswith("_bucket")}
    facts = {name: bool(one[name]) for name in ("streamed", "estimated", "unpriced")}
    total, first = one["total_bucket"], one["first_token_bucket"]
    failed = one["failed_attempts"] > 0
    return {**kept, "marks": marks_of(total, first, status=one["status"], failed=failed, **facts)}


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
        numbered = [{"id": number, **stored(one)} for number, one in enumerate(rows, 1)]
        if numbered:
            connection.execute(calls.insert(), numbered)


def plain_sum(rows: Iterable[Mapping[str, Any]]) -> Figures:
    figures = Figures()
    for one in rows:
        figures.calls += 1
        figures.prompt += one["prompt_tokens"]
        figures.cached += one["cached_tokens"]
        figures.completion += one["completion_tokens"]
        figures.reasoning += one["reasoning_tokens"]
        figures.cost += one["cost"]
        figures.failed_cost += one["failed_cost"]
        if one["compared"] is not None:
            figures.compared += one["compared"]
            figures.compared_calls += 1
            figures.cost_of_compared += one["cost"]
        figures.streamed += one["streamed"]
        figures.estimated += one["estimated"]
        figures.unpriced += one["unpriced"]
        figures.errors += one["status"] >= 400 and one["status"] != 499
        figures.left += one["status"] == 499
        figures.failed_over += one["failed_attempts"] > 0 and one["status"] < 400
        figures.total[one["total_bucket"]] += 1
        if one["first_token_bucket"] is not None:
            figures.first_token[one["first_token_bucket"]] += 1
    return figures


def plain_groups(rows: Iterable[Mapping[str, Any]], by: str) -> dict[Any, Figures]:
    members: dict[Any, list[Mapping[str, Any]]] = {}
    for one in rows:
        members.setdefault(math.floor(one["time"] / DAY) if by == "day" else one[by], []).append(one)
    return {key: plain_sum(ones) for key, ones in members.items()}
