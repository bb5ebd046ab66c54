"""Breakers open, rest and close; a call's plan says who is asked next and when. Time and chance are numbers here."""

from __future__ import annotations

import random

import pytest

from rules.health import (
    CLOSED,
    DEFAULT_ON,
    KINDS,
    OF_SERVER,
    ONCE,
    Ask,
    Breaker,
    Candidate,
    Failure,
    Policy,
    Retry,
    Wait,
    abandoned,
    after,
    asked,
    failed,
    goes_on,
    is_among,
    kinds_in,
    next_step,
    revived,
    succeeded,
    weight_of,
)
from wire.errors import Fault

POLICY = Policy(failures=3, cool_down=10)


def opened(now: float = 100.0) -> Breaker:
    breaker = CLOSED
    for _ in range(3):
        breaker = failed(breaker, 1, now, POLICY)
    return breaker


# -- breakers


def test_a_breaker_opens_at_the_score_of_its_policy_and_not_before() -> None:
    breaker = failed(failed(CLOSED, 1, 100, POLICY), 1, 100, POLICY)
    assert breaker.state(100) == "closed"
    breaker = failed(breaker, 1, 100, POLICY)
    assert (breaker.state(100), breaker.until, breaker.allows(109.9)) == ("open", 110, False)


def test_a_success_halves_what_failures_have_added() -> None:
    breaker = failed(failed(CLOSED, 1, 100, POLICY), 1, 100, POLICY)
    breaker = succeeded(breaker, POLICY)
    assert breaker.score == 1
    assert succeeded(succeeded(breaker, POLICY), POLICY) == CLOSED


def test_a_target_that_fails_every_third_call_stays_in_use() -> None:
    breaker = CLOSED
    for number in range(300):
        breaker = failed(breaker, 1, 100, POLICY) if number % 3 == 0 else succeeded(breaker, POLICY)
        assert breaker.state(100) == "closed"


def test_after_the_cool_down_one_call_may_try_and_others_may_not() -> None:
    breaker = opened()
    assert breaker.state(110) == "half_open"
    assert breaker.allows(110)
    breaker = asked(breaker)
    assert not breaker.allows(110)
    assert not breaker.allows(1000)


def test_the_call_that_tried_and_failed_opens_it_for_another_cool_down() -> None:
    breaker = failed(asked(opened()), 1, 111, POLICY)
    assert (breaker.state(111), breaker.until, breaker.probing) == ("open", 121, False)


def test_the_call_that_tried_and_went_well_closes_it_on_probation() -> None:
    breaker = succeeded(asked(opened()), POLICY)
    assert breaker.state(111) == "closed"
    assert failed(breaker, 1, 111, POLICY).state(111) == "open"
    for _ in range(3):
        breaker = succeeded(breaker, POLICY)
    assert breaker == CLOSED


def test_the_call_that_tried_and_left_lets_the_next_one_try() -> None:
    breaker = abandoned(asked(opened()))
    assert breaker.allows(111)
    assert abandoned(CLOSED) is CLOSED


def test_a_failure_that_says_nothing_about_the_target_decides_nothing() -> None:
    assert failed(CLOSED, 0, 100, POLICY) == CLOSED
    breaker = failed(asked(opened()), 0, 111, POLICY)
    assert (breaker.state(111), breaker.allows(111)) == ("half_open", True)


def test_late_news_of_an_earlier_call_does_not_lengthen_the_rest() -> None:
    assert failed(opened(), 1, 105, POLICY).until == 110


def test_an_open_breaker_never_counts_as_tried() -> None:
    breaker = failed(asked(opened()), 1, 105, POLICY)
    assert (breaker.probing, breaker.until) == (False, 110)
    assert breaker.allows(110)


def test_a_server_that_names_its_rest_gets_it_at_once() -> None:
    breaker = failed(CLOSED, 1, 100, POLICY, rest=42)
    assert (breaker.state(141), breaker.state(142)) == ("open", "half_open")
    assert failed(breaker, 1, 101, POLICY, rest=5).until == 142, "a shorter one does not cut it"
    assert failed(CLOSED, 1, 100, POLICY, rest=0).state(100) == "closed"


def test_no_server_can_close_itself_for_a_year() -> None:
    assert failed(CLOSED, 1, 100, POLICY, rest=31_536_000).state(100 + 3600) == "half_open"


