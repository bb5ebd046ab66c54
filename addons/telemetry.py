"""What Prometheus is told: plain numbers, counted as calls end and made into text when somebody asks."""

from __future__ import annotations

from addons.account import Account


class Metrics:
    def count(self, account: Account) -> None:
        """One call to a model is over."""
