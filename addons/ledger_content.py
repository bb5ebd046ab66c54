"""What the ledger keeps of a prompt and of an answer, where the rules ask for it: bounded, and without secrets.

The trap: a text that is cut first may end in half a key, which no pattern knows any more; one that is cleaned whole
costs as much as its caller likes. So a little more than is kept is cleaned, and that more is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from addons.exchange import Exchange

type Clean = Callable[[str], str]

_MARGIN = 1024
"""Characters at a cut that are not believed: a key may begin in them. None is longer."""
_CUT = "…"
_PROMPTS = ("messages", "prompt", "input")
"""Where the endpoints have what is asked of a model."""


def prompt_of(exchange: Exchange, most: int, clean: Clean) -> str | None:
    """What the caller asked, as JSON of at most so many bytes; None for forms, and where nothing was asked."""
    request = exchange.request
    if request is None or exchange.spool is not None:
        return None
    body = request.origin if request.origin is not None else request.body
    for name in _PROMPTS:
        if body.get(name) is not None:
            return bounded(_beginning(body[name], most + _MARGIN), most, clean)
    return None


def answer_of(exchange: Exchange, most: int, clean: Clean) -> str | None:
    """The text of the answer's first choice, as far as it was given, of at most so many bytes of UTF-8."""
    text = exchange.answer.text if exchange.answer is not None else ""
    return bounded(text, most, clean) if text else None


def bounded(text: str, most: int, clean: Clean) -> str:
    """The text without secrets, cut to `most` bytes of UTF-8; a mark says where it was cut."""
    enough = most + _MARGIN
    kept = clean(text[:enough])
    cut = len(text) > enough
    if cut:
        kept = kept[: -_MARGIN or None]
    encoded = kept.encode("utf-8", "replace")
    if not cut and len(encoded) <= most:
        return kept
    room = most - len(_CUT.encode())
    return encoded[: max(room, 0)].decode("utf-8", "ignore") + _CUT if room >= 0 else ""


def _beginning(value: Any, enough: int) -> str:
    """The JSON of a value, or, of a long one, its beginning of `enough` characters and more."""
    if not isinstance(value, list):
        return _json(_shortened(value, enough))
    told: list[str] = []
    length = 0
    for item in value:
        told.append(_json(_shortened(item, enough)))
        length += len(told[-1])
        if length > enough:
            return "[" + ",".join(told)
    return "[" + ",".join(told) + "]"


def _shortened(value: Any, enough: int) -> Any:
    """With long texts cut: an image in a message may be megabytes of base64."""
    match value:
        case str():
            return value[: enough + 1]
        case list():
            return [_shortened(item, enough) for item in value[: enough + 1]]
        case dict():
            return {name: _shortened(item, enough) for name, item in value.items()}
        case _:
            return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
