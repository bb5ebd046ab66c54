"""Limits as they are written, and the window that counts them: strict in every span, exact in when there is room."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.quota import (
    A_PLACE,
    MAX_AMOUNT,
    NANOS,
    SLOTS,
    Charge,
    Kind,
    Limit,
    Standing,
    Window,
    fits,
    parse_limit,
    parse_limits,
    share,
    standing,
)


@pytest.mark.parametrize(
    ("text", "kind", "amount", "seconds"),
    [
        ("100/minute", "requests", 100, 60),
        ("100 requests per minute", "requests", 100, 60),
        ("1 call/s", "requests", 1, 1),
        ("100/60", "requests", 100, 60),
        ("100/60s", "requests", 100, 60),
        ("100/1m", "requests", 100, 60),
        ("100 / 1.5 minutes", "requests", 100, 90),
        ("50/10 secs", "requests", 50, 10),
        ("50/2 hrs", "requests", 50, 7200),
        ("7/week", "requests", 7, 604800),
        ("200000 tokens/hour", "tokens", 200_000, 3600),
        ("200k tokens/hour", "tokens", 200_000, 3600),
        ("1.5M tokens per day", "tokens", 1_500_000, 86400),
        ("200_000 tokens/hour", "tokens", 200_000, 3600),
        ("1,000,000 tokens/day", "tokens", 1_000_000, 86400),
        ("5 USD/day", "usd", 5 * NANOS, 86400),
        ("0.1 usd/day", "usd", 100_000_000, 86400),
        ("0.000000001 USD/30d", "usd", 1, 30 * 86400),
        ("8 parallel", "parallel", 8, 0),
        ("  8   parallel ", "parallel", 8, 0),
        ("1/366 days", "requests", 1, 366 * 86400),
        ("5/\u017f", "requests", 5, 1),  # a long s: another case of s to Python
    ],
)
def test_a_limit_is_an_amount_in_a_window(text: str, kind: Kind, amount: int, seconds: float) -> None:
    assert parse_limit(text) == Limit(kind, amount, seconds, " ".join(text.split()))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a limit; write 100/minute"),
        ("many/minute", "'many/minute' is not a limit: 'many' is no amount; write"),
        ("-1/minute", "not a limit"),
        ("100/fortnight", "not a limit: 'fortnight' is no window, such as minute, 2h or 60 (seconds); write"),
        ("100/minute/client", "not a limit"),
        ("100 permanent", "not a limit"),
        ("1,5 USD/day", "not a limit"),
        ("100", "the window is missing"),
        ("100/", "the window is missing"),
        ("5 USD", "the window is missing"),
        ("8 parallel/minute", "calls at once has no window"),
        ("0/minute", "above 0; leave the limit out"),
        ("0 parallel", "above 0"),
        ("0.0 USD/day", "above 0"),
        ("1.5/minute", "a whole number of requests"),
        ("1.0005k tokens/minute", "a whole number of tokens"),
        ("2.5 parallel", "a whole number of calls"),
        ("10000000000000000 tokens/day", "below 9,007,199,254,740,991"),
        ("9100000 USD/day", "below 9,007,199"),
        ("100/0", "between a second and a year"),
        ("100/0.5s", "between a second and a year"),
        ("100/367 days", "between a second and a year"),
    ],
)
def test_what_is_no_limit_is_refused_in_words_that_help(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parse_limit(text)


def test_the_largest_amount_is_one_that_every_store_can_count_to() -> None:
    assert parse_limit(f"{MAX_AMOUNT} tokens/day").amount == MAX_AMOUNT
    assert float(MAX_AMOUNT) + 1 != float(MAX_AMOUNT)


def test_a_limit_that_is_written_twice_is_one() -> None:
    found = parse_limits(("5/minute", "8 parallel", " 5/minute"))
    assert [limit.written for limit in found] == ["5/minute", "8 parallel"]


# -- the window

MINUTE = parse_limit("10/minute")
steps = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 12)), min_size=1, max_size=60)
"""(hundredths of a second since the one before, amount)"""


def admitted(limit: Limit, history: Sequence[tuple[int, int]], start: float = 0.0) -> list[tuple[float, int]]:
    """Who of those that come is let in: (when, how much)."""
    window, at = Window(limit.seconds), start
    found = []
    for wait, amount in history:
        at += wait / 100
        if window.used(at) + amount <= limit.amount:
            window.add(amount, at)
            found.append((at, amount))
    return found


def after(history: Sequence[tuple[int, int]]) -> tuple[Window, float]:
    """A minute's window to which all of it was added, and the moment of the last."""
    window, at = Window(60), 0.0
    for wait, amount in history:
        at += wait / 100
        window.add(amount, at)
    return window, at


