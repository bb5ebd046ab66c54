"""/metrics: what was counted, and what can be seen at this moment, as Prometheus reads it.

The text is prometheus_client's work, which knows how to escape a name. What is read from the gateway's parts when
somebody asks is a row of SEEN.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from mitmproxy import version
from prometheus_client import CollectorRegistry, Metric
from prometheus_client import exposition as text_format
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics

from addons import __version__
from addons.state import State
from addons.telemetry import Cell, Labels, Sets
from rules.limits import whose

type Kind = Literal["counter", "gauge"]

BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(slots=True)
class Load:
    """What is known of a target, all its servers together."""

    in_flight: int = 0
    waiting: int = 0
    breaker: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The gateway at the moment when somebody asks."""

    state: State
    targets: dict[str, Load]


@dataclass(frozen=True, slots=True)
class Seen:
    """A metric that is read when somebody asks."""

    name: str
    kind: Kind
    help: str
    labels: Labels
    read: Callable[[View], Iterable[tuple[Labels, float]]]


def _of_targets(field: str) -> Callable[[View], Iterable[tuple[Labels, float]]]:
    return lambda view: [((name,), getattr(load, field)) for name, load in sorted(view.targets.items())]


def _counts(counts: dict[str, int]) -> Iterable[tuple[Labels, float]]:
    return [((name,), count) for name, count in sorted(counts.items())]


def _store_up(view: View) -> Iterable[tuple[Labels, float]]:
    away = view.state.limiter.away
    return (((), not away),) if away is not None else ()


def _limits(view: View) -> Iterable[tuple[Labels, float]]:
    """Where they are counted here: nobody who asks for metrics waits for a store."""
    counts = view.state.limiter.counts
    if counts is None:
        return ()
    shared = tuple(view.state.rules.limits.shared())
    return [
        ((*whose(charge), charge.limit.written), at.used / charge.limit.amount)
        for charge, at in zip(shared, counts.look(shared), strict=True)
    ]


def _of_ledger(view: View, field: str) -> Iterable[tuple[Labels, float]]:
    ledger = view.state.ledger
    return (((), getattr(ledger, field)),) if ledger is not None else ()


def _in_flight(view: View) -> Iterable[tuple[Labels, float]]:
    return (((), sum(exchange.to_model for exchange in view.state.in_flight())),)


SEEN = (
    Seen("unigate_requests_total", "counter", "Requests of all kinds since the start.", (),
         lambda view: (((), view.state.total),)),
    Seen("unigate_refused_requests_total", "counter", "Requests refused before it was known who calls, by status.",
         ("status",), lambda view: _counts(view.state.metrics.refusals)),
    Seen("unigate_limit_decisions_total", "counter",
         "What limits decided: admitted, the kind of the limit that was reached, or unchecked or unavailable while "
         "their store could not be reached.", ("decision",), lambda view: _counts(view.state.metrics.decisions)),
    Seen("unigate_limit_store_up", "gauge", "0 while the server that counts for several gateways cannot be reached.",
         (), _store_up),
    Seen("unigate_limit_used_ratio", "gauge",
         "How much is used of a limit that several clients share, with what is set aside for calls under way; above "
         "1 where calls used more than was expected. Not where a server counts for several gateways.",
         ("scope", "name", "limit"), _limits),
    Seen("unigate_ledger_backlog", "gauge", "Calls that the ledger has still to write.", (),
         lambda view: _of_ledger(view, "backlog")),
    Seen("unigate_ledger_written_total", "counter", "Calls that the ledger has written.", (),
         lambda view: _of_ledger(view, "written")),
    Seen("unigate_ledger_lost_total", "counter", "Calls that the ledger could not write.", (),
         lambda view: _of_ledger(view, "lost")),
    Seen("unigate_calls_in_flight", "gauge", "Calls to models that are under way.", (), _in_flight),
    Seen("unigate_target_calls_in_flight", "gauge", "Attempts under way, by target.",
         ("target",), _of_targets("in_flight")),
    Seen("unigate_target_calls_waiting", "gauge", "Calls in the target's queue. One may wait in several queues.",
         ("target",), _of_targets("waiting")),
    Seen("unigate_breaker_state", "gauge", "0: closed, 1: half open, 2: open; the worst one of a target's servers.",
         ("target",), _of_targets("breaker")),
    Seen("unigate_draining", "gauge", "1 while the gateway waits for its last calls.", (),
         lambda view: (((), view.state.draining),)),
    Seen("unigate_build_info", "gauge", "What runs here.", ("version", "mitmproxy", "python"),
         lambda view: (((__version__, version.VERSION, platform.python_version()), 1),)),
)  # fmt: skip


def exposition(state: State, accept: str) -> tuple[bytes, str]:
    """(text, content type); OpenMetrics where the Accept header asks for it."""
    registry = CollectorRegistry()
    registry.register(_Gateway(state))
    # Not choose_encoder(): what a caller says of a version it cannot compare, it raises.
    if "application/openmetrics-text" in accept.lower():
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return text_format.generate_latest(registry), text_format.CONTENT_TYPE_PLAIN_0_0_4


class _Gateway:
    """A collector, as prometheus_client calls what it asks for metrics."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        view = View(self._state, _loads(self._state))
        for sets in self._state.metrics.sets:
            if sets.cells:
                yield _counted(sets)
        for seen in SEEN:
            family = FAMILIES[seen.kind](seen.name, seen.help, labels=seen.labels)
            for labels, value in seen.read(view):
                family.add_metric(labels, float(value))
            if family.samples:
                yield family
        yield from self._state.metrics.process.collect()

    def describe(self) -> list[Metric]:
        return []


FAMILIES: dict[Kind, type[CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


def _counted(sets: Sets) -> Metric:
    row = sets.row
    if row.buckets:
        histogram = HistogramMetricFamily(row.name, row.help, labels=row.all_labels)
        for labels, cell in sets.cells.items():
            histogram.add_metric(labels, _buckets(cell), cell.total)
        return histogram
    counter = CounterMetricFamily(row.name, row.help, labels=row.all_labels)
    for labels, cell in sets.cells.items():
        counter.add_metric(labels, cell.total / row.per)
    return counter


def _buckets(cell: Cell) -> list[tuple[str, float]]:
    """As Prometheus has them: each holds the ones below it too."""
    ends = [*(str(float(end)) for end in cell.buckets), "+Inf"]
    return [*zip(ends, map(float, accumulate(cell.spread)), strict=True)]


def _loads(state: State) -> dict[str, Load]:
    loads: dict[str, Load] = {}
    for row in state.nodes.rows():
        load = loads.setdefault(state.metrics.targets.of(row["target"]).name, Load())
        load.in_flight += row["in_flight"]
        load.waiting += row["waiting"]
        load.breaker = max(load.breaker, BREAKER_STATES[row["breaker"]])
    return loads
