"""Facts in, a Decision out: which rule, which targets in which order, which were skipped and why.

The first rule that holds wins. A name under `models` is decided before the rules: who names it means it.

Skipping: a target whose provider has no key is never asked. One whose server is down, or lacks the model, is skipped
while there is anything else, and asked after all where there is not: what we know may be a few seconds old. The sandbox
stands in only where no other target could be asked at all, and never while a server that we have seen is away: it may
make a first run answer, not take the place of a real model. Where a rule names nothing else, it is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from rules.access import Keys
from rules.conditions import Condition, Facts, Seen, compile_when, glob, model_name
from rules.schema import Defaults, Provider, RulesFile


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
    keep_alive: str | None

    @property
    def name(self) -> str:
        """As the rules file writes it: provider/model."""
        return f"{self.provider}/{self.model}"

    def __repr__(self) -> str:
        return f"Target({self.name})"  # the key must not get into a traceback


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
    targets: tuple[Target, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """A rules file, checked and compiled. A snapshot: a call keeps the one it began with."""

    file: RulesFile
    keys: Keys
    rules: tuple[tuple[str, tuple[tuple[str, Condition], ...], tuple[str, ...]], ...]
    """(name, conditions, use)"""
    aliases: tuple[tuple[str, Callable[[str], bool]], ...]
    """(virtual model, does this name mean it)"""

    @property
    def defaults(self) -> Defaults:
        return self.file.defaults

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every key in the file: what must never be seen outside."""
        tokens = [token.get_secret_value().strip() for token in self.file.proxy.auth.tokens]
        keys = [p.key.get_secret_value().strip() for p in self.file.providers.values() if p.key is not None]
        return tuple(secret for secret in (*tokens, *keys) if secret)


def compile_rules(file: RulesFile) -> Rules:
    """Raises ValueError where a condition makes no sense (load.py has said so before, with the line)."""
    auth = file.proxy.auth
    return Rules(
        file=file,
        keys=Keys(tuple(token.get_secret_value() for token in auth.tokens), required=auth.required),
        rules=tuple((rule.name, compile_when(rule.when), rule.use) for rule in file.rules),
        aliases=tuple((name, glob((_literal(name), *model.aliases))) for name, model in file.models.items()),
    )


def decide(rules: Rules, facts: Facts) -> Decision:
    for name, fits in rules.aliases:
        if fits(facts.model):
            return _choose(rules, facts, f"models.{name}", rules.file.models[name].targets)
    for name, conditions, use in rules.rules:
        if all(holds(facts) for _, holds in conditions):
            return _choose(rules, facts, name, use)
    return Decision(rule=None)


def _choose(rules: Rules, facts: Facts, rule: str, use: tuple[str, ...]) -> Decision:
    """Sorts the targets of `use` into those to ask and those to skip."""
    ready: list[Target] = []
    later: list[Target] = []
    sandbox: list[Target] = []
    skipped: list[Skipped] = []
    for target in _targets(rules.file, facts.model, use):
        provider = rules.file.providers[target.provider]
        seen = facts.servers.get(target.provider, Seen())
        if target.dialect == "sandbox":
            sandbox.append(target)
        elif provider.key is not None and not target.key:
            skipped.append(Skipped(target.name, "has no key"))
        elif target.dialect == "ollama" and seen.models is None:
            later.append(target)
            skipped.append(Skipped(target.name, "its server is not reachable"))
        elif target.dialect == "ollama" and model_name(target.model) not in (seen.models or ()):
            later.append(target)
            skipped.append(Skipped(target.name, "its server has no such model"))
        else:
            ready.append(target)
    if not ready and sandbox and not (skipped and any(map(_is_away, facts.servers.values()))):
        return Decision(rule, tuple(sandbox), tuple(skipped))
    if ready:
        skipped += [Skipped(target.name, "stands in only where nothing else can be asked", True) for target in sandbox]
        return Decision(rule, tuple(ready), tuple(skipped))
    skipped += [Skipped(target.name, "never stands in for a server that is away") for target in sandbox]
    asked_after_all = {target.name for target in later}
    return Decision(rule, tuple(later), tuple(skip for skip in skipped if skip.target not in asked_after_all))


def _is_away(seen: Seen) -> bool:
    return seen.reached and seen.models is None


def _targets(file: RulesFile, model: str, use: tuple[str, ...]) -> Iterator[Target]:
    """The targets behind `use`, each once: virtual models are opened, several URLs become several targets."""
    met: set[tuple[str, str, str]] = set()
    for entry in use:
        for name in (entry,) if "/" in entry else file.models[entry].targets:
            provider_name, _, pattern = name.partition("/")
            provider = file.providers[provider_name]
            wanted = pattern.replace("{model}", model)
            for url in provider.urls or ("",):
                if (url, provider_name, wanted) not in met:
                    met.add((url, provider_name, wanted))
                    yield target_of(provider_name, provider, wanted, url)


def target_of(name: str, provider: Provider, model: str, url: str) -> Target:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
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
        num_ctx=provider.num_ctx,
        keep_alive=provider.keep_alive,
    )


def _literal(name: str) -> str:
    """A name as a pattern that fits only itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
