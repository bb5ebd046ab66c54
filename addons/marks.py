"""What a report counts of a call, in five characters: its two durations and its yes-or-no facts.

A call that no target was asked for has no durations: what is refused at once would make all others look fast.

The trap is a million rows. For a percentile and six shares a database would sort or compare each row anew, in every
report. So the writer of the ledger puts them into one short text, the texts of a group come back as one string, and
its characters are counted here. Two characters of printable ASCII hold a bucket of a fixed scale; text of a database in
any encoding holds them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from operator import concat

NOT_FAILED = ("ok", "left")
"""Outcomes of attempts that are no failures: it came to its end, or nobody waited for it any more."""
LENGTH = 5
"""Of a call: two for each duration, one for the facts."""
LEFT = 499
"""The status of a call whose caller did not wait for its end: no error of ours."""
FACTS: Mapping[str, int] = {
    "streamed": 1, "estimated": 2, "unpriced": 4, "failed_over": 8, "errors": 16, "left": 32, "refused": 64,
}  # fmt: skip
"""Of the last four only one is true of a call, so a sum stays below _BASE."""
_ERRORS, _LEFT, _REFUSED = FACTS["errors"], FACTS["left"], FACTS["refused"]
_FIRST_CHAR, _BASE = 33, 90
_STEP = math.log(1.05)
_LAST = _BASE * _BASE - 2
_NONE = chr(_FIRST_CHAR + _BASE - 1) * 2
"""A duration that never was."""


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
) -> str:
    """`total` and `first` are the buckets of the whole time and of the time to the first token, `total` None where no
    target was asked; `failed`: whether an attempt of it failed.
    """
    facts = streamed | estimated << 1 | unpriced << 2
    if status < 400:
        facts |= failed << 3
    elif status == LEFT:
        facts |= _LEFT
    else:
        facts |= _REFUSED if total is None and status < 500 else _ERRORS
    return _two(total) + _two(first) + chr(_FIRST_CHAR + facts)


@lru_cache(maxsize=1024)
def _two(bucket: int | None) -> str:
    if bucket is None:
        return _NONE
    high, low = divmod(min(bucket, _LAST), _BASE)
    return chr(_FIRST_CHAR + high) + chr(_FIRST_CHAR + low)


def durations_in(marks: str, *, first: bool = False) -> Counter[int]:
    """bucket -> calls, of the marks of many calls in one string; `first`: of the times to the first token."""
    at = 2 if first else 0
    pairs = Counter(map(concat, marks[at::LENGTH], marks[at + 1 :: LENGTH]))
    del pairs[_NONE]
    return Counter(
        {(ord(two[0]) - _FIRST_CHAR) * _BASE + ord(two[1]) - _FIRST_CHAR: count for two, count in pairs.items()}
    )


def facts_in(marks: str) -> Counter[str]:
    """Fact -> calls."""
    found: Counter[str] = Counter()
    for mark, count in Counter(marks[4::LENGTH]).items():
        facts = ord(mark) - _FIRST_CHAR
        for name, fact in FACTS.items():
            if facts & fact:
                found[name] += count
    return found
