"""The ledger: every call and every attempt, kept in a database. Writing it never slows or fails a call."""

from __future__ import annotations

from addons.account import Account
from rules.terms import Ledger as LedgerTerms


class Ledger:
    """Takes accounts at any time, and writes them in batches, in a thread of its own."""

    def __init__(self, terms: LedgerTerms) -> None:
        self.terms = terms

    def start(self) -> None:
        """Never raises: where the database is away, rows wait."""

    def put(self, account: Account) -> None:
        """Never waits, never raises."""

    async def stop(self) -> None:
        """Returns when what was put is written, or cannot be within a few seconds."""
