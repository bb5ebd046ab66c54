"""A ledger's SQLite file, looked at before SQLite says less of it than a person needs: `unable to open database file`.

Nothing is opened for writing and nothing is made. SQLite keeps its journal beside the file, so the folder matters too.
"""

from __future__ import annotations

import os
from pathlib import Path

from rules.stores import SQLITE

VERSION = 2
"""Of the ledger's tables, in any database. No 1 was ever released."""
BUSY = 2.0
"""Seconds for which a locked SQLite file is waited for before the attempt counts as failed."""
_HEAD = b"SQLite format 3\0"
"""Of every SQLite file that is not empty (https://www.sqlite.org/fileformat.html, 1.3)."""


def file_of(url: str) -> Path | None:
    """The file of a ledger's URL; None for a database elsewhere."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def why_unusable(file: Path) -> str:
    """Why calls cannot be kept in a file, and what would be right; empty where nothing seems to be wrong with it."""
    folder = file.parent
    try:
        if not folder.exists():
            return f"the folder {folder} does not exist; make it, or name another file in `ledger: {{url: ...}}`"
        if not folder.is_dir():
            return f"{folder} is no folder; name another file in `ledger: {{url: ...}}`"
        if file.is_dir():
            return f"{file} is a folder; name a file in it, as sqlite:///{file / 'ledger.sqlite'}"
        if file.exists() and not file.is_file():
            return f"{file} is no plain file; name another one in `ledger: {{url: ...}}`"
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            return f"the file {file} is not ours to write; change who may, or name another one"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the folder {folder} is not ours to write, and SQLite keeps its journal there; change who may"
        if file.exists() and not _is_sqlite(file):
            return f"{file} is not a SQLite file; take it away, or name another one in `ledger: {{url: ...}}`"
    except OSError as error:
        return f"{file} cannot be looked at: {error.strerror}"
    return ""


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_HEAD)) in (b"", _HEAD)
