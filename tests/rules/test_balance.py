"""Which target of a pool comes first, by what each strategy goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import get_args

import pytest

from rules.balance import STRATEGIES, Load, order
from rules.schema import Defaults, Model, Provider
from rules.targets import Pool, Target, target_of

IDLE = Load()


def target(name: str) -> Target:
    """`a1` is the first server of provider `a`; all of a provider's servers have one model."""
    provider = Provider.model_validate({"dialect": "openai", "urls": f"http://{name}.test"})
    return target_of(name[0], provider, "m", f"http://{name}.test", Defaults())


def pool(strategy: str, names: str, weights: tuple[float, ...] = ()) -> Pool:
    return Pool(strategy, tuple(map(target, names.split())), weights, "pool")


def short(targets: tuple[Target, ...]) -> str:
    return " ".join(one.host.removesuffix(".test") for one in targets)


def ordered(
    asked: Pool,
    loads: dict[str, Load] | None = None,
    *,
    turn: int = 0,
    chance: float = 0.0,
    costs: dict[str, float] | None = None,
) -> str:
    return short(
        order(
            asked,
            lambda one: (loads or {}).get(short((one,)), IDLE),
            turn=turn,
            chance=chance,
            cost=lambda one: (costs or {}).get(short((one,))),
        )
    )


def turns(asked: Pool, count: int, loads: dict[str, Load] | None = None) -> list[str]:
    return [ordered(asked, loads, turn=turn) for turn in range(count)]


def test_the_strategies_are_those_that_a_file_can_name() -> None:
    assert tuple(STRATEGIES) == get_args(Model.model_fields["strategy"].annotation)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pool_of_one_is_in_order_without_a_question(strategy: str) -> None:
    def never(_: Target) -> Load:
        raise AssertionError("nobody needs to know")

    one = pool(strategy, "a1", (1.0,))
    assert order(one, never, turn=7, chance=0.5, cost=lambda _: 1.0) is one.targets
    assert order(Pool(strategy, ()), never, turn=7, chance=0.5, cost=lambda _: 1.0) == ()


# --- least_busy


@pytest.mark.parametrize(
    ("loads", "expected", "because"),
    [
        ({}, "a1 b1 c1", "equals stand as written, on the first turn"),
        ({"a1": Load(2), "b1": Load(1)}, "c1 b1 a1", "fewest calls first"),
        ({"a1": Load(1), "b1": Load(0, 2)}, "c1 a1 b1", "who waits counts like who is served"),
        ({"b1": Load(loaded=True)}, "b1 a1 c1", "among equals a model in memory is first"),
        ({"a1": Load(1, loaded=True)}, "b1 c1 a1", "and does not outweigh a call"),
        ({"a1": Load(first_token=9.0)}, "a1 b1 c1", "speed does not count"),
    ],
)
def test_the_least_busy_target_comes_first(loads: dict[str, Load], expected: str, because: str) -> None:
    assert ordered(pool("least_busy", "a1 b1 c1"), loads) == expected, because


def test_equals_take_turns_each_group_by_itself() -> None:
    assert turns(pool("least_busy", "a1 b1 c1"), 4) == ["a1 b1 c1", "b1 c1 a1", "c1 a1 b1", "a1 b1 c1"]
    loads = {"b1": Load(1), "c1": Load(1), "e1": Load(1)}
    assert turns(pool("least_busy", "a1 b1 c1 d1 e1"), 3, loads) == [
        "a1 d1 b1 c1 e1",
        "d1 a1 c1 e1 b1",
        "a1 d1 e1 b1 c1",
    ]


# --- in_order and round_robin


def test_members_stay_as_written_and_their_servers_go_by_load() -> None:
    asked = pool("in_order", "a1 b1 a2 c1")
    assert turns(asked, 2) == ["a1 a2 b1 c1", "a2 a1 b1 c1"]
    assert ordered(asked, {"a1": Load(1), "b1": Load(5)}) == "a2 a1 b1 c1"


