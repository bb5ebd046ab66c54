"""What a report counts of a call, or of an attempt, in six characters: its two durations and its yes-or-no facts.

A call that no target was asked for has no durations: what is refused at once would make all others look fast.

The trap is a million rows. For a percentile and eight shares a database would sort or compare each row anew, in every
report. So the writer of the ledger puts them into one short text, the texts of a group come back as one string, and
its characters are counted here. Two characters of printable ASCII hold a bucket of a fixed scale; text of a database in
any encoding holds them.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

NOT_FAILED = ("ok", "left")
"""Outcomes of attempts that are no failures: it came to its end, or nobody waited for it any more."""
LENGTH = 6
"""Two for each duration, two for the facts."""
LEFT = 499
"""The status of a call whose caller did not wait for its end: no error of ours."""
FACTS: Mapping[str, int] = {
    "streamed": 1, "estimated": 2, "unpriced": 4, "failed_over": 8, "errors": 16, "left": 32, "refused": 64,
    "answered": 128, "compared_calls": 256, "failed_attempts": 512,
}  # fmt: skip
"""By the names that figures have for them. The sum of all is below the square of _BASE."""
_ERRORS, _LEFT, _REFUSED, _FAILED = (FACTS[name] for name in ("errors", "left", "refused", "failed_attempts"))
_COMPARED = FACTS["compared_calls"]
_FIRST_CHAR, _BASE = 33, 90
_STEP = math.log(1.05)
_LAST = _BASE * _BASE - 2
_NOWHERE = _BASE * _BASE - 1
"""The bucket of a duration that never was."""


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
) -> str:
    """Of a call. `total` and `first` are the buckets of the whole time and of the time to the first token, `total` None
    where no target was asked; `failed`: whether an attempt of it failed; `answered`: by a target; `compared`: it is
    known what it would have cost elsewhere.
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
    return _two(total) + _two(first) + _two(facts)


def marks_of_attempt(total: int, first: int | None, *, outcome: str, estimated: bool, unpriced: bool) -> str:
    """`total` and `first` are buckets, as those of a call."""
    facts = estimated << 1 | unpriced << 2
    if outcome not in NOT_FAILED:
        facts |= _FAILED
    elif outcome == "left":
        facts |= _LEFT
    return _two(total) + _two(first) + _two(facts)


@lru_cache(maxsize=2048)
def _two(bucket: int | None) -> str:
    high, low = divmod(_NOWHERE if bucket is None else min(bucket, _LAST), _BASE)
    return chr(_FIRST_CHAR + high) + chr(_FIRST_CHAR + low)


def durations_in(marks: str, *, first: bool = False) -> Counter[int]:
    """bucket -> how many, of the marks of many in one string; `first`: of the times to the first token."""
    pairs = _pairs(marks, 1 if first else 0)
    return Counter({bucket: count for bucket, count in pairs if bucket != _NOWHERE})


def facts_in(marks: str) -> Counter[str]:
    """Fact -> of how many it is true."""
    found: Counter[str] = Counter()
    for facts, count in _pairs(marks, 2):
        for name, fact in FACTS.items():
            if facts & fact:
                found[name] += count
    return found


def _pairs(marks: str, place: int) -> Iterator[tuple[int, int]]:
    """The number that two characters stand for, and how often. They are counted as one number of 16 bits: to count
    texts of two characters, each had to be made.
    """
    halves = array("H", marks.encode())
    for two, count in Counter(halves[place :: LENGTH // 2]).items():
        high, low = two.to_bytes(2, sys.byteorder)
        yield (high - _FIRST_CHAR) * _BASE + low - _FIRST_CHAR, count
