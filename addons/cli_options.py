"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RulesOption = Annotated[
    Path | None,
    typer.Option("--rules", help="The rules file. Default: ./rules.yaml, else the one that comes along."),
]
