"""What several commands have: options, and how wide a table is where no terminal bounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RulesOption = Annotated[
    Path | None,
    typer.Option("--rules", help="The rules file. Default: ./rules.yaml, else the one that comes along."),
]

UNBOUNDED = 10_000
"""Columns of a console that is a file or a pipe: nothing is wrapped there, for a line may be as long as it likes."""