def test_members_take_turns_whatever_their_load() -> None:
    asked = pool("round_robin", "a1 b1 c1")
    expected = ["a1 b1 c1", "b1 c1 a1", "c1 a1 b1", "a1 b1 c1"]
    assert turns(asked, 4) == turns(asked, 4, {"a1": Load(9)}) == expected


def test_every_server_of_every_member_has_its_turn() -> None:
    firsts = Counter(row.split()[0] for row in turns(pool("round_robin", "a1 a2 b1 b2"), 40))
    assert firsts == {"a1": 10, "a2": 10, "b1": 10, "b2": 10}


def test_a_member_with_two_servers_has_one_turn_and_not_two() -> None:
    firsts = Counter(row[0] for row in turns(pool("round_robin", "a1 a2 b1"), 40))
    assert firsts == {"a": 20, "b": 20}


def test_the_servers_of_a_member_whose_turn_it_is_go_by_load() -> None:
    assert ordered(pool("round_robin", "a1 a2 b1"), {"a1": Load(1)}) == "a2 a1 b1"


# --- fastest and cheapest


@pytest.mark.parametrize(
    ("loads", "expected", "because"),
    [
        (
            {"a1": Load(first_token=2.0), "b1": Load(first_token=0.5), "c1": Load(first_token=1.0)},
            "b1 c1 a1",
            "the shortest time first",
        ),
        ({"a1": Load(first_token=0.1), "c1": Load(first_token=0.0)}, "b1 c1 a1", "who was not measured yet is first"),
        ({"a1": Load(3), "b1": Load(2)}, "c1 b1 a1", "among those by load"),
        (
            {"a1": Load(1, first_token=1.0), "b1": Load(first_token=1.0), "c1": Load(9, first_token=0.9)},
            "c1 b1 a1",
            "and so among equally fast ones",
        ),
    ],
)
def test_the_fastest_target_comes_first(loads: dict[str, Load], expected: str, because: str) -> None:
    assert ordered(pool("fastest", "a1 b1 c1"), loads) == expected, because


@pytest.mark.parametrize(
    ("costs", "loads", "expected", "because"),
    [
        ({"a1": 3.0, "b1": 1.0, "c1": 2.0}, {}, "b1 c1 a1", "the lowest cost first"),
        ({"b1": 9.0, "c1": 0.0}, {}, "c1 b1 a1", "what nobody knows the price of is last"),
        ({}, {"a1": Load(1)}, "b1 c1 a1", "among those by load"),
        ({"a1": 1.0, "b1": 1.0, "c1": 2.0}, {"a1": Load(1)}, "b1 a1 c1", "and so among equally cheap ones"),
    ],
)
def test_the_cheapest_target_comes_first(
    costs: dict[str, float], loads: dict[str, Load], expected: str, because: str
) -> None:
    assert ordered(pool("cheapest", "a1 b1 c1"), loads, costs=costs) == expected, because


@pytest.mark.parametrize("strategy", ["fastest", "cheapest"])
def test_equally_good_ones_take_turns(strategy: str) -> None:
    assert turns(pool(strategy, "a1 b1"), 3) == ["a1 b1", "b1 a1", "a1 b1"]


# --- weighted


@pytest.mark.parametrize(
    ("chance", "expected"),
    [
        # Shares of 2, 1 and 1: the first draw halves the line, the second one divides the part that was met.
        (0.0, "a1 b1 c1"),
        (0.2499, "a1 b1 c1"),
        (0.25, "a1 c1 b1"),
        (0.4999, "a1 c1 b1"),
        (0.5, "b1 a1 c1"),
        (0.6, "b1 a1 c1"),
        (0.7, "b1 c1 a1"),
        (0.75, "c1 a1 b1"),
        (0.95, "c1 b1 a1"),
        (1 - 2**-53, "c1 b1 a1"),
    ],
)
def test_one_number_draws_the_whole_order(chance: float, expected: str) -> None:
    assert ordered(pool("weighted", "a1 b1 c1", (2, 1, 1)), chance=chance) == expected


