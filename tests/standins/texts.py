"""What stand-ins of several dialects make of a text outside of a conversation: a continuation, and an embedding."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from .server import Prefill, differing, rest_of, words


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
