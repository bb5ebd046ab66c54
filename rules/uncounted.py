"""What limits do not do, though whoever wrote them may think so: hold for models of others that have no price, and
remember more after a restart than the ledger keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from rules.limits import limits_in
from rules.prices import UNPAID, is_for
from rules.schema import RulesFile
from rules.stores import MEMORY

_SHORT = 3600.0
"""Seconds."""


def uncounted(file: RulesFile) -> tuple[str, ...]:
    """The targets of a file that cost money, have no price, and may be asked though there is a limit in USD.

    `far/{model}` is one of them unless a pattern has a price for every name there.
    """
    if not any(limit.kind == "usd" for limit in limits_in(file)):
        return ()
    return tuple(dict.fromkeys(target for target in _targets(file) if _costs(file, target)))


def forgotten(file: RulesFile) -> tuple[str, ...]:
    """The limits, as they are written, whose windows are longer than what a restart leaves of the counts in memory.

    Windows of less than an hour are not worth a word.
    """
    if file.limits.store != MEMORY:
        return ()
    kept = file.ledger.keep if file.ledger is not None else 0.0
    longer = (limit.written for limit in limits_in(file) if limit.seconds > max(kept, _SHORT))
    return tuple(dict.fromkeys(longer))


def _targets(file: RulesFile) -> Iterator[str]:
    for model in file.models.values():
        yield from model.targets
    for rule in file.rules:
        yield from (entry for entry in rule.use if "/" in entry)


def _costs(file: RulesFile, target: str) -> bool:
    provider = file.providers[target.partition("/")[0]]
    return provider.dialect not in UNPAID and not any(is_for(price, target) for price in file.prices)
