"""The shape of rules.yaml, noun by noun. What is not written here is refused, with its line (load.py).

Values are what a person writes (`5s`, `32MiB`, `> 500`); they become seconds, bytes and predicates here, once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)


class _Noun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_DURATION = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("a duration is a number with a unit, such as 250ms, 5s, 30m or 1h")
        return float(match[1]) * _UNITS[match[2]]
    return value


_SIZE = re.compile(r"\s*\d{1,15}(\.\d{1,9})?\s*([kmgt]?i?b)?\s*", re.IGNORECASE)


def _size(value: Any) -> Any:
    # Looked at before pydantic does, whose complaint repeats the unit.
    if _SIZE.fullmatch(str(value)) is None:
        raise ValueError("a size is a number with a unit, such as 64KiB or 32MiB")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    extras = parts.query or parts.fragment or any(char.isspace() for char in value)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or extras:
        raise ValueError("a URL is http:// or https://, a host and maybe a port and a path")
    if parts.username or parts.password:
        raise ValueError("a URL holds no user name and no password; put the secret into `key`")
    return value


_COMPARISON = re.compile(r"\s*(<=|>=|==|<|>|)\s*(\d{1,15})\s*")
_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "": operator.eq,
}


def comparison(text: str) -> Callable[[int], bool]:
    """`> 500`, `<= 20`, `7`; raises ValueError for anything else."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError("a comparison is <, <=, >, >= or == and a number, such as '> 500'")
    compare, bound = _OPERATORS[match[1]], int(match[2])
    return lambda number: bool(compare(number, bound))


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _comparison(value: str) -> str:
    comparison(value)
    return value


def _split_keys(value: Any) -> Any:
    """`API_KEYS` holds several keys with commas between; an unset one leaves an empty string."""
    if isinstance(value, list):
        return [key for item in value for key in (item.split(",") if isinstance(item, str) else [item]) if _filled(key)]
    return value


def _filled(key: Any) -> bool:
    return not isinstance(key, str) or bool(key.strip())


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Size = Annotated[ByteSize, BeforeValidator(_size), Field(gt=0)]
Url = Annotated[str, AfterValidator(_url)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]


class Auth(_Noun):
    enabled: bool | None = None
    """Left out: on as soon as there is a token."""
    method: Literal["bearer"] = "bearer"
    tokens: Annotated[tuple[SecretStr, ...], BeforeValidator(_split_keys)] = ()

    @property
    def required(self) -> bool:
        return bool(self.tokens) if self.enabled is None else self.enabled

    @model_validator(mode="after")
    def _has_tokens(self) -> Self:
        if self.required and not self.tokens:
            raise ValueError("auth is enabled and there is no token; set API_KEYS or list `tokens`")
        return self


class Proxy(_Noun):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    auth: Auth = Auth()


class Provider(_Noun):
    dialect: Literal["ollama", "openai", "sandbox"]
    urls: Annotated[tuple[Url, ...], BeforeValidator(_as_list)] = ()
    """Tried in order."""
    profile: str = "compat"
    key: SecretStr | None = None
    """Written but empty: the provider needs a key and has none yet, so its targets are skipped."""
    num_ctx: Annotated[int, Field(ge=4)] | None = None
    keep_alive: str | None = None


class Model(_Noun):
    targets: Names
    aliases: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    capability: str | None = None


class When(_Noun):
    """What must hold, all of it. A condition is a function in conditions.py."""

    model: Names | None = None
    prompt_chars: Annotated[str, BeforeValidator(_as_text), AfterValidator(_comparison)] | None = None
    available: str | None = None
    stream: bool | None = None
    has: Annotated[tuple[Literal["tools", "images"], ...], BeforeValidator(_as_list), Field(min_length=1)] | None = None
    client: Names | None = None
    header: Annotated[dict[str, str], Field(min_length=1)] | None = None


class Rule(_Noun):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    when: When = When()
    use: Names


class Timeouts(_Noun):
    connect: Seconds = 5.0
    first_token: Seconds = 60.0
    idle: Seconds = 30.0
    total: Seconds = 1800.0
    keep_alive: Seconds = 15.0
    """How long the caller of a stream may hear nothing before a comment tells it that we live."""


class Limits(_Noun):
    body: Size = ByteSize(32 * 1024 * 1024)
    headers: Size = ByteSize(64 * 1024)


class Defaults(_Noun):
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    refresh: Seconds = 5.0
    """How often a local server is asked for its models."""


class RulesFile(_Noun):
    proxy: Proxy = Proxy()
    providers: Annotated[dict[str, Provider], Field(min_length=1)]
    models: dict[str, Model] = {}
    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
