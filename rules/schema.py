"""The shape of rules.yaml, noun by noun. What is not written here is refused, with its line (load.py).

Values are what a person writes (`5s`, `32MiB`, `> 500`); they become seconds, bytes and predicates here, once.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Annotated, Any, Literal, Self

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

from rules.health import DEFAULT_ON, GROUPS, KINDS
from rules.hosts import open_host, url


class _Noun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_DURATION = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        value = float(match[1]) * _UNITS[match[2]] if match else None
    if type(value) not in (int, float):
        raise ValueError("a duration is a number with a unit, such as 250ms, 5s, 30m or 1h")
    if not 0 < value < 1e14:
        raise ValueError("a duration is more than nothing, and ends; such as 250ms, 5s, 30m or 1h")
    return value


_SIZE = re.compile(r"\s*\d{1,15}(\.\d{1,9})?\s*([kmgt]?i?b)?\s*", re.IGNORECASE)


def _size(value: Any) -> Any:
    # Looked at before pydantic does, whose complaint repeats the unit.
    if _SIZE.fullmatch(str(value)) is None:
        raise ValueError("a size is a number with a unit, such as 64KiB or 32MiB")
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


_STATUS = re.compile(r"status_[345](?:[0-9][0-9]|xx)")
_OTHER_STATUS = re.compile(r"status_[0-9](?:[0-9]{2,}|xx)")
_KINDS = (*sorted({*KINDS, *GROUPS}), "status_429", "status_503", "status_3xx", "status_4xx", "status_5xx")
"""What is worth naming to a person who mistyped a kind of failure."""


def near(word: str, known: Iterable[str]) -> str:
    """A question in brackets after the one of `known` that a person may have meant, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _status(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"a status is written status_{value}")
    return value


_NEVER = {
    "400": "is the caller's own fault and never routed around",
    "413": "is the caller's own fault and never routed around",
    "422": "is the caller's own fault and never routed around",
    "401": "is a refused key: write key",
    "402": "is a refused key: write key",
    "403": "is a refused key: write key",
}
"""Statuses that would never come to a rule that names them."""


def _kind(value: str) -> str:
    status = value.removeprefix("status_")
    if status != value and status in _NEVER:
        raise ValueError(f"a {status} {_NEVER[status]}")
    if value not in KINDS and value not in GROUPS and _STATUS.fullmatch(value) is None:
        if _OTHER_STATUS.fullmatch(value):
            raise ValueError("there is no such kind of failure; a status is 300 to 599, or 3xx, 4xx, 5xx")
        raise ValueError(f"there is no such kind of failure{near(value, _KINDS) or f'; there are {", ".join(_KINDS)}'}")
    return value


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def day(value: Any) -> date:
    """A date as YAML reads it, or its text; raises ValueError for anything else, a time of day included."""
    # pydantic would take a number for seconds since 1970.
    if type(value) is date:
        return value
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("a date is year-month-day, such as 2026-11-15")


_WORDS_OF_CONTEXT = ("auto", "none")
_THOUSANDS = re.compile(r"\s*([1-9][0-9]{0,4})\s*ki?b?\s*", re.IGNORECASE)


def _context(value: Any) -> Any:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS_OF_CONTEXT:
            return word
        value = int(word) if word.isascii() and word.isdigit() and len(word) <= 9 else value
    if type(value) is int and 4 <= value < 10**9:
        return value
    meant = ""
    if isinstance(value, str):
        thousands = _THOUSANDS.fullmatch(value)
        meant = f"; write {int(thousands[1]) * 1024}" if thousands else near(value, _WORDS_OF_CONTEXT)
    raise ValueError(f"a context is a number of tokens, 4 or more, or auto, or none{meant}")


def _contexts(value: Any) -> Any:
    """One for all models is written without a pattern."""
    return value if isinstance(value, dict) else {"*": _context(value if value is not None else "auto")}


def _all_reachable(value: dict[str, Any]) -> dict[str, Any]:
    if "*" in list(value)[:-1]:
        raise ValueError("'*' fits every model, so the patterns after it never apply; move it to the end")
    return value


_SPAN = re.compile(r"[+-]?((?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(?:ns|us|µs|μs|ms|s|m|h))+")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?")


def _span(value: Any) -> Any:
    """A duration as Go reads it, which Ollama gets word for word. A number means seconds: Go wants their unit."""
    text = str(value).strip() if type(value) in (str, int, float) else ""
    if _NUMBER.fullmatch(text):
        return f"{text}s"
    if value is None or (isinstance(value, str) and _SPAN.fullmatch(text)):
        return value if value is None else text
    raise ValueError("how long a model stays loaded is a duration such as 5m or 1h30m, 0 for not at all, -1 for ever")


_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _rule_name(value: str) -> str:
    if _RULE_NAME.fullmatch(value) is None:
        raise ValueError("a name is 1 to 64 letters, digits, '_', '.' or '-'")
    return value


