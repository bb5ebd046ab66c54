"""What the gateway adds to a call is bounded: three times what `scripts/bench --mapping` aims at, so that a busy machine
fails no test, and a mapping that became quadratic does.
"""

from __future__ import annotations

import json

import orjson
import pytest

from scripts.benchmark.mapping import (
    DIALECT,
    TOKENS,
    Figure,
    as_json,
    deepseek_lines,
    figures,
    long_history,
    long_prompt,
    ollama_lines,
    pass_on,
    put,
)

SLACK = 3.0


@pytest.fixture(scope="module")
def found() -> list[Figure]:
    return figures(rounds=10)


def test_checking_deciding_and_translating_take_milliseconds(found: list[Figure]) -> None:
    slow = [figure for figure in found if figure.at_most and figure.value > SLACK * figure.limit]
    assert not slow


def test_a_token_is_passed_on_in_microseconds(found: list[Figure]) -> None:
    slow = [figure for figure in found if not figure.at_most and SLACK * figure.value < figure.limit]
    assert not slow


def test_the_figures_can_be_read_by_machines_and_by_people(found: list[Figure]) -> None:
    rows = json.loads(as_json(found))
    assert set(rows) == {f"{what}_{name}" for what in ("history", "prompt", "stream") for name in DIALECT}
    missed = Figure("a", "a stream", 1.0, "/s", 2.0, at_most=False)
    assert missed.line().split() == ["a", "stream", "1.00", "/s", ">", "2", "/s", "MISSED"]
    assert not json.loads(as_json([missed]))["a"]["met"]
    assert Figure("b", "a mapping", 1.0, "ms", 2.0).line().endswith("met")


@pytest.mark.parametrize("name", DIALECT)
def test_what_is_measured_is_what_it_says(name: str) -> None:
    sent = orjson.loads(put(long_history(), name))
    assert (len(sent["messages"]), len(sent["tools"])) == (200, 20)
    assert len(put(long_prompt(), name)) > 1_000_000
    lines = ollama_lines() if name == "ollama" else deepseek_lines()
    assert len(lines) > TOKENS
    assert pass_on(lines, name) > 100 * TOKENS