@settings(deadline=None)
@given(steps, st.sampled_from([1.0, 7.0, 60.0, 90.5]), st.floats(-1000, 1e9))
def test_in_no_span_of_a_windows_length_is_more_than_the_limit_admitted(
    history: list[tuple[int, int]], seconds: float, start: float
) -> None:
    found = admitted(Limit("tokens", 12, seconds, ""), history, start)
    for first, (begin, _) in enumerate(found):  # a span that holds most begins with something
        inside = [amount for at, amount in found[first:] if at - begin < seconds - 1e-6]
        assert sum(inside) <= 12


@settings(deadline=None)
@given(steps)
def test_everything_that_is_old_enough_comes_back(history: list[tuple[int, int]]) -> None:
    window, at = Window(60), 0.0
    for wait, amount in history:
        at += wait / 100
        window.add(amount, at)
        assert window.used(at) == window.total
    assert window.used(at + 60 + 60 / SLOTS) == 0
    assert window.empty_at(at + 100) == at + 100


@settings(deadline=None)
@given(steps, st.integers(0, 12))
def test_when_there_is_room_again_is_exact(history: list[tuple[int, int]], room: int) -> None:
    window, at = after(history)
    when = window.fits_at(room, at)
    if when > at:
        assert window.used(at) > room
        assert window.used(when - 1e-6) > room
    assert when >= at
    assert window.used(when + 1e-6) <= room


@settings(deadline=None)
@given(steps)
def test_a_window_is_empty_when_its_last_slot_is_too_old(history: list[tuple[int, int]]) -> None:
    window, at = after([(wait, amount + 1) for wait, amount in history])
    when = window.empty_at(at)
    assert window.used(when - 1e-6) > 0
    assert window.used(when + 1e-6) == 0


@settings(deadline=None)
@given(steps, st.data())
def test_what_is_given_back_was_never_used(history: list[tuple[int, int]], data: st.DataObject) -> None:
    window, other, at = Window(60), Window(60), 0.0
    for wait, amount in history:
        at += wait / 100
        back = data.draw(st.integers(0, amount))
        slot = window.add(amount, at)
        other.add(amount - back, at)
        window.give_back(back, slot)
        assert window.used(at) == other.used(at)
    later = at + data.draw(st.floats(0, 70))
    assert window.used(later) == other.used(later)


def test_what_comes_back_too_late_changes_nothing() -> None:
    window = Window(60)
    slot = window.add(10, 0.5)
    window.add(3, 59.0)
    assert window.used(61.5) == 3
    window.give_back(10, slot)
    assert window.used(61.5) == 3


def test_no_more_comes_back_than_stands_there() -> None:
    window = Window(60)
    slot = window.add(10, 0.5)
    window.give_back(15, slot)
    assert window.used(0.5) == 0
    window.give_back(1, slot)
    assert window.used(0.5) == 0


def test_a_clock_that_was_set_back_opens_no_older_slot() -> None:
    window = Window(60)
    assert window.add(1, 100.0) == 100
    assert window.add(1, 50.0) == 100
    assert window.used(50.0) == 2
    assert window.fits_at(1, 50.0) == 161
    assert window.used(160.9) == 2
    assert window.used(161.0) == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 12), st.sampled_from([0, 0, 0, 1, 90, 5000])), max_size=60)
)
def test_a_clock_that_is_set_back_never_lets_more_in(history: list[tuple[int, int, int]]) -> None:
    """What was let in is counted for as long as it would have been, or longer, by a clock that nobody touches."""
    window, real, back = Window(60), 0.0, 0.0
    let_in: list[tuple[float, int]] = []
    for wait, amount, further in history:
        real += wait / 100
        back += further
        if window.used(real - back) + amount <= 12:
            window.add(amount, real - back)
            let_in.append((real, amount))
        assert sum(each for at, each in let_in if at > real - 60 + 1e-6) <= 12


