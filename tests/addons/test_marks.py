"""Durations and facts of calls, in a string and back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.marks import (
    ADMISSION,
    ADMITTED,
    FACTS,
    LAST_BUCKET,
    LENGTH,
    TURNED_AWAY,
    bucket_of,
    counted,
    marks_of,
    marks_of_attempt,
    seconds_in,
)

buckets = st.integers(0, LAST_BUCKET)
one_call = st.fixed_dictionaries(
    {
        "total": st.none() | buckets,
        "first": st.none() | buckets,
        "status": st.sampled_from([200, 201, 400, 404, 429, 499, 500, 504]),
        "streamed": st.booleans(),
        "estimated": st.booleans(),
        "unpriced": st.booleans(),
        "failed": st.booleans(),
        "answered": st.booleans(),
        "compared": st.booleans(),
        "admitted": st.none() | st.booleans(),
    }
)


@given(st.lists(one_call))
def test_what_is_written_of_many_calls_is_read_from_their_string(calls: list[dict[str, object]]) -> None:
    marks = "".join(marks_of(**call) for call in calls)  # type: ignore[arg-type]
    assert len(marks) == LENGTH * len(calls)
    assert marks.isascii()
    assert marks.isprintable()
    assert " " not in marks
    assert counted(marks).total == Counter(call["total"] for call in calls if call["total"] is not None)
    assert counted(marks).first == Counter(call["first"] for call in calls if call["first"] is not None)
    facts: Counter[str] = Counter()
    for call in calls:
        facts.update(name for name in ("streamed", "estimated", "unpriced") if call[name])
        good = call["status"] in (200, 201)
        facts["failed_over"] += bool(call["failed"]) and good
        facts["left"] += call["status"] == 499
        refused = call["total"] is None and call["status"] in (400, 404, 429)
        facts["refused"] += refused
        facts["answered"] += bool(call["answered"])
        facts["compared_calls"] += bool(call["compared"]) and not refused
        facts["errors"] += not good and call["status"] != 499 and not refused
    assert counted(marks).facts == +facts


one_attempt = st.fixed_dictionaries(
    {
        "total": buckets,
        "first": st.none() | buckets,
        "outcome": st.sampled_from(["ok", "left", "cut", "status_500"]),
        "estimated": st.booleans(),
        "unpriced": st.booleans(),
    }
)


@given(st.lists(one_attempt))
def test_what_is_written_of_many_attempts_is_read_from_their_string(attempts: list[dict[str, Any]]) -> None:
    marks = "".join(marks_of_attempt(**one) for one in attempts)
    assert len(marks) == LENGTH * len(attempts)
    assert counted(marks).total == Counter(one["total"] for one in attempts)
    assert counted(marks).first == Counter(one["first"] for one in attempts if one["first"] is not None)
    facts: Counter[str] = Counter()
    for one in attempts:
        facts.update(name for name in ("estimated", "unpriced") if one[name])
        facts["left"] += one["outcome"] == "left"
        facts["failed_attempts"] += one["outcome"] in ("cut", "status_500")
    assert counted(marks).facts == +facts


def test_a_duration_beyond_all_buckets_is_in_the_last_one() -> None:
    assert counted(marks_of(10**6, None, status=200)).total == {LAST_BUCKET: 1}


@given(one_call)
def test_whether_limits_let_a_call_pass_is_one_character_of_its_marks(call: dict[str, Any]) -> None:
    sign = marks_of(**call)[ADMISSION]
    told = {True: sign in ADMITTED, False: sign in TURNED_AWAY, None: sign not in ADMITTED + TURNED_AWAY}
    assert told[call["admitted"]]


def test_every_fact_has_a_place_of_its_own() -> None:
    assert sorted(FACTS.values()) == [1 << place for place in range(len(FACTS))]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0011, 0.5, 1.0, 59.9, 1800.0, 86400.0])
def test_a_bucket_ends_at_most_five_percent_above_a_duration(seconds: float) -> None:
    end = seconds_in(bucket_of(seconds))
    assert max(seconds, 0.001) <= end * (1 + 1e-9)
    assert end <= max(seconds, 0.001) * 1.05 * (1 + 1e-9)
