"""Limits on calls: a call takes its estimated share before it begins, and is settled with what it really used."""

from __future__ import annotations

from collections.abc import Awaitable

from addons.account import Account
from addons.exchange import Exchange
from rules.limits import Limits


class Limiter:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def admit(self, exchange: Exchange) -> Awaitable[None] | None:
        """Takes what the call is estimated to use of each limit, and leaves the allowance in the exchange.

        Raises LimitReached, TokensReached, NeverFits, QuotaUsedUp or LimitsUnknown, at once or when awaited. None:
        nothing limits the call.
        """
        return None

    def settle(self, exchange: Exchange, account: Account) -> None:
        """The call is over: what it took and did not use is given back. Never raises, and never waits."""

    def forget(self, exchange: Exchange) -> None:
        """The call is over and nobody settled it: all that it took is given back."""
