"""The command `unigate keys`: who may call, without ever showing a key a second time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from addons.cli_options import UNBOUNDED, RulesOption
from addons.key_list import listed, table
from addons.keys import WHEN, add, check_client, digest, line_for, new_key, open_rules, revoke
from addons.settings import SettingsError
from rules.callers import required

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of named clients.")
app = typer.Typer(add_completion=False)
app.add_typer(keys, name="keys")

ClientArgument = Annotated[str, typer.Argument(metavar="NAME", help="The client, as `clients` of the rules has it.")]
_WIDE, _GAP = 30, 2
"""Characters: in a terminal no column of `list` is wider than the first, and no shorter line in it is cut."""
_BEGINNING = re.compile(r"[0-9a-fA-F]{4,64}")


@keys.command()
def new(
    name: ClientArgument,
    rules: RulesOption = None,
    add_it: Annotated[bool, typer.Option("--add", help="Write its digest into the rules file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print client, key, digest, file and added as JSON.")] = False,
) -> None:
    """Make a key for a client, new or known, and print it once."""
    check_client(name)
    opened = open_rules(rules, os.environ)
    key = new_key()
    count = add(opened, name, key) if add_it else 0
    if as_json:
        made = {"client": name, "key": key, "digest": digest(key), "file": str(opened.path), "added": add_it}
        print(orjson.dumps(made).decode())
        return
    print(f"The key of {name}, which is shown only now:\n\n  {key}\n")
    if add_it:
        print(f"Its digest stands in {opened.path}. {WHEN}")
        if count > 1:
            old = "old one goes on to work until it is" if count == 2 else "old ones go on to work until they are"
            print(f"{name} has {count} keys now: the {old} revoked (`unigate keys revoke {name} --key ...`).")
    else:
        print(f"Write its digest into {opened.path} (or use --add), {line_for(opened, name, key)}\n\n{WHEN}")
    if not required(opened.file):
        print("It is the first client: from then on every call needs a key, also from this machine.")


@keys.command(name="list")
def list_(
    rules: RulesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object for each client or key.")] = False,
) -> None:
    """Show who may call, and how much. Of each key no more than the beginning of its digest."""
    opened = open_rules(rules, os.environ)
    found = list(listed(opened.file, datetime.now(UTC).date().isoformat()))
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    if not found:
        print(f"{opened.path} has no clients and no keys: only this machine may call, and needs none.")
        return
    _print(table(found))


def _print(columns: Mapping[str, Sequence[str]]) -> None:
    """As a table. Where the terminal is too narrow for all columns its lines go on in the next: left out is none. What
    is no terminal gets lines as long as they are.
    """
    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=None if bounded else UNBOUNDED)
    most = _WIDE if bounded else UNBOUNDED
    widths = {
        head: min(most, max(len(line) for text in (head, *cells) for line in text.split("\n")))
        for head, cells in columns.items()
    }
    console.width = max(console.width, sum(widths.values()) + _GAP * (len(widths) + 1))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head, width in widths.items():
        shown.add_column(head, overflow="fold", width=width)
    for row in zip(*columns.values(), strict=True):
        shown.add_row(*map(Text, row))
    console.print(shown)


@keys.command(name="revoke")
def revoke_(
    name: ClientArgument,
    rules: RulesOption = None,
    key: Annotated[
        str | None, typer.Option(help="Only this key: the beginning of its digest, as `unigate keys list` shows it.")
    ] = None,
) -> None:
    """Take a client's keys out of the rules file, all of them or one."""
    if key is not None and not _BEGINNING.fullmatch(key):
        raise SettingsError("--key is the beginning of a digest, 4 hex digits or more, as `unigate keys list` shows it")
    opened = open_rules(rules, os.environ)
    count, elsewhere = revoke(opened, name, key or "")
    if count:
        print(f"{count} key{'s' * (count != 1)} of {name} removed from {opened.path}. {WHEN}")
    for text in elsewhere:
        print(f"A key of {name} comes from {text}: remove it there, in the environment, the .env file or the secret.")
    if elsewhere:
        raise SystemExit(1)
