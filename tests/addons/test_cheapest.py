"""Which target is the cheapest one, at the hour of the call and for what a call there takes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from addons.nodes import Nodes
from rules.conditions import Facts, Seen
from rules.decide import decide
from rules.load import load_rules
from rules.snapshot import Rules
from rules.targets import Target
from wire.profiles import PROFILES

FILE = """
providers:
  near: {{dialect: ollama, urls: [http://127.0.0.1:1]}}
  far: {{dialect: openai, urls: [http://far.example]}}
  deep: {{dialect: openai, urls: [http://deep.example]}}
models: {{any: {{targets: [{targets}], strategy: cheapest}}}}
prices: [{prices}]
"""
ASKED = Facts("any", servers={"near": Seen(frozenset({"x:latest"}), reached=True)})
PEAK = datetime(2026, 11, 16, 2, tzinfo=UTC).timestamp()
QUIET = datetime(2026, 11, 16, 5, tzinfo=UTC).timestamp()


def order(rules: Rules, nodes: Nodes, moment: float, prompt_chars: int = 400) -> list[str]:
    decision = decide(rules, ASKED)
    plan = nodes.plan(rules, decision, prompt_chars, 0.0, moment, takes_turn=False)
    return [one.target.provider for one in plan]


def made(targets: str, *prices: str) -> tuple[Rules, Nodes]:
    rules = load_rules(FILE.format(targets=targets, prices=", ".join(prices)), {}, profiles=PROFILES)
    return rules, Nodes(rules, lambda: 0.0)


def target_of(rules: Rules, provider: str) -> Target:
    return next(one for one in decide(rules, ASKED).targets if one.provider == provider)


def test_a_peak_makes_another_target_the_cheapest() -> None:
    rules, nodes = made(
        "deep/x, far/x",
        '{model: deep/x, from: 2026-01-01, output: 1, peak: {utc: "mon-fri 01:00-04:00", times: 3}}',
        "{model: far/x, from: 2026-01-01, output: 2}",
    )
    assert order(rules, nodes, QUIET) == ["deep", "far"]
    assert order(rules, nodes, PEAK) == ["far", "deep"]


def test_what_a_request_costs_counts_for_short_calls() -> None:
    rules, nodes = made(
        "deep/x, far/x",
        "{model: deep/x, from: 2026-01-01, input: 1, request: 0.01}",
        "{model: far/x, from: 2026-01-01, input: 2}",
    )
    assert order(rules, nodes, QUIET, prompt_chars=400) == ["far", "deep"]
    assert order(rules, nodes, QUIET, prompt_chars=4_000_000) == ["deep", "far"]


@pytest.mark.parametrize(("took", "first"), [(1.0, "near"), (100.0, "far")])
def test_a_machine_is_paid_by_the_time_that_calls_take_there(took: float, first: str) -> None:
    rules, nodes = made(
        "near/x, far/x",
        "{model: near/x, from: 2026-01-01, hour: 0.36}",
        "{model: far/x, from: 2026-01-01, output: 2}",  # a milli-dollar for the usual answer
    )
    node = nodes.of(target_of(rules, "near"))
    node.begin()
    nodes.went_well(node, took)
    assert order(rules, nodes, QUIET)[0] == first


def test_a_machine_of_ours_without_a_price_costs_nothing() -> None:
    rules, nodes = made("far/x, near/x", "{model: far/x, from: 2026-01-01, output: 0.000001}")
    assert order(rules, nodes, QUIET) == ["near", "far"]


def test_a_price_that_is_still_to_come_makes_a_target_the_last() -> None:
    rules, nodes = made(
        "deep/x, far/x",
        "{model: deep/x, from: 2099-01-01, output: 0}",
        "{model: far/x, from: 2026-01-01, output: 100}",
    )
    assert order(rules, nodes, QUIET) == ["far", "deep"]
