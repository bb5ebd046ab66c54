"""Where a ledger may be: the URL as a person writes it."""

from __future__ import annotations

import pytest

from rules.stores import LEDGER, ledger, passwords_in


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///ledger.sqlite",
        "sqlite:////var/lib/unigate/ledger.sqlite",
        "sqlite:///folder/with space.db",
        "postgresql://me@there/calls",
        "postgresql://me:p%40ss@there:5433/calls?sslmode=require",
        "postgresql+psycopg://me@there/calls",
        "postgresql:///calls",
    ],
)
def test_a_url_stays_as_it_is_written(url: str) -> None:
    assert ledger(f" {url}\n") == url


def test_an_empty_url_comes_from_a_variable_that_is_not_set_and_means_the_usual_file() -> None:
    assert ledger(" ") == LEDGER


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ledger.sqlite", "a ledger is a SQLite file"),
        ("mysql://me:hunter22@there/calls", "a ledger is a SQLite file"),
        ("postgresql://me:hunter22@there:port/calls", "a ledger is a SQLite file"),
        ("postgresql://me:hunter22@there:0/calls", "a ledger is a SQLite file"),
        ("postgresql://me:hunter22@the re/calls", "a ledger is a SQLite file"),
        ("postgresql://[hunter22/calls", "a ledger is a SQLite file"),
        ("postgres://me:hunter22@there/calls", "PostgreSQL is written postgresql://"),
        ("postgresql+psycopg2://me:hunter22@there/calls", "PostgreSQL is written postgresql://"),
        ("sqlite://", "written sqlite:///FILE beside this one"),
        ("sqlite:///", "written sqlite:///FILE beside this one"),
        ("sqlite://ledger.sqlite", "written sqlite:///FILE beside this one"),
        ("sqlite:///folder/", "written sqlite:///FILE beside this one"),
        ("sqlite:///:memory:", "a plain file, without options"),
        ("sqlite:///file:ledger?mode=ro", "a plain file, without options"),
        ("sqlite:///ledger#1", "a plain file, without options"),
    ],
)
def test_a_url_of_anything_else_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ledger(url)
    assert "hunter22" not in str(caught.value)


def test_its_password_is_a_secret() -> None:
    assert set(passwords_in("postgresql://me:p%40ss@there/calls")) == {"p%40ss", "p@ss"}
