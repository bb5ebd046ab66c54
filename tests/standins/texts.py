"""What stand-ins of several dialects make of a text: they cut it into pieces, go on with it, and embed it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

Prefill = Literal["continue", "start_over", "differ", "refuse"]
"""What a model makes of a last message that is its own: see `StandIn.prefill`."""


def halves(body: bytes) -> tuple[bytes, ...]:
    """Cut a body in two, so that plans which count pieces have something to count in a whole answer."""
    middle = len(body) // 2
    return (body[:middle], body[middle:])


def words(text: str) -> list[str]:
    """Cut a text into pieces the way a model speaks: each word with the blanks before it."""
    pieces: list[str] = []
    for part in text.split(" "):
        pieces.append(f" {part}" if pieces else part)
    return [piece for piece in pieces if piece]


def rest_of(pieces: Sequence[str], known: str) -> list[str] | None:
    """The pieces of a text without its known beginning, cut where that ends; None where it begins otherwise."""
    if not "".join(pieces).startswith(known):
        return None
    left, kept = len(known), []
    for piece in pieces:
        if rest := piece[left:] if left < len(piece) else "":
            kept.append(rest)
        left = max(left - len(piece), 0)
    return kept


def differing(known: str) -> list[str]:
    """Pieces that repeat the first half of a text, at least 20 characters of it, and then say something else."""
    return [*words(known[: max(20, len(known) // 2)]), " ...", " but", " on", " second", " thought,", " no."]


def continuation(prompt: str, reply: Sequence[str] | None, prefill: Prefill) -> list[str]:
    """What comes after a prompt, in pieces: the reply, or a sentence about the prompt's first word.

    A prompt that ends with the beginning of that text is an answer begun, and `prefill` says what is made of it.
    """
    first = prompt.split()[0] if prompt.split() else "nothing"
    pieces = words(f" went on {first} and came to its end.") if reply is None else list(reply)
    text = "".join(pieces)
    begun = next((text[:length] for length in range(len(text), 0, -1) if prompt.endswith(text[:length])), "")
    if not begun or prefill == "start_over":
        return pieces
    if prefill == "differ":
        return differing(begun)
    rest = rest_of(pieces, begun)
    assert rest is not None
    return rest


def vector(text: str, length: int, dimensions: int | None = None) -> list[float]:
    """A vector of length 1, always the same for the same text; cut to so many numbers where it has more."""
    dice = random.Random(text)
    numbers = [dice.gauss(0, 1) for _ in range(length)][: dimensions or length]
    norm = math.sqrt(sum(number * number for number in numbers))
    return [round(number / norm, 8) for number in numbers]
