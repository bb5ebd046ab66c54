"""What one call came to, once it is over: a value that the ledger, the metrics, the limits and the traces are told.

Everything is counted from the attempts, and nowhere else: what a target itself reported, or, where it was at work and
was cut off before it could, an estimate that is marked as one. So a call that was repeated, split or continued costs
what its attempts cost, and each total is the sum of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from addons.exchange import Attempt, Exchange
from rules.prices import NONE_COUNTED, UNPAID, Book, Tokens, cost
from wire.errors import Fault
from wire.openai import Json, count


@dataclass(frozen=True, slots=True)
class Tried:
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
    """The tokens are an estimate: it was at work, and cut off before it said how much it did."""
    cost: int | None
    """NANOS; None: the model has no price."""
    first_token: float | None
    took: float
    continues: bool
    """It went on with the answer of the one before."""


@dataclass(frozen=True, slots=True)
class Account:
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
    """Who answered; None: nobody."""
    status: int
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
    """Some attempt that used tokens has no price: the cost is more than is said."""
    failed_cost: int
    """That part of the cost that went into attempts which failed."""
    compared: int | None
    """NANOS that the tokens of the answer would have cost at the model that the rules compare to."""
    first_token: float | None
    total: float
    tried: tuple[Tried, ...]
    prompt: str | None = None
    """Where the rules keep it: bounded, and without secrets."""
    answer: str | None = None


def tokens_of(usage: Json) -> Tokens:
    """OpenAI's usage object as numbers. What is cached or reasoned is a part of what was read or said."""
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    cached = _detail(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Tokens(prompt, min(cached, prompt), completion, min(reasoning, completion))


def _detail(details: Any, name: str) -> int:
    return count(details.get(name)) if isinstance(details, dict) else 0


def account_of(exchange: Exchange, *, status: int, now: float, wall: float) -> Account:
    """`now` and `wall` are the same moment, of the monotonic clock and in Unix time."""
    book, client, request = exchange.rules.book, exchange.client, exchange.request
    offset = wall - now
    tried = tuple(_tried(attempt, book, now, offset) for attempt in exchange.attempts if attempt.tried)
    tokens = sum((one.tokens for one in tried), NONE_COUNTED)
    served = [one for one in tried if one.outcome == "ok"]
    fault = exchange.fault
    return Account(
        time=exchange.started + offset,
        request_id=exchange.request_id,
        client=client.name if client is not None else "-",
        tags=client.tags if client is not None else {},
        endpoint=exchange.endpoint,
        operation=request.operation if request is not None else "",
        model=request.model[:200] if request is not None else "",
        rule=exchange.decision.rule if exchange.decision is not None else None,
        target=served[-1].target if served else None,
        status=status,
        error=_error(fault) if fault is not None else None,
        finish_reason=exchange.answer.finish_reason if exchange.answer is not None else None,
        streamed=request is not None and request.stream,
        tokens=tokens,
        estimated=any(one.estimated for one in tried),
        cost=sum(one.cost or 0 for one in tried),
        unpriced=any(one.cost is None for one in tried),
        failed_cost=sum(one.cost or 0 for one in tried if one.outcome != "ok"),
        compared=_compared(exchange, tokens, exchange.started + offset),
        first_token=exchange.first_token - exchange.started if exchange.first_token is not None else None,
        total=now - exchange.started,
        tried=tried,
    )


def _error(fault: Fault) -> str:
    return fault.code or fault.type


def _tried(attempt: Attempt, book: Book, now: float, offset: float) -> Tried:
    target = attempt.target
    tokens, estimated = NONE_COUNTED, False
    if attempt.usage is not None:
        tokens = tokens_of(attempt.usage)
    price = book.at(target.name, attempt.started + offset)
    ended = attempt.ended if attempt.ended is not None else now
    worth: int | None = None
    if price is not None:
        worth = cost(price, tokens, attempt.started + offset, attempt.busy) if attempt.accepted else 0
    elif target.dialect in UNPAID or not attempt.accepted:
        worth = 0
    return Tried(
        target=target.name,
        provider=target.provider,
        model=target.model,
        started=attempt.started + offset,
        outcome=_outcome(attempt),
        tokens=tokens,
        estimated=estimated,
        cost=worth,
        first_token=attempt.first_token - attempt.started if attempt.first_token is not None else None,
        took=ended - attempt.started,
        continues=attempt.continues,
    )


def _outcome(attempt: Attempt) -> str:
    if attempt.fault is not None:
        return attempt.fault.kind or attempt.fault.code or "refused"
    return "ok" if attempt.completed else "left"


def _compared(exchange: Exchange, tokens: Tokens, moment: float) -> int | None:
    ledger = exchange.rules.file.ledger
    if ledger is None or ledger.compare_to is None:
        return None
    price = exchange.rules.book.at(ledger.compare_to, moment)
    return cost(price, tokens, moment) if price is not None else None
