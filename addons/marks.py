"""What a report counts of a call, or of an attempt, in twelve characters: its two durations and its yes-or-no facts.
One more tells whether limits let a call pass: for what is counted again after a restart (past.py).

A call that no target was asked for has no durations: what is refused at once would make all others look fast.

The trap is a million rows. For a percentile and eight shares a database would sort or compare each row anew, in every
report. So the writer of the ledger puts them into one short text, the texts of a group come back as one string, and
its numbers are counted here. They are three of 16 bits, in hexadecimal: text of a database in any encoding holds that,
Python reads it all at once, and numbers below 257 it need not make.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

NOT_FAILED = ("ok", "left")
"""Outcomes of attempts that are no failures: it came to its end, or nobody waited for it any more."""
LENGTH = 12
"""Four digits for each duration, four for the facts."""
LEFT = 499
"""The status of a call whose caller did not wait for its end: no error of ours."""
FACTS: Mapping[str, int] = {
    "streamed": 1, "estimated": 2, "unpriced": 4, "failed_over": 8, "errors": 16, "left": 32, "refused": 64,
    "answered": 128, "compared_calls": 256, "failed_attempts": 512,
}  # fmt: skip
"""By the names that figures have for them."""
_ERRORS, _LEFT, _REFUSED, _FAILED = (FACTS[name] for name in ("errors", "left", "refused", "failed_attempts"))
_COMPARED = FACTS["compared_calls"]
_ADMITTED, _TURNED_AWAY = 1024, 2048
ADMISSION = LENGTH - 3
"""The place, from 0, of the character that tells whether a call was admitted."""
ADMITTED, TURNED_AWAY = "4567", "89ab"
"""What stands there. Anything else: the row is an earlier unigate's, and does not tell."""
_DIGITS = tuple(f"{number:04x}" for number in range(2 * _TURNED_AWAY))
"""Of any sum of facts; of a duration's bucket, plus one: 0 is that of a duration that never was."""
LAST_BUCKET = 2 * max(FACTS.values()) - 2
_STEP = math.log(1.05)


@lru_cache(maxsize=10_000)
def bucket_of(seconds: float) -> int:
    """The bucket of a duration: each is 5 % wider than the one before, from a millisecond on. Remembered, for what is
    asked of it are whole milliseconds.
    """
    return max(0, math.ceil(math.log(max(seconds, 0.001) * 1000) / _STEP))


def seconds_in(bucket: int) -> float:
    """The upper end of a bucket."""
    return math.exp(bucket * _STEP) / 1000


def marks_of(
    total: int | None,
    first: int | None,
    *,
    status: int,
    streamed: bool = False,
    estimated: bool = False,
    unpriced: bool = False,
    failed: bool = False,
    answered: bool = False,
    compared: bool = False,
    admitted: bool | None = None,
) -> str:
    """Of a call. `total` and `first` are the buckets of the whole time and of the time to the first token, `total` None
    where no target was asked; `failed`: whether an attempt of it failed; `answered`: by a target; `compared`: it is
    known what it would have cost elsewhere; `admitted`: its limits let it pass, or it had none.
    """
    facts = streamed | estimated << 1 | unpriced << 2 | answered << 7
    if status < 400:
        facts |= failed << 3
    elif status == LEFT:
        facts |= _LEFT
    else:
        facts |= _REFUSED if total is None and status < 500 else _ERRORS
    if compared and not facts & _REFUSED:  # that one would have been refused before any model
        facts |= _COMPARED
    if admitted is not None:
        facts |= _ADMITTED if admitted else _TURNED_AWAY
    return _digits(total) + _digits(first) + _DIGITS[facts]


def marks_of_attempt(total: int, first: int | None, *, outcome: str, estimated: bool, unpriced: bool) -> str:
    """`total` and `first` are buckets, as those of a call."""
    facts = estimated << 1 | unpriced << 2
    if outcome not in NOT_FAILED:
        facts |= _FAILED
    elif outcome == "left":
        facts |= _LEFT
    return _digits(total) + _digits(first) + _DIGITS[facts]


def _digits(bucket: int | None) -> str:
    return _DIGITS[0 if bucket is None else min(bucket, LAST_BUCKET) + 1]


class Counted(NamedTuple):
    """What the marks of many say."""

    total: Counter[int]
    """bucket -> how many, of whole times."""
    first: Counter[int]
    """The same, of times to the first token."""
    facts: Counter[str]
    """Fact -> of how many it is true."""


def counted(marks: str) -> Counted:
    """`marks`: of many calls, or of many attempts, in one string."""
    data = bytes.fromhex(marks)
    numbers = array("H", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return Counted(_buckets(numbers[::3]), _buckets(numbers[1::3]), _facts(data))


def _buckets(numbers: array[int]) -> Counter[int]:
    return Counter({number - 1: count for number, count in Counter(numbers).items() if number})


def _facts(data: bytes) -> Counter[str]:
    """A fact is one bit of a byte: all these bytes are taken as one number, of which every eighth bit is counted."""
    bytes_each = LENGTH // 2
    low, high = (int.from_bytes(data[place::bytes_each]) for place in (5, 4))
    eighths = int.from_bytes(b"\1" * (len(data) // bytes_each))
    found = {
        name: ((low >> place if place < 8 else high >> place - 8) & eighths).bit_count()
        for place, name in enumerate(FACTS)
    }
    return +Counter(found)
