"""What a call costs, or may cost, from the dated prices of the file.

A price is known from a day on and until the next one: what stands in the file for tomorrow says nothing about today.
Money is whole NANOS of a USD, rounded once per attempt, so that sums agree to the last digit whoever adds them up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase

from cachetools import LRUCache

from rules.quota import NANOS
from rules.terms import Price

CHARS_PER_TOKEN = 4
"""A usual figure for English; enough for comparing targets that all get the same prompt."""
EXPECTED_ANSWER = 500
"""Tokens."""
REMEMBERED = 1024
"""Prices of a target on a day."""
UNPAID = frozenset({"ollama", "sandbox"})
"""Dialects whose servers are ours: without a price they cost nothing. Any other model without one is unpriced."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a target counted. `prompt` includes `cached`, `completion` includes `reasoning`: neither counts twice."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


NONE_COUNTED = Tokens()


class Book:
    """The prices of a file."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = tuple(prices)
        self._found: LRUCache[tuple[str, int], Price | None] = LRUCache(REMEMBERED)

    def at(self, name: str, moment: float) -> Price | None:
        """The price of a target at a moment, in Unix time."""
        key = (name, int(moment // 86400))
        try:
            found: Price | None = self._found[key]
        except KeyError:
            found = self._found[key] = price_at(self._prices, name, datetime.fromtimestamp(moment, UTC).date())
        return found


def cost(price: Price, tokens: Tokens, moment: float, busy: float = 0.0) -> int:
    """NANOS of one attempt. `moment`: its beginning, Unix time; `busy`: a machine's seconds that were its own."""
    cached = price.input if price.cached_input is None else price.cached_input
    per_million = (
        (tokens.prompt - tokens.cached) * price.input + tokens.cached * cached + tokens.completion * price.output
    )
    dollars = per_million / 1_000_000 + price.request + price.hour * busy / 3600
    return round(dollars * NANOS)


def is_for(price: Price | str, name: str) -> bool:
    """Whether a price (or the `model` of one) is that of a target, by its name or as a pattern."""
    model = price if isinstance(price, str) else price.model
    return model == name or fnmatchcase(name, model)


def price_at(prices: Iterable[Price], name: str, day: date) -> Price | None:
    """The price of a target (`provider/model`) on a day: the latest of those in force.

    One for exactly this name goes before one with a pattern, and of two patterns the longer one, which says more.
    """
    known = [price for price in prices if price.since <= day and is_for(price, name)]
    return max(known, key=lambda price: (price.model == name, len(price.model), price.since), default=None)


def expected_cost(price: Price, prompt_chars: int) -> float:
    """USD, for comparing: nobody knows yet how long the answer will be."""
    return (prompt_chars / CHARS_PER_TOKEN * price.input + EXPECTED_ANSWER * price.output) / 1_000_000
