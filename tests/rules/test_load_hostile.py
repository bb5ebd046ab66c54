"""Whatever stands in rules.yaml: it is taken, or refused quickly and in words of ours."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reader import FileFault
from tests.rules.files import (
    EVERY_VALUE,
    EVERYTHING,
    PLACES,
    SMALLEST,
    branches,
    load,
    put,
    refusal,
    told_in_foreign_words,
)


def nest(depth: int) -> str:
    return "proxy: " + "[" * depth + "]" * depth


def chain(length: int) -> str:
    links = (f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, length))
    return "\n".join(("a0: &a0 [x]", *links))


def explode(levels: int) -> str:
    links = (f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, levels))
    return "\n".join(("a0: &a0 [x]", *links))


DEEP = "it is nested too deeply"
MANY = "it has more than 100,000 values, or has them by aliases that repeat one another"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nest(1000), DEEP),
        ("proxy: " + "{a: " * 1000, DEEP),
        (chain(500), MANY),
        (explode(30), MANY),
        ("a: &a [" + "x, " * 999 + "]\nb: [" + "*a, " * 999 + "]", MANY),
    ],
    ids=["deep", "deep and unclosed", "a chain of aliases", "aliases that multiply", "a wide alias many times"],
)
def test_a_file_without_measure_ends_quickly_in_one_fault(text: str, said: str) -> None:
    start = time.process_time()
    error = refusal(text)
    assert time.process_time() - start < 5
    assert error.faults == (FileFault(0, "", said),)


def test_aliases_may_be_used_as_long_as_they_end() -> None:
    text = SMALLEST + "defaults: {refresh: &time 7s, timeouts: {idle: *time, total: *time}}\n"
    defaults = load(text).defaults
    assert (defaults.refresh, defaults.timeouts.idle, defaults.timeouts.total) == (7.0, 7.0, 7.0)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.sampled_from(" \n\t:-[]{}\"'$&*!|>#?%@,~abcx019."), max_size=60))
def test_any_text_is_taken_or_refused_in_our_own_words(noise: str) -> None:
    for text in (noise, SMALLEST + noise, SMALLEST + "proxy: {port: " + noise):
        assert told_in_foreign_words(text) == []


@settings(max_examples=50, deadline=None)
@given(st.text(), st.integers(min_value=0, max_value=len(EVERYTHING)), st.integers(min_value=0, max_value=20))
def test_any_damage_to_a_file_is_survived_or_refused_in_our_own_words(noise: str, start: int, length: int) -> None:
    assert told_in_foreign_words(EVERYTHING[:start] + noise + EVERYTHING[start + length :]) == []


ODD: list[Any] = [None, True, -1, 10**30, 1.5, float("nan"), "", "x", "1 2", [], ["x"], [[]], {}, {"x": {}}, {"1": 2}]


def test_whatever_stands_anywhere_is_taken_or_refused_in_our_own_words() -> None:
    nouns = [path for path in branches(EVERY_VALUE) if path not in PLACES]
    oddities: list[Any] = ["x", 5, {"x": {}}]
    changed: list[tuple[Any, Any]] = [([path], odd) for path in nouns for odd in oddities]
    for paths, odd in [*changed, *((PLACES, odd) for odd in ODD)]:
        value = copy.deepcopy(EVERY_VALUE)
        for path in paths:
            put(value, path, odd)
        assert told_in_foreign_words(json.dumps(value)) == [], (paths, odd)