def test_a_server_that_was_seen_again_is_tried_at_once() -> None:
    breaker = revived(opened(), 101)
    assert breaker.state(101) == "half_open"
    assert revived(CLOSED, 101) is CLOSED
    assert revived(breaker, 105) is breaker


def test_whatever_happens_a_breaker_lets_a_call_pass_again_within_one_cool_down() -> None:
    chance = random.Random(7)
    breaker, now, under_way = CLOSED, 0.0, 0
    for _ in range(5000):
        now += chance.random() * 3
        if breaker.allows(now) and chance.random() < 0.7:
            breaker, under_way = asked(breaker), under_way + 1
        if under_way and chance.random() < 0.8:
            under_way -= 1
            breaker = chance.choice(
                [
                    succeeded(breaker, POLICY),
                    failed(breaker, chance.choice([0, 1, 2]), now, POLICY),
                    abandoned(breaker),
                ]
            )
        if not under_way:
            assert breaker.allows(now + POLICY.cool_down), breaker


# -- kinds and weights


def test_a_pattern_stands_for_all_its_statuses() -> None:
    kinds = kinds_in(("timeout", "status_5xx", "cut"))
    assert {"first_token", "idle", "status_408", "cut"} <= kinds
    assert is_among("status_503", kinds)
    assert is_among("status_504", kinds)
    assert not is_among("status_429", kinds)
    assert not is_among("reset", kinds)


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("connect", 1),
        ("reset", 1),
        ("status_500", 1),
        ("status_429", 1),
        ("status_418", 0),
        ("context", 0),
        ("busy", 0),
    ],
)
def test_a_failure_weighs_what_it_says_about_the_target(kind: str, weight: float) -> None:
    assert weight_of(kind, {}) == weight


def test_a_refused_key_opens_at_once() -> None:
    assert failed(CLOSED, weight_of("key", {}), 100, POLICY).state(100) == "open"


def test_the_weights_of_the_file_come_first() -> None:
    assert weight_of("status_500", {"status_5xx": 0.5}) == 0.5
    assert weight_of("status_500", {"status_5xx": 0.5, "status_500": 2}) == 2
    assert weight_of("idle", {"idle": 0}) == 0


def test_only_what_is_about_the_server_condemns_all_its_models() -> None:
    assert {"connect", "tls", "key"} == OF_SERVER
    assert OF_SERVER <= KINDS


# -- the plan of a call


def plan(*names: str) -> tuple[Candidate[str], ...]:
    return tuple(Candidate(name) for name in names)


def every(_target: str) -> float:
    return 0.0


RETRY = Retry(attempts=2, backoff=1.0, wait=30.0)


def test_targets_are_asked_in_order_and_each_before_any_is_asked_again() -> None:
    left, now = plan("a", "b", "c"), 0.0
    order = []
    while True:
        match next_step(left, now, 1000, RETRY, every):
            case Ask(place):
                order.append(left[place].target)
                left = after(left, place, Failure("status_500"), now, RETRY, 0.5)
            case Wait(until):
                assert until > now
                now = until
            case None:
                break
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_a_target_that_was_not_asked_yet_comes_before_one_that_may_be_asked_again() -> None:
    left = after(plan("a", "b", "c"), 0, Failure("reset"), 0, RETRY, 0.5)
    left = after(left, 1, Failure("idle"), 60, RETRY, 0.5)
    assert next_step(left, 60, 1000, RETRY, every) == Ask(2)
    left = after(left, 2, Failure("reset"), 120, RETRY, 0.5)
    assert next_step(left, 120, 1000, RETRY, every) == Ask(0)


@pytest.mark.parametrize("kind", sorted(ONCE))
def test_a_target_that_would_say_the_same_again_is_asked_once(kind: str) -> None:
    assert after(plan("a"), 0, Failure(kind), 0, RETRY, 0)[0].out


@pytest.mark.parametrize("status", [301, 404, 418])
def test_a_refusal_that_will_not_change_is_asked_for_once(status: int) -> None:
    assert after(plan("a"), 0, Failure(f"status_{status}"), 0, RETRY, 0)[0].out


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_status_that_may_change_is_asked_for_again(status: int) -> None:
    assert not after(plan("a"), 0, Failure(f"status_{status}"), 0, RETRY, 0)[0].out


