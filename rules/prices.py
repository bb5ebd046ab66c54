"""What a call costs, or may cost, from the dated prices of the file.

A price is known from a day on and until the next one: what stands in the file for tomorrow says nothing about today.
Money is whole NANOS of a USD, rounded once per attempt, so that sums agree to the last digit whoever adds them up.

The trap: 0.0028 USD is no binary number, and a sum of such numbers is off by as much as the order it was added in. So a
price is read as the decimal that was written, and counted in whole FEMTOS, in which a token has a whole price too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from fractions import Fraction

from rules.conditions import model_name
from rules.quota import NANOS
from rules.terms import Price
from rules.week import edges_of, is_within

CHARS_PER_TOKEN = 4
"""A usual figure for English; enough for comparing targets that all get the same prompt."""
EXPECTED_ANSWER = 500
"""Tokens."""
REMEMBERED = 1024
"""Targets whose price of the day is known without a look."""
UNPAID = frozenset({"ollama", "sandbox"})
"""Dialects whose servers are ours: without a price they cost nothing. Any other model without one is unpriced."""
FEMTOS = 10**15
"""Of a USD: a price per million tokens with nine decimals is a whole number of them per token."""
MOST = 2**53
"""NANOS, nine million USD: no attempt costs more, so that no server's lie about its tokens breaks a sum."""

_PER_NANO = FEMTOS // NANOS
_MICROS_PER_HOUR = 3600 * 10**6


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a target counted. `prompt` includes `cached`, `completion` includes `reasoning`: neither counts twice."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


NONE_COUNTED = Tokens()


@dataclass(frozen=True, slots=True)
class Rates:
    """A price in FEMTOS: of a token that is read, found in a cache or written, of a request, of an hour."""

    prompt: int
    cached: int
    completion: int
    request: int
    hour: int

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return not (self.prompt or self.cached or self.completion or self.request or self.hour)


@dataclass(frozen=True, slots=True)
class Tariff:
    """A price of the file, compiled."""

    usual: Rates
    peak: Rates
    """The usual ones where it has no peak."""
    edges: tuple[int, ...] = ()
    """Of the hours of its peak (week.edges_of)."""
    but: frozenset[int] = frozenset()
    """Days without a peak, counted from 1970."""

    def at(self, moment: float) -> Rates:
        """Those in force at a moment, in Unix time."""
        if not self.edges or not is_within(self.edges, moment) or moment // 86400 in self.but:
            return self.usual
        return self.peak


def tariff_of(price: Price) -> Tariff:
    peak = price.peak
    if peak is None:
        usual = _rates(price, 1.0)
        return Tariff(usual, usual)
    first = date(1970, 1, 1).toordinal()
    return Tariff(
        _rates(price, 1.0),
        _rates(price, peak.times),
        edges_of(peak.utc),
        frozenset(day.toordinal() - first for day in peak.but),
    )


def _rates(price: Price, times: float) -> Rates:
    def femtos(usd: float, of: int = 1) -> int:
        # The shortest decimal that gives the number is the one that was written.
        return round(Fraction(repr(usd)) * Fraction(repr(times)) * FEMTOS / of)

    million = 10**6
    return Rates(
        prompt=femtos(price.input, million),
        cached=femtos(price.input if price.cached_input is None else price.cached_input, million),
        completion=femtos(price.output, million),
        request=femtos(price.request),
        hour=femtos(price.hour),
    )


class Book:
    """The prices of a file. `local`: its providers of the UNPAID dialects."""

    def __init__(self, prices: Iterable[Price], local: Collection[str] = ()) -> None:
        self._prices = tuple(prices)
        self._local = frozenset(local)
        self._tariffs = {id(price): tariff_of(price) for price in self._prices}
        self._day = 0
        """Counted from 1970; what is remembered is of this day."""
        self._found: dict[str, Tariff | None] = {}

    def at(self, name: str, moment: float) -> Tariff | None:
        """The price of a target at a moment, in Unix time; None where it has none."""
        # Asked for several times in each call, so a plain dict that begins anew, and no cache that counts uses.
        day = int(moment // 86400)
        if day != self._day or len(self._found) > REMEMBERED:
            self._day, self._found = day, {}
        try:
            return self._found[name]
        except KeyError:
            price = price_at(self._prices, name, datetime.fromtimestamp(moment, UTC).date(), self._local)
            found = self._found[name] = self._tariffs[id(price)] if price is not None else None
            return found


def cost(tariff: Tariff, tokens: Tokens, moment: float, busy: float = 0.0) -> int:
    """NANOS of one attempt. `moment`: its beginning, Unix time; `busy`: a machine's seconds that were its own."""
    rates = tariff.at(moment)
    femtos = (
        (tokens.prompt - tokens.cached) * rates.prompt
        + tokens.cached * rates.cached
        + tokens.completion * rates.completion
        + rates.request
    )
    if rates.hour:
        femtos += rates.hour * round(busy * 1e6) // _MICROS_PER_HOUR
    return min((femtos + _PER_NANO // 2) // _PER_NANO, MOST)


def is_for(price: Price | str, name: str, local: Collection[str] = ()) -> bool:
    """Whether a price (or the `model` of one) is that of a target, by its name or as a pattern.

    A model of a provider in `local` has every spelling that its server takes (model_name()): calls are routed to it by
    any of them, so none may be without its price.
    """
    model = price if isinstance(price, str) else price.model
    if _is_exactly(model, name, local):
        return True
    if name.partition("/")[0] not in local:
        return fnmatchcase(name, model)
    whole, pattern = _name_in(name, local), _in_small(model)
    return fnmatchcase(whole, pattern) or fnmatchcase(whole.removesuffix(":latest"), pattern)


def one_spelling(model: str, local: Collection[str]) -> str:
    """The `model` of a price as all have it that are for the same names."""
    if model.partition("/")[0] not in local or not any(char in model for char in "*?["):
        return _name_in(model, local)
    return _in_small(model)


def _is_exactly(model: str, name: str, local: Collection[str]) -> bool:
    return model == name or _name_in(model, local) == _name_in(name, local)


def _name_in(name: str, local: Collection[str]) -> str:
    provider, _, model = name.partition("/")
    return f"{provider}/{model_name(model)}" if provider in local else name


def _in_small(pattern: str) -> str:
    provider, slash, model = pattern.partition("/")
    return f"{provider}{slash}{model.lower()}"


def price_at(prices: Iterable[Price], name: str, day: date, local: Collection[str] = ()) -> Price | None:
    """The price of a target (`provider/model`) on a day: the latest of those in force. `local` as is_for() has it.

    One for exactly this name goes before one with a pattern, and of two patterns the longer one, which says more.
    """

    def says(price: Price) -> tuple[bool, int, date]:
        exact = _is_exactly(price.model, name, local)
        return exact, 0 if exact else len(price.model), price.since

    return max((price for price in prices if price.since <= day and is_for(price, name, local)), key=says, default=None)


def expected_cost(tariff: Tariff, prompt_chars: int, moment: float, busy: float = 0.0) -> float:
    """USD, for comparing: nobody knows yet how long the answer will be. `busy`: seconds that such a call takes."""
    tokens = Tokens(prompt=prompt_chars // CHARS_PER_TOKEN, completion=EXPECTED_ANSWER)
    return cost(tariff, tokens, moment, busy) / NANOS
