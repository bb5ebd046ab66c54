"""Limits on calls: a call takes its estimated share before it begins, and is settled with what it really used.

Settling happens exactly once, whatever becomes of a call, and never makes anybody wait: in memory it is done at once,
and a store elsewhere is told in the background.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from loguru import logger

from addons.account import Account
from addons.asking import Asking
from addons.counters import Spent, StoreAway
from addons.counters_away import Watched
from addons.counters_memory import Counts, MemoryStore
from addons.exchange import Exchange
from addons.refusals import SOON, fault_of
from addons.reminder import Reminder
from addons.route import asks_one_by_one
from addons.stores import open_store
from rules.decide import without
from rules.estimates import Estimates
from rules.limits import Allowance, Estimate, limit_headers, refusal, used_of
from rules.prices import NONE_COUNTED, Tokens, cost
from rules.quota import Charge, Standing
from rules.snapshot import Rules
from rules.targets import Target
from wire.completions import CompletionRequest
from wire.errors import LimitsUnknown
from wire.openai import ChatRequest, ModelRequest

if TYPE_CHECKING:
    from addons.past import Past

_LAST = 1.0
"""Seconds that the end waits for a store to be told of the last calls."""
_AT_A_STRETCH = 100
"""Limits that are restored before the calls have their turn."""
_WORDS = {"open": "calls pass without limits", "closed": "calls are refused"}


class Limiter:
    def __init__(
        self,
        rules: Rules,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock` and `wall` go on together: monotonic seconds, and Unix time."""
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self.decided: Callable[[str], None] = lambda decision: None
        """Is told what became of each call that a limit is for: `admitted`, the kind of the limit that it did not fit,
        or `unchecked`, `unavailable` while the store is away."""
        self.estimates = Estimates()
        """What calls to each target have used."""
        self._telling: set[asyncio.Task[None]] = set()
        self._reminder: Reminder | None = None
        self.counts: Counts | None = None
        """Where limits are counted, if that is here."""
        self.store: Watched | None = None
        """And if it is elsewhere."""
        terms = rules.file.limits
        store = open_store(terms.store)
        if isinstance(store, MemoryStore):
            self.counts = store.counts
            self.counts.clock = clock
        else:
            self.store = Watched(store, chance, _WORDS[terms.if_away])

    @property
    def away(self) -> bool | None:
        """Whether the store cannot be reached; None where limits are counted here."""
        return self.store.away if self.store is not None else None

    async def start(self, past: Past | None = None) -> None:
        """Counts calls of the past as well, beside those that come already. A store elsewhere is told of them whenever
        it has forgotten them, and nobody waits for that."""
        if self.store is None:
            await self._restore(past)
        else:
            if past is not None:
                self._reminder = Reminder(past, self.store, self._wall)
                self.store.remind = self._reminder.see
            await self.store.start()

    async def stop(self) -> None:
        if self._telling:
            await asyncio.wait(self._telling, timeout=_LAST)
        if self._reminder is not None:
            await self._reminder.stop()
        if self.store is not None:
            await self.store.close()

    # -- on the way in

    def admit(self, exchange: Exchange) -> Awaitable[None] | None:
        """Takes what the call is estimated to use of each limit, and leaves the allowance in the exchange.

        Raises LimitReached, TokensReached, NeverFits, QuotaUsedUp or LimitsUnknown, at once or when awaited. None:
        it may go on.
        """
        client, request = exchange.client, exchange.request
        assert client is not None
        assert request is not None
        applying = exchange.rules.limits.of(client, request.model)
        if not applying:
            exchange.admitted = True
            return None
        assert exchange.decision is not None
        now, book = self._wall(), exchange.rules.book

        def is_free(target: Target) -> bool:
            price = book.at(target.name, now)
            return price is None or price.at(now).free

        asking = Asking(applying, exchange.decision, lambda target: self._estimate(exchange, request, target), is_free)
        if self.counts is None:
            return self._ask(exchange, asking)
        spent = self.counts.spend(asking.charges, exchange.request_id)
        while asking.for_less(spent):
            spent = self.counts.spend(asking.charges, exchange.request_id)
        self._conclude(exchange, asking, spent)
        return None

    async def _ask(self, exchange: Exchange, asking: Asking) -> None:
        assert self.store is not None
        try:
            spent = await self.store.spend(asking.charges, exchange.request_id)
            while asking.for_less(spent):
                spent = await self.store.spend(asking.charges, exchange.request_id)
        except StoreAway:
            if exchange.rules.file.limits.if_away == "open":
                self.decided("unchecked")
                exchange.admitted = True
                return
            self.decided("unavailable")
            raise LimitsUnknown(
                "The limits of this gateway cannot be checked at the moment, so it takes no calls. Try again in a "
                "moment.",
                retry_after=SOON,
            ) from None
        self._conclude(exchange, asking, spent)

    def _conclude(self, exchange: Exchange, asking: Asking, spent: Spent) -> None:
        charges = asking.charges
        if not spent.admitted:
            headers = limit_headers(charges, spent.standings)
            exchange.allowance = Allowance((), (), "", headers, settled=True)
            refused = refusal(charges, spent.standings)
            assert exchange.request is not None
            self.decided(refused.charge.limit.kind)
            raise fault_of(refused, exchange.request.model)
        self.decided("admitted")
        exchange.admitted = True
        taken = tuple(
            charge if charge.amount == took else charge._replace(amount=took, guess=0)
            for charge, took in zip(charges, spent.taken, strict=True)
        )
        headers = limit_headers(taken, spent.standings, admitted=True)
        exchange.allowance = Allowance(taken, spent.slots, exchange.request_id, headers)
        if asking.why:
            assert exchange.decision is not None
            exchange.decision = without(exchange.decision, asking.is_too_dear, asking.why)
        if exchange.ended:  # while the store was asked
            self.forget(exchange)

    def _estimate(self, exchange: Exchange, request: ModelRequest, target: Target) -> Estimate:
        size = size_of(request)
        expected = self.estimates.expect(
            target.learned_as, request.sent_chars, sure=request.certain_chars, at_most=size.at_most
        )
        prompt, answer = expected.prompt * size.sent, expected.answer * size.answers
        assert exchange.decision is not None
        # Where all is asked for at once, the prompt is sent once, and paid for once.
        apart = size.answers > 1 and asks_one_by_one(request, exchange.decision)
        certain = expected.certain * (size.sent if apart else 1)
        now = self._wall()
        price = exchange.rules.book.at(target.name, now)
        if price is None or price.at(now).free:
            return Estimate(prompt + answer, certain, 0, 0)
        more = (size.answers - 1) * cost(price, NONE_COUNTED, now) if apart else 0  # what each request costs
        # However little it is, no used-up budget lets it pass.
        usd = max(1, more + cost(price, Tokens(prompt=prompt, completion=answer), now))
        least = min(cost(price, Tokens(prompt=certain, cached=cached), now) for cached in (0, certain))
        return Estimate(prompt + answer, certain, usd, more + least)

    # -- on the way out

    def settle(self, exchange: Exchange, account: Account) -> None:
        """The call is over: what it took and did not use is given back. Never waits."""
        self._learn(exchange, account)
        allowance = exchange.allowance
        if allowance is not None and not allowance.settled:
            tokens, usd = account.tokens.total, account.cost
            self._return(allowance, tuple([used_of(charge, tokens, usd) for charge in allowance.charges]))

    def forget(self, exchange: Exchange) -> None:
        """The call is over and nobody settled it: all that it took is given back, unless a target worked for it. Then
        its places are free, and the estimate stands for what nobody knows.
        """
        allowance = exchange.allowance
        if allowance is not None and not allowance.settled:
            worked = any(attempt.worked for attempt in exchange.attempts)
            used = [charge.amount if worked and charge.limit.seconds else 0 for charge in allowance.charges]
            self._return(allowance, used)

    def _return(self, allowance: Allowance, used: Sequence[int]) -> None:
        allowance.settled = True
        if self.counts is not None:
            self.counts.settle(allowance.charges, allowance.taken, used, allowance.lease)
        else:
            task = asyncio.create_task(self._tell(allowance, used))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, allowance: Allowance, used: Sequence[int]) -> None:
        assert self.store is not None
        try:
            await self.store.settle(allowance.charges, allowance.taken, used, allowance.lease)
        except StoreAway:
            pass  # the store has said so
        except Exception:
            logger.opt(exception=True).error("what a call used could not be counted")

    def _learn(self, exchange: Exchange, account: Account) -> None:
        """From an answer that one target gave alone, and counted itself: all else does not say what a call takes."""
        request = exchange.request
        if request is None or exchange.parts or not account.tried:
            return
        last = account.tried[-1]
        if last.outcome == "ok" and not last.estimated and not last.continues:
            size = size_of(request)
            answered = exchange.attempts[-1]
            sent = answered.chars_sent or request.sent_chars
            sure = sent - request.maybe_chars
            self.estimates.learn(answered.target.learned_as, sent, last.tokens, sure=sure, answers=size.answers)

    # -- where limits stand

    async def look(self, charges: Sequence[Charge]) -> Sequence[Standing] | None:
        """Where limits stand; None while that cannot be known. Does not wait for a store that is away."""
        if self.counts is not None:
            return self.counts.look(charges)
        assert self.store is not None
        try:
            return await self.store.look(charges)
        except StoreAway:
            return None

    async def _restore(self, past: Past | None) -> None:
        counts = self.counts
        if counts is None or past is None:
            return
        told = await past.amounts(self._wall() - self._clock())
        for number, (charge, slots) in enumerate(told.found):
            counts.recall(charge, slots)
            if number % _AT_A_STRETCH == 0:
                await asyncio.sleep(0)


class Size(NamedTuple):
    """What of a request says how much it takes."""

    sent: int
    """How many times its prompt is sent, where a target gives one answer at a time."""
    answers: int
    at_most: int | None
    """Tokens that the caller allows each of them."""


def size_of(request: ModelRequest) -> Size:
    match request:
        case ChatRequest():
            body = request.body
            at_most = body.get("max_completion_tokens")
            return Size(request.choices, request.choices, body.get("max_tokens") if at_most is None else at_most)
        case CompletionRequest():
            return Size(request.best_of, request.samples, request.max_tokens)
        case _:
            return Size(1, 0, None)
