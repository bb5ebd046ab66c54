"""The verdict on what a ledger costs: it says what was measured, and how sure that is."""

from __future__ import annotations

import pytest

from scripts.benchmark.ledger import Cost


def cost(*with_one: float, wanted: int = 10, calls: int = 10, rows: int = 10) -> Cost:
    """Rounds of 100 calls per second without a ledger, and so many with one."""
    return Cost(wanted, [(100.0, rate) for rate in with_one], [(500.0, 510.0) for _ in with_one], calls, rows)


@pytest.mark.parametrize(
    ("found", "well", "verdict"),
    [
        (cost(*[99.0] * 6), True, "met with -1.0%"),
        (cost(*[104.1] * 6), True, "met with +4.1%"),
        (cost(*[96.0] * 6), False, "MISSED with -4.0%"),
        (cost(*[97.0] * 6), False, "MISSED with -3.0%"),
        (cost(99.0, 98.5, 98.0, 94.0), True, "met with -1.8%, but too close or too noisy to be sure"),
        (cost(99.0, 96.0, 96.0, 94.0), False, "MISSED with -4.0%, but too close or too noisy to be sure"),
        (cost(*[99.0] * 6, rows=9), False, "MISSED: 1 rows are missing"),
        (cost(*[99.0] * 6, wanted=11), False, "MISSED: there was no time for as many calls"),
    ],
)
def test_the_last_line_tells_what_the_rounds_came_to(found: Cost, well: bool, verdict: str) -> None:
    assert found.well is well
    assert found.lines()[-1].endswith(f": {verdict}")


def test_what_is_judged_is_what_is_shown() -> None:
    lines = "\n".join(cost(99.0, 98.0, 98.0, 97.5, 98.0, 98.0).lines())
    assert "calls per second: 100 1/s without, 98 1/s with; -2.0% (95 %: -2.5% to -1.0%)" in lines
    assert "processor time per call: 500 us without, 510 us with; +2.0%" in lines
