"""What a model is given outside of a conversation: one text or several, or the same in the tokens of the model.

Embeddings call it `input`, completions `prompt`. The trap: `[1, 2]` is one text in tokens and `["1", "2"]` are two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter, kind_of
from wire.errors import BadRequest

type Inputs = tuple[str | list[int], ...]
"""All of one kind: texts, or texts in tokens."""

MAX_INPUTS = 2048
"""Texts of one request, and tokens of one embeddings input (openai_api section 3)."""
CHARS_PER_TOKEN = 4
"""About as many."""


class ArrayTooLong(BadRequest):
    code = "array_above_max_length"


def read_inputs(name: str, given: Any, *, may_be_empty: bool = False, max_tokens: int | None = None) -> Inputs:
    """The texts in the field of that name; raises BadRequest. `may_be_empty`: a text may have no characters."""
    if given is None:
        raise MissingParameter(f"You must provide '{name}' (a string or an array of strings).", param=name)
    match given:
        case str() | [int(), *_]:
            items, spots = [given], [name]
        case list():
            items, spots = given, [f"{name}[{number}]" for number in range(len(given))]
        case _:
            raise InvalidType(
                f"'{name}' must be a string or an array of strings, but it is {kind_of(given)}.", param=name
            )
    if not items:
        raise InvalidValue(f"'{name}' cannot be an empty array.", param=name)
    if len(items) > MAX_INPUTS:
        raise _too_long(name, len(items), MAX_INPUTS)
    for item, spot in zip(items, spots, strict=True):
        if type(item) is not type(items[0]) or not isinstance(item, str | list):
            raise InvalidType(f"'{spot}' is {kind_of(item)}; all must be strings, or all arrays of tokens.", param=spot)
        if isinstance(item, list):
            _check_tokens(spot, item, max_tokens)
        elif not item and not may_be_empty:
            raise InvalidValue(f"'{spot}' cannot be an empty string.", param=spot)
    return tuple(items)


def _check_tokens(spot: str, tokens: list[Any], most: int | None) -> None:
    if not tokens:
        raise InvalidValue(f"'{spot}' cannot be an empty array.", param=spot)
    if set(map(type, tokens)) != {int}:
        raise InvalidType(f"'{spot}' must be an array of integers (tokens).", param=spot)
    if most is not None and len(tokens) > most:
        raise _too_long(spot, len(tokens), most)


def _too_long(spot: str, length: int, most: int) -> ArrayTooLong:
    return ArrayTooLong(
        f"Invalid '{spot}': array too long. Expected an array with maximum length {most}, but got an array with "
        f"length {length} instead.",
        param=spot,
    )


def chars_of(inputs: Iterable[str | list[int]]) -> int:
    """Characters of text; of tokens about as many as they stand for."""
    return sum(len(item) if isinstance(item, str) else CHARS_PER_TOKEN * len(item) for item in inputs)
