"""What the storm blows with: the text that each call is owed, and the fault that each request meets.

The answer to a call is a text that its number stands for, the same everywhere, of words that never repeat: an answer
that is cut short, doubled or glued together wrongly cannot look right. Which fault a request meets derives from the
seed, the call, the server and how often the call has asked there before, so neither the clock nor the order of arrival
has a say.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

TOTAL = 15.0
"""Seconds that the rules give one call."""
HUNG = TOTAL + 5.0
"""Seconds after which a call that has not ended never will."""


@cache
def expected(call: int) -> str:
    """The answer to a call: 20 to 60 words, none of them twice."""
    chance = random.Random(f"text {call}")
    made: dict[str, None] = {}
    count = chance.randint(20, 60)
    while len(made) < count:
        made["".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3))] = None
    return " ".join(made)


def pieces_of(text: str) -> list[str]:
    """A text as a model says it: each word with the blank before it."""
    return re.findall(r"\s*\S+", text)


# ---------------------------------------------------------------------------------------------------------
# Faults

FAULTS: Mapping[str, float] = {
    "reset_before_headers": 2.5,
    "reset_after_headers": 2.0,
    "garbage": 1.5,
    "status_429": 1.5,
    "status_429_with_retry_after": 0.3,
    "status_500": 2.5,
    "status_503": 2.5,
    "model_missing": 1.5,
    "key_refused": 1.0,
    "silent_before_headers": 1.5,
    "life_signs_only": 1.5,
    "silent_midway": 2.5,
    "cut_midway": 3.0,
    "reset_midway": 3.0,
    "error_midway": 2.5,
    "bad_line_midway": 2.0,
    "half_line": 2.0,
    "resources": 1.5,
}
"""How many of a hundred requests meet which fault."""
SLOW = 4.0
"""How many of a hundred answers trickle; they must succeed."""
MIDWAY = frozenset({"silent_midway", "cut_midway", "reset_midway", "error_midway", "bad_line_midway", "half_line"})
"""Faults after the caller may have seen text; so is `resources`, where the dialect has it."""
REFUSED_AT_THE_DOOR = 0.01
"""The part of the connections that are reset as soon as they are made."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of one request."""

    fault: str | None
    after: int
    """Words that are said before it, of the words that are still to be said; as many as there are at the most."""
    pace: float
    """Seconds between words."""


def turn(seed: int, call: int, server: str, attempt: int, percent: Mapping[str, float] = FAULTS) -> Turn:
    """What becomes of the attempt-th request of a call at a server."""
    chance = random.Random(f"turn {seed} {call} {server} {attempt}")
    drawn, fault = chance.uniform(0, 100), None
    for name, weight in percent.items():
        drawn -= weight
        if drawn < 0:
            fault = name
            break
    pace = chance.uniform(0.005, 0.03) if chance.uniform(0, 100) < SLOW else 0.0
    return Turn(fault, chance.randint(1, 40), pace)


def well(_call: int, _attempt: int) -> Turn:
    """No fault, ever."""
    return Turn(None, 0, 0.0)
