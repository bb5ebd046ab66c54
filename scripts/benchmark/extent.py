"""How much a run does: the full one, and the quick one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of each measure is done."""

    rounds: int
    series_seconds: float
    """After so long no further round of a series is begun, if it has three: a slow machine gets fewer."""
    load_seconds: float
    """Of load per target and round. wrk counts in whole seconds: for less, the own generator is used."""
    calls: int
    """Calls per round at one connection."""
    first_calls: int
    long_calls: int
    paced_tokens: int
    burst_tokens: int
    few: int
    """Calls after which memory is first read; the second reading is at ten times as many."""
    starts: int
    growth_seconds: float
    """Longest time for the many calls that memory might grow with."""
    settle: float
    """Seconds that memory has to come back after large calls."""
    limit: float
    """Seconds after which the run is given up."""


# Many short rounds rather than few long ones: the speed of a shared machine wanders within seconds.
FULL = Extent(
    rounds=25,
    series_seconds=25,
    load_seconds=1,
    calls=200,
    first_calls=60,
    long_calls=60,
    paced_tokens=500,
    burst_tokens=5000,
    few=2000,
    starts=5,
    growth_seconds=80,
    settle=10,
    limit=355,
)
QUICK = Extent(
    rounds=5,
    series_seconds=1.5,
    load_seconds=0.4,
    calls=100,
    first_calls=30,
    long_calls=30,
    paced_tokens=300,
    burst_tokens=2000,
    few=200,
    starts=1,
    growth_seconds=10,
    settle=2,
    limit=90,
)
