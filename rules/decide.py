"""Facts in, a Decision out: which rule, which targets in which order, which were skipped and why.

The first rule that holds wins. A name under `models` is decided before the rules: who names it means it.

Skipping: a target whose provider has no key is never asked. One whose server is down, or lacks the model, is skipped
while there is anything else, and asked after all where there is not: what we know may be a few seconds old. One whose
server is down is asked as well where everything else has failed. The sandbox
stands in only where no other target could be asked at all, and never once a local server was seen that has models: it
may make a first run answer, not take the place of a real model. Where a rule names nothing else, it is meant.

Targets come in pools: those of one pool can stand in for each other, and balance.py says which of them comes first. The
pools before skipping depend on the rule and the model's name alone; building them anew was most of a decision's time,
so they are remembered, as far as the names are short: callers think them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from cachetools import LRUCache

from rules.access import Keys
from rules.callers import keys_of, secrets_of
from rules.conditions import Condition, Facts, Seen, compile_when, glob, literal, model_name
from rules.health import Retry, kinds_in
from rules.limits import Limits, limits_of
from rules.origins import Origins, origins_of
from rules.prices import Book
from rules.schema import Defaults, Model, Provider, RulesFile
from rules.stores import passwords_in
from rules.tracing import secrets_in

NO_STAND_IN = "never stands in for a real model"
"""Why the sandbox is passed over where a local server has models, or had them when it was last seen."""
REMEMBERED = 1024
"""Lists of pools, for rules whose targets depend on the model's name."""
LONGEST_REMEMBERED = 256
"""Characters of a model's name."""
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
    node: tuple[str, str] = field(init=False, compare=False)
    """(provider, url): the server."""
    id: tuple[str, str, str] = field(init=False, compare=False)
    """(provider, url, model): the model on that server, for whoever keeps something about it. It holds no key."""

    def __post_init__(self) -> None:
        # Asked for several times in a call, and a target outlives many of them.
        setting = object.__setattr__
        setting(self, "name", f"{self.provider}/{self.model}")
        setting(self, "known_as", model_name(self.model))
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


@dataclass(frozen=True, slots=True)
class Skipped:
    """A target that was not asked."""

    target: str
    why: str
    as_meant: bool = False
    """It is the rule's own sense, and no news to a caller."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a call. Without a rule nothing matched; without targets nothing can be asked."""

    rule: str | None
    pools: tuple[Pool, ...] = ()
    """In the order in which they are asked; none of them is empty."""
    skipped: tuple[Skipped, ...] = ()
    mid_stream: str = "continue"
    """`continue` or `error`: what becomes of a stream that breaks off after its caller saw text."""
    last: tuple[Pool, ...] = ()
    """Skipped because their servers seemed away, and asked where all others have failed."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """Those of all pools, as written."""
        return tuple(target for pool in self.pools for target in pool.targets)


def without(decision: Decision, is_out: Callable[[Target], bool], why: str) -> Decision:
    """The decision without some of its targets, of which it says why they are not asked."""

    def rest_of(pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
        kept: list[Pool] = []
        for pool in pools:
            places = [place for place, target in enumerate(pool.targets) if not is_out(target)]
            if places:
                weights = tuple(pool.weights[place] for place in places) if pool.weights else ()
                kept.append(replace(pool, targets=tuple(pool.targets[place] for place in places), weights=weights))
        return tuple(kept)

    all_of_them = (target for pool in (*decision.pools, *decision.last) for target in pool.targets)
    out = dict.fromkeys(target.name for target in all_of_them if is_out(target))
    skipped = (*decision.skipped, *(Skipped(name, why) for name in out))
    return replace(decision, pools=rest_of(decision.pools), last=rest_of(decision.last), skipped=skipped)


type Written = tuple[str, str, tuple[tuple[str, float], ...]]
"""A pool of the file: (strategy, name, (target as written, weight) of each); the name is empty where the target's is
meant."""


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
        book=Book(file.prices),
        limits=limits_of(file.limits),
        origins=origins_of(file.proxy.cors.origins) if file.proxy.cors.on else None,
        endpoints=frozenset(file.proxy.endpoints) if file.proxy.endpoints is not None else None,
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


def decide(rules: Rules, facts: Facts) -> Decision:
    for name, fits in rules.aliases:
        if fits(facts.model):
            return _choose(rules, facts, rules.models[name])
    for conditions, way in rules.rules:
        if all(holds(facts) for holds in conditions):
            return _choose(rules, facts, way)
    return Decision(rule=None)


def _choose(rules: Rules, facts: Facts, way: Way) -> Decision:
    """Sorts the targets behind a way into those to ask and those to skip."""
    pools = _pools(rules, facts.model, way)
    ready: list[Target] = []
    later: list[Target] = []
    away: list[Target] = []
    sandbox: list[Target] = []
    skipped: list[Skipped] = []
    for pool in pools:
        for target in pool.targets:
            if target.dialect == "sandbox":
                sandbox.append(target)
            elif target.provider in rules.keyless:
                skipped.append(Skipped(target.name, "has no key"))
            elif target.dialect == "ollama":
                seen = facts.servers.get(target.provider, _NEVER)
                models = seen.nodes.get(target.url, seen.models)
                if models is None:
                    later.append(target)
                    away.append(target)
                    skipped.append(Skipped(target.name, "its server is not reachable"))
                elif target.known_as not in models:
                    later.append(target)
                    skipped.append(Skipped(target.name, "its server has no such model"))
                else:
                    ready.append(target)
            else:
                ready.append(target)
    last: tuple[Pool, ...] = ()
    real = skipped and any(_is_away(seen) or seen.models for seen in facts.servers.values())
    if not ready and sandbox and not real:
        chosen = sandbox
    elif ready:
        chosen = ready
        last = _only(pools, away) if away else ()
        skipped += [Skipped(target.name, "stands in only where nothing else can be asked", True) for target in sandbox]
    else:
        chosen = later
        skipped += [Skipped(target.name, NO_STAND_IN) for target in sandbox]
    if skipped:
        # Of a target with several servers, one may be left out; the target itself is asked.
        asked = {target.name for target in chosen}
        skipped = [skip for skip in skipped if skip.target not in asked]
    return Decision(way.rule, _only(pools, chosen), tuple(skipped), way.mid_stream, last)


_NEVER = Seen()


def _is_away(seen: Seen) -> bool:
    return seen.reached and seen.models is None


def _only(pools: tuple[Pool, ...], chosen: list[Target]) -> tuple[Pool, ...]:
    """The pools with these targets and no others."""
    if len(chosen) == sum(len(pool.targets) for pool in pools):
        return pools
    kept = {target.id for target in chosen}
    return tuple(
        pool
        if len(places) == len(pool.targets)
        else Pool(
            pool.strategy,
            tuple(pool.targets[place] for place in places),
            tuple(pool.weights[place] for place in places) if pool.weights else (),
            pool.name,
        )
        for pool in pools
        if (places := [place for place, target in enumerate(pool.targets) if target.id in kept])
    )


def _pools(rules: Rules, model: str, way: Way) -> tuple[Pool, ...]:
    """The pools before skipping."""
    key = (way.number, model if way.fills else "")
    pools = rules.remembered.get(key)
    if pools is None:
        pools = tuple(_made(rules.file, model, way))
        if len(key[1]) <= LONGEST_REMEMBERED:
            rules.remembered[key] = pools
    return pools


def _made(file: RulesFile, model: str, way: Way) -> Iterator[Pool]:
    """Several URLs become several targets, and each target comes once, where it stands first."""
    met: set[tuple[str, str, str]] = set()
    for strategy, name, members in way.pools:
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
