"""What Prometheus is told: plain numbers, counted as calls end and made into text when somebody asks (exposition.py).

Names and labels are those of OpenTelemetry's conventions for generative AI, as Prometheus spells them, where these
know of a thing; all others begin with `unigate_`. A new metric is a row of OF_CALLS or OF_ATTEMPTS here, or of SEEN
there.

The trap is the number of series: callers choose models, and a thousand clients times ten targets times twenty statuses
are more than a Prometheus wants from one process. So no name that a caller made up is ever a label, each label knows
only so many values, and each metric only so many sets of them. What goes beyond is counted all the same, under `other`:
every total stays exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client import ProcessCollector

from addons.account import Account, Tried
from rules.access import ANONYMOUS
from rules.quota import NANOS
from rules.schema import RulesFile

type Labels = tuple[str, ...]

OTHER = "other"
"""The value of a label for all that has none of its own."""
NOBODY = "none"
"""The rule or the target of a call that did not come so far."""
FAILED = "_OTHER"
"""The conventions' own word for an error where kinds are not told apart; unigate_attempts_total does that."""
CLIENTS, RULES, TARGETS, PROVIDERS, OUTCOMES = 32, 32, 20, 8, 32
"""Values that a label may have, `other` aside."""
LONGEST = 100
"""Characters of a label's value."""
REMEMBERED = 4096
"""Sets of labels whose places are found without looking."""

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TO_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""Upper ends of buckets, as the conventions advise for each metric."""

OPERATIONS = {"completions": "text_completion"}
"""Operations that the conventions call by another name."""
STREAMED = frozenset({"chat", "text_completion"})
"""Operations whose targets are always asked for a stream. The first content of others is the whole."""


class What(NamedTuple):
    """What labels may say of a call or of an attempt."""

    client: str
    rule: str
    target: str
    gen_ai_provider_name: str
    gen_ai_request_model: str
    gen_ai_operation_name: str
    status: str
    outcome: str
    error_type: str


@dataclass(frozen=True, slots=True)
class Row[T: Account | Tried]:
    """A metric that is counted as calls end, from calls or from attempts."""

    name: str
    help: str
    labels: Labels
    """Fields of What. The first is the first to become `other`, where there are too many sets of them."""
    amounts: Mapping[str, Callable[[T], float | None]]
    """What is counted or measured, by the value of `by`; None: nothing this time."""
    most: int
    """Sets of labels."""
    by: str | None = None
    """A further label."""
    buckets: tuple[float, ...] = ()
    """Upper ends, for a histogram."""
    per: int = 1
    """How many of what is counted make one of what is shown."""
    only: frozenset[str] | None = None
    """Operations that it is counted for; None: all."""

    @property
    def all_labels(self) -> Labels:
        return self.labels if self.by is None else (*self.labels, self.by)

    @property
    def most_series(self) -> int:
        return self.most * (len(self.buckets) + 3 if self.buckets else 1)


_MODEL = ("gen_ai_request_model", "gen_ai_provider_name", "gen_ai_operation_name")

OF_CALLS: tuple[Row[Account], ...] = (
    Row("unigate_calls_total",
        "Calls to models that are over, by who called, the rule that decided, who answered, and the status.",
        ("client", "rule", "target", "status"), {"": lambda call: 1}, most=300),
    Row("gen_ai_server_request_duration_seconds", "Time from a call to the end of its answer, as its caller sees it.",
        ("gen_ai_operation_name", "error_type"), {"": lambda call: call.total}, most=8, buckets=SECONDS),
    Row("gen_ai_server_time_to_first_token_seconds", "Time from a call to the first content, as its caller sees it.",
        ("gen_ai_operation_name",), {"": lambda call: call.first_token}, most=3, buckets=TO_FIRST_TOKEN, only=STREAMED),
    Row("unigate_compared_cost_usd_total", "What the tokens would have cost at the model of ledger.compare_to.",
        ("client",), {"": lambda call: call.compared}, most=CLIENTS + 1, per=NANOS),
    Row("unigate_unpriced_calls_total", "Calls of which some cost is not known, by who answered.",
        ("target",), {"": lambda call: 1 if call.unpriced else None}, most=TARGETS + PROVIDERS + 2),
)  # fmt: skip
OF_ATTEMPTS: tuple[Row[Tried], ...] = (
    Row("unigate_attempts_total",
        "Attempts at targets, by outcome: ok, left (its caller went away), or the kind of the failure.",
        ("target", "outcome"), {"": lambda attempt: 1}, most=120),
    Row("gen_ai_client_operation_duration_seconds", "Time of an attempt at a target.",
        (*_MODEL, "error_type"), {"": lambda attempt: attempt.took}, most=24, buckets=SECONDS),
    Row("gen_ai_client_operation_time_to_first_chunk_seconds", "Time from an attempt to its first content.",
        _MODEL, {"": lambda attempt: attempt.first_token}, most=14, buckets=SECONDS, only=STREAMED),
    Row("gen_ai_client_token_usage", "Tokens that an attempt read (input) and said (output).",
        _MODEL, {
            "input": lambda attempt: attempt.tokens.prompt or None,
            "output": lambda attempt: attempt.tokens.completion or None,
        }, by="gen_ai_token_type", most=16, buckets=TOKENS),
    Row("unigate_tokens_total", "Tokens by target and type. cached_input is a part of input, reasoning of output.",
        ("target",), {
            "input": lambda attempt: attempt.tokens.prompt,
            "cached_input": lambda attempt: attempt.tokens.cached or None,
            "output": lambda attempt: attempt.tokens.completion,
            "reasoning": lambda attempt: attempt.tokens.reasoning or None,
        }, by="type", most=100),
    Row("unigate_cost_usd_total", "What calls cost, as far as prices are known.",
        ("client", "target"), {"": lambda attempt: attempt.cost}, most=120, per=NANOS),
)  # fmt: skip


class Names:
    """The values that a label may have: the known ones first, then whatever comes, up to a bound."""

    def __init__(self, known: Iterable[str], most: int) -> None:
        self._most = most
        self._labels: dict[str, str] = {}
        for name in known:
            self.take(name)

    def of(self, name: str) -> str:
        return self._labels.get(name, OTHER)

    def take(self, name: str) -> str:
        """The value for a name, which gets one of its own if there is room."""
        known = self._labels.get(name)
        if known is not None:
            return known
        if len(self._labels) >= self._most:
            return OTHER
        # What comes from a caller or a file may hold halves of characters, which no text can carry.
        self._labels[name] = label = name[:LONGEST].encode("utf-8", "replace").decode()
        return label


@dataclass(frozen=True, slots=True)
class Label:
    """A target, as metrics name it."""

    name: str
    provider: str
    model: str


_NOBODY = Label(NOBODY, NOBODY, NOBODY)


class Targets:
    """The targets that have a label of their own: those of the rules, and others once they have answered a call.

    `{model}` in a rule makes a target of any name. Until it has answered, it counts as `provider/other`.
    """

    def __init__(self, file: RulesFile) -> None:
        used = [entry for model in file.models.values() for entry in model.targets]
        used += [entry for rule in file.rules for entry in rule.use if "/" in entry]
        self._names = Names((name for name in used if "{" not in name), TARGETS)
        self._providers = Names(file.providers, PROVIDERS)
        self._made: dict[str, Label] = {}

    def of(self, name: str, *, answered: bool = False) -> Label:
        made = self._made.get(name)
        return made if made is not None else self._make(name, answered)

    def _make(self, name: str, answered: bool) -> Label:
        label = self._names.take(name) if answered else self._names.of(name)
        if label == OTHER:
            provider = self._providers.of(name.partition("/")[0])
            return Label(OTHER if provider == OTHER else f"{provider}/{OTHER}", provider, OTHER)
        provider, _, model = label.partition("/")
        made = self._made[name] = Label(label, provider, model)
        return made


@dataclass(slots=True)
class Cell:
    """What was counted under one set of labels."""

    buckets: tuple[float, ...]
    total: float = 0
    spread: list[int] = field(default_factory=list)
    """How many values fell into each bucket, the last for those beyond all."""


class Sets:
    """The sets of labels of one metric; there are never more than its row allows."""

    def __init__(self, row: Row[Any]) -> None:
        self.row = row
        self.cells: dict[Labels, Cell] = {}

    def cell(self, labels: Labels) -> Cell:
        """That of these labels, or of coarser ones: a quarter of the room is kept for those."""
        cells, row = self.cells, self.row
        some, last = row.most // 4 if len(row.labels) > 1 else 0, len(row.amounts)
        if labels not in cells and len(cells) >= row.most - max(some, last):
            labels = (OTHER, *labels[1:])
            if labels not in cells and len(cells) >= row.most - last:
                labels = (OTHER,) * len(row.labels) + labels[len(row.labels) :]
        cell = cells.get(labels)
        if cell is None:
            buckets = self.row.buckets
            cell = cells[labels] = Cell(buckets, spread=[0] * (len(buckets) + 1) if buckets else [])
        return cell


@dataclass(slots=True)
class Slot[T: Account | Tried]:
    """Where one amount of a row is counted; a cell is made only when there is something to count."""

    amount: Callable[[T], float | None]
    sets: Sets
    labels: Labels
    cell: Cell | None = None


class Counters[T: Account | Tried]:
    """A table of rows, and what was counted for each."""

    def __init__(self, rows: tuple[Row[T], ...]) -> None:
        self.sets = tuple(map(Sets, rows))
        self._rows = rows
        self._slots: dict[What, tuple[Slot[T], ...]] = {}

    def count(self, what: What, source: T) -> None:
        slots = self._slots.get(what)
        if slots is None:
            if len(self._slots) >= REMEMBERED:
                self._slots.clear()
            slots = self._slots[what] = tuple(self._slots_of(what))
        for slot in slots:
            amount = slot.amount(source)
            if amount is None:
                continue
            cell = slot.cell
            if cell is None:
                cell = slot.cell = slot.sets.cell(slot.labels)
            cell.total += amount
            if cell.buckets:
                cell.spread[bisect_left(cell.buckets, amount)] += 1

    def _slots_of(self, what: What) -> Iterable[Slot[T]]:
        for row, sets in zip(self._rows, self.sets, strict=True):
            if row.only is None or what.gen_ai_operation_name in row.only:
                labels = tuple(getattr(what, label) for label in row.labels)
                for value, amount in row.amounts.items():
                    yield Slot(amount, sets, labels if row.by is None else (*labels, value))


class Metrics:
    """Counts on the event loop, without locks."""

    def __init__(self, file: RulesFile) -> None:
        self._clients = Names([*file.clients, ANONYMOUS], CLIENTS)
        self._rules = Names([rule.name for rule in file.rules], RULES)
        self._outcomes = Names(("ok", "left"), OUTCOMES)
        self.targets = Targets(file)
        self._of_calls = Counters(OF_CALLS)
        self._of_attempts = Counters(OF_ATTEMPTS)
        self.sets: tuple[Sets, ...] = (*self._of_calls.sets, *self._of_attempts.sets)
        self.refusals: dict[str, int] = {}
        """status -> requests that were refused before it was known who called."""
        self.decisions: dict[str, int] = {}
        """What limits decided: `admitted`, or the kind of the limit that a call did not fit."""
        self.process = ProcessCollector(registry=None)

    def count(self, account: Account) -> None:
        """One call to a model is over."""
        client = self._clients.take(account.client)
        rule = self._rules.take(account.rule) if account.rule is not None else NOBODY
        target = self.targets.of(account.target, answered=True) if account.target is not None else _NOBODY
        operation = OPERATIONS.get(account.operation, account.operation) or NOBODY
        error = "" if account.error is None else FAILED
        status = str(account.status)
        what = What(client, rule, target.name, target.provider, target.model, operation, status, "", error)
        self._of_calls.count(what, account)
        for tried in account.tried:
            outcome = self._outcomes.take(tried.outcome)
            went_well = tried.outcome == "ok"
            asked = self.targets.of(tried.target, answered=went_well)
            error = "" if went_well else FAILED
            what = What(client, "", asked.name, asked.provider, asked.model, operation, "", outcome, error)
            self._of_attempts.count(what, tried)

    def refused(self, status: int) -> None:
        """Somebody was refused before it was known who it was."""
        self.refusals[str(status)] = self.refusals.get(str(status), 0) + 1

    def decided(self, decision: str) -> None:
        """Limits let a call pass (`admitted`), or did not: then the kind of the limit that it did not fit."""
        self.decisions[decision] = self.decisions.get(decision, 0) + 1
