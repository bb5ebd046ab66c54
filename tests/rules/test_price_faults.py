"""What is wrong with the prices of a file, and where: each fault with its line, and with what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from rules.load import RulesError, load_rules
from wire.profiles import PROFILES

FILE = """providers:
  deepseek: {dialect: openai, urls: [http://x.example]}
rules: [{name: all, use: [deepseek/flash]}]
"""


def faults(more: str, **environment: str) -> list[str]:
    try:
        load_rules(FILE + more, environment, profiles=PROFILES)
    except RulesError as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    "more",
    [
        "prices: [{model: deepseek/flash, from: 2026-11-15, input: 0.15, cached_input: 0.003, output: 0.6}]",
        "prices: [{model: deepseek/*, from: 2026-11-15, request: 0.01}]",
        "prices: [{model: deepseek/flash, from: 2026-11-15, hour: 0.3, peak: {utc: [mon-fri 01:00-04:00], times: 2}}]",
        "prices: [{model: deepseek/flash, from: 2026-11-15, hour: 1, peak: {utc: sat, times: 0.5, but: 2026-12-26}}]",
        "ledger: {compare_to: openai/gpt-5}\nprices: [{model: openai/gpt-5, from: 2026-11-15, input: 1}]",
        'ledger: {compare_to: openai/gpt-5}\nprices: [{model: "openai/*", from: 2026-11-15, input: 1}]',
        "ledger: {compare_to: deepseek/flash}\nprices: [{model: deepseek/flash, from: 2026-11-15, input: 1}]",
        'ledger: {compare_to: "${COMPARED:-}"}',
        "ledger: {url: sqlite:///x.sqlite}",
    ],
)
def test_these_are_prices(more: str) -> None:
    assert faults(more) == []


_PRICE = "{model: openai/gpt-5, from: 2026-11-15, input: 1}"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            f"prices:\n  - {_PRICE}",
            [
                "line 5: prices[0].model: there is no provider 'openai'. For a model that others are compared with, "
                "write ledger: {compare_to: openai/gpt-5} too"
            ],
        ),
        (
            f"ledger: {{compare_to: openai/gpt-4}}\nprices:\n  - {_PRICE}",
            [
                "line 4: ledger.compare_to: 'openai/gpt-4' has no price; write one under prices, as "
                "{model: ..., from: 2026-11-15, input: 0.15}",
                "line 6: prices[0].model: there is no provider 'openai'. For a model that others are compared with, "
                "write ledger: {compare_to: openai/gpt-5} too",
            ],
        ),
        (
            "ledger: {compare_to: openai/gpt-5}",
            [
                "line 4: ledger.compare_to: 'openai/gpt-5' has no price; write one under prices, as "
                "{model: ..., from: 2026-11-15, input: 0.15}"
            ],
        ),
        (
            'ledger: {compare_to: "${COMPARED}"}',
            [
                "line 4: ledger.compare_to (from COMPARED): the model has no price; write one under prices, as "
                "{model: ..., from: 2026-11-15, input: 0.15}"
            ],
        ),
        (
            "prices: [{model: [], from: 2026-11-15, input: 1}]\nledger: {compare_to: openai/gpt-5}",
            [
                "line 4: prices[0].model: a list is not a text",
                "line 5: ledger.compare_to: 'openai/gpt-5' has no price; write one under prices, as "
                "{model: ..., from: 2026-11-15, input: 0.15}",
            ],
        ),
        (
            'prices: [{model: deepseek/flash, from: 2026-11-15, input: "${NONE}"}]\nledger: {compare_to: openai/gpt-5}',
            ["line 4: prices[0].input: the environment variable NONE is not set; ${NONE:-} makes it optional"],
        ),
        ("ledger: {compare_to: [openai/gpt-5]}", ["line 4: ledger.compare_to: a list is not a text"]),
        (
            "prices:\n  - model: deepseek/flash\n    from: 2026-11-15\n    input: 1\n    peak: {utc: [mo-fr 1-4], times: 2}",
            [
                "line 8: prices[0].peak.utc[0]: hours of the week are written like mon-fri 01:00-04:00, 22:00-02:00 "
                "or sat,sun; several are entries of a list"
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_price_is_said_with_its_line(more: str, said: list[str]) -> None:
    assert faults(more, COMPARED="openai/gpt-5") == said


@pytest.mark.parametrize(
    ("field", "value"), [("input", -1), ("output", ".inf"), ("request", "free"), ("hour", ".nan"), ("times", -2)]
)
def test_an_amount_is_a_number_from_nothing_up(field: str, value: Any) -> None:
    price = {"input": 1, field: value} if field != "times" else {"input": 1}
    peak = f", peak: {{utc: sat, times: {value}}}" if field == "times" else ""
    fields = ", ".join(f"{name}: {amount}" for name, amount in price.items())
    found = faults(f"prices: [{{model: deepseek/flash, from: 2026-11-15, {fields}{peak}}}]")
    assert len(found) == 1
    assert found[0].startswith(f"line 4: prices[0].{'peak.' if peak else ''}{field}: ")
