"""Callers' keys in a rules file: new ones, and their end.

A key is made here and told once; the file gets its digest, of which no key can be made. A file is only ever replaced as
a whole and at once, by one that is sound: whoever starts the gateway meanwhile finds the old one or the new one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from addons.lines import one_line
from addons.local import ENDPOINTS
from addons.rules_text import CannotChange, keys_in, with_key, without_keys
from addons.settings import SettingsError, environment_for, find_rules, read_text
from rules.access import DIGEST, digest_of
from rules.access import client_name as token_name
from rules.callers import written
from rules.load import RulesError, load_rules
from rules.reader import filled_in
from rules.schema import RulesFile
from rules.snapshot import Rules
from rules.terms import client_name
from rules.values import near
from wire.profiles import PROFILES

WHEN = "This takes effect when the gateway is started the next time."


@dataclass(frozen=True, slots=True)
class Opened:
    """A rules file as it stands."""

    path: Path
    text: str
    environment: Mapping[str, str]
    file: RulesFile


def new_key() -> str:
    """A key that nobody can guess: 256 bits of chance."""
    return f"sk-unigate-{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """What stands in the file in place of a key."""
    return DIGEST + digest_of(key).hex()


def open_rules(path: Path | None, environment: Mapping[str, str]) -> Opened:
    """Raises SettingsError."""
    path = find_rules(path)
    text = read_text(path)
    merged = environment_for(text, path, environment)
    return Opened(path, text, merged, _load(text, merged, path).file)


def add(opened: Opened, client: str, key: str) -> int:
    """Writes a key's digest into the file, for a client who need not be there yet, and returns how many keys it has
    then. Raises SettingsError."""
    changed = _change(opened, lambda text: with_key(text, client, digest(key)))
    return len(written(changed.clients[client]))


def line_for(opened: Opened, client: str, key: str) -> str:
    """What to write into the file for a key."""
    name_of_list = "one more of its `keys`" if client in opened.file.clients else "under `clients`"
    row = f'"{digest(key)}"' if client in opened.file.clients else f'{client}: {{key: "{digest(key)}"}}'
    return f"{name_of_list}:\n  {row}"


def check_client(name: str) -> None:
    """Raises SettingsError for what cannot be a client's name."""
    try:
        client_name(name)
    except ValueError as error:
        raise SettingsError(f"'{one_line(name[:100])}' cannot be a client's name: {error}") from None


def revoke(opened: Opened, client: str, beginning: str) -> tuple[int, tuple[str, ...]]:
    """Takes keys of a client out of the file: those whose digests begin so, all where nothing is said.

    Returns how many, and the texts with variables of those that the file does not spell. Raises SettingsError.
    """
    row = opened.file.clients.get(client)
    if row is None:
        raise _no_such(opened, client)
    found = {digest_of(key).hex() for key in written(row)}
    gone = {one for one in found if one.startswith(beginning.lower())}
    if not gone:
        whose = f"no key whose digest begins with {beginning[:64]}" if beginning else "no key"
        raise SettingsError(f"client '{client}' has {whose}; `unigate keys list` shows them")
    if beginning and len(gone) > 1:
        raise SettingsError(f"{len(gone)} keys of client '{client}' begin with {beginning}; write more of the digest")
    texts = keys_in(opened.text, client)
    here = set().union(*(_digests(text) for text in texts if "${" not in text)) & gone
    elsewhere = tuple(text for text in texts if "${" in text and _digests(filled_in(text, opened.environment)) & gone)
    if here:
        _change(opened, lambda text: without_keys(text, client, lambda key: digest_of(key).hex() in here))
    return len(here), elsewhere


def _no_such(opened: Opened, client: str) -> SettingsError:
    if client in (token_name(token.get_secret_value()) for token in opened.file.proxy.auth.tokens):
        return SettingsError(
            f"{client} is no client but a key without a name: take it out of `proxy.auth.tokens` of {opened.path}, or "
            "out of API_KEYS where that is what stands there"
        )
    shown = one_line(client[:100])
    return SettingsError(f"there is no client '{shown}' in {opened.path}{near(client, opened.file.clients)}")


def _digests(keys: str) -> set[str]:
    return {digest_of(key).hex() for key in keys.split(",") if key.strip()}


def _load(text: str, environment: Mapping[str, str], path: Path) -> Rules:
    try:
        return load_rules(text, environment, name=str(path), profiles=PROFILES, endpoints=ENDPOINTS)
    except RulesError as error:
        raise SettingsError(str(error)) from None


def _change(opened: Opened, changed: Callable[[str], str]) -> RulesFile:
    """Changes the file as it stands now: another command may have changed it since it was opened. Returns what it says
    then."""
    path = opened.path
    if not path.is_file():
        raise SettingsError(f"{path} is no plain file: a key cannot be written into it, or taken out of it")
    with _alone(path.resolve().parent):
        before = read_text(path)
        environment = environment_for(before, path, opened.environment)
        _load(before, environment, path)
        try:
            text = changed(before)
        except CannotChange as error:
            raise SettingsError(f"{path} is left as it is: {error}. Change it by hand") from None
        try:
            file = _load(text, environment, path).file
        except SettingsError as error:
            raise SettingsError(f"{path} is left as it is, for with this change {error}") from None
        replace(path, text)
        return file


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other command is changing a rules file in a folder. The folder itself is locked: the file is
    replaced, and a lock on it would be one on what is no longer there."""
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be listed, or a file system that knows no locks
            number = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX)
        yield


def replace(path: Path, text: str) -> None:
    """Puts a text in the place of a file's, all at once, with the file's own mode. Raises SettingsError."""
    real = path.resolve()  # a link stays one
    kept = real.stat()
    if not kept.st_mode & 0o222 or not os.access(real, os.W_OK):
        raise SettingsError(f"{path} is read-only: nothing was changed")
    temporary = ""
    try:
        number, temporary = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, stat.S_IMODE(kept.st_mode))
            with suppress(PermissionError):
                os.fchown(number, kept.st_uid, kept.st_gid)
            file.write(text.encode())
            file.flush()
            os.fsync(number)
        os.replace(temporary, real)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise SettingsError(f"{path} cannot be replaced ({error.strerror}): nothing was changed") from None
