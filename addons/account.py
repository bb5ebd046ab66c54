"""What one call came to, once it is over: a value that the ledger, the metrics, the limits and the traces are told.

Everything is counted from the attempts, and nowhere else: what a target itself reported, or, where it was at work and
was cut off before it could, an estimate that is marked as one. A target that has a whole request is taken to be at work
on it until it refuses or the connection breaks: a prompt is billed whether or not anybody waits for the answer. So a
call that was repeated, split or continued costs what its attempts cost, and each total is the sum of its parts.

The trap: some servers report while they answer, and what they said first is no sum; what came after it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from addons.exchange import Attempt, Exchange
from addons.marks import NOT_FAILED
from rules.prices import CHARS_PER_TOKEN, NONE_COUNTED, UNPAID, Book, Rates, Tokens, cost
from wire.openai import Json, count


class Tried(NamedTuple):
    """One attempt. Times in seconds."""

    target: str
    """provider/model, as the rules write it."""
    provider: str
    model: str
    started: float
    """Unix time."""
    outcome: str
    """`ok`, `left` where nobody waited for it any more, or the kind of its fault (wire/errors.py)."""
    tokens: Tokens
    estimated: bool
    """The tokens are an estimate: it was at work, and cut off before it said how much it did; or that it worked at
    all is one: it had the whole request, and nobody waited for its first word."""
    cost: int | None
    """NANOS; None: the model has no price, or one by tokens that nobody has counted."""
    first_token: float | None
    took: float
    continues: bool
    """It went on with the answer of the one before."""

    @property
    def failed(self) -> bool:
        return self.outcome not in NOT_FAILED


class Account(NamedTuple):
    """One call to a model. Times in seconds."""

    time: float
    """When it began, Unix time."""
    request_id: str
    client: str
    tags: Mapping[str, str]
    endpoint: str
    """As `/chat/completions`."""
    operation: str
    """What was asked of a target: `chat`, `embeddings`, …; empty where it did not come to that."""
    model: str
    """As the caller named it, shortened."""
    rule: str | None
    target: str | None
    """Who answered, last, be it that the caller did not wait for the end; None: nobody."""
    status: int
    """Of an answer that broke off after it had begun, that of its fault."""
    error: str | None
    """The code or the type of the fault that the caller got."""
    finish_reason: str | None
    streamed: bool
    tokens: Tokens
    estimated: bool
    """Some of the tokens are an estimate."""
    cost: int
    """NANOS, as far as prices are known."""
    unpriced: bool
    """Some attempt at work has no price, or one for what nobody has counted: the cost is more than is said."""
    failed_cost: int
    """That part of the cost that went into attempts which failed; not so where only the caller left."""
    compared: int | None
    """NANOS that the answer alone would have cost at the model that the rules compare to; None: that is not known, or
    a model for text could not have given it."""
    first_token: float | None
    total: float
    """All attempts, and the times between them."""
    tried: tuple[Tried, ...]
    prompt: str | None = None
    """Where the rules keep it: bounded, and without secrets."""
    answer: str | None = None
    traceparent: str | None = None
    """The caller's own span, as its header has it."""
    admitted: bool = True
    """Its limits let it pass, or it had none."""


def tokens_of(usage: Json) -> Tokens:
    """OpenAI's usage object as numbers. What is cached or reasoned is a part of what was read or said."""
    get = usage.get
    prompt, completion = count(get("prompt_tokens")), count(get("completion_tokens"))
    return Tokens(
        prompt,
        _detail(get("prompt_tokens_details"), "cached_tokens", prompt),
        completion,
        _detail(get("completion_tokens_details"), "reasoning_tokens", completion),
    )


def _detail(details: Any, name: str, most: int) -> int:
    return min(count(details.get(name)), most) if isinstance(details, dict) else 0


def rough(_target: str, chars: int) -> int:
    """Tokens of a prompt, for whoever has not learned better."""
    return chars // CHARS_PER_TOKEN