def test_what_is_recalled_goes_when_it_is_old_whatever_was_used_since() -> None:
    """A gateway that starts is called before it has read what was used before."""
    window, straight = Window(60), Window(60)
    window.add(5, 100.0)
    for amount, slot in ((1, 50), (2, 70), (4, 70), (8, 90), (16, 100)):
        window.recall(amount, slot)
    for amount, at in ((1, 50.0), (4, 70.0), (2, 70.5), (8, 90.0), (5, 100.0), (16, 100.5)):
        straight.add(amount, at)
    for now in range(100, 170):
        assert window.used(now) == straight.used(now)
        assert window.fits_at(7, now) == straight.fits_at(7, now)
    assert window.total == 0


def test_a_clock_may_begin_below_zero() -> None:
    window = Window(60)
    window.add(1, -0.5)
    window.add(1, 0.5)
    assert [window.used(at) for at in (59.9, 60.0, 60.9, 61.0)] == [2, 1, 1, 0]


# -- where a limit stands


def charge(amount: int, limit: Limit = MINUTE) -> Charge:
    return Charge("client/a/10/minute", limit, amount, "in client a")


def test_a_standing_says_how_much_is_used_and_when_there_is_room_again() -> None:
    window = Window(60)
    window.add(6, 0.5)
    window.add(4, 30.5)
    assert standing(charge(1), window, 40.0) == Standing(10, 21.0, 51.0)
    assert standing(charge(7), window, 40.0) == Standing(10, 51.0, 51.0)
    assert standing(charge(1), window, 61.0) == Standing(4, 0.0, 30.0)
    assert standing(charge(1), window, 200.0) == Standing(0, 0.0, 0.0)


def test_what_is_larger_than_its_limit_never_fits() -> None:
    assert standing(charge(11), Window(60), 0.0) == Standing(0, math.inf, 0.0)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 15), st.integers(0, 15))
def test_a_charge_takes_at_least_what_is_certain_and_never_more_than_the_room(
    amount: int, guess: int, used: int, aside: int
) -> None:
    one = charge(amount)._replace(guess=min(guess, amount))
    aside = min(aside, used)
    took = share(one, used, aside)
    if took is None:
        at = standing(one, filled(used), 0.5, aside)
        assert at.wait > 0
        assert (at.wait == math.inf) == (one.least > 10)
        assert aside or used + one.least > 10, "a guess alone turns nobody away"
    else:
        assert one.least <= took <= amount
        assert not took or used + took <= 10
        assert took == amount or (not aside and used + took == 10), "it goes beyond its guess alone, and takes all"


def filled(used: int) -> Window:
    window = Window(60)
    window.add(used, 0.5)
    return window


def test_what_is_certain_waits_for_the_window_and_a_guess_for_calls_under_way() -> None:
    guessed = charge(8)._replace(guess=6)
    assert standing(guessed, filled(9), 0.5, 0) == Standing(9, 60.5, 60.5)
    assert standing(guessed, filled(9), 0.5, 2) == Standing(9, A_PLACE, 60.5, 2)
    assert standing(guessed, filled(9), 0.5, 0).wait == standing(charge(2), filled(9), 0.5).wait
    assert standing(guessed, filled(8), 0.5, 0) == Standing(8, 0.0, 60.5)
    assert standing(charge(20)._replace(guess=6), filled(0), 0.5, 0).wait == math.inf


def test_what_takes_nothing_always_fits() -> None:
    window = Window(60)
    window.add(15, 0.0)
    assert not fits(charge(1), 15)
    assert standing(charge(0), window, 0.0) == Standing(15, 0.0, 61.0)


@pytest.mark.parametrize(
    ("written", "seconds"), [("5 USD/month", 30 * 86400), ("100/week", 7 * 86400), ("1M tokens/2 months", 60 * 86400)]
)
def test_a_month_is_thirty_days_that_slide(written: str, seconds: float) -> None:
    assert parse_limit(written).seconds == seconds


def test_what_is_no_limit_is_quoted_where_it_is_too_short_for_a_key() -> None:
    with pytest.raises(ValueError, match=r"^'5 EUR/day' is not a limit: '5 EUR' is no amount; write 100/minute"):
        parse_limit("5 EUR/day")
    with pytest.raises(ValueError, match=r"^not a limit; write"):
        parse_limit("sk-0123456789abcdef0123456789")
