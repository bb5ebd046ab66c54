"""Calls that are over, made by hand: for what is told of them."""

from __future__ import annotations

from typing import Any

from addons.account import Account, Tried
from rules.prices import NONE_COUNTED, Tokens


def tried(target: str = "ollama/qwen2.5:7b", **fields: Any) -> Tried:
    provider, _, model = target.partition("/")
    usual: dict[str, Any] = {
        "started": 1_800_000_000.25, "outcome": "ok", "tokens": NONE_COUNTED, "estimated": False, "cost": 0,
        "first_token": None, "took": 1.5, "continues": False,
    }  # fmt: skip
    return Tried(target=target, provider=provider, model=model, **{**usual, **fields})


def account(*attempts: Tried, **fields: Any) -> Account:
    """A call of these attempts; what can be told from them is."""
    answered = [one for one in attempts if one.outcome == "ok"]
    usual: dict[str, Any] = {
        "time": 1_800_000_000.0, "request_id": "req_1", "client": "notebook", "tags": {}, "endpoint": "/chat/completions",
        "operation": "chat", "model": "gpt-4o", "rule": "local", "target": answered[-1].target if answered else None,
        "status": 200 if answered else 502, "error": None if answered else "upstream_error",
        "finish_reason": "stop" if answered else None, "streamed": False,
        "tokens": sum((one.tokens for one in attempts), NONE_COUNTED), "estimated": any(one.estimated for one in attempts),
        "cost": sum(one.cost or 0 for one in attempts), "unpriced": any(one.cost is None for one in attempts),
        "failed_cost": 0, "compared": None, "first_token": None, "total": 2.0, "tried": attempts,
    }  # fmt: skip
    return Account(**{**usual, **fields})


TOKENS = Tokens(prompt=100, cached=20, completion=50, reasoning=10)
