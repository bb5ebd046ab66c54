"""A call's account as rows of the ledger's tables: plain tuples, in the order of the tables' columns.

The trap: rows are made in a thread that shares the interpreter with all calls. What is made here is what a driver takes
as it is, so that nothing has to be converted a second time, and a text that a database refuses (a zero character, half
a surrogate pair) is mended, or a caller who chooses such a name for a model would leave no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from addons.marks import bucket_of, marks_of, marks_of_attempt

if TYPE_CHECKING:
    from addons.account import Account, Tried  # a report, which has no other use for mitmproxy, would wait for it

type Row = tuple[int | float | str | bool | None, ...]


class Written(NamedTuple):
    """One call, ready to be written."""

    call: Row
    attempts: list[Row]


_EPOCH = 1_735_689_600
"""The first moment of 2025: ids count from there."""
_A_SECOND = 4096
_TAGS = 2**20


class Ids:
    """Numbers for rows that several processes write at once, without asking the database: time, then who gave it.

    They grow, so a row is always added at the end of a table and of its indexes. A process that gives more of them than
    a second has runs ahead of the clock, which costs nothing.
    """

    def __init__(self, tag: int) -> None:
        """`tag` is chosen at random; should two processes have the same, the database refuses the later row."""
        self._tag = tag % _TAGS
        self._last = 0

    def next(self, now: float) -> int:
        """`now` in Unix time."""
        self._last = max(self._last + 1, int((now - _EPOCH) * _A_SECOND))
        return self._last * _TAGS + self._tag


def written(account: Account, ids: Ids, now: float) -> Written:
    """The rows of one call."""
    number = ids.next(now)
    tokens, tried, tags, first = account.tokens, account.tried, account.tags, account.first_token
    first_ms = round(first * 1000) if first is not None else None
    total_ms = round(account.total * 1000)
    failed = sum([one.failed for one in tried])
    call = (
        number,
        account.time,
        account.client,
        account.endpoint,
        _text(account.model),
        account.rule,
        _text(account.target),
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.reasoning,
        account.cost,
        account.failed_cost,
        account.compared,
        marks_of(
            bucket_of(total_ms / 1000) if tried else None,
            bucket_of(first_ms / 1000) if first_ms is not None else None,
            status=account.status,
            streamed=account.streamed,
            estimated=account.estimated,
            unpriced=account.unpriced,
            failed=failed > 0,
            answered=account.target is not None,
            compared=account.compared is not None,
        ),
        account.request_id,
        orjson.dumps(dict(tags)).decode() if tags else "{}",
        account.operation,
        account.status,
        _text(account.error),
        _text(account.finish_reason),
        account.streamed,
        len(tried),
        failed,
        account.estimated,
        account.unpriced,
        first_ms,
        total_ms,
        _text(account.prompt),
        _text(account.answer),
    )
    return Written(call, [_attempt(one, number, place) for place, one in enumerate(tried, 1)])


def _attempt(one: Tried, call: int, place: int) -> Row:
    tokens, first = one.tokens, one.first_token
    first_ms = round(first * 1000) if first is not None else None
    total_ms = round(one.took * 1000)
    return (
        call,
        place,
        _text(one.target),
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.reasoning,
        one.cost,
        _text(one.outcome),
        marks_of_attempt(
            bucket_of(total_ms / 1000),
            bucket_of(first_ms / 1000) if first_ms is not None else None,
            outcome=one.outcome,
            estimated=one.estimated,
            unpriced=one.cost is None,
        ),
        one.started,
        one.continues,
        one.estimated,
        first_ms,
        total_ms,
    )


def _text(text: str | None) -> str | None:
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
