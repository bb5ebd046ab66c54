"""What a rule's `when` can ask: one small function per key, and the table of them at the end.

A condition is compiled once, when the file is loaded, and asked for every call: it looks at Facts and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from rules.schema import When
from rules.values import comparison

type Condition = Callable[["Facts"], bool]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one provider's servers."""

    models: frozenset[str] | None = None
    """The models they have now, all together, as model_name() spells them; None: not reachable, or not asked."""
    reached: bool = False
    """One of them answered at least once since we started."""
    nodes: Mapping[str, frozenset[str] | None] = field(default_factory=dict, hash=False)
    """url -> `models` of that one server, for those of its servers of which more is known than of all together."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision may depend on. Header names are in lower case; `servers` is by provider."""

    model: str
    prompt_chars: int = 0
    stream: bool = False
    has: frozenset[str] = frozenset()
    client: str = "anonymous"
    headers: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, Seen] = field(default_factory=dict)


def model_name(name: str) -> str:
    """Ollama's way to compare names: the tag defaults to `latest`, case does not count."""
    name = name.lower()
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def glob(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """True for a text that fits one of the patterns (`*`, `?`, `[...]`), whatever its case."""
    matches = re.compile("|".join(translate(pattern.lower()) for pattern in patterns)).match
    return lambda text: matches(text.lower()) is not None


def literal(name: str) -> str:
    """A name as a pattern that fits only itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _model(patterns: tuple[str, ...]) -> Condition:
    fits = glob(patterns)
    return lambda facts: fits(facts.model)


def _prompt_chars(text: str) -> Condition:
    fits = comparison(text)
    return lambda facts: fits(facts.prompt_chars)


def _available(target: str) -> Condition:
    provider, _, model = target.partition("/")

    def holds(facts: Facts) -> bool:
        seen = facts.servers.get(provider)
        if seen is None or seen.models is None:
            return False
        return model_name(model.replace("{model}", facts.model)) in seen.models

    return holds


def _stream(wanted: bool) -> Condition:
    return lambda facts: facts.stream is wanted


def _has(features: tuple[str, ...]) -> Condition:
    wanted = frozenset(features)
    return lambda facts: wanted <= facts.has


def _client(patterns: tuple[str, ...]) -> Condition:
    fits = glob(patterns)
    return lambda facts: fits(facts.client)


def _header(wanted: dict[str, str]) -> Condition:
    checks = [(name.lower(), glob((pattern,))) for name, pattern in wanted.items()]
    return lambda facts: all(fits(facts.headers.get(name, "")) for name, fits in checks)


def compile_when(when: When) -> tuple[tuple[str, Condition], ...]:
    """The conditions of one rule with their names; raises ValueError naming the key that makes no sense."""
    compiled: list[tuple[str, Condition]] = []
    for name, build in CONDITIONS.items():
        value = getattr(when, name)
        if value is not None:
            compiled.append((name, build(value)))
    return tuple(compiled)


CONDITIONS: dict[str, Callable[[Any], Condition]] = {
    "model": _model,
    "stream": _stream,
    "has": _has,
    "client": _client,
    "header": _header,
    "prompt_chars": _prompt_chars,
    "available": _available,
}
"""The keys of `when`, in the order in which they are asked: all of them are cheap, the last ones least."""
