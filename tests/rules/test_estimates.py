"""What calls will probably use: careful before anything is known, near the truth after a few, safe where it varies."""

from __future__ import annotations

import random

import pytest

from rules.estimates import LONG, REMEMBERED, Estimates, Expected, Smoothed
from rules.prices import Tokens

A = "near/a"


def learned(*calls: tuple[int, int, int], answers: int = 1) -> Estimates:
    """From (characters, prompt tokens, completion tokens) of calls to one target."""
    estimates = Estimates()
    for chars, prompt, completion in calls:
        estimates.learn(A, chars, Tokens(prompt=prompt, completion=completion), answers=answers)
    return estimates


def test_before_anything_is_known_a_token_is_four_characters_and_an_answer_is_500() -> None:
    assert Estimates().expect(A, 4000) == Expected(prompt=1000, certain=500, answer=500)
    assert Estimates().prompt(A, 4000) == 1000


def test_the_caller_can_allow_an_answer_less_than_that() -> None:
    assert Estimates().expect(A, 4000, at_most=20).answer == 20
    assert Estimates().expect(A, 4000, at_most=0).answer == 0
    assert Estimates().expect(A, 4000, at_most=9000).answer == 500


def test_the_first_answer_is_believed_half() -> None:
    """As TCP has it: the first measure is the mean, and half of it the deviation."""
    assert learned((10, 20, 100)).expect(A, 10).answer == 100 + 4 * 50


def test_even_answers_bring_the_estimate_down_to_them() -> None:
    assert learned(*[(1000, 250, 100)] * 30).expect(A, 1000) == Expected(prompt=250, certain=250, answer=100)


def test_uneven_answers_keep_it_above_nearly_all_of_them() -> None:
    chance = random.Random(1)
    estimates, below = Estimates(), 0
    for number in range(1000):
        tokens = chance.randrange(50, 150)
        below += estimates.expect(A, 1000).answer < tokens and number > 10
        estimates.learn(A, 1000, Tokens(250, 0, tokens))
    assert below < 10


