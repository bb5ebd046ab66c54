"""Where settings come from: the environment, a .env file, and rules.yaml."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from addons.files import Unreadable, as_text, read_small
from rules.load import RulesError, load_rules
from rules.reader import SECRETS, places_of, secrets_folder, secrets_named, variables_named
from rules.snapshot import Rules
from rules.stores import SQLITE
from rules.tracing import PREFIX as OTEL
from rules.values import near
from wire.profiles import PROFILES

SHIPPED_RULES = Path(__file__).resolve().parent.parent / "rules.yaml"
LONGEST_SECRET = 64 * 1024
LONGEST_RULES = 4 * 1024 * 1024
"""Bytes of a rules file, or of a .env file."""


class SettingsError(ValueError):
    """The gateway cannot start; the message says what to change."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str
    form: str
    doubts: tuple[str, ...] = ()
    """What of its variables, and of the names in .env, nobody can have meant, for people."""


def read_rules(
    path: Path | None, environment: Mapping[str, str], *, endpoints: Collection[str] = ()
) -> tuple[Rules, LogSettings]:
    """The rules file and what goes with it; raises SettingsError. `endpoints` as load_rules() has them.

    Without a path: ./rules.yaml, or the one that comes with unigate. A .env file beside the rules file counts as
    environment; what the environment itself says wins.
    """
    path = find_rules(path)
    text = read_text(path)
    beside = read_env_file(_env_file(path))
    merged = _merged(text, beside, environment)
    try:
        rules = load_rules(text, merged, name=str(path), profiles=PROFILES, endpoints=endpoints)
    except RulesError as error:
        raise SettingsError(str(error)) from None
    rules = _with_ledger_beside(rules, path.resolve().parent)
    log = _log_settings(merged)
    return rules, replace(log, doubts=(*log.doubts, *_misspelt(beside, text, merged, environment)))


def _log_settings(environment: Mapping[str, str]) -> LogSettings:
    form = environment.get("LOG_FORMAT", "").lower()
    level = environment.get("LOG_LEVEL")
    if level:
        return LogSettings(level, form)
    debug = environment.get("DEBUG", "").strip().lower()
    if debug in _YES:
        return LogSettings("DEBUG", form)
    # Other programs read a DEBUG of the same environment otherwise, so it is no reason not to start.
    doubts = () if debug in _NO else ("DEBUG is neither yes nor no, and counts as no: write 1 or 0",)
    return LogSettings("INFO", form, doubts)


_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


_OURS = ("DEBUG", "LOG_LEVEL", "LOG_FORMAT", "SECRETS_DIR")
"""What is read without being named in the rules; so is all that begins with OTEL_."""
_ALIKE = 0.85
"""LOGLEVEL and LOG_LEVEL are, APP_KEY and API_KEYS are not: other programs share the file."""


def _misspelt(
    beside: Mapping[str, str], text: str, merged: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[str]:
    """What is said of names in a .env file that nobody reads, where one that is read and is not set is near."""
    read = {place for name in variables_named(text) for place in places_of(name)}.union(_OURS)
    unset = sorted(name for name in read if not merged.get(name))
    for name in beside:
        if name not in read and name not in environment and not name.startswith(OTEL):
            meant = near(name, unset, _ALIKE)
            if meant:
                yield f".env: {name} is used nowhere{meant}"


def _with_ledger_beside(rules: Rules, folder: Path) -> Rules:
    """A ledger's file whose path is relative is one beside the rules file, wherever we were started."""
    ledger = rules.file.ledger
    if ledger is None or not ledger.url.startswith(SQLITE):
        return rules
    placed = ledger.model_copy(update={"url": f"{SQLITE}{folder / ledger.url.removeprefix(SQLITE)}"})
    return replace(rules, file=rules.file.model_copy(update={"ledger": placed}))


def find_rules(path: Path | None) -> Path:
    """The rules file that is meant where none is named."""
    here = Path("rules.yaml")
    return path or (here if here.exists() else SHIPPED_RULES)


def read_text(path: Path) -> str:
    """A rules file's text with the ends of lines that it has; raises SettingsError."""
    try:
        return as_text(read_small(path, LONGEST_RULES, pipes=True))
    except FileNotFoundError:
        raise SettingsError(f"there is no rules file at {path}") from None
    except IsADirectoryError:
        raise SettingsError(f"the rules file {path} is a folder; name the file in it") from None
    except Unreadable as error:
        raise SettingsError(f"the rules file {path} {error}") from None


def environment_for(text: str, path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What `${...}` may stand for in the rules file at a path; raises SettingsError for a secret that cannot be read.

    A mounted secret goes in under `secrets:` and its name. Only those that the text asks for are read.
    """
    return _merged(text, read_env_file(_env_file(path)), environment)


def _env_file(rules: Path) -> Path:
    """The one that counts as environment for a rules file."""
    return rules.resolve().parent / ".env"


def _merged(text: str, beside: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    merged = {**beside, **environment}
    folder = Path(secrets_folder(merged))
    for name in secrets_named(text):
        secret = read_secret(folder / name)
        if secret is not None:
            merged[SECRETS + name] = secret
    return merged


def read_secret(file: Path) -> str | None:
    """A secret's text without the line's end that editors put there; None where there is no such file. Raises
    SettingsError."""
    try:
        text = as_text(read_small(file, LONGEST_SECRET), "utf-8-sig")
        return text.rstrip("\r\n") if text.strip() else ""
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise SettingsError(
            f"the secret {file} is a folder and not a file; a container makes one where the file to mount is missing"
        ) from None
    except Unreadable as error:
        raise SettingsError(f"the secret {file} {error}") from None


def read_env_file(path: Path) -> dict[str, str]:
    """The names and values of a .env file, none if there is no such file: a folder may well have that name. Raises
    SettingsError."""
    try:
        text = as_text(read_small(path, LONGEST_RULES, pipes=True), "utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except Unreadable as error:
        raise SettingsError(f"the file {path} {error}") from None
    faulty = next((one.original.line for one in parse_stream(StringIO(text)) if one.error), None)
    if faulty is not None:  # dotenv would leave the line out, be it the one with the keys
        raise SettingsError(
            f"the file {path} cannot be read: line {faulty} is not NAME=value, or a quote in it is not closed"
        )
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}