def test_the_back_off_doubles_and_is_spread_by_chance() -> None:
    retry = Retry(attempts=5, backoff=1.0)
    left = after(plan("a"), 0, Failure("reset"), 100, retry, 0.0)
    assert left[0].ready == 100.5
    assert after(plan("a"), 0, Failure("reset"), 100, retry, 0.98)[0].ready == pytest.approx(100.99)
    left = after(left, 0, Failure("reset"), 200, retry, 0.0)
    assert left[0].ready == 201
    many = after((Candidate("a", tries=20),), 0, Failure("reset"), 0, Retry(attempts=99), 0.999)
    assert many[0].ready <= 10


def test_retry_after_is_waited_for_where_nobody_else_is_ready() -> None:
    left = after(plan("a"), 0, Failure("status_429", 7), 100, RETRY, 0.5)
    assert next_step(left, 100, 1000, RETRY, every) == Wait(107)
    assert next_step(left, 107, 1000, RETRY, every) == Ask(0)


def test_retry_after_is_not_waited_for_where_another_target_is_ready() -> None:
    left = after(plan("a", "b"), 0, Failure("status_429", 7), 100, RETRY, 0.5)
    assert next_step(left, 100, 1000, RETRY, every) == Ask(1)


def test_nobody_waits_beyond_the_time_of_the_call_or_for_longer_than_the_rules_say() -> None:
    left = after(plan("a"), 0, Failure("status_429", 7), 100, RETRY, 0.5)
    assert next_step(left, 100, 106, RETRY, every) is None
    assert next_step(left, 100, 1000, RETRY._replace(wait=5), every) is None


def test_a_target_whose_breaker_is_open_is_passed_over() -> None:
    assert next_step(plan("a", "b"), 0, 10, RETRY, lambda target: 0 if target == "b" else 5) == Ask(1)
    assert next_step(plan("a"), 0, 10, RETRY, lambda _: 5) is None


def test_a_target_that_told_this_call_to_come_again_is_waited_for_though_others_try_it_first() -> None:
    left = after(plan("a"), 0, Failure("status_429", 7), 100, RETRY, 0.5)
    assert next_step(left, 107, 1000, RETRY, lambda _: 108.5) == Wait(108.5)
    assert next_step(left, 107, 1000, RETRY, lambda _: 150) is None, "not for longer than the rules say"
    assert next_step(plan("a"), 107, 1000, RETRY, lambda _: 108.5, 108.6) == Wait(108.5)
    assert next_step(plan("a"), 107, 1000, RETRY, lambda _: 108.7, 108.6) is None, "one that rests, not for long"
    unasked = after(plan("a"), 0, Failure("status_500"), 100, RETRY, 0.5)
    assert next_step(unasked, 107, 1000, RETRY, lambda _: 108.5) is None


def test_a_call_that_was_told_to_come_again_waits_no_longer_than_the_rules_say_however_often_others_try_first() -> None:
    patient = RETRY._replace(wait=5)
    left = after(plan("a"), 0, Failure("status_429", 1), 100, patient, 0.5)
    assert next_step(left, 101, 1000, patient, lambda _: 103) == Wait(103)
    assert next_step(left, 103, 1000, patient, lambda _: 104.5) == Wait(104.5)
    assert next_step(left, 104.5, 1000, patient, lambda _: 105.5) is None


def test_the_callers_own_fault_ends_the_call() -> None:
    assert not goes_on(Failure(None), RETRY)
    assert goes_on(Failure("status_503"), RETRY)
    assert goes_on(Failure("busy"), RETRY._replace(on=frozenset()))
    assert not goes_on(Failure("context"), RETRY)
    assert goes_on(Failure("context"), RETRY._replace(on=kinds_in((*DEFAULT_ON, "context"))))
    assert not goes_on(Failure("total"), RETRY)


def test_every_kind_that_the_wire_gives_can_be_named_or_is_the_gateways_own() -> None:
    found: set[str] = set()
    left = [Fault]
    while left:
        one = left.pop()
        left += one.__subclasses__()
        if one.kind is not None:
            found.add(one.kind)
    own = {"busy", "resting", "not_continued"}
    assert {kind for kind in found if not kind.startswith("status_")} <= KINDS | own
    assert own <= ONCE
