"""What speaks against a ledger's file is said in words, and nothing is made by looking."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from addons.ledger_file import file_of, why_unusable

type Make = Callable[[Path], object]


def sqlite_at(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE some (number INTEGER)")


WRONG: dict[str, tuple[Make, str, str]] = {
    "no folder": (lambda here: None, "none/ledger.sqlite", "the folder HERE/none does not exist; make it, or name another file"),
    "a file for a folder": (lambda here: (here / "a").touch(), "a/ledger.sqlite", "HERE/a is no folder; name another file"),
    "a file for a folder above": (lambda here: (here / "a").touch(), "a/b/ledger.sqlite", "the folder HERE/a/b does not exist"),
    "a folder": (lambda here: (here / "a").mkdir(), "a", "HERE/a is a folder; name a file in it, as sqlite:///HERE/a/ledger.sqlite"),
    "a pipe": (lambda here: os.mkfifo(here / "a"), "a", "HERE/a is no plain file; name another one"),
    "no database": (lambda here: (here / "a").write_text("dear diary"), "a", "HERE/a is not a SQLite file; take it away"),
    "a long text": (lambda here: (here / "a").write_text("dear diary" * 999), "a", "HERE/a is not a SQLite file; take it"),
    "a loop of links": (lambda here: (here / "a").symlink_to(here / "a"), "a/b", "the folder HERE/a does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_cannot_be_a_ledger_is_told_with_what_would_be_right(case: str, tmp_path: Path) -> None:
    make, name, words = WRONG[case]
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert why_unusable(tmp_path / name).startswith(words.replace("HERE", str(tmp_path)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("locked", "words"), [
    ("ledger.sqlite", r"the file \S+/ledger\.sqlite is not ours to write"),
    ("", r"the folder \S+ is not ours to write, and SQLite keeps its journal there"),
])  # fmt: skip
def test_what_is_not_ours_to_write_is_told(
    locked: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ledger.sqlite"
    sqlite_at(file)
    # Whoever runs tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path / locked)
    assert re.match(words, why_unusable(file))


@pytest.mark.parametrize("make", [lambda file: None, Path.touch, sqlite_at])
def test_a_file_that_is_not_there_or_empty_or_a_database_can_be_one(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    make(file)
    before = [one.stat().st_mtime_ns for one in tmp_path.iterdir()]
    assert why_unusable(file) == ""
    assert [one.stat().st_mtime_ns for one in tmp_path.iterdir()] == before


@pytest.mark.parametrize(("url", "file"), [
    ("sqlite:////var/ledger.sqlite", Path("/var/ledger.sqlite")),
    ("sqlite:///ledger.sqlite", Path("ledger.sqlite")),
    ("postgresql://me@host/ledger", None),
])  # fmt: skip
def test_a_url_says_which_file_it_is(url: str, file: Path | None) -> None:
    assert file_of(url) == file
