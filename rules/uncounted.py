"""What limits and prices do not do, though whoever wrote them may think so: hold for models of others that have no
price, or none yet, remember more after a restart than the ledger keeps, count tokens for which the price has no amount.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from rules.limits import limits_in
from rules.prices import UNPAID, is_for, price_at
from rules.schema import RulesFile
from rules.stores import MEMORY

_SHORT = 3600.0
"""Seconds."""


MOST_NAMED = 4


class Uncounted(NamedTuple):
    """A target for which limits in USD do not hold."""

    name: str
    priced: tuple[str, ...] = ()
    """The models that `far/{model}` may mean as well and that have a price, or patterns of them."""

    @property
    def lacks(self) -> str:
        """What of it, for people, after its name."""
        if not self.priced:
            return "has no price, so no limit in USD holds for it"
        more = f" and {len(self.priced) - MOST_NAMED} more" if len(self.priced) > MOST_NAMED else ""
        others = ", ".join(self.priced[:MOST_NAMED]) + more
        return f"has no price for models other than {others}, so no limit in USD holds for those"


def uncounted(file: RulesFile) -> tuple[Uncounted, ...]:
    """The targets of a file that cost money, have no price, and may be asked though there is a limit in USD.

    `far/{model}` is one of them unless a pattern has a price for every name there.
    """
    if not any(limit.kind == "usd" for limit in limits_in(file)):
        return ()
    found = dict.fromkeys(target for target in _targets(file) if _costs(file, target))
    return tuple(Uncounted(target, _priced_of(file, target)) for target in found)


def forgotten(file: RulesFile) -> tuple[str, ...]:
    """The limits, as they are written, whose windows are longer than what a restart leaves of the counts in memory.

    Windows of less than an hour are not worth a word.
    """
    if file.limits.store != MEMORY:
        return ()
    kept = file.ledger.keep if file.ledger is not None else 0.0
    longer = (limit.written for limit in limits_in(file) if limit.seconds > max(kept, _SHORT))
    return tuple(dict.fromkeys(longer))


def half_priced(file: RulesFile) -> tuple[str, ...]:
    """For people, each model whose price has an amount for the tokens it reads and none for those it writes, or the
    other way round: these would count as free. Who means that writes 0.
    """
    named = ((price.model, price.model_fields_set & {"input", "output"}) for price in file.prices)
    halves = ((model, *_OTHER_HALF[half.pop()]) for model, half in named if len(half) == 1)
    said = (
        f"{model} has no {missing}, so what it {free} counts as free; write {missing}: 0 if it is"
        for model, missing, free in halves
    )
    return tuple(dict.fromkeys(said))


def not_yet_priced(file: RulesFile, today: date) -> tuple[str, ...]:
    """For people, each model whose price is in force later only. `today` in UTC."""
    begins: dict[str, date] = {}
    for price in file.prices:
        begins[price.model] = min(price.since, begins.get(price.model, price.since))
    coming = [(model, day) for model, day in begins.items() if day > today and not price_at(file.prices, model, today)]
    return tuple(
        f"{model} begins on {day}: until then its calls are unpriced, and no limit in USD holds for them"
        for model, day in coming
        if file.providers[model.partition("/")[0]].dialect not in UNPAID
    )


_OTHER_HALF = {"input": ("output", "writes"), "output": ("input", "reads")}


def _priced_of(file: RulesFile, target: str) -> tuple[str, ...]:
    before, placeholder, after = target.partition("{model}")
    if not placeholder:
        return ()
    fit = (price.model for price in file.prices if price.model.startswith(before) and price.model.endswith(after))
    return tuple(dict.fromkeys(fit))


def _targets(file: RulesFile) -> Iterator[str]:
    for model in file.models.values():
        yield from model.targets
    for rule in file.rules:
        yield from (entry for entry in rule.use if "/" in entry)


def _costs(file: RulesFile, target: str) -> bool:
    provider = file.providers[target.partition("/")[0]]
    return provider.dialect not in UNPAID and not any(is_for(price, target) for price in file.prices)