def test_what_a_text_is_worth_is_learned_from_long_prompts() -> None:
    estimates = learned(*[(LONG, LONG // 2, 10)] * 40)
    assert estimates.prompt(A, 10 * LONG) == 5 * LONG
    assert estimates.expect(A, 10 * LONG).prompt == 5 * LONG


def test_what_others_sent_keeps_no_prompt_out_for_ever() -> None:
    """Texts of which each character is a token say nothing of the next one, which may be English."""
    estimates = learned(*[(LONG, LONG, 10)] * 40)
    assert estimates.expect(A, 4000) == Expected(prompt=4000, certain=1000, answer=10)


def test_of_texts_that_vary_only_the_least_is_certain() -> None:
    estimates = learned(*[(1000, 240, 10), (1000, 220, 10)] * 20)
    assert 125 < estimates.expect(A, 1000).certain < 220
    assert learned(*[(1000, 100, 10)] * 40).expect(A, 1000).certain == 100


def test_what_comes_with_every_prompt_is_learned_from_short_ones_and_not_taken_for_the_worth_of_a_text() -> None:
    estimates = learned(*[(8, 30, 10)] * 40)
    assert estimates.prompt(A, 8) == 30
    assert estimates.prompt(A, 8000) == 2000 + 28
    assert estimates.expect(A, 8000).certain == 1000


def test_a_prompt_may_take_less_than_its_characters_say() -> None:
    estimates = learned(*[(300, 15, 10)] * 40)
    assert estimates.expect(A, 300).prompt == 38, "never less than what is certain"
    assert estimates.prompt(A, 300) == 15
    assert estimates.prompt(A, 0) == 0, "and never less than nothing"


def test_a_short_prompt_is_not_for_nothing_where_longer_ones_took_less_than_their_characters_say() -> None:
    """What was cut off would cost nothing then."""
    estimates = learned(*[(300, 15, 10)] * 40)
    assert [estimates.prompt(A, chars) for chars in (1, 11, 200)] == [1, 1, 7]


def test_what_not_every_server_reads_is_expected_and_not_certain() -> None:
    assert Estimates().expect(A, 4000, sure=400) == Expected(prompt=1000, certain=50, answer=500)
    known = learned(*[(1000, 250, 10)] * 40)
    assert known.expect(A, 4000, sure=400) == Expected(prompt=1000, certain=100, answer=10)


@pytest.mark.parametrize(
    ("sure", "prompt"),
    [(1000, 1000), (880, 1000), (800, 500), (0, 500)],
)
def test_where_it_is_not_known_what_was_read_a_prompt_teaches_nothing_and_its_answer_does(
    sure: int, prompt: int
) -> None:
    estimates = Estimates()
    for _ in range(40):
        estimates.learn(A, 1000, Tokens(500, 0, 10), sure=sure)
    assert estimates.prompt(A, 2000) == prompt
    assert estimates.expect(A, 2000).answer == 10


@pytest.mark.parametrize("before", [0, 40])
def test_nobody_makes_the_prompts_of_others_small_with_text_that_no_server_reads(before: int) -> None:
    """A megabyte in a tool's unknown field, of which a server counts nothing."""
    estimates = learned(*[(1000, 250, 10)] * before, *[(10**6, 20, 10)] * 100)
    assert estimates.prompt(A, 4000) == 1000
    assert estimates.expect(A, 4000) == Expected(1000, 1000 if before else 500, 10)


def test_whatever_was_learned_a_prompt_is_expected_to_have_a_token_in_eight_characters() -> None:
    for chars, tokens in ((1000, 70), (300, 20)):
        estimates = learned(*[(chars, tokens, 10)] * 40)
        assert estimates.expect(A, 8000).prompt >= 1000


def test_no_prompt_is_nothing_whatever_was_learned_of_others() -> None:
    estimates = learned(*[(150, 5, 10)] * 40)
    assert estimates.prompt(A, 11) == 1
    assert estimates.prompt(A, 64) == 2


def test_of_several_answers_each_is_a_share() -> None:
    assert learned(*[(10, 20, 300)] * 40, answers=3).expect(A, 10).answer == 100


def test_embeddings_say_nothing_of_answers() -> None:
    assert learned(*[(10, 20, 0)] * 40, answers=0).expect(A, 10).answer == 500


def test_a_target_that_does_not_count_teaches_nothing() -> None:
    assert learned((4000, 0, 0), (4000, 0, 50)).expect(A, 4000) == Estimates().expect(A, 4000)


def test_targets_are_known_apart() -> None:
    estimates = learned(*[(1000, 500, 7)] * 40)
    assert estimates.expect("near/b", 1000) == Expected(250, 125, 500)


def test_so_many_targets_are_remembered_and_no_more() -> None:
    estimates = learned((1000, 500, 7))
    for number in range(REMEMBERED):
        estimates.learn(f"near/{number}", 1000, Tokens(500, 0, 7))
    assert estimates.expect(A, 1000) == Estimates().expect(A, 1000)
    assert estimates.expect("near/0", 1000).answer == 21


def test_a_change_is_followed_after_a_while() -> None:
    estimates = learned(*[(1000, 250, 100)] * 30, *[(1000, 250, 1000)] * 3)
    assert estimates.expect(A, 1000).answer > 1000
    for _ in range(60):
        estimates.learn(A, 1000, Tokens(250, 0, 1000))
    assert estimates.expect(A, 1000).answer == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("nonsense", [Tokens(250, 0, 10**9), Tokens(10**9, 0, 100), Tokens(10**9, 0, 10**9)])
@pytest.mark.parametrize("calls", [0, 1, 40])
def test_one_call_that_is_like_no_other_is_soon_forgotten(nonsense: Tokens, calls: int) -> None:
    """Each next call would otherwise take the whole of its limit, and be refused where anything of that is used."""
    estimates = learned(*[(1000, 250, 100)] * calls)
    estimates.learn(A, 1000, nonsense)
    now = estimates.expect(A, 1000)
    assert now.prompt < 20_000
    assert now.answer <= 3 * 8 * 500
    for _ in range(40):
        estimates.learn(A, 1000, Tokens(250, 0, 100))
    after = estimates.expect(A, 1000)
    assert (after.prompt < 1000, after.answer < 1000) == (True, True), after


def test_a_model_that_says_much_more_from_now_on_is_followed_within_a_few_calls() -> None:
    estimates = learned(*[(1000, 250, 100)] * 40, *[(1000, 250, 50_000)] * 3)
    assert estimates.expect(A, 1000).answer > 40_000


def test_a_mean_that_nothing_is_known_of_is_what_it_is_said_to_be() -> None:
    assert Smoothed().bound(500.0) == 500.0
