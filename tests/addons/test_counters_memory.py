"""Counts in memory: all of a call's limits or none, settled with what was used, and nothing forgotten too early."""

from __future__ import annotations

import asyncio
import random

import pytest
from limits.storage import storage_from_string

from addons.counters import Spent
from addons.counters_memory import Counts, MemoryStore
from addons.counters_redis import RedisStore
from addons.stores import STORES, open_store
from rules.quota import A_PLACE, Charge, Standing, parse_limit
from rules.stores import SCHEMES


class Clock:
    def __init__(self) -> None:
        self.now = 0.5

    def __call__(self) -> float:
        return self.now


def charge(written: str, amount: int = 1, key: str = "all") -> Charge:
    return Charge(f"{key}/{written}", parse_limit(written), amount, "for all clients together", True)


FEW, MANY, TOKENS, PLACES = "2/minute", "100/hour", "1000 tokens/minute", "2 parallel"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(clock: Clock) -> Counts:
    return Counts(clock)


def used(counts: Counts, *charges: Charge) -> list[int]:
    return [standing.used for standing in counts.look(charges)]


def test_a_call_is_counted_by_all_of_its_limits(counts: Counts) -> None:
    charges = (charge(FEW), charge(TOKENS, 300), charge(PLACES))
    spent = counts.spend(charges, "a")
    assert spent.admitted
    assert spent.standings == (Standing(1, 0.0, 60.5), Standing(300, 0.0, 60.5), Standing(1, 0.0, 0.0))
    assert spent.slots == (0, 0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_call_that_one_limit_refuses_takes_nothing_of_any(counts: Counts, order: tuple[int, ...]) -> None:
    for lease in "ab":
        assert counts.spend((charge(FEW),), lease).admitted
    charges = [charge(MANY), charge(TOKENS, 300), charge(FEW), charge(PLACES)]
    charges = [charges[place] for place in order]
    spent = counts.spend(charges, "c")
    assert (spent.admitted, spent.slots) == (False, ())
    assert [standing.used for standing in spent.standings] == used(counts, *charges)
    assert sum(used(counts, *charges)) == 2
    waits = {one.key: standing.wait for one, standing in zip(charges, spent.standings, strict=True)}
    assert waits == {f"all/{MANY}": 0.0, f"all/{TOKENS}": 0.0, f"all/{FEW}": 60.5, f"all/{PLACES}": 0.0}


def test_places_are_held_by_leases_and_free_again_when_they_end(counts: Counts) -> None:
    charges = (charge(PLACES),)
    assert counts.spend(charges, "a").admitted
    assert counts.spend(charges, "b").admitted
    refused = counts.spend(charges, "c")
    assert (refused.admitted, refused.standings) == (False, (Standing(2, A_PLACE, 0.0),))
    counts.settle(charges, (0,), (0,), "a")
    assert counts.spend(charges, "c").admitted
    for lease in "abc":
        counts.settle(charges, (0,), (0,), lease)
    assert used(counts, *charges) == [0]
    assert len(counts) == 0


def test_what_was_not_used_comes_back_into_the_slot_that_it_came_from(counts: Counts, clock: Clock) -> None:
    tokens = charge(TOKENS, 900)
    slots = counts.spend((tokens,), "a").slots
    clock.now = 10.5
    counts.settle((tokens,), slots, (250,), "a")
    assert used(counts, tokens) == [250]
    clock.now = 61.0
    assert used(counts, tokens) == [0]


def test_what_was_used_beyond_the_estimate_is_counted_when_it_is_known(counts: Counts, clock: Clock) -> None:
    tokens = charge(TOKENS, 100)
    slots = counts.spend((tokens,), "a").slots
    clock.now = 50.5
    counts.settle((tokens,), slots, (1500,), "a")
    assert used(counts, tokens) == [1500]
    clock.now = 61.0
    assert used(counts, tokens) == [1400]
    assert counts.spend((charge(TOKENS, 0),), "b").admitted


def guessed(written: str, amount: int, least: int = 1) -> Charge:
    return charge(written, amount)._replace(guess=amount - least)


def test_one_call_at_a_time_goes_beyond_its_guess_and_takes_all_the_room(counts: Counts) -> None:
    assert counts.spend((guessed(TOKENS, 700),), "a").taken == (700,)
    beside = counts.spend((guessed(TOKENS, 700),), "b")
    assert (beside.admitted, beside.standings) == (False, (Standing(700, A_PLACE, 60.5, 700),))
    counts.settle((charge(TOKENS, 700),), (0,), (700,), "a")
    assert counts.spend((charge(TOKENS, 0),), "free").admitted
    after = counts.spend((guessed(TOKENS, 700),), "b")
    assert (after.taken, after.standings) == ((300,), (Standing(1000, 0.0, 60.5),))
    assert not counts.spend((guessed(TOKENS, 700),), "c").admitted
    counts.settle((charge(TOKENS, 300),), (0,), (20,), "b")
    assert counts.spend((guessed(TOKENS, 700),), "c").taken == (280,)


@pytest.mark.parametrize("seed", range(20))
def test_of_calls_beside_each_other_at_most_one_took_less_than_its_guess(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    counts = Counts(clock)
    under_way: list[tuple[Charge, Spent, bool]] = []
    really_used = beyond = 0
    for number in range(300):
        clock.now += chance.random() / 10
        if under_way and chance.random() < 0.5:
            took, spent, _ = under_way.pop(chance.randrange(len(under_way)))
            really = chance.randrange(2 * took.amount)
            counts.settle((took,), spent.slots, (really,), "x")
            really_used, beyond = really_used + really, beyond + max(0, really - took.amount)
        else:
            most = chance.randint(1, 600)
            one = guessed(TOKENS, most, chance.randint(1, most))
            spent = counts.spend((one,), str(number))
            if spent.admitted:
                under_way.append((one._replace(amount=spent.taken[0], guess=0), spent, spent.taken[0] < most))
        assert sum(less for _, _, less in under_way) <= 1
        assert used(counts, charge(TOKENS)) == [really_used + sum(took.amount for took, _, _ in under_way)]
        assert used(counts, charge(TOKENS))[0] <= 1000 + beyond
    for took, spent, _ in under_way:
        counts.settle((took,), spent.slots, (0,), "x")
    assert counts.look((charge(TOKENS, 1000)._replace(guess=999),))[0].aside == 0


def test_a_settlement_that_comes_when_all_is_forgotten_gives_nothing_back(counts: Counts, clock: Clock) -> None:
    tokens = charge(TOKENS, 900)
    slots = counts.spend((tokens,), "a").slots
    clock.now = 4000.0
    for number in range(70):
        counts.spend((charge(FEW, key=f"client/{number}"),), "x")
    counts.settle((tokens,), slots, (0,), "a")
    assert used(counts, tokens) == [0]


def test_windows_in_which_nothing_is_used_go_and_all_others_stay(counts: Counts, clock: Clock) -> None:
    counts.add(charge(MANY), 7, clock.now)
    most = 0
    for number in range(2000):
        clock.now += 1.0
        assert counts.spend((charge(FEW, key=f"client/{number}"),), "x").admitted
        most = max(most, len(counts))
    assert most < 3 * 64
    assert used(counts, charge(MANY)) == [7]


def test_a_call_that_takes_nothing_leaves_an_empty_limit_empty(counts: Counts) -> None:
    assert counts.spend((charge(TOKENS, 0),), "a").standings == (Standing(0, 0.0, 0.0),)


def test_looking_counts_nothing_and_leaves_nothing_behind(counts: Counts) -> None:
    charges = (charge(FEW), charge(PLACES))
    for _ in range(5):
        assert counts.look(charges) == (Standing(0, 0.0, 0.0), Standing(0, 0.0, 0.0))
    assert len(counts) == 0


# -- the stores of the library


def test_a_store_does_the_same_as_its_counts() -> None:
    async def main() -> None:
        store = open_store("memory")
        assert isinstance(store, MemoryStore)
        charges = (charge(FEW), charge(TOKENS, 300))
        spent = await store.spend(charges, "a")
        assert spent.admitted
        await store.settle(charges, spent.slots, (1, 100), "a")
        assert [standing.used for standing in await store.look(charges)] == [1, 100] == used(store.counts, *charges)
        assert await store.check()
        assert await store.reset() == 2
        assert used(store.counts, *charges) == [0, 0]
        await store.close()

    asyncio.run(main())


def test_every_store_that_the_rules_know_is_one_that_the_library_finds() -> None:
    assert set(STORES) == {"memory", *SCHEMES}
    assert isinstance(storage_from_string("unigate+memory://"), MemoryStore)
    for scheme in SCHEMES:
        assert isinstance(open_store(f"{scheme}://127.0.0.1:6379/0"), RedisStore)


def test_an_unknown_store_is_refused_by_its_scheme_alone() -> None:
    with pytest.raises(ValueError, match="no store is called 'etcd'; there are memory, redis") as caught:
        open_store("etcd://:secret@127.0.0.1")
    assert "secret" not in str(caught.value)