Context = Annotated[int | Literal["auto", "none"], BeforeValidator(_context)]
Contexts = Annotated[
    dict[str, Context], BeforeValidator(_contexts), AfterValidator(_all_reachable), Field(min_length=1)
]
Count = Annotated[int, Field(ge=1)]
Kind = Annotated[str, BeforeValidator(_status), AfterValidator(_kind)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Size = Annotated[ByteSize, BeforeValidator(_size), Field(gt=0)]
Url = Annotated[str, AfterValidator(url)]
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
    """Several servers that can stand in for each other: the least busy one is asked first."""
    profile: str = "compat"
    key: SecretStr | None = None
    """Written but empty: the provider needs a key and has none yet, so its targets are skipped."""
    num_ctx: Contexts = {"*": "auto"}
    """Tokens of context that an Ollama server is asked for, by pattern of the model's name; the first that fits counts.
    `auto`: what the model can have and its memory allows; `none`: not sent, the server's own default holds."""
    context_memory: Size = ByteSize(2 * 1024**3)
    """What the context of one model may take where its `num_ctx` is `auto`."""
    keep_alive: Annotated[str | None, BeforeValidator(_span)] = None
    """How long an Ollama server keeps a model loaded after a call, as Go writes durations; left out: its default."""
    parallel: Count | None = None
    """Calls that each of its models on each of its servers is given at once; left out: that of `admission`."""
    patience: Seconds | None = None
    """The first-token limit while the server shows signs of life; left out: its profile's."""
    window: Count | None = None
    """Tokens of context; left out: what is known of the model, or unknown."""


class Model(_Noun):
    targets: Names
    aliases: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    capability: str | None = None
    strategy: Literal["in_order", "round_robin", "least_busy", "fastest", "cheapest", "weighted"] = "in_order"
    """Which target comes first. The strategies are in balance.py."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(min_length=1)] | None = None
    """One per target, exactly where the strategy is `weighted`: how often it comes first, compared with the others."""
    mid_stream: Literal["continue", "error"] | None = None
    """Left out: that of `failover`."""


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
    name: Annotated[str, AfterValidator(_rule_name)]
    when: When = When()
    use: Names
    mid_stream: Literal["continue", "error"] | None = None
    """Left out: that of `failover`."""


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


class Failover(_Noun):
    """What follows a failed attempt. The whole call has `timeouts.total`."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """At one target, in one call."""
    on: Annotated[tuple[Kind, ...], BeforeValidator(_as_list)] = DEFAULT_ON
    """The kinds of failure that lead on: names, groups and statuses of health.py. Any other one is the answer."""
    mid_stream: Literal["continue", "error"] = "continue"
    """Whether a stream that breaks off after its caller saw text is continued by the next target."""
    backoff: Seconds = 0.25
    """Before the second attempt at one target; doubles with each further one, and varies by chance."""
    wait: Seconds = 30.0
    """The longest that a call waits for a target to be ready again."""
    repair: bool = False
    """Whether a target whose answer is not the JSON that was asked for is asked once more, and told what was wrong."""


class BreakerPolicy(_Noun):
    """When a target that fails is left alone for a while."""

    failures: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """The score that opens the breaker: a failure adds its weight, a success halves it."""
    cool_down: Seconds = 10.0
    """From there to the one call that may try again."""
    wait: Seconds = 2.0
    """How long a call for which every target rests waits until one may be tried again."""
    weights: dict[Kind, Number] = {}
    """By kind of failure, written as in `failover.on`; for those not named health.py has its own."""


class Admission(_Noun):
    """How many calls a target is given at once, and what becomes of more."""

    parallel: Count | None = None
    """Left out: 4 for a server that speaks Ollama, 64 for any other."""
    queue: Annotated[int, Field(ge=0)] = 100
    """Calls that may wait for one target."""
    wait: Seconds = 30.0
    """The longest that a call waits for its place."""


class Images(_Noun):
    """The fetching of images that a message names by their URL, for models that take no URLs."""

    fetch: bool = True
    bytes: Size = ByteSize(20 * 1024**2)
    """Of one image."""
    wait: Seconds = 10.0
    """For all images of a call together."""
    redirects: Annotated[int, Field(ge=0, le=10)] = 3
    """That one image may take."""
    allow: Annotated[tuple[Annotated[str, AfterValidator(open_host)], ...], BeforeValidator(_as_list)] = ()
    """Host names, addresses and networks that may be asked although they are not public."""


class Defaults(_Noun):
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    refresh: Seconds = 5.0
    """How often a local server is asked for its models."""
    failover: Failover = Failover()
    breaker: BreakerPolicy = BreakerPolicy()
    admission: Admission = Admission()
    images: Images = Images()
    drain: Seconds = 10.0
    """How long calls under way may go on when we are asked to stop."""


class Price(_Noun):
    """USD per million tokens, from a day on."""

    model: str
    """A target, provider/model; `*`, `?` and `[...]` stand for parts of the model's name."""
    since: Annotated[date, BeforeValidator(day)] = Field(alias="from")
    """The first day, in UTC."""
    input: Number
    cached_input: Number | None = None
    """Left out: not known; expected costs do not need it."""
    output: Number


class RulesFile(_Noun):
    proxy: Proxy = Proxy()
    providers: Annotated[dict[str, Provider], Field(min_length=1)]
    models: dict[str, Model] = {}
    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
    prices: tuple[Price, ...] = ()
