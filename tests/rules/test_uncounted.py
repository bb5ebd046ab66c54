"""Models that limits in USD do not hold for are known before they cost anything."""

from __future__ import annotations

from datetime import date

import pytest

from rules.load import load_rules
from rules.uncounted import Uncounted, forgotten, half_priced, not_yet_priced, uncounted

FILE = """
providers:
  ollama: {{dialect: ollama, urls: [http://127.0.0.1:9]}}
  far: {{dialect: openai, urls: [http://127.0.0.1:9]}}
  other: {{dialect: openai, urls: [http://127.0.0.1:9]}}
  box: {{dialect: sandbox}}
models: {{best: {{targets: [far/a, far/b]}}}}
rules:
  - {{name: one, when: {{model: x}}, use: [best, far/b, other/c]}}
  - {{name: all, use: ["ollama/{{model}}", "far/{{model}}", box/echo]}}
prices:
  - {{model: far/a, from: 2026-01-01, input: 1}}
  - {{model: "other/*", from: 2026-01-01, input: 1}}
clients: {clients}
limits: {limits}
"""


@pytest.mark.parametrize(
    ("limits", "clients"),
    [
        ("{overall: 1 USD/day}", "{}"),
        ("{each_client: [2/minute, 1 USD/day]}", "{}"),
        ('{models: {"x*": [1 USD/day]}}', "{}"),
        ("{}", "{a: {key: sk-a, limits: [1 USD/day]}, b: {key: sk-b}}"),
    ],
)
def test_what_costs_money_and_has_no_price_is_told_where_there_is_a_budget(limits: str, clients: str) -> None:
    rules = load_rules(FILE.format(limits=limits, clients=clients), {}, profiles=())
    assert uncounted(rules.file) == (Uncounted("far/b"), Uncounted("far/{model}", ("far/a",)))


@pytest.mark.parametrize(("priced", "words"), [
    ((), "has no price, so no limit in USD holds for it"),
    (("far/a",), "has no price for models other than far/a, so no limit in USD holds for those"),
    (("a", "b", "c", "d", "e", "f"), "has no price for models other than a, b, c, d and 2 more, so no limit"),
])  # fmt: skip
def test_it_is_told_which_models_of_a_provider_have_a_price(priced: tuple[str, ...], words: str) -> None:
    assert Uncounted("far/{model}", priced).lacks.startswith(words)


@pytest.mark.parametrize("limits", ["{}", "{overall: [1/day, 5 tokens/day, 2 parallel]}"])
def test_without_a_budget_no_price_is_missed(limits: str) -> None:
    rules = load_rules(FILE.format(limits=limits, clients="{a: {key: sk-a, limits: [9/day]}}"), {}, profiles=())
    assert uncounted(rules.file) == ()


@pytest.mark.parametrize(
    ("store", "ledger", "longer"),
    [
        ("memory", "", ("9/day", "1 USD/month", "7/2 hours")),
        ("memory", "ledger: {}", ()),
        ("memory", "ledger: {keep: 7d}", ("1 USD/month",)),
        ("redis://127.0.0.1", "", ()),
    ],
)
def test_limits_that_a_restart_makes_forget_are_told(store: str, ledger: str, longer: tuple[str, ...]) -> None:
    limits = f'{{overall: [5/minute, 8 parallel, 9/day], models: {{"x*": [1 USD/month, 9/day]}}, store: "{store}"}}'
    clients = "{a: {key: sk-a, limits: [7/2 hours, 3/hour]}}"
    rules = load_rules(FILE.format(limits=limits, clients=clients) + ledger, {}, profiles=())
    assert forgotten(rules.file) == longer


@pytest.mark.parametrize(("amounts", "said"), [
    ("input: 1", ("far/a has no output, so what it writes counts as free; write output: 0 if it is",)),
    ("output: 1, request: 2", ("far/a has no input, so what it reads counts as free; write input: 0 if it is",)),
    ("input: 1, output: 0", ()),
    ("request: 1", ()),
    ("hour: 1", ()),
])  # fmt: skip
def test_a_price_for_half_of_the_tokens_is_told(amounts: str, said: tuple[str, ...]) -> None:
    text = f"""
providers: {{far: {{dialect: openai, urls: [http://127.0.0.1:9]}}}}
rules: [{{name: all, use: [far/a]}}]
prices: [{{model: far/a, from: 2026-01-01, {amounts}}}, {{model: far/a, from: 2026-02-01, {amounts}}}]
"""
    assert half_priced(load_rules(text, {}, profiles=()).file) == said


@pytest.mark.parametrize(("prices", "told"), [
    ("[{model: far/a, from: 2026-01-01, input: 1}]", False),
    ("[{model: far/a, from: 2026-01-02, input: 1}]", True),
    ("[{model: far/a, from: 2027-01-01, input: 1}, {model: far/a, from: 2026-12-01, input: 1}]", True),
    ("[{model: far/a, from: 2027-01-01, input: 1}, {model: far/a, from: 2025-12-01, input: 1}]", False),
    ("[{model: far/a, from: 2027-01-01, input: 1}, {model: 'far/*', from: 2025-12-01, input: 1}]", False),
    ("[{model: 'near/*', from: 2027-01-01, hour: 1}]", False),
])  # fmt: skip
def test_a_price_that_is_in_force_later_only_is_told(prices: str, told: bool) -> None:
    text = f"""
providers:
  far: {{dialect: openai, urls: [http://127.0.0.1:9]}}
  near: {{dialect: ollama, urls: [http://127.0.0.1:9]}}
rules: [{{name: all, use: [far/a, near/b]}}]
prices: {prices}
"""
    said = not_yet_priced(load_rules(text, {}, profiles=()).file, date(2026, 1, 1))
    assert [line.partition(" ")[0] for line in said] == ["far/a"] * told
    if told:
        assert "until then its calls are unpriced, and no limit in USD holds for them" in said[0]
