"""Small rules files, and what is decided by them."""

from __future__ import annotations

from typing import Any

import yaml

from rules.conditions import Facts, Seen
from rules.decide import Decision, decide
from rules.load import load_rules
from rules.snapshot import Rules

SECRET = "sk-hidden-0123456789"
HERE = {"dialect": "ollama", "urls": ["http://127.0.0.1:11434"]}
FAR = {"dialect": "openai", "urls": ["https://far.test/v1"], "key": SECRET}
KEYLESS = {"dialect": "openai", "urls": ["https://keyless.test"], "key": ""}
TWO = {"dialect": "openai", "urls": ["http://one.test", "http://two.test"]}
OPEN = {"dialect": "openai", "urls": ["http://open.test:8000"]}
BOX = {"dialect": "sandbox"}
PROVIDERS = {"here": HERE, "far": FAR, "keyless": KEYLESS, "open": OPEN, "box": BOX}

NEVER = Seen()
AWAY = Seen(None, reached=True)
BARE = Seen(frozenset(), reached=True)
WITH_M = Seen(frozenset({"m:latest"}), reached=True)

UNREACHABLE = "its server is not reachable"
NO_MODEL = "its server has no such model"
NO_KEY = "has no key"
NOT_NEEDED = "stands in only where nothing else can be asked"
ELSEWHERE = "never stands in for a real model"


def made(
    rules: list[dict[str, Any]],
    models: dict[str, Any] | None = None,
    defaults: dict[str, Any] | None = None,
    **providers: Any,
) -> Rules:
    file = {
        "providers": {**PROVIDERS, **providers},
        "models": models or {},
        "rules": rules,
        "defaults": defaults or {},
        "prices": [{"model": "far/*", "from": "2026-11-15", "input": 1, "output": 1}],
    }
    return load_rules(yaml.safe_dump(file, sort_keys=False), {}, profiles={"compat"})


def chosen(use: list[str] | str, seen: Seen = NEVER, model: str = "m", **providers: Any) -> Decision:
    return decide(made([{"name": "all", "use": use}], **providers), Facts(model, servers={"here": seen}))


def names(decision: Decision) -> list[str]:
    return [target.name for target in decision.targets]


def pools(decision: Decision) -> list[tuple[str, str, list[str], tuple[float, ...]]]:
    """(strategy, name, servers, weights) of each; a server is its host with the model."""
    return [
        (pool.strategy, pool.name, [f"{one.host or one.provider}/{one.model}" for one in pool.targets], pool.weights)
        for pool in decision.pools
    ]


def skips(decision: Decision) -> list[tuple[str, str]]:
    return [(skip.target, skip.why) for skip in decision.skipped]
