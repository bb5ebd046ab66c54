"""Why a rule does not hold, in words: what `unigate explain` and /gateway/explain say of the rules before the one that
decided.

The conditions are the very ones that decide() asks. Whoever may ask for an explanation is not always whoever wrote the
rules: of a header neither the value that came nor the pattern it should fit is told, for either may be a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rules.conditions import Facts, compile_when
from rules.schema import Rule
from rules.snapshot import Rules

_SHOWN = 200
"""Characters of a name that a caller may have thought up."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One rule, held against the facts of a call."""

    rule: str
    failed: tuple[str, ...]
    """Each condition that does not hold, and why; empty: the rule holds."""


def trials(rules: Rules, facts: Facts) -> Iterator[Trial]:
    """The rules in their order, up to and with the first one that holds; none where a virtual model is named."""
    if any(fits(facts.model) for _, fits in rules.aliases):
        return
    for rule in rules.file.rules:
        trial = Trial(rule.name, tuple(_failed(rule, facts)))
        yield trial
        if not trial.failed:
            return


def _failed(rule: Rule, facts: Facts) -> Iterator[str]:
    for name, holds in compile_when(rule.when):
        if not holds(facts):
            wanted = getattr(rule.when, name)
            say = _WORDS.get(name)
            yield f"{name}: {say(wanted, facts) if say is not None else f'{wanted} does not hold'}"


def _fits_none(said: str, patterns: tuple[str, ...]) -> str:
    return f"'{said[:_SHOWN]}' fits {'none of ' if len(patterns) > 1 else 'not '}{', '.join(patterns)}"


def _stream(wanted: bool, _facts: Facts) -> str:
    return "the call is not streamed" if wanted else "the call is streamed"


def _has(wanted: tuple[str, ...], facts: Facts) -> str:
    return f"the call has no {' and no '.join(name for name in wanted if name not in facts.has)}"


def _header(wanted: dict[str, str], _facts: Facts) -> str:
    return f"the call's {', '.join(sorted(name.lower() for name in wanted))} is not as the rule wants"


def _available(wanted: str, facts: Facts) -> str:
    target = wanted.replace("{model}", facts.model[:_SHOWN])
    seen = facts.servers.get(wanted.partition("/")[0])
    away = seen is None or seen.models is None
    return f"{target} is not there: its server {'is not reachable' if away else 'has no such model'}"


_WORDS: dict[str, Callable[[Any, Facts], str]] = {
    "model": lambda wanted, facts: _fits_none(facts.model, wanted),
    "stream": _stream,
    "has": _has,
    "client": lambda wanted, facts: _fits_none(facts.client, wanted),
    "header": _header,
    "prompt_chars": lambda wanted, facts: f"{facts.prompt_chars} is not {wanted.strip()}",
    "available": _available,
}
"""Words for the conditions, by key of `when`; one that has none here is told as it is written."""
