"""What a call may cost on a day, at the prices that the file knows."""

from __future__ import annotations

from datetime import date
from random import Random
from typing import Any

import pytest

from rules.prices import expected_cost, is_for, price_at
from rules.terms import Price


def price(model: str, since: str, usd: float = 1.0, **more: Any) -> Price:
    return Price.model_validate({"model": model, "from": since, "input": usd, "output": usd, **more})


JANUARY, MAY, JULY = date(2026, 1, 1), date(2026, 5, 31), date(2026, 7, 1)
BOOK = (
    price("far/small", "2026-06-01", 2),
    price("far/small", "2026-01-01", 1),
    price("far/*", "2026-01-01", 3),
    price("far/s*", "2026-01-01", 4),
    price("far/s*", "2026-06-01", 5),
    price("far/new", "2026-06-01", 6),
    price("far/[x]", "2026-01-01", 7),
)


@pytest.mark.parametrize(
    ("name", "day", "usd", "because"),
    [
        ("far/small", date(2025, 12, 31), None, "no price is in force yet"),
        ("far/small", JANUARY, 1, "a price holds from its first day on"),
        ("far/small", MAY, 1, "and until the day before the next one"),
        ("far/small", date(2026, 6, 1), 2, "the latest in force counts, wherever it stands"),
        ("far/small", date(2099, 1, 1), 2, "and has no end of its own"),
        ("far/sage", MAY, 4, "the longer pattern says more"),
        ("far/sage", JULY, 5, "the latest of one pattern counts"),
        ("far/new", MAY, 3, "a pattern fills in while the name's own price is still to come"),
        ("far/new", JULY, 6, "the name's own price goes before a pattern"),
        ("far/ns/other", MAY, 3, "a star stands for slashes too"),
        ("far/[x]", MAY, 7, "a name that looks like a pattern is a name first"),
        ("far/x", MAY, 7, "and a pattern besides"),
        ("Far/small", MAY, None, "a provider's name has one spelling"),
        ("near/small", MAY, None, "another provider has no price"),
    ],
)
def test_the_price_of_a_target_depends_on_its_name_and_the_day(
    name: str, day: date, usd: float | None, because: str
) -> None:
    for order in range(6):
        shuffled = Random(order).sample(BOOK, len(BOOK))
        found = price_at(shuffled, name, day)
        assert (found and found.input) == usd, because


def test_without_prices_nothing_is_known() -> None:
    assert price_at((), "far/small", MAY) is None


@pytest.mark.parametrize(
    ("model", "name", "fits"),
    [("a/b", "a/b", True), ("a/b", "a/bc", False), ("a/*", "a/b", True), ("a/*", "a", False), ("a/?", "a/bc", False)],
)
def test_a_price_is_for_a_name_or_for_all_that_fit_a_pattern(model: str, name: str, fits: bool) -> None:
    assert is_for(price(model, "2026-01-01"), name) is is_for(model, name) is fits


@pytest.mark.parametrize(
    ("chars", "given", "wanted", "usd"),
    [
        (0, 0, 0, 0),
        (0, 9, 2, 0.001),  # 500 tokens of answer
        (4_000_000, 0.15, 0, 0.15),  # a million tokens of prompt
        (4_000, 1, 1, 0.0015),
    ],
)
def test_the_expected_cost_is_that_of_the_prompt_and_of_a_middling_answer(
    chars: int, given: float, wanted: float, usd: float
) -> None:
    row = Price.model_validate({"model": "a/b", "from": "2026-01-01", "input": given, "output": wanted})
    assert expected_cost(row, chars) == pytest.approx(usd)


def test_a_cached_price_does_not_count_where_nothing_is_known_of_a_cache() -> None:
    assert expected_cost(price("a/b", "2026-01-01", cached_input=100), 400) == expected_cost(
        price("a/b", "2026-01-01"), 400
    )
