"""What a call asks its limits for, before it is known which of its targets will answer it.

The trap is money. Whoever sets aside what the first target costs sets nothing aside where that is free, and calls at
once fail over to a paid one together. So a call asks for what the dearest of its targets would cost, and where a budget
has no room for that, for less and less, without the dear ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from addons.counters import Spent
from rules.decide import Decision
from rules.limits import Estimate, charges_of, refusal
from rules.quota import Charge
from rules.targets import Target


class Asking:
    """The charges of a call, and after a refusal smaller ones."""

    def __init__(
        self,
        applying: Sequence[Charge],
        decision: Decision,
        estimate: Callable[[Target], Estimate],
        is_free: Callable[[Target], bool],
    ) -> None:
        """`applying`: of Limits.of(). `estimate`: what the call will take, if a target answers it."""
        self._applying = applying
        self._decision = decision
        self._estimate = estimate
        self._is_free = is_free
        self._usd: dict[str, int] = {}
        """Target -> NANOS that the call will cost there. Empty where there is no choice."""
        self._known: dict[str, Estimate] = {}
        """Of targets that cost something, and of those that came first."""
        self._bound = 0
        """NANOS that a target may cost to be asked."""
        self.why = ""
        """Why some targets are left out."""
        self.charges = charges_of(applying, self._of_all)

    def _of_all(self) -> Estimate:
        decision = self._decision
        pools = decision.pools + decision.last
        first = pools[0].targets[0]
        one_alone = len(pools) == 1 and len(pools[0].targets) == 1
        if one_alone or not any(charge.limit.kind == "usd" for charge in self._applying):
            return self._estimate(first)
        usd, is_free = self._usd, self._is_free
        for pool in pools:
            for target in pool.targets:
                if target.name not in usd:
                    usd[target.name] = 0 if is_free(target) else self._at(target).usd
        self._bound = max(usd.values())
        return self._of(first)

    def _at(self, target: Target) -> Estimate:
        found = self._known.get(target.name)
        if found is None:
            found = self._known[target.name] = self._estimate(target)
        return found

    def _of(self, first: Target) -> Estimate:
        """Tokens are those of the target that comes first: others may not be known yet, and a guess at one that is
        hardly ever asked would keep calls out. Money is that of the dearest; what is certain of it, of the cheapest
        that costs something.
        """
        tokens, certain, _, _ = self._at(first)
        priced = [one.certain_usd for one in self._known.values() if 0 < one.usd <= self._bound]
        return Estimate(tokens, certain, self._bound, min(priced, default=0))

    def for_less(self, spent: Spent) -> bool:
        """After an answer: whether there are other charges to ask with."""
        if spent.admitted or not self._usd:
            return False
        refused = refusal(self.charges, spent.standings)
        # Targets that seem to be away are no way of their own: it might lead nowhere.
        cheaper = [target for target in self._decision.targets if self._usd[target.name] < self._bound]
        if refused.charge.limit.kind != "usd" or not cheaper:
            return False
        used_up = refused.standing.used - refused.standing.aside >= refused.charge.limit.amount
        self.why = "a budget is used up" if used_up else "a budget has no room for it"
        self._bound = max(self._usd[target.name] for target in cheaper)
        self.charges = charges_of(self._applying, lambda: self._of(cheaper[0]))
        return True

    def is_too_dear(self, target: Target) -> bool:
        return self._usd[target.name] > self._bound
