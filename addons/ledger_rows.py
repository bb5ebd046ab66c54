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

type Row = tuple[int | float | str | None, ...]
"""Yes and no are 1 and 0: what is neither a number nor a text, sqlite3 looks up in a table of adapters."""


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
        at = int((now - _EPOCH) * _A_SECOND)
        self._last = last = at if at > self._last else self._last + 1
        return last * _TAGS + self._tag


def written(account: Account, ids: Ids, now: float) -> Written:
    """The rows of one call."""
    number = ids.next(now)
    # Taken apart at once: a field of a named tuple costs as much as ten of them do here.
    (
        begun, request_id, client, tags, endpoint, operation, model, rule, target, status, error, finish_reason,
        streamed, tokens, estimated, cost, unpriced, failed_cost, compared, first, total, tried, prompt, answer, _,
        admitted,
    ) = account  # fmt: skip
    first_ms = round(first * 1000) if first is not None else None
    total_ms = round(total * 1000)
    attempts = [_attempt(one, number, place, begun) for place, one in enumerate(tried, 1)]
    failed = sum([one.failed for one in tried])
    call = (
        number,
        begun,
        client,
        endpoint,
        _text(model),
        rule,
        _text(target),
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.reasoning,
        cost,
        failed_cost,
        compared,
        marks_of(
            bucket_of(total_ms / 1000) if tried else None,
            bucket_of(first_ms / 1000) if first_ms is not None else None,
            status=status,
            streamed=streamed,
            estimated=estimated,
            unpriced=unpriced,
            failed=failed > 0,
            answered=target is not None,
            compared=compared is not None,
            admitted=admitted,
        ),
        request_id,
        orjson.dumps(dict(tags)).decode() if tags else "{}",
        operation,
        status,
        _text(error),
        _text(finish_reason),
        int(streamed),
        len(tried),
        failed,
        int(estimated),
        int(unpriced),
        first_ms,
        total_ms,
        _text(prompt),
        _text(answer),
    )
    return Written(call, attempts)


def _attempt(one: Tried, call: int, place: int, begun: float) -> Row:
    target, _, _, started, outcome, tokens, estimated, cost, first, took, continues = one
    first_ms = round(first * 1000) if first is not None else None
    total_ms = round(took * 1000)
    return (
        call,
        place,
        begun,
        _text(target),
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.reasoning,
        cost,
        _text(outcome),
        marks_of_attempt(
            bucket_of(total_ms / 1000),
            bucket_of(first_ms / 1000) if first_ms is not None else None,
            outcome=outcome,
            estimated=estimated,
            unpriced=cost is None,
        ),
        started,
        int(continues),
        int(estimated),
        first_ms,
        total_ms,
    )


def _text(text: str | None) -> str | None:
    if text is None or (text.isascii() and "\0" not in text):  # nearly always
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
