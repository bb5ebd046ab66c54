"""Hours of the week in UTC, as a person writes them: `mon-fri 01:00-04:00`, `sat,sun`, `22:00-02:00`.

They become minutes since Monday 00:00, from each span's first to the one behind its last. The trap: a span may go over
midnight, and one of Sunday's then goes on in Monday, at the other end of the week.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

DAY = 24 * 60
"""Minutes."""
WEEK = 7 * DAY
_EPOCH = 3 * DAY
"""1970-01-01, where Unix time begins, was a Thursday."""
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_AROUND = re.compile(r"\s*([-,])\s*")
_WRITTEN = re.compile(
    r"(?P<days>[a-z]+(?:[-,][a-z]+)*)?(?:(?:^|\s+)(?P<first>\d{1,2}:\d\d)-(?P<last>\d{1,2}:\d\d))?", re.IGNORECASE
)
_HOW = "hours of the week are written like mon-fri 01:00-04:00, 22:00-02:00 or sat,sun"


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """(first minute, the one behind the last) of each span in `text`, all within one week.

    Raises ValueError with words for whoever wrote it.
    """
    written = _AROUND.sub(r"\1", text.strip())
    match = _WRITTEN.fullmatch(written)
    if match is None or not written:
        raise ValueError(f"{_HOW}; several are entries of a list")
    first, length = 0, DAY
    if match["first"]:
        first, last = _minute(match["first"]), _minute(match["last"])
        if first == last:
            raise ValueError("it begins and ends at the same time; a whole day is written by its name alone: mon")
        length = (last - first) % DAY or DAY
    days = _days(match["days"]) if match["days"] else range(7)
    return tuple(span for number in days for span in _within_week(number * DAY + first, length))


def _minute(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > DAY:
        raise ValueError(f"a time of day is 00:00 to 24:00: {_HOW}")
    return hours * 60 + minutes


def _days(text: str) -> list[int]:
    days: list[int] = []
    for part in text.split(","):
        ends = [_day(word) for word in part.split("-")]
        if len(ends) > 2:
            raise ValueError("days are written mon-fri, from the first to the last, or one by one: mon,wed,fri")
        days += [(ends[0] + number) % 7 for number in range((ends[-1] - ends[0]) % 7 + 1)]
    return days


def _day(word: str) -> int:
    for number, name in enumerate(_DAYS):
        if len(word) > 2 and name.startswith(word.lower()):
            return number
    raise ValueError("a day is mon, tue, wed, thu, fri, sat or sun")


def _within_week(first: int, length: int) -> Iterable[tuple[int, int]]:
    first %= WEEK
    end = first + length
    return ((first, end),) if end <= WEEK else ((first, WEEK), (0, end - WEEK))


def edges_of(texts: Iterable[str]) -> tuple[int, ...]:
    """The minutes of the week at which the hours begin, end, begin, …, in order. Raises ValueError."""
    edges: list[int] = []
    for first, end in sorted(span for text in texts for span in parse_hours(text)):
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += (first, end)
    return tuple(edges)


def is_within(edges: tuple[int, ...], moment: float) -> bool:
    """Whether a moment, in Unix time, is in hours that have such edges: their first minute is, that at their end is
    not.
    """
    return bisect_right(edges, (int(moment // 60) + _EPOCH) % WEEK) % 2 == 1