def account_of(
    exchange: Exchange, *, status: int, now: float, wall: float, prompt_tokens: Callable[[str, int], int] = rough
) -> Account:
    """`now` and `wall` are the same moment, of the monotonic clock and in Unix time. `prompt_tokens` estimates them:
    (target, characters) -> tokens.
    """
    book, client, request, fault = exchange.rules.book, exchange.client, exchange.request, exchange.fault
    offset = wall - now
    operation = request.operation if request is not None else ""
    tried = [
        _tried(attempt, operation, book, now, offset, prompt_tokens) for attempt in exchange.attempts if attempt.tried
    ]
    tokens = _sum([one.tokens for one in tried])
    target, spent, failed, unpriced, estimated = None, 0, 0, False, False
    for one in tried:
        if one.cost is None:
            unpriced = True
        else:
            spent += one.cost
            failed += one.cost if one.failed else 0
        estimated = estimated or one.estimated
        if not one.failed:
            target = one.target
    return Account(
        time=exchange.started + offset,
        request_id=exchange.request_id,
        client=client.name if client is not None else "-",
        tags=client.tags if client is not None else {},
        endpoint=exchange.endpoint,
        operation=operation,
        model=request.model[:200] if request is not None else "",
        rule=exchange.decision.rule if exchange.decision is not None else None,
        target=target,
        status=status if fault is None or status >= 400 else fault.status,
        error=(fault.code or fault.type) if fault is not None else None,
        finish_reason=exchange.answer.finish_reason if exchange.answer is not None else None,
        streamed=request is not None and request.stream,
        tokens=tokens,
        estimated=estimated,
        cost=spent,
        unpriced=unpriced,
        failed_cost=failed,
        # What a call of unknown cost would have saved is unknown too; as one that cost nothing, it would save all.
        compared=None if unpriced else _compared(exchange, tried, exchange.started + offset),
        first_token=exchange.first_token - exchange.started if exchange.first_token is not None else None,
        total=now - exchange.started,
        tried=tuple(tried),
        traceparent=exchange.traceparent,
        admitted=exchange.admitted,
    )


def _tried(
    attempt: Attempt, operation: str, book: Book, now: float, offset: float, prompt_tokens: Callable[[str, int], int]
) -> Tried:
    target = attempt.target
    started = attempt.started + offset
    tokens, estimated = _tokens_of(attempt, operation, prompt_tokens) if attempt.worked else (NONE_COUNTED, False)
    worth: int | None = 0
    if attempt.worked:
        tariff = book.at(target.name, started)
        if tariff is None:
            worth = 0 if target.dialect in UNPAID else None
        elif _is_counted(attempt, operation, tokens, estimated, tariff.at(started)):
            worth = cost(tariff, tokens, started, attempt.busy)
        else:
            worth = None
    fault = attempt.fault
    return Tried(
        target=target.name,
        provider=target.provider,
        model=target.model,
        started=started,
        outcome="ok" if attempt.completed else "left" if fault is None else fault.kind or fault.code or "refused",
        tokens=tokens,
        estimated=estimated,
        cost=worth,
        first_token=attempt.first_token - attempt.started if attempt.first_token is not None else None,
        took=(now if attempt.ended is None else attempt.ended) - attempt.started,
        continues=attempt.continues,
    )


def _tokens_of(attempt: Attempt, operation: str, prompt_tokens: Callable[[str, int], int]) -> tuple[Tokens, bool]:
    """What an attempt that was at work read and said, and whether that is an estimate."""
    speaks = operation not in _SILENT and not attempt.relays
    if attempt.usage is not None:
        tokens = tokens_of(attempt.usage)
        more = attempt.pieces - attempt.counted if speaks and not attempt.completed else 0
        if more:
            return replace(tokens, completion=tokens.completion + more), True
        if tokens.total:
            return tokens, False
    if attempt.chars_sent is None:
        return NONE_COUNTED, False
    said = max(attempt.pieces, attempt.chars // CHARS_PER_TOKEN) if speaks else 0
    tokens = Tokens(prompt=prompt_tokens(attempt.target.learned_as, attempt.chars_sent), completion=said)
    return tokens, bool(tokens.total) or not (attempt.relays and attempt.accepted)


def _is_counted(attempt: Attempt, operation: str, tokens: Tokens, estimated: bool, rates: Rates) -> bool:
    """Whether all is known, or can be estimated, that a price is for. Sound and images have tokens that only their
    server can count. Where it did not, a price for each request, or for the machine's time, is taken for theirs; a
    price by tokens alone would make them free.
    """
    if (tokens.total and not estimated) or rates.request or rates.hour:
        return True
    return not (rates.prompt and operation in _UNREAD) and not (rates.completion and attempt.relays)


_SILENT = frozenset({"embeddings"})
"""Operations whose answers are no text."""
_UNREAD = frozenset({"transcription", "translation", "image edits", "image variations"})
"""Operations that are sent more than text: its characters do not tell how much was read."""
_COMPARABLE = frozenset({"chat", "completions"})
"""Operations that a model for text could have done instead."""


def _compared(exchange: Exchange, tried: Sequence[Tried], moment: float) -> int | None:
    ledger, request = exchange.rules.file.ledger, exchange.request
    if ledger is None or not ledger.compare_to or request is None or request.operation not in _COMPARABLE:
        return None
    tariff = exchange.rules.book.at(ledger.compare_to, moment)
    if tariff is None:
        return None
    useful = [one.tokens for one in tried if not one.failed]
    if not useful:
        return 0
    answer = exchange.answer
    # A caller is told of a continued or split answer what one call for all of it would have taken.
    if len(tried) > 1 and answer is not None and answer.done and answer.usage is not None:
        return cost(tariff, tokens_of(answer.usage), moment)
    return cost(tariff, _sum(useful), moment)


def _sum(tokens: Sequence[Tokens]) -> Tokens:
    return tokens[0] if len(tokens) == 1 else sum(tokens, NONE_COUNTED)  # nearly always one
