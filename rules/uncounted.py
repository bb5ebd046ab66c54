"""What limits in USD do not hold for, though whoever wrote them may think so: models of others that have no price."""

from __future__ import annotations

from collections.abc import Iterator

from rules.prices import UNPAID, is_for
from rules.quota import parse_limits
from rules.schema import RulesFile


def uncounted(file: RulesFile) -> tuple[str, ...]:
    """The targets of a file that cost money, have no price, and may be asked though there is a limit in USD.

    `far/{model}` is one of them unless a pattern has a price for every name there.
    """
    if not _has_budget(file):
        return ()
    return tuple(dict.fromkeys(target for target in _targets(file) if _costs(file, target)))


def _has_budget(file: RulesFile) -> bool:
    limits = file.limits
    texts = [*limits.overall, *limits.each_client]
    texts += [
        text
        for listed in (*limits.models.values(), *(row.limits for row in file.clients.values()))
        for text in listed or ()
    ]
    return any(limit.kind == "usd" for limit in parse_limits(texts))


def _targets(file: RulesFile) -> Iterator[str]:
    for model in file.models.values():
        yield from model.targets
    for rule in file.rules:
        yield from (entry for entry in rule.use if "/" in entry)


def _costs(file: RulesFile, target: str) -> bool:
    provider = file.providers[target.partition("/")[0]]
    return provider.dialect not in UNPAID and not any(is_for(price, target) for price in file.prices)
