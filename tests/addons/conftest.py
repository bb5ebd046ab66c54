"""Servers for tests: the two upstreams of most gateways, and what this machine may not have: databases for ledgers, and
the files that are left out without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.addons import calls
from tests.addons.ledgers import sqlite_url
from tests.addons.money import World, at_rest, made
from tests.postgres import BIN, Postgres
from tests.servers import REDIS_SERVER
from tests.standins import DeepSeekStandIn, OllamaStandIn

collect_ignore = [
    *([] if REDIS_SERVER else ["test_counters_late.py", "test_counters_redis.py"]),
    *([] if REDIS_SERVER else ["test_limits_redis.py", "test_reminder.py"]),
    *([] if BIN else ["test_ledger_postgres.py"]),
]
"""scripts/test has said so."""


@pytest.fixture(scope="module", params=["sqlite", *(["postgresql"] if BIN else [])])
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes the address of an empty database, of each kind there is."""
    if request.param == "sqlite":
        yield lambda: sqlite_url(tmp_path_factory.mktemp("ledger"))
    else:
        with Postgres() as server:
            yield server.new_database


@pytest.fixture(scope="module")
def money(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("money")) as world:
        yield world


@pytest.fixture
def world(money: World) -> Iterator[World]:
    """A gateway whose targets have prices, with its servers and its ledger; its servers answer as always."""
    with at_rest(money):
        yield money


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn() as server:
        yield server


@pytest.fixture(scope="module")
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn("sk-ds-test") as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[calls.World]:
    """A gateway of the failover layer's tests, with its servers; a file may have one of its own."""
    with calls.world() as made:
        yield made


@pytest.fixture
def servers(shared: calls.World) -> Iterator[calls.World]:
    """It and its servers, which answer as always."""
    with calls.at_rest(shared):
        yield shared
