"""What a call is told that a limit turns away: OpenAI's errors, and words that say which limit, and for how long."""

from __future__ import annotations

import math

import pytest

from addons.refusals import fault_of
from rules.limits import Refusal
from rules.quota import NANOS, Charge, Standing, parse_limit
from wire.errors import Fault, LimitReached, NeverFits, QuotaUsedUp, TokensReached

OWN = "in client notebook"
ALL = "for all clients together"


def told(
    written: str, *, used: int, amount: int = 1, guess: int = 0, wait: float = 1.2, scope: str = OWN, aside: int = 0
) -> Fault:
    charge = Charge("key", parse_limit(written), amount, scope, scope != OWN, guess)
    return fault_of(Refusal(charge, Standing(used, wait, 60.0, aside)), "gpt-4o")


def test_the_words_are_openais() -> None:
    fault = told("50/minute", used=50)
    assert type(fault) is LimitReached
    assert fault.message == (
        "Rate limit reached for `gpt-4o` in client notebook on requests per min (RPM): Limit 50, Used 50, Requested 1. "
        "Please try again in 1.2s."
    )
    assert fault.retry_after == 1.2


@pytest.mark.parametrize(
    ("written", "measure"),
    [
        ("50/second", "on requests per second (RPS): "),
        ("50/60s", "on requests per min (RPM): "),
        ("50/hour", "on requests per hour (RPH): "),
        ("50/day", "on requests per day (RPD): "),
        ("50 tokens/minute", "on tokens per min (TPM): "),
        ("50 tokens/24 hours", "on tokens per day (TPD): "),
        ("50/10s", "on requests per 10 seconds: "),
        ("50/1.5s", "on requests per 1.5 seconds: "),
        ("50/90 minutes", "on requests per 90 minutes: "),
        ("50/2 hours", "on requests per 2 hours: "),
        ("50 tokens/week", "on tokens per 7 days: "),
    ],
)
def test_each_window_has_its_words(written: str, measure: str) -> None:
    assert measure in told(written, used=50).message


def test_tokens_are_told_from_requests_by_their_type() -> None:
    fault = told("1000 tokens/minute", used=900, amount=500, guess=200, wait=75.5, scope=ALL)
    assert type(fault) is TokensReached
    assert fault.message == (
        "Rate limit reached for `gpt-4o` for all clients together on tokens per min (TPM): Limit 1000, Used 900, "
        "Requested 300. Please try again in 1m16s."
    )


@pytest.mark.parametrize(
    ("written", "amount", "scope", "words"),
    [
        (
            "1000 tokens/minute",
            2500,
            OWN,
            "in client notebook on tokens per min (TPM): Limit 1000, Requested 2500. "
            "The prompt alone is larger than the limit; it must be shorter.",
        ),
        (
            "0.05 USD/day",
            22_500_000_000,
            OWN,
            "in client notebook on money: with this prompt it costs at least 22.50 USD, and the budget is 0.05 USD per "
            "day. A shorter one costs less.",
        ),
        (
            "0.05 USD/day",
            22_500_000_000,
            ALL,
            "for all clients together on money: with this prompt it costs more than the whole budget. "
            "A shorter one costs less.",
        ),
    ],
    ids=["tokens", "money", "money of several clients"],
)
def test_what_never_fits_is_final_and_says_why(written: str, amount: int, scope: str, words: str) -> None:
    fault = told(written, used=0, amount=amount, wait=math.inf, scope=scope)
    assert type(fault) is NeverFits
    assert (fault.final, fault.retry_after) == (True, None)
    assert fault.message == f"Request too large for `gpt-4o` {words}"


@pytest.mark.parametrize(("used", "words"), [(1, "1 call is under way"), (8, "8 calls are under way")])
def test_calls_at_once_are_counted(used: int, words: str) -> None:
    fault = told(f"{used} parallel", used=used)
    assert type(fault) is LimitReached
    assert f"{words} at once, and the limit is {used}." in fault.message
    assert fault.retry_after == 1.0


def test_a_budget_says_how_much_is_spent_of_how_much() -> None:
    fault = told("5 USD/day", used=4_983_400_000, amount=50_000_000, wait=11_000)
    assert type(fault) is QuotaUsedUp
    assert (fault.final, fault.retry_after) == (True, 11_000)
    assert fault.message == (
        "The budget for `gpt-4o` in client notebook has no room for this call: 4.9834 of 5.00 USD per day are spent, and "
        "this one costs at least 0.05 USD. There is room again in 3h3m."
    )


def test_a_budget_of_several_clients_says_nothing_of_money() -> None:
    fault = told("5 USD/day", used=4_983_400_000, amount=50_000_000, wait=11_000, scope=ALL)
    assert fault.message == (
        "The budget for `gpt-4o` for all clients together has no room for this call: it is used up. "
        "There is room again in 3h3m."
    )


def test_a_budget_that_calls_under_way_hold_may_have_room_soon() -> None:
    fault = told("5 USD/day", used=5 * NANOS, amount=NANOS, guess=NANOS - 1, wait=11_000, aside=1)
    assert type(fault) is LimitReached
    assert (fault.final, fault.retry_after) == (False, 1.0)
    assert type(told("5 USD/day", used=5 * NANOS, amount=NANOS, aside=NANOS - 1)) is QuotaUsedUp


def test_a_budget_is_said_to_be_spent_only_as_far_as_it_is() -> None:
    fault = told("5 USD/day", used=6 * NANOS, amount=NANOS, guess=NANOS - 1, wait=11_000, aside=NANOS)
    assert type(fault) is QuotaUsedUp
    assert "no room for this call: 5.00 of 5.00 USD per day are spent. There is room again in 3h3m." in fault.message


def test_tokens_that_are_set_aside_are_not_called_used() -> None:
    fault = told("1000 tokens/minute", used=1000, amount=300, guess=290, wait=1.0, aside=400)
    assert type(fault) is TokensReached
    assert (fault.final, fault.retry_after) == (False, 1.0)
    assert "Limit 1000, Used 600, Requested 300, and 400 are set aside for calls that are under way" in fault.message


def test_a_long_name_is_cut() -> None:
    charge = Charge("key", parse_limit("1/minute"), 1, OWN)
    assert len(fault_of(Refusal(charge, Standing(1, 1.0, 1.0)), "m" * 10_000).message) < 400
