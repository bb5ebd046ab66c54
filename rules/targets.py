"""Where a call can go: one model on one server, and the pools of those that can stand in for each other.

A pool is written once and stands for many: several URLs are several targets, and `{model}` is whatever name the call
has. A target holds its server's key, so nothing here is ever shown as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rules.conditions import glob, model_name
from rules.prices import UNPAID
from rules.schema import Defaults, Provider, RulesFile

PARALLEL = {"ollama": 4}
"""Calls at once, by dialect, where the file does not say: a server that speaks Ollama computes them itself, and lets
more than a few of them wait in silence."""
PARALLEL_ELSEWHERE = 64


@dataclass(frozen=True, slots=True)
class Target:
    """One model on one server."""

    provider: str
    model: str
    dialect: str
    profile: str
    url: str
    """As configured; empty for the sandbox, whose address is known when it runs."""
    host: str
    port: int
    tls: bool
    path: str
    key: str
    num_ctx: int | None
    """Tokens of context as the file says; None: it says no number."""
    context_memory: int | None
    """Bytes for its context, within which its number is to be chosen; None: none is to be chosen."""
    keep_alive: str | None
    parallel: int
    """Calls that it is given at once."""
    patience: float | None
    """Seconds to the first token while the server shows signs of life; None: its profile's."""
    window: int | None
    """Tokens of context as the file says; None: it does not."""
    name: str = field(init=False, compare=False)
    """As the rules file writes it: provider/model."""
    known_as: str = field(init=False, compare=False)
    """The model as model_name() spells it."""
    learned_as: str = field(init=False, compare=False)
    """`name`, in one spelling for all that lead to this model: what its calls teach is kept by that."""
    node: tuple[str, str] = field(init=False, compare=False)
    """(provider, url): the server."""
    id: tuple[str, str, str] = field(init=False, compare=False)
    """(provider, url, model): the model on that server, for whoever keeps something about it. It holds no key."""

    def __post_init__(self) -> None:
        # Asked for several times in a call, and a target outlives many of them.
        setting = object.__setattr__
        setting(self, "name", f"{self.provider}/{self.model}")
        setting(self, "known_as", model_name(self.model))
        bare = self.known_as.removesuffix(":latest") if self.dialect in UNPAID else self.model
        setting(self, "learned_as", f"{self.provider}/{bare}")
        setting(self, "node", (self.provider, self.url))
        setting(self, "id", (self.provider, self.url, self.model))

    def __repr__(self) -> str:
        return f"Target({self.name})"  # the key must not get into a traceback


@dataclass(frozen=True, slots=True)
class Pool:
    """Targets that can stand in for each other: one model on several servers, or the targets of a virtual model."""

    strategy: str
    """Which comes first: a name in balance.STRATEGIES."""
    targets: tuple[Target, ...]
    """As written; balance.order() sorts them."""
    weights: tuple[float, ...] = ()
    """One per target where the strategy is `weighted`; the servers of one model all carry that model's weight."""
    name: str = ""
    """The virtual model's, or the target's."""


def only(pools: tuple[Pool, ...], kept: Collection[tuple[str, str, str]]) -> tuple[Pool, ...]:
    """The pools with those of their targets that have these ids; one without any is left out."""
    rest: list[Pool] = []
    for pool in pools:
        places = [place for place, target in enumerate(pool.targets) if target.id in kept]
        if len(places) == len(pool.targets):
            rest.append(pool)
        elif places:
            targets = tuple([pool.targets[place] for place in places])
            weights = tuple([pool.weights[place] for place in places]) if pool.weights else ()
            rest.append(Pool(pool.strategy, targets, weights, pool.name))
    return tuple(rest)


type Written = tuple[str, str, tuple[tuple[str, float], ...]]
"""A pool of the file: (strategy, name, (target as written, weight) of each); the name is empty where the target's is
meant."""


def pools_of(file: RulesFile, written: Iterable[Written], model: str) -> Iterator[Pool]:
    """The pools for a name that is asked for, none of them empty. Several URLs become several targets, and each target
    comes once, where it stands first."""
    met: set[tuple[str, str, str]] = set()
    for strategy, name, members in written:
        targets: list[Target] = []
        weights: list[float] = []
        for entry, weight in members:
            provider_name, _, pattern = entry.partition("/")
            provider = file.providers[provider_name]
            wanted = pattern.replace("{model}", model)
            for url in provider.urls or ("",):
                target_id = (provider_name, url, wanted)
                if target_id not in met:
                    met.add(target_id)
                    targets.append(target_of(provider_name, provider, wanted, url, file.defaults))
                    weights.append(weight)
        if targets:
            yield Pool(
                strategy, tuple(targets), tuple(weights) if strategy == "weighted" else (), name or targets[0].name
            )


def target_of(name: str, provider: Provider, model: str, url: str, defaults: Defaults) -> Target:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    context = _context(provider, model)
    return Target(
        provider=name,
        model=model,
        dialect=provider.dialect,
        profile=provider.profile,
        url=url,
        host=parts.hostname or "",
        port=parts.port or (443 if tls else 80),
        tls=tls,
        path=parts.path,
        key=provider.key.get_secret_value().strip() if provider.key is not None else "",
        num_ctx=context if isinstance(context, int) else None,
        context_memory=provider.context_memory if context == "auto" else None,
        keep_alive=provider.keep_alive,
        parallel=provider.parallel or defaults.admission.parallel or PARALLEL.get(provider.dialect, PARALLEL_ELSEWHERE),
        patience=provider.patience,
        window=provider.window,
    )


def _context(provider: Provider, model: str) -> int | str:
    """What the file says of the context of one model."""
    spelled = model_name(model)
    for pattern, context in provider.num_ctx.items():
        fits = glob((pattern,))
        if fits(spelled) or fits(spelled.removesuffix(":latest")):
            return context
    return "auto"
