"""Probabilities of tokens in the form of /v1/completions, and that form read into the one of chats.

Legacy: four lists side by side (`tokens`, `token_logprobs`, `top_logprobs`, `text_offset`). Chat: one list of objects.
The traps: the first token of all has no probability, so null stands there; and a token that is half a character shows
as U+FFFD, so the lengths of tokens do not add up to places in the text, and each piece of text is counted anew.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from wire.openai import Json


def legacy(entries: list[Json], most: int, offset: int) -> Json:
    """Chat entries in the legacy form. `most`: likely tokens for each place, beside the one that was chosen. `offset`:
    where in the choice's text, in characters, the first of them stands.
    """
    tops: list[Json | None] = []
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
        if entry["logprob"] is None:
            tops.append(None)
            continue
        likely = sorted(entry["top_logprobs"], key=_unlikelihood)[:most]
        tops.append({top["token"]: top["logprob"] for top in likely} | {entry["token"]: entry["logprob"]})
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def joined(pieces: list[Json]) -> Json | None:
    """The legacy forms of the pieces of a text as that of the whole; None where no piece had one."""
    if not pieces:
        return None
    return {key: [item for piece in pieces for item in piece[key]] for key in pieces[0]}


def chat_entries(given: Any) -> list[Json]:
    """A server's legacy logprobs as chat entries; what cannot be read is no entry."""
    if not isinstance(given, dict):
        return []
    lists = [given.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens, logprobs, tops = (value if isinstance(value, list) else [] for value in lists)
    entries: list[Json] = []
    for token, logprob, likely in zip_longest(tokens, logprobs, tops):
        if not isinstance(token, str):
            break
        entries.append(
            {
                "token": token,
                "logprob": logprob if _is_number(logprob) else None,
                "bytes": None,
                "top_logprobs": [
                    {"token": name, "logprob": value, "bytes": None}
                    for name, value in (likely.items() if isinstance(likely, dict) else ())
                    if _is_number(value)
                ],
            }
        )
    return entries


def mean(entries: list[Json]) -> float:
    """How likely a text was, whatever its length; without probabilities it is the last of all."""
    known = [entry["logprob"] for entry in entries if entry["logprob"] is not None]
    return sum(known) / len(known) if known else float("-inf")


def _unlikelihood(top: Json) -> float:
    return -float(top["logprob"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
