"""Hours of the week: what may be written, and which moments are within them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.week import DAY, WEEK, edges_of, is_within, parse_hours

MONDAY = datetime(2026, 11, 16, tzinfo=UTC).timestamp()


def at(written: str) -> float:
    """`tue 04:00:30` of one week, in Unix time."""
    day, time = written.split()
    number = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    return datetime.fromisoformat(f"2026-11-{16 + number} {time}+00:00").timestamp()


def within(written: Iterable[str], moment: str) -> bool:
    return is_within(edges_of(written), at(moment))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("mon-fri 01:00-04:00", "mon 01:00", "mon 00:59:59"),
        ("mon-fri 01:00-04:00", "fri 03:59:59", "fri 04:00"),
        ("mon-fri 01:00-04:00", "wed 02:30", "sat 02:30"),
        ("01:00-04:00", "sun 02:30", "sun 04:00"),
        ("sat,sun", "sun 23:59:59", "mon 00:00"),
        ("sat,sun", "sat 00:00", "fri 23:59:59"),
        ("fri-mon", "sun 12:00", "tue 00:00"),
        ("wed", "wed 00:00", "thu 00:00"),
        ("wed-wed", "wed 12:00", "tue 12:00"),
        ("tue,fri-sat 06:00-07:00", "sat 06:30", "wed 06:30"),
        ("fri 22:00-02:00", "sat 01:59:59", "fri 01:00"),
        ("sun 22:00-02:00", "mon 01:00", "sun 02:00"),
        ("22:00-02:00", "mon 00:30", "mon 02:00"),
        ("mon 12:00-24:00", "mon 23:59:59", "tue 00:00"),
        ("mon 00:00-24:00", "mon 00:00", "tue 00:00"),
        ("sun 24:00-01:00", "mon 00:30", "sun 00:30"),
        ("sun 1:30-2:00", "sun 01:30", "sun 01:29:59"),
        ("  MON - Friday ,  sun   01:00 - 04:00  ", "sun 01:00", "sat 01:00"),
        ("monday,Wed", "wed 10:00", "tue 10:00"),
    ],
)
def test_hours_hold_from_their_first_minute_to_the_one_before_their_last(
    written: str, inside: str, outside: str
) -> None:
    assert within([written], inside)
    assert not within([written], outside)


def test_several_hours_are_those_of_all() -> None:
    peak = ["mon-fri 01:00-04:00", "mon-fri 06:00-10:00"]
    assert [within(peak, f"tue 0{hour}:00") for hour in range(10)] == [
        *(False, True, True, True),
        *(False, False, True, True, True, True),
    ]


def test_hours_that_overlap_or_touch_are_counted_once() -> None:
    assert edges_of(["mon 01:00-04:00", "mon 02:00-03:00", "mon 04:00-05:00"]) == (60, 300)


def test_all_of_the_week_has_no_end() -> None:
    assert edges_of(["mon-sun"]) == edges_of(["tue-mon"]) == edges_of(["00:00-24:00"]) == (0, WEEK)
    assert within(["mon-sun"], "sun 23:59:59")


def test_the_moments_of_any_week_are_known() -> None:
    edges = edges_of(["thu 00:00-00:01"])
    assert is_within(edges, 0.0)  # the first minute of 1970
    assert not is_within(edges, -0.5)
    assert is_within(edges, 59.9)
    assert not is_within(edges, 60.0)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "several are entries of a list"),
        ("   ", "several are entries of a list"),
        ("mon-fri 1-4", "mon-fri 01:00-04:00"),
        ("mon-fri 01:00", "mon-fri 01:00-04:00"),
        ("mon 01:00-04:00, tue 01:00-04:00", "several are entries of a list"),
        ("01:00-04:00,06:00-10:00", "several are entries of a list"),
        ("mon01:00-04:00", "mon-fri 01:00-04:00"),
        ("mo-fr 01:00-04:00", "a day is mon, tue"),
        ("mondays", "a day is mon, tue"),
        ("mon-wed-fri", "mon,wed,fri"),
        ("25:00-26:00", "00:00 to 24:00"),
        ("24:01-01:00", "00:00 to 24:00"),
        ("10:60-11:00", "00:00 to 24:00"),
        ("mon 10:00-10:00", "at the same time"),
    ],
)
def test_what_is_no_hours_is_told_what_would_be(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_hours(written)


_MINUTES = st.integers(0, DAY - 1)


@given(st.integers(0, 6), st.integers(0, 6), _MINUTES, _MINUTES, st.integers(0, WEEK - 1))
def test_a_minute_is_within_where_counting_on_from_the_first_comes_to_it(
    first: int, last: int, begin: int, end: int, minute: int
) -> None:
    if begin == end:
        return
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    written = f"{names[first]}-{names[last]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    days = [(first + number) % 7 for number in range((last - first) % 7 + 1)]
    held = {(day * DAY + begin + more) % WEEK for day in days for more in range((end - begin) % DAY)}
    assert is_within(edges_of([written]), MONDAY + minute * 60 + 30) == (minute in held)
