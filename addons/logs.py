"""Logging: one line per call, human on a terminal and JSON where asked, and no secret in any of them.

Every record of the process goes this way, mitmproxy's and the libraries' too. Secrets are taken out of the finished
text, so that neither an argument nor a traceback can carry one past.

mitmweb keeps the records of Python's logging in a list of its own, and the stock tools print them themselves. So those
are cleaned where they are made, before any handler sees them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote, quote_plus

import orjson
from loguru import logger

from addons.lines import one_line
from addons.settings import SettingsError

if TYPE_CHECKING:
    from loguru import Message

MASK = "***"
_KEY_SHAPES = "|".join(
    (
        r"(?i:bearer\s+)(?!\*\*\*|auth\b|YOUR_KEY)[^\s'\",}\]]+",
        r"(?i:api[-_]?key=)(?!YOUR_KEY)[^\s&'\"]+",
        r"\bsk-[A-Za-z0-9_-]{8,}",
    )
)
"""Our own advice to a caller without a key reads like one: those words stay."""


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that masks these secrets, however they are spelled, and whatever looks like a key."""
    spelled = {spelling for secret in secrets if len(secret) >= 4 for spelling in _spellings(secret)}
    known = (_one_of(sorted(spelled, key=len, reverse=True)),) if spelled else ()
    find = re.compile("|".join([*known, _KEY_SHAPES]))
    return lambda text: find.sub(MASK, text)


def _one_of(texts: list[str]) -> str:
    """A pattern for any of these texts, the longest first. Grouped by their first characters: at each place of a line
    a plain alternative would try all keys of a thousand clients."""
    if len(texts) <= _TRIED_AT_ONCE:
        return "|".join(map(re.escape, texts))
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:1], []).append(text)
    return "|".join(map(_group, groups.values()))


def _group(texts: list[str]) -> str:
    shared = os.path.commonprefix(texts)  # noqa: RUF071  # letter by letter is what is meant
    return f"{re.escape(shared)}(?:{_one_of([text[len(shared) :] for text in texts])})" if shared else ""


_TRIED_AT_ONCE = 4


def _spellings(secret: str) -> tuple[str, ...]:
    """As it is, and as JSON, Python and a URL write it: a quote or a backslash in a key must not carry it past."""
    in_bytes = repr(secret.encode("utf-8", "surrogatepass"))[2:-1]
    return secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], in_bytes, quote(secret, safe=""), quote_plus(secret)


def check_logging(level: str, form: str) -> None:
    """Raises SettingsError for what is no level, or no form, of a log."""
    if level.upper() not in LEVELS:
        raise SettingsError(f"LOG_LEVEL is '{level}'; it must be one of {', '.join(LEVELS)}")
    if form not in ("", "text", "json"):
        raise SettingsError(f"LOG_FORMAT is '{form}'; it must be text or json")


def set_up_logging(
    *, level: str, form: str, secrets: Iterable[str], out: TextIO | None = None, stock: bool = False
) -> None:
    """Sends all records of this process to `out` (default: stderr); raises SettingsError.

    `stock`: mitmproxy's own tool prints the records of Python's logging, and decides which; ours are the calls.
    """
    check_logging(level, form)
    level = level.upper()
    stream = out if out is not None else sys.stderr
    clean = redactor(secrets)

    def write_text(message: Message) -> None:
        stream.write(clean(message))
        stream.flush()

    def write_json(message: Message) -> None:
        record = message.record
        fields = {
            "time": record["time"].isoformat(),
            "level": record["level"].name.lower(),
            "message": record["message"],
            **record["extra"],
        }
        if record["exception"] is not None:
            fields["exception"] = str(message).partition("\n")[2]
        stream.write(_json_line(_cleaned(fields, clean)) + "\n")
        stream.flush()

    logger.remove()
    if form == "json":
        logger.add(write_json, level=level, format="{message}", diagnose=False, backtrace=False)
    else:
        logger.add(
            write_text,
            level=level,
            format="<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}",
            colorize=stream.isatty(),
            diagnose=False,  # it would print the values of variables
            backtrace=False,
        )
    logging.setLogRecordFactory(_clean_records(clean))
    for name in ("asyncio", "hpack", "httpcore", "httpx", "tornado"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed form is its sender's mistake
    if not stock:
        _bring_in_standard_logging(level)


LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _bring_in_standard_logging(level: str) -> None:
    """mitmproxy speaks of every connection at INFO; that is our DEBUG."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _ToLoguru)]:
        root.removeHandler(handler)
    root.addHandler(_ToLoguru())
    verbose = level in ("TRACE", "DEBUG")
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname if record.levelname in LEVELS else "INFO"
        text = one_line(" ".join(record.getMessage().split("\n")))
        logger.opt(exception=record.exc_info).log("DEBUG" if record.levelno == logging.INFO else known, "{}", text)


_HTTP_2 = "HTTP/2 protocol error"
_HTTP_2_BYTES = re.compile(r"\bb(['\"]).*\1", re.DOTALL)
"""It repeats a header's value that it does not take: a key with a space behind it, and not only one of ours."""


def _clean_records(clean: Callable[[str], str]) -> Callable[..., logging.LogRecord]:
    """The factory of Python's log records, with secrets taken out of message and traceback."""
    formatter = logging.Formatter()

    def make(*parts: Any, **more: Any) -> logging.LogRecord:
        record = logging.LogRecord(*parts, **more)
        text = clean(record.getMessage())
        record.msg, record.args = _HTTP_2_BYTES.sub(MASK, text) if _HTTP_2 in text else text, ()
        if record.exc_info:
            record.exc_text = clean(formatter.formatException(record.exc_info))
        return record

    return make


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """JSON data with secrets taken out of its texts: in finished JSON an escaped one would not be found."""
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {str(name): _cleaned(item, clean) for name, item in value.items()}
        case list() | tuple():
            return [_cleaned(item, clean) for item in value]
        case _:
            return clean(str(value))


def _json_line(fields: Any) -> str:
    try:
        text = orjson.dumps(fields).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, or a number beyond 64 bits
        text = json.dumps(fields)
    return text if text.isprintable() else _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What JSON may hold as it is, and what yet breaks lines or steers terminals."""
