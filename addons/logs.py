"""Logging: one line per call, human on a terminal and JSON where asked, and no secret in any of them.

Every record of the process goes this way, mitmproxy's and the libraries' too. Secrets are taken out of the finished
text, so that neither an argument nor a traceback can carry one past.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

import orjson
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

MASK = "***"
_KEY_SHAPES = r"(?i:bearer\s+)(?!\*\*\*)[^\s'\",}\]]+|(?i:api[-_]?key=)[^\s&'\"]+|\bsk-[A-Za-z0-9_-]{8,}"


class LogMissing(ValueError):
    """LOG_LEVEL or LOG_FORMAT say what we do not know."""


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that masks these secrets and whatever looks like a key."""
    known = sorted((re.escape(secret) for secret in secrets if len(secret) >= 4), key=len, reverse=True)
    find = re.compile("|".join([*known, _KEY_SHAPES]))
    return lambda text: find.sub(MASK, text)


def set_up_logging(*, level: str, form: str, secrets: Iterable[str], out: TextIO | None = None) -> None:
    """Sends all records of this process to `out` (default: stderr); raises LogMissing."""
    level = level.upper()
    if level not in LEVELS:
        raise LogMissing(f"LOG_LEVEL is '{level}'; it must be one of {', '.join(LEVELS)}")
    if form not in ("", "text", "json"):
        raise LogMissing(f"LOG_FORMAT is '{form}'; it must be text or json")
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
        stream.write(clean(orjson.dumps(fields, default=str).decode()) + "\n")
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
    for name in ("asyncio", "hpack", "httpcore", "tornado"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname if record.levelname in LEVELS else "INFO"
        logger.opt(exception=record.exc_info).log(known, "{}", record.getMessage())
