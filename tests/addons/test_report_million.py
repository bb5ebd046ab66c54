"""A report over a million calls takes a second or two, however they are grouped.

What is measured is the time of processors: on a busy machine the clock tells how busy it is.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from addons.marks import marks_of_attempt
from addons.report import GROUPINGS, make_report
from addons.report_source import ledger_at, open_ledger
from addons.tables import calls
from tests.addons.ledgers import sqlite_url
from tests.addons.reports import new_ledger, plain_groups, row, stored

COUNT = 1_000_000
DAYS = 30
_NOW = float(int(time.time()))
PERIOD = (_NOW - DAYS * 86400, _NOW)
PATIENCE = 4.0
"""Seconds of a processor. It takes one to two, which two cores share; on a busy machine nearly twice as much."""
START = 1.0
"""The same, for the start of the command: half a second."""
ROOT = Path(__file__).parents[2]
_KINDS = 997
_ATTEMPTS = """
INSERT INTO attempts SELECT id, {number}, time, {target}, {tokens}, '{outcome}', substr(marks, 1, 8) || '{facts}', time, 0, 0,
total_ms / 2, total_ms + id % 500 FROM calls WHERE {which} ORDER BY id
"""


@pytest.fixture(scope="module")
def kinds() -> list[dict[str, object]]:
    """Calls that are unlike each other; the ledger has each of them about a thousand times."""
    chance = random.Random(5)
    return [
        row(
            client=f"client-{chance.randrange(20)}",
            model=f"model-{chance.randrange(6)}",
            rule=f"rule-{number}",  # as many as a ledger may have of clients
            target=f"ollama/target-{chance.randrange(6)}",
            status=chance.choice([200] * 30 + [499, 503]),
            streamed=chance.random() < 0.7,
            prompt_tokens=chance.randrange(5000),
            completion_tokens=chance.randrange(900),
            cost=chance.randrange(10**9),
            compared=chance.randrange(10**9),
            first_token_bucket=int(chance.gauss(120, 15)),
            total_bucket=int(chance.gauss(150, 25)),
        )
        for number in range(_KINDS)
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, kinds: list[dict[str, object]]) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("million")
    url = sqlite_url(folder)
    new_ledger(url).dispose()
    ones = list(map(stored, kinds))
    insert = calls.insert().compile(dialect=sqlite.dialect(), column_keys=list(ones[0]))
    names = insert.positiontup or []
    at = names.index("time")
    values = [[one[name] for name in names] for one in ones]
    a_step = DAYS * 86400 / COUNT

    def rows() -> Iterator[list[object]]:
        for number in range(COUNT):
            one = values[number % _KINDS]
            one[at] = PERIOD[0] + number * a_step
            yield one

    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.executemany(str(insert), rows())
        tokens = "prompt_tokens, 0, completion_tokens, 0, cost"
        for number, target, outcome, taken, which in (
            (1, "target", "ok", tokens, "1"), (2, "'cloud/broken'", "cut", "0, 0, 0, 0, 0", "id % 10 = 0"),
        ):  # fmt: skip
            facts = marks_of_attempt(0, None, outcome=outcome, estimated=False, unpriced=False)[8:]
            connection.execute(
                _ATTEMPTS.format(number=number, target=target, outcome=outcome, tokens=taken, which=which, facts=facts)
            )
    yield url
    Path(folder / "ledger.sqlite").unlink()  # pytest keeps folders, and this file is large


@pytest.mark.parametrize("by", ["client", "day"])
def test_a_million_calls_are_reported_in_seconds(url: str, kinds: list[dict[str, object]], by: str) -> None:
    begun = time.process_time()
    found = make_report(open_ledger(ledger_at(url)), by, *PERIOD)
    took = time.process_time() - begun
    assert found.total.calls == COUNT
    assert took < PATIENCE
    if by != "day":
        often = {key: one.calls for key, one in plain_groups(kinds, by).items()}
        expected = {
            key: sum(
                (COUNT // _KINDS) + (number < COUNT % _KINDS) for number, one in enumerate(kinds) if one[by] == key
            )
            for key in often
        }
        assert {key: one.calls for key, one in found.groups.items()} == expected


def test_their_attempts_are_reported_by_target_in_seconds(url: str, kinds: list[dict[str, object]]) -> None:
    begun = time.process_time()
    found = make_report(open_ledger(ledger_at(url)), "target", *PERIOD)
    took = time.process_time() - begun
    assert found.total.calls == COUNT
    assert took < PATIENCE
    assert found.groups.keys() == {"cloud/broken", *(kind["target"] for kind in kinds)}
    assert found.groups["cloud/broken"].failed_attempts == found.total_of_groups.failed_attempts == COUNT // 10
    assert found.total_of_groups.attempts == COUNT + COUNT // 10
    assert found.total_of_groups.cost == found.total.cost


def test_some_of_them_are_reported_in_seconds_by_target_too(url: str, kinds: list[dict[str, object]]) -> None:
    begun = time.process_time()
    found = make_report(open_ledger(ledger_at(url)), "target", *PERIOD, client="client-7")
    took = time.process_time() - begun
    assert took < PATIENCE
    assert found.total.calls > COUNT // 100


@pytest.mark.parametrize("by", GROUPINGS)
def test_the_whole_command_takes_seconds_whatever_the_lines_are(url: str, by: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "addons.cli", "report", "--ledger", url, "--since", "40d", "--by", by, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(done.stdout)["total"]["calls"] == COUNT
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < START + PATIENCE
