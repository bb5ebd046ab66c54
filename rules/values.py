"""What a person writes in rules.yaml, as values: `5s` becomes seconds, `32MiB` bytes, `> 500` a predicate; once, here.

The nouns that are made of them are schema.py's and terms.py's.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

from rules.health import GROUPS, KINDS
from rules.hosts import url


class Noun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


LONGEST_SHOWN = 20
"""Characters: what is as long as a key may be one that somebody put into the wrong place."""


def is_short(text: str) -> bool:
    """Whether a text may be repeated in a complaint: it is too short for a key, stays on one line, and is no URL, which
    may hold a password."""
    return len(text) <= LONGEST_SHOWN and text.isprintable() and "@" not in text and "://" not in text


UNIT = r"seconds?|secs?|s|months?|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w"
"""A pattern for the words for a unit of time, in any case."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "month": 30 * 86400.0, "ms": 0.001}
_DURATION = re.compile(rf"\s*(\d{{1,9}}(?:\.\d{{1,9}})?)\s*(ms|milliseconds?|{UNIT})?\s*", re.IGNORECASE)
_SUCH_AS = "such as 250ms, 5s, 30m, 1h, 90 days"


def unit_seconds(word: str | None) -> float:
    """Of one unit, by a word that UNIT fits; without a word, seconds."""
    unit = (word or "s").casefold()
    return _SECONDS["ms" if unit.startswith(("ms", "mil")) else "month" if unit.startswith("mo") else unit[0]]


def seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        value = float(match[1]) * unit_seconds(match[2]) if match else None
    if type(value) not in (int, float):
        raise ValueError(f"a duration is a number with a unit, {_SUCH_AS}")
    if not 0 < value < 1e14:
        raise ValueError(f"a duration is more than nothing, and ends; {_SUCH_AS}")
    return value


def not_a_truth(value: Any) -> Any:
    """`yes` is no number, though pydantic takes it for 1."""
    return str(value).lower() if isinstance(value, bool) else value


_SIZE = re.compile(r"\s*\d{1,15}(\.\d{1,9})?\s*([kmgt]?i?b)?\s*", re.IGNORECASE)


def size(value: Any) -> Any:
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


def as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def is_comparison(value: str) -> str:
    """The text, where comparison() can read it."""
    comparison(value)
    return value


def split_keys(value: Any) -> Any:
    """`API_KEYS` holds several keys with commas between; an unset one leaves an empty string."""
    value = as_list(value)
    if isinstance(value, list):
        return [key for item in value for key in (item.split(",") if isinstance(item, str) else [item]) if filled(key)]
    return value


def filled(key: Any) -> bool:
    return not isinstance(key, str) or bool(key.strip())


_UNFILLED = re.compile(r"\$(secrets:[A-Za-z0-9_.-]+|[A-Za-z0-9_]+)")
"""What a shell fills in, and we do not."""


def sendable(key: str, hint: str = "") -> None:
    """Raises ValueError for a key that no header can carry, or would be split by, and for one that is only the name of
    a variable: it would be a key that anybody can read in the file."""
    key = key.strip()
    if not key.isprintable():
        raise ValueError(f"a key holds no line break and no other sign that cannot be seen{hint}")
    if not key.isascii():
        raise ValueError("a key is made of ASCII characters: no other one can be sent in a header")
    if _UNFILLED.fullmatch(key):
        raise ValueError(
            "this is a variable without its braces, and would be the key itself: a variable is written ${NAME} or "
            "${secrets:NAME}"
        )


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_STATUS = re.compile(r"status_[345](?:[0-9][0-9]|xx)")
_OTHER_STATUS = re.compile(r"status_[0-9](?:[0-9]{2,}|xx)")
_KINDS = (*sorted({*KINDS, *GROUPS}), "status_429", "status_503", "status_3xx", "status_4xx", "status_5xx")
"""What is worth naming to a person who mistyped a kind of failure."""


def near(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """A question in brackets after the one of `known` that a person may have meant, in whatever case, or nothing.
    `alike`: how much of the two words must be the same, from 0 to 1."""
    spelled = {one.lower(): one for one in known}
    close = difflib.get_close_matches(word.lower(), list(spelled), n=1, cutoff=alike)
    return f" (did you mean '{spelled[close[0]]}'?)" if close else ""


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
    why = ""
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        why = "there is no such day; "
    raise ValueError(f"{why}a date is year-month-day, such as 2026-11-15")


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


def span(value: Any) -> Any:
    """A duration as Go reads it, which Ollama gets word for word. A number means seconds: Go wants their unit."""
    text = str(value).strip() if type(value) in (str, int, float) else ""
    if _NUMBER.fullmatch(text):
        return f"{text}s"
    if value is None or (isinstance(value, str) and _SPAN.fullmatch(text)):
        return value if value is None else text
    raise ValueError("how long a model stays loaded is a duration such as 5m or 1h30m, 0 for not at all, -1 for ever")


_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def rule_name(value: str) -> str:
    if _RULE_NAME.fullmatch(value) is None:
        raise ValueError("a name is 1 to 64 letters, digits, '_', '.' or '-'")
    return value


Context = Annotated[int | Literal["auto", "none"], BeforeValidator(_context)]
Contexts = Annotated[
    dict[str, Context], BeforeValidator(_contexts), AfterValidator(_all_reachable), Field(min_length=1)
]
Whole = Annotated[int, BeforeValidator(not_a_truth)]
Real = Annotated[float, BeforeValidator(not_a_truth)]
Count = Annotated[Whole, Field(ge=1)]
Kind = Annotated[str, BeforeValidator(_status), AfterValidator(_kind)]
Number = Annotated[Real, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, BeforeValidator(seconds)]
Size = Annotated[ByteSize, BeforeValidator(size), Field(gt=0)]
Url = Annotated[str, AfterValidator(url)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]
