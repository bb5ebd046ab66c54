"""The report equals a plain sum over the ledger's rows, in SQLite and, where there is one, in PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from addons import figures, report_rows
from addons.figures import Figures, percentile, sum_of
from addons.ledger_rows import Ids, written
from addons.ledger_store import LedgerStore
from addons.marks import bucket_of
from addons.report import GROUPINGS, Report, day_text, make_report
from addons.report_export import as_json, json_text
from addons.report_rows import DAY
from addons.report_source import Source, ledger_at, open_ledger
from rules.conditions import glob
from rules.prices import Tokens
from tests.addons.accounts import account, tried
from tests.addons.ledgers import sqlite_url
from tests.addons.reports import NOON, attempt, fill, new_ledger, plain_days, plain_groups, plain_sum, row
from tests.postgres import BIN, Postgres

MIDNIGHT = NOON // DAY * DAY


@pytest.fixture(scope="module", params=["sqlite", *(["postgresql"] if BIN else [])])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path_factory.mktemp("ledger"))
    else:
        with Postgres() as server:
            yield server.new_database()


@pytest.fixture(scope="module")
def writing(url: str) -> Engine:
    return new_ledger(url)


@pytest.fixture(scope="module")
def reading(url: str, writing: Engine) -> Source:
    return open_ledger(ledger_at(url))


names = st.sampled_from(["a", "b", "über", "[red]x[/red]", "=1+1", "日本"]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)
amounts = st.integers(0, 10**13)
buckets = st.integers(0, 700)
targets = st.sampled_from(["ollama/a", "cloud/b"])
attempts = st.builds(
    attempt,
    target=targets,
    outcome=st.sampled_from(["ok", "left", "status_500", "cut"]),
    prompt_tokens=st.integers(0, 10**9),
    cached_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**9),
    reasoning_tokens=st.integers(0, 10**6),
    estimated=st.booleans(),
    cost=st.none() | amounts,
    first_token_ms=st.none() | st.integers(0, 10**7),
    total_ms=st.integers(0, 10**7),
)
rows = st.builds(
    row,
    time=st.integers(int(MIDNIGHT) - 2 * DAY, int(MIDNIGHT) + 2 * DAY).map(float)
    | st.sampled_from([MIDNIGHT, MIDNIGHT - 1e-3, MIDNIGHT + 1e-3, MIDNIGHT + DAY]),
    client=names,
    model=names,
    rule=st.none() | names,
    target=st.none() | targets,
    endpoint=st.sampled_from(["/chat/completions", "/embeddings"]),
    status=st.sampled_from([200, 399, 400, 429, 498, 499, 500, 503]),
    streamed=st.booleans(),
    failed_attempts=st.integers(0, 3),
    tried=st.lists(attempts, max_size=3),
    estimated=st.booleans(),
    unpriced=st.booleans(),
    compared=st.none() | amounts,
    first_token_bucket=st.none() | buckets,
    total_bucket=buckets,
)
once_per_database = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("by", GROUPINGS)
@once_per_database
@given(made=st.lists(rows, max_size=30), piece=st.integers(3, 40), edges=st.tuples(*(st.integers(-50, 50),) * 2))
def test_the_report_is_a_plain_sum_over_the_rows_of_the_period(
    writing: Engine, reading: Source, by: str, made: list[dict[str, Any]], piece: int, edges: tuple[int, int]
) -> None:
    fill(writing, made)
    since, until = (MIDNIGHT + edge * 3600 for edge in sorted(edges))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_rows, "PIECE", piece)
        patch.setattr(figures, "MANY", piece)
        found = make_report(reading, by, since, until, local=["ollama/"])
    inside = [one for one in made if since <= one["time"] < until]
    assert found.total == plain_sum(inside, "ollama/")
    assert without_local(found.groups) == plain_groups(inside, by)
    assert without_local(found.days) == plain_days(inside)


def without_local(some: dict[Any, Figures]) -> dict[Any, Figures]:
    return {key: replace(one, local_tokens=0, local_cost=0) for key, one in some.items()}


_PATTERNS = ["a", "*", "?", "B", "*e*", "[ab]", "[!a]", "[[]red*", "über", "Ü*", "=1+1", "日?", "", "\\%", "_", "%"]


@once_per_database
@given(
    made=st.lists(rows, max_size=30),
    by=st.sampled_from(GROUPINGS),
    client=st.none() | st.sampled_from(_PATTERNS),
    model=st.none() | st.sampled_from(_PATTERNS),
)
def test_only_calls_that_fit_the_patterns_are_reported(
    writing: Engine, reading: Source, made: list[dict[str, Any]], by: str, client: str | None, model: str | None
) -> None:
    fill(writing, made)
    found = make_report(reading, by, 0.0, 2 * NOON, client=client, model=model)
    patterns = {name: pattern for name, pattern in (("client", client), ("model", model)) if pattern is not None}
    meant = [one for one in made if all(glob((pattern,))(one[name]) for name, pattern in patterns.items())]
    assert found.total == plain_sum(meant)
    assert found.groups == plain_groups(meant, by)
    assert found.days == plain_days(meant)


_MOMENTS = st.floats(MIDNIGHT - DAY, MIDNIGHT + DAY)
_TRIED = st.builds(
    tried,
    targets,
    started=_MOMENTS,
    outcome=st.sampled_from(["ok", "left", "status_500"]),
    tokens=st.builds(Tokens, *(st.integers(0, 10**6),) * 4),
    estimated=st.booleans(),
    cost=st.none() | amounts,
    took=st.floats(0, 1e4),
)


@once_per_database
@given(made=st.lists(st.tuples(_MOMENTS, st.lists(_TRIED, max_size=4)), max_size=10))
def test_what_targets_took_adds_up_to_what_calls_cost(
    url: str, writing: Engine, reading: Source, made: list[Any]
) -> None:
    fill(writing, [])
    ids, store = Ids(1), LedgerStore(url)
    store.write([written(account(*ones, time=began), ids, NOON) for began, ones in made])
    store.close()
    # An attempt may begin after midnight, at which the period ends, though its call began before.
    found = make_report(reading, "target", 0.0, MIDNIGHT)
    inside = [ones for began, ones in made if began < MIDNIGHT]
    added = sum_of(found.groups.values())
    for name in ("prompt", "cached", "completion", "reasoning", "cost"):
        assert getattr(added, name) == getattr(found.total, name)
    assert added.attempts == sum(map(len, inside))
    assert added.failed_attempts == sum(one.failed for ones in inside for one in ones)
    assert added.cost == sum(one.cost or 0 for ones in inside for one in ones)
    assert added.unpriced == sum(one.cost is None for ones in inside for one in ones)


@once_per_database
@given(made=st.lists(rows, max_size=30))
def test_groups_and_days_add_up_to_the_total(writing: Engine, reading: Source, made: list[dict[str, Any]]) -> None:
    fill(writing, made)
    found = make_report(reading, "client", 0.0, 2 * NOON)
    for parts in (found.groups, found.days):
        assert sum_of(parts.values()) == found.total
    assert not found.machines


@pytest.mark.parametrize("by", ["client", "target"])
def test_sums_that_no_database_can_hold_are_exact(writing: Engine, reading: Source, by: str) -> None:
    """A server may say that it read 2**53 tokens, and 1,024 times that is more than a SQLite sum may be."""
    count, most = 2100, 2**53
    lie = {"prompt_tokens": most, "cost": most}
    fill(writing, (row(**lie, time=NOON + second, tried=[attempt(**lie)]) for second in range(count)))
    found = make_report(reading, by, 0.0, 2 * NOON)
    assert found.total.prompt == found.total.cost == count * most
    assert found.total_of_groups.cost == count * most
    assert json.loads(json_text(as_json(found, None)))["total"]["cost_nanos"] == count * most


def test_a_ledger_without_calls_gives_an_empty_report(writing: Engine, reading: Source) -> None:
    fill(writing, [])
    assert make_report(reading, "client", 0.0, NOON) == Report("client", 0.0, NOON, Figures(), {}, {})


def test_the_period_has_its_first_moment_and_not_its_last(writing: Engine, reading: Source) -> None:
    fill(writing, [row(time=NOON + second, client=str(second)) for second in range(5)])
    assert set(make_report(reading, "client", NOON + 1, NOON + 3).groups) == {"1", "2"}


def test_days_begin_at_midnight_utc(writing: Engine, reading: Source) -> None:
    fill(writing, [row(time=MIDNIGHT - 0.001), row(time=MIDNIGHT), row(time=MIDNIGHT + DAY - 0.001)])
    day = int(MIDNIGHT // DAY)
    found = make_report(reading, "day", 0.0, 2 * NOON)
    assert {key: one.calls for key, one in found.groups.items()} == {day_text(day - 1): 1, day_text(day): 2}


def test_it_tells_how_far_it_is_up_to_the_end(
    writing: Engine, reading: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writing, [row(time=NOON + second) for second in range(100)])
    monkeypatch.setattr(report_rows, "PIECE", 10)
    heard: list[tuple[int, int]] = []
    make_report(reading, "client", NOON, NOON + 100, told=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 100) for done in range(10, 101, 10)]


def test_attempts_and_calls_are_of_one_moment_while_a_gateway_writes(
    url: str, writing: Engine, reading: Source
) -> None:
    fill(writing, [])
    store, ids, over = LedgerStore(url), Ids(2), threading.Event()

    def write() -> None:
        for number in range(100_000):
            if over.is_set():
                return
            store.write([written(account(tried(cost=7), tried(cost=11), time=NOON), ids, NOON + number)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            found = make_report(reading, "target", 0.0, 2 * NOON)
            assert found.total_of_groups.cost == found.total.cost == 18 * found.total.calls
    finally:
        over.set()
        writer.join()
        store.close()
    assert make_report(reading, "target", 0.0, 2 * NOON).total.calls > 0


def test_what_ends_a_reader_is_raised_and_no_thread_is_left(tmp_path: Path) -> None:
    broken = sqlite_url(tmp_path)
    made = new_ledger(broken, [row()])
    source = open_ledger(ledger_at(broken))
    before = threading.active_count()
    with made.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE calls RENAME COLUMN prompt_tokens TO other")
    with pytest.raises(source.errors, match="prompt_tokens"):
        make_report(source, "client", 0.0, 2 * NOON)
    assert threading.active_count() == before


@given(st.lists(st.floats(0.001, 4000.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95]))
def test_a_percentile_is_right_within_five_percent(times: list[float], share: float) -> None:
    ranked = sorted(times)
    exact = ranked[-int(-(share * len(ranked)) // 1) - 1]
    found = percentile(Counter(map(bucket_of, times)), share)
    assert found is not None
    assert exact * 0.999999 <= found <= exact * 1.050001


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile(Counter(), 0.5) is None