def test_each_place_is_drawn_by_weight_among_those_left() -> None:
    asked = pool("weighted", "a1 b1 c1", (5, 3, 2))
    count = 10_000
    rows = Counter(ordered(asked, chance=(number + 0.5) / count) for number in range(count))
    weight = {"a1": 5, "b1": 3, "c1": 2}
    assert len(rows) == 6
    for row, times in rows.items():
        first, second, _ = row.split()
        share = weight[first] / 10 * weight[second] / (10 - weight[first])
        assert times / count == pytest.approx(share, abs=2 / count)


def test_the_servers_of_a_member_share_its_weight_and_go_by_load() -> None:
    asked = pool("weighted", "a1 a2 b1", (1, 1, 3))
    firsts = Counter(ordered(asked, {"a1": Load(1)}, chance=number / 1000).split()[0] for number in range(1000))
    assert firsts == {"a2": 250, "b1": 750}
    assert turns(asked, 2) == ["a1 a2 b1", "a2 a1 b1"]


@pytest.mark.parametrize("weights", [(5e-324, 1e6, 5e-324), (1e6, 5e-324, 1e6), (0.1, 0.2, 0.3), (1e-9, 1e-9, 1e6)])
@pytest.mark.parametrize("chance", [0.0, 5e-324, 1e-17, 0.1, 0.5, 0.9, 1 - 2**-53])
def test_weights_that_differ_without_measure_still_give_an_order(weights: tuple[float, ...], chance: float) -> None:
    row = ordered(pool("weighted", "a1 b1 c1", weights), chance=chance)
    assert sorted(row.split()) == ["a1", "b1", "c1"]


# --- laws


def worlds(seed: int, count: int) -> Iterator[tuple[Pool, dict[str, Load], dict[str, float], int, float]]:
    """Made-up pools under made-up loads."""
    chance = Random(seed)
    for _ in range(count):
        names = [f"{member}{node}" for member in "abcd" for node in range(1, 4)]
        chosen = chance.sample(names, chance.randint(1, 8))
        weight = {member: chance.choice([0.001, 1, 2, 1000]) for member in "abcd"}
        loads = {
            name: Load(
                chance.randint(0, 2),
                chance.randint(0, 1),
                chance.random() < 0.5,
                chance.choice([None, 0.0, 0.5, chance.random()]),
            )
            for name in chosen
            if chance.random() < 0.8
        }
        costs = {name: chance.choice([0.0, 0.5, chance.random()]) for name in chosen if chance.random() < 0.7}
        strategy = chance.choice([*STRATEGIES])
        weights = tuple(weight[name[0]] for name in chosen) if strategy == "weighted" else ()
        yield pool(strategy, " ".join(chosen), weights), loads, costs, chance.randrange(10**6), chance.random()


@pytest.mark.parametrize("seed", range(5))
def test_every_target_of_a_pool_comes_exactly_once(seed: int) -> None:
    for asked, loads, costs, turn, chance in worlds(seed, 200):
        row = ordered(asked, loads, turn=turn, chance=chance, costs=costs)
        assert sorted(row.split()) == sorted(short(asked.targets).split())


@pytest.mark.parametrize("seed", range(5, 8))
def test_the_same_arguments_give_the_same_order(seed: int) -> None:
    for asked, loads, costs, turn, chance in worlds(seed, 100):
        first, again = (ordered(asked, loads, turn=turn, chance=chance, costs=costs) for _ in range(2))
        assert first == again


@pytest.mark.parametrize("seed", range(8, 11))
def test_servers_of_one_model_stand_together_unless_the_strategy_compares_servers(seed: int) -> None:
    compared = 0
    for asked, loads, costs, turn, chance in worlds(seed, 200):
        if asked.strategy in ("in_order", "round_robin", "weighted"):
            members = [name[0] for name in ordered(asked, loads, turn=turn, chance=chance, costs=costs).split()]
            changes = sum(one != other for one, other in pairwise(members))
            assert changes == len(set(members)) - 1
            compared += 1
    assert compared > 50
