"""The names of models that callers may use, as far as a rules file spells them out.

A pattern stands for names that nobody knows, so none of it can be listed. But whoever writes `models: [gpt-4o]` for an
app, or a rule for that name, wants the app to find it in its list of models, though no server has a model of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rules.conditions import Facts
from rules.decide import Decision, decide, models_at
from rules.schema import RulesFile
from rules.snapshot import Rules


def spelled(file: RulesFile, client: str) -> Iterator[str]:
    """The names for a client in `aliases`, in the `when` of rules and in the client's own `models`; no patterns, and
    some of them maybe twice, or not for this client."""
    for model in file.models.values():
        yield from _plain(model.aliases)
    for rule in file.rules:
        yield from _plain(rule.when.model or ())
    row = file.clients.get(client)
    yield from _plain(row.models or () if row is not None else ())


def _plain(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not any(sign in name for sign in "*?[{"))


def is_answered(rules: Rules, facts: Facts) -> bool:
    """Whether the name is a virtual model's, or there is a target for such a call. A server that is asked only because
    nothing else is left does not count."""
    return _is_virtual(rules, facts.model) or _is_there(decide(rules, facts), facts)


def is_meant(rules: Rules, facts: Facts) -> bool:
    """The same, where the name is what decides: not where a rule takes whatever comes."""
    if _is_virtual(rules, facts.model):
        return True
    decision = decide(rules, facts)
    asks = {rule.name for rule in rules.file.rules if rule.when.model is not None}
    return decision.rule in asks and _is_there(decision, facts)


def _is_there(decision: Decision, facts: Facts) -> bool:
    return any(
        target.dialect != "ollama" or target.known_as in (models_at(target, facts.servers) or ())
        for target in decision.targets
    )


def _is_virtual(rules: Rules, name: str) -> bool:
    return any(fits(name) for _, fits in rules.aliases)
