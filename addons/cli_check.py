"""The command `unigate check`: what is wrong with a rules file, and what a start would say of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import typer

from addons.cli_options import RulesOption
from addons.gateway import check_bind
from addons.ledger_file import file_of, why_unusable
from addons.local import ENDPOINTS
from addons.logs import check_logging
from addons.settings import LogSettings, SettingsError, read_rules
from addons.tls import upstream_tls
from addons.tracing import Tracer
from rules.callers import SHORTEST, guessable, idle, repeated
from rules.schema import RulesFile
from rules.snapshot import Rules
from rules.uncounted import forgotten, half_priced, not_yet_priced, uncounted

app = typer.Typer(add_completion=False)


@app.command()
def check(rules: RulesOption = None) -> None:
    """Read the rules file and report everything that is wrong with it, or with the variables of a start."""
    loaded, log = read_rules(rules, os.environ, endpoints=ENDPOINTS)
    check_logging(log.level, log.form)
    upstream_tls()
    file = loaded.file
    held = (len(file.providers), "provider"), (len(file.models), "model"), (len(file.rules), "rule")
    print(f"The rules are sound: {', '.join(f'{count} {noun}{"s" * (count != 1)}' for count, noun in held)}.")
    for remark in (*_of_rules(file), *_of_a_start(loaded, log)):
        print(remark)


def _of_rules(file: RulesFile) -> Iterator[str]:
    """What is sound and still hardly meant."""
    for name in idle(file):
        yield f"Client {name} has no key, so nobody can call in its name: set its variable, or use `unigate keys new`."
    for holder in guessable(file):
        yield (
            f"A key of {holder} has fewer than {SHORTEST} characters, which is soon guessed: `unigate keys new` makes "
            "one that nobody guesses."
        )
    for holder in repeated(file):
        yield f"A key of {holder} stands there twice: leave one of them out."
    for target in uncounted(file):
        yield f"Target {target.name} {target.lacks}: write one under prices."
    for said in (*half_priced(file), *not_yet_priced(file, datetime.now(UTC).date())):
        yield f"The price of {said}."
    for written in forgotten(file):
        what = "there is no ledger" if file.ledger is None else "ledger.keep is shorter"
        yield f"Limit {written} remembers less than its window after a restart: {what}."


def _of_a_start(rules: Rules, log: LogSettings) -> Iterator[str]:
    """What the rules alone do not show. Nothing is asked and nothing is made."""
    try:
        check_bind(rules, rules.file.proxy.host)
    except SettingsError as error:
        yield f"A start would fail: {error}"
    ledger = rules.file.ledger
    file = file_of(ledger.url) if ledger is not None else None
    if file is not None and (why := why_unusable(file)):
        yield f"A start would warn: the ledger cannot be written: {why}."
    for complaint in (*Tracer(rules.tracing).complaints(), *log.doubts):
        yield f"A start would warn: {complaint}."
