"""Where settings come from: the environment, a .env file, and rules.yaml."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi
from dotenv import dotenv_values

from rules.decide import Rules
from rules.load import RulesError, load_rules
from wire.profiles import PROFILES

SHIPPED_RULES = Path(__file__).resolve().parent.parent / "rules.yaml"


class SettingsError(ValueError):
    """The gateway cannot start; the message says what to change."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str
    form: str


def read_rules(path: Path | None, environment: Mapping[str, str]) -> tuple[Rules, LogSettings]:
    """The rules file and what goes with it; raises SettingsError.

    Without a path: ./rules.yaml, or the one that comes with unigate. A .env file beside the rules file counts as
    environment; what the environment itself says wins.
    """
    if path is None:
        here = Path("rules.yaml")
        path = here if here.exists() else SHIPPED_RULES
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise SettingsError(f"there is no rules file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the rules file {path} cannot be read: {error}") from None
    merged = {**read_env_file(path.resolve().parent / ".env"), **environment}
    try:
        rules = load_rules(text, merged, name=str(path), profiles=PROFILES)
    except RulesError as error:
        raise SettingsError(str(error)) from None
    debug = merged.get("DEBUG", "").lower() in ("1", "true", "yes", "on")
    level = merged.get("LOG_LEVEL") or ("DEBUG" if debug else "INFO")
    return rules, LogSettings(level, merged.get("LOG_FORMAT", "").lower())


def read_env_file(path: Path) -> dict[str, str]:
    """The names and values of a .env file, none if there is no such file."""
    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def upstream_tls() -> ssl.SSLContext:
    """How upstream certificates are checked: SSL_CERT_FILE where it is set, else certifi's, as mitmproxy does it.

    Raises SettingsError.
    """
    file = os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=file or certifi.where())
    except OSError as error:  # an SSLError is one too
        raise SettingsError(f"SSL_CERT_FILE names no readable certificates: {file} ({error})") from None
