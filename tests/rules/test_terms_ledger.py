"""How long the ledger keeps rows: a number alone would be seconds, and nobody who writes 90 means those."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rules.terms import Caller, Ledger


@pytest.mark.parametrize(
    ("written", "seconds"), [("90d", 90 * 86400), ("36h", 36 * 3600), (" 2 d ", 2 * 86400), ("90 days", 90 * 86400)]
)
def test_rows_are_kept_for_a_time_with_its_unit(written: str, seconds: float) -> None:
    assert Ledger.model_validate({"keep": written}).keep == seconds


@pytest.mark.parametrize("written", [90, 90.5, "90", " 1.5 "])
def test_a_number_without_a_unit_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="write its unit, such as 90d or 36h"):
        Ledger.model_validate({"keep": written})


def test_a_client_may_stand_in_the_file_before_it_has_a_key() -> None:
    assert Caller.model_validate({"limits": ["5 USD/day"]}).limits == ("5 USD/day",)
