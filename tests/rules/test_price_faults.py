"""What is wrong with the prices of a file, and where: each fault with its line, and with what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from rules.load import RulesError, load_rules
from rules.prices import Tokens, cost
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
                "line 8: prices[0].peak.utc[0]: 'mo-fr 1-4': hours of the week are written like mon-fri 01:00-04:00, 22:00-02:00 "
                "or sat,sun; several are entries of a list"
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_price_is_said_with_its_line(more: str, said: list[str]) -> None:
    assert faults(more, COMPARED="openai/gpt-5") == said


LOCAL = """providers:
  near: {dialect: ollama, urls: [http://x.example]}
  box: {dialect: sandbox}
  far: {dialect: openai, urls: [http://x.example]}
rules: [{name: all, use: ["near/{model}"]}]
"""


def faults_of_local(more: str) -> list[str]:
    try:
        load_rules(LOCAL + more, {}, profiles=PROFILES)
    except RulesError as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("near/llama3.2", "near/LLAMA3.2:latest", True),
        ("near/Qwen*", "near/qwen*", True),
        ("box/Echo", "box/echo", True),
        ("near/qwen*", "near/qwen*:latest", False),
        ("far/Big", "far/big", False),
        ("far/big", "far/big:latest", False),
    ],
)
def test_two_spellings_of_a_local_models_name_are_one_model_with_two_prices(one: str, other: str, same: bool) -> None:
    rows = "".join(f"  - {{model: '{model}', from: 2026-11-15, input: 1}}\n" for model in (one, other))
    said = "line 8: prices[1]: prices[0] is for the same model and from the same day"
    assert faults_of_local(f"prices:\n{rows}") == ([said] if same else [])


def test_a_local_model_is_compared_to_under_any_of_its_names() -> None:
    price = "prices: [{model: near/llama3.2, from: 2026-11-15, input: 1}]"
    assert faults_of_local("ledger: {compare_to: 'near/LLAMA3.2:latest'}\n" + price) == []


def test_calls_have_the_price_of_a_local_model_under_any_of_its_names() -> None:
    rows = [("near/qwen2.5:7b", 1), ("near/llama3.2", 2), ("box/Echo*", 3), ("far/Big", 4)]
    prices = ", ".join(f"{{model: {model!r}, from: 2026-11-15, input: {usd}}}" for model, usd in rows)
    book = load_rules(f"{LOCAL}prices: [{prices}]", {}, profiles=PROFILES).book
    for name, nanos in {
        "near/QWEN2.5:7b": 1, "near/qwen2.5:7b": 1, "near/llama3.2:latest": 2, "near/LLAMA3.2": 2,
        "box/echo": 3, "box/ECHO:latest": 3, "far/Big": 4,
    }.items():  # fmt: skip
        tariff = book.at(name, 1_800_000_000.0)
        assert tariff is not None, name
        assert cost(tariff, Tokens(prompt=1), 1_800_000_000.0) == nanos * 1000, name
    assert [book.at(name, 1_800_000_000.0) for name in ("far/big", "far/Big:latest", "near/other")] == [None] * 3


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
