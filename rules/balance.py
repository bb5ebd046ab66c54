"""Which of the targets of a pool comes first: one small function per strategy, and the table of them at the end.

Nothing is kept here. Whose turn it is, chance, load and cost are arguments, so that the same arguments always give the
same order. The trap that shaped it: where equals are sorted, the first one written gets every call of a quiet gateway,
and its model is the only one that is ever loaded; so equals take turns, each group of them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rules.targets import Pool, Target


@dataclass(frozen=True, slots=True)
class Load:
    """What a target has to do at this moment."""

    in_flight: int = 0
    """Calls that it is answering."""
    waiting: int = 0
    """Calls that wait for a place."""
    loaded: bool = False
    """The server has the model in memory."""
    first_token: float | None = None
    """Moving average of the time to the first content, seconds; None: not known."""


type Cost = Callable[[Target], float | None]
type Strategy = Callable[[Pool, Callable[[Target], Load], int, float, Cost], tuple[Target, ...]]


def order(pool: Pool, load: Callable[[Target], Load], *, turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    """All targets of a pool in the order in which a call should ask them.

    `turn` counts the calls of the pool, `chance` is in [0, 1), `cost` says what the call would cost at a target in USD,
    or None where nobody knows.
    """
    if len(pool.targets) < 2:
        return pool.targets
    return STRATEGIES[pool.strategy](pool, load, turn, chance, cost)


def _in_order(pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    return _by_load(_members(pool), load, turn)


def _round_robin(
    pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost
) -> tuple[Target, ...]:
    members = _members(pool)
    # The nodes of a member see only every nth call: counted by `turn` itself, some of them would never come first.
    return _by_load(_turned(members, turn), load, turn // len(members))


def _least_busy(pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    return _sorted(pool.targets, lambda target: _busy(load(target)), turn)


def _fastest(pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    def key(target: Target) -> tuple[Any, ...]:
        now = load(target)
        return (now.first_token is not None, now.first_token or 0.0, *_busy(now))

    return _sorted(pool.targets, key, turn)


def _cheapest(pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    def key(target: Target) -> tuple[Any, ...]:
        usd = cost(target)
        return (usd is None, usd or 0.0, *_busy(load(target)))

    return _sorted(pool.targets, key, turn)


def _weighted(pool: Pool, load: Callable[[Target], Load], turn: int, chance: float, cost: Cost) -> tuple[Target, ...]:
    """Each place is drawn among those left, by weight. One number is enough: what a draw leaves of it is as random."""
    weight = dict(zip((target.name for target in reversed(pool.targets)), reversed(pool.weights), strict=True))
    left = _members(pool)
    drawn = []
    while left:
        shares = [weight[member[0].name] for member in left]
        point = chance * sum(shares)
        place = 0
        while place < len(left) - 1 and point >= shares[place]:
            point -= shares[place]
            place += 1
        drawn.append(left.pop(place))
        chance = min(point / shares[place], _BELOW_ONE)
    return _by_load(drawn, load, turn)


_BELOW_ONE = 1 - 2**-53


def _members(pool: Pool) -> list[list[Target]]:
    """The targets by name, in order: those of one name are one model on several servers."""
    members: dict[str, list[Target]] = {}
    for target in pool.targets:
        members.setdefault(target.name, []).append(target)
    return list(members.values())


def _by_load(members: Iterable[list[Target]], load: Callable[[Target], Load], turn: int) -> tuple[Target, ...]:
    return tuple(
        target
        for member in members
        for target in (member if len(member) < 2 else _sorted(member, lambda one: _busy(load(one)), turn))
    )


def _busy(load: Load) -> tuple[int, bool]:
    return load.in_flight + load.waiting, not load.loaded


def _sorted(targets: Iterable[Target], key: Callable[[Target], tuple[Any, ...]], turn: int) -> tuple[Target, ...]:
    """By key, lowest first; each group of equals turned by itself."""
    keyed = sorted(((key(target), place, target) for place, target in enumerate(targets)), key=lambda one: one[:2])
    groups = ([target for _, _, target in group] for _, group in groupby(keyed, key=lambda one: one[0]))
    return tuple(target for group in groups for target in _turned(group, turn))


def _turned[T](items: Sequence[T], turn: int) -> list[T]:
    first = turn % len(items)
    return [*items[first:], *items[:first]]


STRATEGIES: dict[str, Strategy] = {
    "in_order": _in_order,
    "round_robin": _round_robin,
    "least_busy": _least_busy,
    "fastest": _fastest,
    "cheapest": _cheapest,
    "weighted": _weighted,
}
"""The values of a virtual model's `strategy`."""
