"""What a call costs, or may cost, at the prices that the file knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.prices import (
    MOST,
    REMEMBERED,
    Book,
    Tariff,
    Tokens,
    cost,
    expected_cost,
    is_for,
    price_at,
    tariff_of,
)
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


LOCAL = frozenset({"near"})


@pytest.mark.parametrize(
    ("model", "name", "fits"),
    [
        ("near/qwen2.5:7b", "near/QWEN2.5:7b", True),
        ("near/QWEN2.5:7b", "near/qwen2.5:7b", True),
        ("near/llama3.2", "near/llama3.2:latest", True),
        ("near/llama3.2:latest", "near/llama3.2", True),
        ("near/llama3.2", "near/LLAMA3.2:Latest", True),
        ("near/Qwen*", "near/qwen2.5:7b", True),
        ("near/qwen*", "near/QWEN2.5:7b", True),
        ("near/*:latest", "near/llama3.2", True),
        ("near/llama?.2", "near/Llama3.2:latest", True),
        ("near/ns/M", "near/NS/m:latest", True),
        ("near/*", "near/M", True),
        ("near/llama3.2", "near/llama3.2:1b", False),
        ("near/qwen*", "near/llama3.2", False),
        ("Near/m", "near/m", False),
        ("near/m", "Near/m", False),
        ("far/m", "near/m", False),
        # elsewhere a name has one spelling
        ("far/m", "far/M", False),
        ("far/M*", "far/m", False),
        ("far/m", "far/m:latest", False),
    ],
)
def test_the_price_of_a_local_model_is_for_every_spelling_of_its_name(model: str, name: str, fits: bool) -> None:
    one = price(model, "2026-01-01")
    assert is_for(one, name, LOCAL) is is_for(model, name, LOCAL) is fits
    assert price_at([one], name, MAY, LOCAL) is (one if fits else None)
    assert (Book([one], LOCAL).at(name, NOON) is not None) is fits


@pytest.mark.parametrize("name", ["near/llama3.2", "near/LLAMA3.2", "near/llama3.2:latest"])
def test_whatever_its_spelling_a_local_models_own_price_goes_before_patterns_and_the_latest_counts(name: str) -> None:
    book = (
        price("near/llama3.2:latest", "2026-01-01", 1),
        price("near/Llama3.2", "2026-06-01", 2),
        price("near/llama3.2*", "2026-06-15", 3),
        price("near/*", "2026-06-15", 4),
    )
    for order in range(6):
        shuffled = Random(order).sample(book, len(book))
        assert [(found := price_at(shuffled, name, day, LOCAL)) and found.input for day in (MAY, JULY)] == [1, 2]


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()  # a Saturday


def tariff(**more: Any) -> Tariff:
    """`input` and its like of a price; left out: 0."""
    return tariff_of(Price.model_validate({"model": "a/b", "from": "2026-01-01", **more}))


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
    assert expected_cost(tariff(input=given, output=wanted), chars, NOON) == pytest.approx(usd)


def test_a_cached_price_does_not_count_where_nothing_is_known_of_a_cache() -> None:
    assert expected_cost(tariff(input=1, cached_input=100), 400, NOON) == expected_cost(tariff(input=1), 400, NOON)


def test_the_expected_cost_has_the_peak_the_request_and_the_hour_in_it() -> None:
    peak = {"utc": "sat", "times": 3}
    assert expected_cost(tariff(output=2, peak=peak), 0, NOON) == pytest.approx(0.003)
    assert expected_cost(tariff(request=0.25), 0, NOON) == pytest.approx(0.25)
    assert expected_cost(tariff(hour=0.36), 0, NOON, busy=10) == pytest.approx(0.001)


# -- what an attempt costs

FLASH = {
    "input": 0.15,
    "cached_input": 0.003,
    "output": 0.60,
    "peak": {"utc": ["mon-fri 01:00-04:00", "mon-fri 06:00-10:00"], "times": 2, "but": ["2026-10-01"]},
}
PRO = {**FLASH, "input": 0.66, "cached_input": 0.022, "output": 1.98}
SMALL = Tokens(prompt=1200, cached=1000, completion=300, reasoning=250)
LARGE = Tokens(prompt=1_000_000, cached=400_000, completion=200_000)


@pytest.mark.parametrize(
    ("row", "tokens", "moment", "nanos"),
    [
        # 200 * 150 + 1000 * 3 + 300 * 600
        (FLASH, SMALL, "2026-11-16 00:59:59", 213_000),
        (FLASH, SMALL, "2026-11-16 01:00", 426_000),
        (FLASH, SMALL, "2026-11-16 03:59:59", 426_000),
        (FLASH, SMALL, "2026-11-16 04:00", 213_000),
        (FLASH, SMALL, "2026-11-20 09:59:59", 426_000),
        (FLASH, SMALL, "2026-11-21 09:59:59", 213_000),
        (FLASH, SMALL, "2026-10-01 02:00", 213_000),  # a Thursday, and a holiday
        (FLASH, SMALL, "2026-10-08 02:00", 426_000),
        # 600,000 * 150 + 400,000 * 3 + 200,000 * 600
        (FLASH, LARGE, "2026-11-21 12:00", 211_200_000),
        # 600,000 * 660 + 400,000 * 22 + 200,000 * 1980
        (PRO, LARGE, "2026-11-21 12:00", 800_800_000),
        (PRO, LARGE, "2026-11-17 08:00", 1_601_600_000),
    ],
)
def test_deepseeks_prices_by_hand(row: dict[str, Any], tokens: Tokens, moment: str, nanos: int) -> None:
    assert cost(tariff(**row), tokens, datetime.fromisoformat(f"{moment}+00:00").timestamp()) == nanos


@pytest.mark.parametrize(
    ("row", "tokens", "busy", "nanos", "because"),
    [
        ({"input": 0.15}, Tokens(1), 0, 150, "a token has a price"),
        ({"input": 0.0028}, Tokens(5), 0, 14, "a price is the decimal that was written"),
        ({"input": 0.0028}, Tokens(1), 0, 3, "what is left of a nano is rounded once"),
        ({"input": 0.0028}, Tokens(10**9), 0, 2_800_000_000, "so it is exact for any size"),
        ({"input": 0.1}, Tokens(3), 0, 300, "as 0.1 * 3 is not among floats"),
        ({"input": 0.000000001}, Tokens(10**9), 0, 1000, "nine decimals are counted"),
        ({"input": 0.0005}, Tokens(1), 0, 1, "half a nano is rounded up"),
        ({"input": 2}, Tokens(1000, cached=1000), 0, 2_000_000, "without a price of its own a cached token is a token"),
        ({"input": 2, "cached_input": 0}, Tokens(1000, cached=900), 0, 200_000, "a cache may cost nothing"),
        ({"output": 1}, Tokens(completion=10, reasoning=10), 0, 10_000, "reasoning is a part of what was said"),
        ({"request": 0.002}, Tokens(), 0, 2_000_000, "a request has its price, whatever it holds"),
        ({"hour": 0.36}, Tokens(10, completion=10), 10, 1_000_000, "a machine is paid by the time"),
        ({"hour": 3600}, Tokens(), 0.000001, 1_000, "to the microsecond"),
        ({"input": 1, "request": 1, "hour": 3600}, Tokens(1), 1, 2_000_001_000, "all of it adds up"),
        ({"input": 0}, LARGE, 100, 0, "a price of nothing is a price"),
        ({"output": 10**6}, Tokens(completion=2**53), 0, MOST, "no lie about tokens breaks a sum"),
    ],
)
def test_an_attempt_costs_what_its_price_says(
    row: dict[str, Any], tokens: Tokens, busy: float, nanos: int, because: str
) -> None:
    assert cost(tariff(**row), tokens, NOON, busy) == nanos, because


def test_all_of_a_price_is_another_one_in_its_peak() -> None:
    row = {"input": 1, "cached_input": 0.5, "output": 2, "request": 0.1, "hour": 3.6}
    usual = tariff(**row)
    peak = tariff(**row, peak={"utc": "sat", "times": 1.5})
    tokens = Tokens(100, 40, 10)
    assert cost(peak, tokens, NOON, 1) * 2 == cost(usual, tokens, NOON, 1) * 3
    assert cost(peak, tokens, NOON + 12 * 3600, 1) == cost(usual, tokens, NOON, 1)


def test_a_peak_may_be_a_rebate_and_its_holidays_one_day() -> None:
    night = {"input": 1, "peak": {"utc": "16:30-00:30", "times": 0.25, "but": date(2026, 11, 21)}}
    assert cost(tariff(**night), Tokens(4), datetime(2026, 11, 21, 17, tzinfo=UTC).timestamp()) == 4000
    assert cost(tariff(**night), Tokens(4), datetime(2026, 11, 22, 0, 29, tzinfo=UTC).timestamp()) == 1000


_USD = st.decimals(0, 1000, places=4).map(float)
_TOKENS = st.builds(
    lambda prompt, cached, completion: Tokens(prompt, min(prompt, cached), completion),
    *[st.integers(0, 2_000_000)] * 3,
)
_PRICES = st.builds(
    lambda given, share, wanted, request: {
        "input": given,
        "cached_input": round(given * share, 4),
        "output": wanted,
        "request": request,
    },
    _USD,
    st.floats(0, 1),
    _USD,
    _USD,
)


@given(_PRICES, _TOKENS)
def test_the_cost_is_that_of_decimals_on_paper(row: dict[str, float], tokens: Tokens) -> None:
    paper = (
        (tokens.prompt - tokens.cached) * Decimal(repr(row["input"]))
        + tokens.cached * Decimal(repr(row["cached_input"]))
        + tokens.completion * Decimal(repr(row["output"]))
    ) / 10**6 + Decimal(repr(row["request"]))
    nanos = (paper * 10**9).to_integral_value(ROUND_HALF_UP)
    assert cost(tariff(**row), tokens, NOON) == nanos


@given(_PRICES, st.lists(_TOKENS, min_size=1, max_size=5))
def test_costs_add_up_to_a_nano_each(row: dict[str, float], parts: list[Tokens]) -> None:
    free = tariff(**row | {"request": 0})
    whole = cost(free, sum(parts, Tokens()), NOON)
    assert abs(whole - sum(cost(free, part, NOON) for part in parts)) <= len(parts)


@given(_PRICES, st.lists(_TOKENS, min_size=1, max_size=5))
def test_costs_add_up_exactly_where_a_token_costs_whole_nanos(row: dict[str, float], parts: list[Tokens]) -> None:
    whole = tariff(**{name: round(usd, 3) for name, usd in row.items()} | {"request": 0})
    assert cost(whole, sum(parts, Tokens()), NOON) == sum(cost(whole, part, NOON) for part in parts)


@given(_PRICES, _TOKENS, _TOKENS, st.floats(0, 1000), st.floats(0, 1000))
def test_more_never_costs_less_and_nothing_is_negative(
    row: dict[str, float], some: Tokens, more: Tokens, busy: float, longer: float
) -> None:
    paid = tariff(**row, hour=0.5)
    assert 0 <= cost(paid, some, NOON, busy) <= cost(paid, some + more, NOON, busy + longer)


@given(_PRICES, _TOKENS)
def test_what_a_cache_held_costs_no_more_than_what_it_did_not(row: dict[str, float], tokens: Tokens) -> None:
    assert cost(tariff(**row), tokens, NOON) <= cost(tariff(**row), replace(tokens, cached=0), NOON)


# -- the book


def test_the_book_knows_the_price_of_a_moment() -> None:
    book = Book([*BOOK, price("far/peak", "2026-01-01", peak={"utc": "sat", "times": 2})])
    midnight = datetime(2026, 6, 1, tzinfo=UTC).timestamp()

    def usd(name: str, moment: float) -> int | None:
        found = book.at(name, moment)
        return None if found is None else found.at(moment).prompt // 10**9

    assert usd("far/small", midnight - 0.001) == 1
    assert usd("far/small", midnight) == 2
    assert usd("far/peak", NOON) == 2
    assert usd("far/peak", NOON + 86400) == 1
    assert usd("near/any", midnight) is None
    assert usd("near/any", midnight) is None  # and it is remembered


def test_prices_of_names_that_callers_think_up_do_not_pile_up() -> None:
    book = Book([price("far/*", "2026-01-01")])
    for number in range(2 * REMEMBERED):
        assert book.at(f"far/{number}", NOON) is not None
        assert len(book._found) <= REMEMBERED + 1


def test_tokens_add_up_field_by_field() -> None:
    assert Tokens(1, 2, 3, 4) + Tokens(10, 20, 30, 40) == Tokens(11, 22, 33, 44)
    assert Tokens(1, 1, 3, 3).total == 4


def test_free_is_what_costs_nothing_at_all() -> None:
    assert tariff_of(price("near/a", "2026-01-01", 0)).usual.free
    for costs in ({"request": 0.001}, {"hour": 1}, {"cached_input": 1}, {"output": 1}, {"input": 1}):
        written = {"model": "near/a", "from": "2026-01-01", "input": 0, "output": 0, **costs}
        assert not tariff_of(Price.model_validate(written)).usual.free
