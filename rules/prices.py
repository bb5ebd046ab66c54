"""What a call may cost, from the dated prices of the file.

A price is known from a day on and until the next one: what stands in the file for tomorrow says nothing about today.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase

from rules.schema import Price

CHARS_PER_TOKEN = 4
"""A usual figure for English; enough for comparing targets that all get the same prompt."""
EXPECTED_ANSWER = 500
"""Tokens."""


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
