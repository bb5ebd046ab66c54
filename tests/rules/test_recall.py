"""What limits ask of the past, and what they make of the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rules.access import Client
from rules.limits import limits_of
from rules.quota import SLOTS, Charge
from rules.recall import KNOWN, Recall, Span, Sum, spans
from rules.terms import Quotas

NOW = 1_000_000.0


def test_each_window_asks_for_what_no_shorter_one_has_asked_for() -> None:
    assert list(spans({3600.0, 60.0}, NOW, 0.0)) == [
        Span(NOW - 60, math.inf, 1.0),
        Span(NOW - 3640, NOW - 60, 60.0),
    ]


def test_a_span_begins_where_a_slot_of_the_clock_that_counts_does() -> None:
    (span,) = spans({60.0}, NOW, 0.25)
    assert span.begin == NOW - 60.75
    assert (span.begin - 0.25) % 1.0 == 0


def test_nothing_is_asked_that_was_over_too_late() -> None:
    assert list(spans({60.0, 3600.0}, NOW, 0.0, until=NOW - 100)) == [Span(NOW - 3640, NOW - 100, 60.0)]
    assert list(spans((), NOW, 0.0)) == []


def recall(least: float = 0.0, **quotas: object) -> Recall:
    limits = limits_of(Quotas.model_validate(quotas))

    def charges(client: str, model: str) -> Iterator[Charge]:
        return limits.all_of(Client(client), model)

    return Recall(charges, 0.0, NOW, least)


def one(age: float, client: str = "a", model: str = "m") -> Sum:
    return Sum(NOW - age, client, model, requests=2, tokens=30, usd=400)


def found(of: Recall) -> dict[str, dict[int, int]]:
    return {key: each.slots for key, each in of.found.items()}


def test_a_sum_stands_in_the_windows_that_it_is_young_enough_for() -> None:
    of = recall(overall=["9/minute", "9 tokens/hour", "2 parallel"], models={"m": "9 USD/day"})
    of.add(one(30))
    of.add(one(3000))
    of.add(one(3000, model="n"))
    of.add(one(90_000))
    assert found(of) == {
        "all/9/minute": {999_970: 2},
        "all/9 tokens/hour": {16_666: 30, 16_616: 60},
        "model/m/9 USD/day": {694: 400, 692: 400},
    }


def test_what_a_window_still_counts_is_not_left_out() -> None:
    of = recall(overall="9/minute")
    of.add(one(60))
    of.add(one(60 + 60 / SLOTS))
    assert found(of) == {"all/9/minute": {999_940: 2}}


def test_what_seems_to_come_is_counted_now() -> None:
    of = recall(overall="9/minute")
    of.add(one(-5000))
    assert found(of) == {"all/9/minute": {1_000_000: 2}}


def test_short_windows_can_be_left_out() -> None:
    of = recall(3600.0, overall=["9/minute", "9/hour"])
    of.add(one(30))
    assert found(of).keys() == {"all/9/hour"}


def test_names_that_callers_make_up_are_counted_and_not_all_kept_at_hand() -> None:
    of = recall(overall="9/minute")
    for number in range(KNOWN + 10):
        of.add(one(30, model=f"m{number}"))
    assert found(of) == {"all/9/minute": {999_970: 2 * (KNOWN + 10)}}
    assert len(of._known) == KNOWN
