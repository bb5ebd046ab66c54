"""What a ledger says where its database does not do as it is asked.

Apart from what asks it (ledger_store.py), for that loads SQLAlchemy, which a gateway without a ledger need not know.
"""

from __future__ import annotations


class LedgerAway(Exception):
    """The database cannot be used at the moment; the message is for people. What was to be written can wait."""


class Refused(Exception):
    """The database is there, and takes at least one of these rows at no time."""
