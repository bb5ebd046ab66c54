"""Facts in, a Decision out: which rule, which targets in which order, which were skipped and why.

The first rule that holds wins. A name under `models` is decided before the rules: who names it means it.

Skipping: a target whose provider has no key is never asked. One whose server is down, or lacks the model, is skipped
while there is anything else, and asked after all where there is not: what we know may be a few seconds old. One whose
server is down is asked as well where everything else has failed. The sandbox stands in only where no other target could
be asked at all, and never once a local server was seen that has models: it may make a first run answer, not take the
place of a real model. Where a rule names nothing else, it is meant.

Which of a pool's targets comes first is balance.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rules.conditions import Facts, Seen
from rules.snapshot import Rules, Way
from rules.targets import Pool, Target, only

NO_STAND_IN = "never stands in for a real model"
"""Why the sandbox is passed over where a local server has models, or had them when it was last seen."""


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
    everything = [target for pool in (*decision.pools, *decision.last) for target in pool.targets]
    out = dict.fromkeys(target.name for target in everything if is_out(target))
    kept = {target.id for target in everything if not is_out(target)}
    skipped = (*decision.skipped, *(Skipped(name, why) for name in out))
    return replace(decision, pools=only(decision.pools, kept), last=only(decision.last, kept), skipped=skipped)


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
    pools = rules.pools(way, facts.model)
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
                models = models_at(target, facts.servers)
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
    if ready:
        chosen = ready
        last = _only(pools, away) if away else ()
        skipped += [Skipped(target.name, "stands in only where nothing else can be asked", True) for target in sandbox]
    elif sandbox and not (skipped and any(map(_is_real, facts.servers.values()))):
        chosen = sandbox
    else:
        chosen = later
        skipped += [Skipped(target.name, NO_STAND_IN) for target in sandbox]
    if skipped:
        # Of a target with several servers, one may be left out; the target itself is asked.
        asked = {target.name for target in chosen}
        skipped = [skip for skip in skipped if skip.target not in asked]
    return Decision(way.rule, _only(pools, chosen), tuple(skipped), way.mid_stream, last)


_NEVER = Seen()


def models_at(target: Target, servers: Mapping[str, Seen]) -> frozenset[str] | None:
    """The models that an Ollama target's server has, as model_name() spells them; None: not reachable, or not asked."""
    seen = servers.get(target.provider, _NEVER)
    return seen.nodes.get(target.url, seen.models)


def _is_real(seen: Seen) -> bool:
    """A server was seen that has models, or had them before it was away."""
    return bool(seen.models) or (seen.reached and seen.models is None)


def _only(pools: tuple[Pool, ...], chosen: list[Target]) -> tuple[Pool, ...]:
    """The pools with these targets and no others."""
    if len(chosen) == sum(len(pool.targets) for pool in pools):
        return pools
    return only(pools, {target.id for target in chosen})
