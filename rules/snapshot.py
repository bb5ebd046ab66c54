"""A rules file, checked and compiled: the snapshot that a call keeps from its beginning to its end.

The pools behind a rule, before any target is skipped, depend on the rule and the model's name alone; building them anew
was most of a decision's time, so they are remembered, as far as the names are short: callers think them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import LRUCache

from rules.access import Keys
from rules.callers import keys_of, secrets_of
from rules.conditions import Condition, compile_when, glob, literal
from rules.health import Retry, kinds_in
from rules.limits import Limits, limits_of
from rules.origins import Origins, origins_of
from rules.paths import meant
from rules.prices import UNPAID, Book
from rules.schema import Defaults, Model, RulesFile
from rules.stores import passwords_in
from rules.targets import Pool, Written, pools_of
from rules.tracing import secrets_in

REMEMBERED = 1024
"""Lists of pools, for rules whose targets depend on the model's name."""
LONGEST_REMEMBERED = 256
"""Characters of a model's name."""


class Way(NamedTuple):
    """Where a rule or a virtual model leads, as far as the file alone says it."""

    number: int
    """Its own among those of the file."""
    rule: str
    """What Decision.rule will be; a rule may be named like a virtual model's way."""
    mid_stream: str
    pools: tuple[Written, ...]
    fills: bool
    """Some target depends on the name of the model that is asked for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A rules file, checked and compiled. A snapshot: a call keeps the one it began with."""

    file: RulesFile
    keys: Keys
    rules: tuple[tuple[tuple[Condition, ...], Way], ...]
    """Each rule's conditions and where it leads."""
    aliases: tuple[tuple[str, Callable[[str], bool]], ...]
    """(virtual model, does this name mean it)"""
    models: dict[str, Way]
    """Where each virtual model leads."""
    keyless: frozenset[str]
    """Providers that need a key and have none."""
    retry: Retry
    """How patient a call is."""
    book: Book
    """What targets cost."""
    limits: Limits
    """What a call counts against."""
    origins: Origins | None
    """The web pages that may read our answers; None: no answer says anything about it."""
    endpoints: frozenset[str] | None
    """The paths that are answered, for paths.permits(); None: all."""
    tracing: Mapping[str, str] = field(default_factory=dict)
    """What the environment says to OpenTelemetry."""
    remembered: LRUCache[tuple[int, str], tuple[Pool, ...]] = field(
        default_factory=lambda: LRUCache(REMEMBERED), compare=False, repr=False
    )
    """(number of the way, model's name) -> the pools before skipping. A cache, and for one thread."""

    @property
    def defaults(self) -> Defaults:
        return self.file.defaults

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every key and password in the file: what must never be seen outside."""
        keys = [p.key.get_secret_value().strip() for p in self.file.providers.values() if p.key is not None]
        shared = (self.file.limits.store, self.file.ledger.url if self.file.ledger is not None else "")
        passwords = (password for url in shared for password in passwords_in(url))
        others = (*passwords, *secrets_in(self.tracing))
        return tuple(secret for secret in (*secrets_of(self.file), *keys, *others) if secret)

    def pools(self, way: Way, model: str) -> tuple[Pool, ...]:
        """Where a way leads for a name that is asked for, before any target is skipped."""
        key = (way.number, model if way.fills else "")
        pools = self.remembered.get(key)
        if pools is None:
            pools = tuple(pools_of(self.file, way.pools, model))
            if len(key[1]) <= LONGEST_REMEMBERED:
                self.remembered[key] = pools
        return pools


def compile_rules(file: RulesFile) -> Rules:
    """Raises ValueError where a condition makes no sense (load.py has said so before, with the line)."""
    patience = file.defaults.failover
    usual = patience.mid_stream
    return Rules(
        file=file,
        keys=keys_of(file),
        rules=tuple(
            (
                tuple(holds for _, holds in compile_when(rule.when)),
                _way(
                    number,
                    rule.name,
                    rule.mid_stream or _of_models(file, rule.use) or usual,
                    _pools_of_rule(file, rule.use),
                ),
            )
            for number, rule in enumerate(file.rules)
        ),
        aliases=tuple((name, glob((literal(name), *model.aliases))) for name, model in file.models.items()),
        models={
            name: _way(number, f"models.{name}", model.mid_stream or usual, _pools_of_model(name, model))
            for number, (name, model) in enumerate(file.models.items(), len(file.rules))
        },
        keyless=frozenset(
            name
            for name, provider in file.providers.items()
            if provider.key is not None and not provider.key.get_secret_value().strip()
        ),
        retry=Retry(patience.attempts, kinds_in(patience.on), patience.backoff, patience.wait),
        book=Book(file.prices, [name for name, one in file.providers.items() if one.dialect in UNPAID]),
        limits=limits_of(file.limits),
        origins=origins_of(file.proxy.cors.origins) if file.proxy.cors.on else None,
        endpoints=meant(file.proxy.endpoints) if file.proxy.endpoints is not None else None,
    )


def _of_models(file: RulesFile, use: tuple[str, ...]) -> str | None:
    """What the virtual models behind a rule say of streams that break off; where they differ, the stricter one."""
    said = {file.models[entry].mid_stream for entry in use if "/" not in entry}
    return "error" if "error" in said else "continue" if "continue" in said else None


def _way(number: int, rule: str, mid_stream: str, written: Iterable[Written]) -> Way:
    pools = tuple(written)
    return Way(
        number, rule, mid_stream, pools, any("{model}" in entry for _, _, members in pools for entry, _ in members)
    )


def _pools_of_rule(file: RulesFile, use: tuple[str, ...]) -> Iterator[Written]:
    for entry in use:
        if "/" in entry:
            yield "least_busy", "", ((entry, 1.0),)
        else:
            yield from _pools_of_model(entry, file.models[entry])


def _pools_of_model(name: str, model: Model) -> Iterator[Written]:
    if model.strategy == "in_order":
        for target in model.targets:
            yield "least_busy", "", ((target, 1.0),)
    else:
        weights = model.weights or (1.0,) * len(model.targets)
        yield model.strategy, name, tuple(zip(model.targets, weights, strict=True))
