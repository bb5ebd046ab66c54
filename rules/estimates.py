"""What a call will probably use, from what calls to the same model really used.

A limit on tokens must be kept while calls run, and what a call uses is known when it is over. So each takes an estimate
on its way in. The trap is the mean: of many calls at once half would use more than that, and together pass the limit.
An estimate is therefore the smoothed mean and four times the smoothed deviation, the way TCP sets its timer
(RFC 6298): it is near the mean where a model answers evenly, and far above it where it does not.

One answer that is a thousand times as long as all others, or a server that counts nonsense, would make each next call
take the whole of its limit, and so they would come in one after the other. So what is learned at a time is a leap
of a few times what was expected; a model that really changes is followed all the same, within a few calls.

A prompt's tokens are its text's, in proportion to all characters that are sent (tools and earlier calls too), and what
the characters do not tell (the server's template, images). The proportion is learned from prompts that are long enough
for the rest not to matter; the rest is learned as what is left over. Both are of a target, whoever calls it: so nothing
is learned from a prompt of which the server may have read a part only, or text that it leaves out (an unknown field of
a tool) would make everybody's prompts look small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from rules.prices import CHARS_PER_TOKEN, EXPECTED_ANSWER, Tokens

REMEMBERED = 1024
"""Targets."""
LONG = 400
"""Characters of a prompt whose proportion is learned from."""
_MEAN = 1 / 8
_DEVIATION = 1 / 4
_TIMES = 4
_LEAP = 8
"""Times what was expected that is believed of one call."""
_REST = 250
"""Tokens beyond those of its text that any prompt may have."""
_MOST = 4.0
"""Tokens in a character, at the most: what is more than that is not the text's."""
_LEAST = 1 / 32
"""And at the least: what is less was not read as text, or not read at all."""
_DOUBT = 1 / 8
"""The part of a prompt that its server need not have read, if it is to teach anything."""
_SURE = 1 / 8
"""Tokens in a character, at the least, of usual text: what is believed of a model that nothing is known of, where a
call would be turned away because of it."""


class Smoothed:
    """A smoothed mean, and a bound that few values pass."""

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean: float | None = None
        self.deviation = 0.0

    def learn(self, value: float, usual: float) -> None:
        """`usual`: what is no surprise in any case."""
        value = min(value, _LEAP * max(usual, self.bound(usual)))
        if self.mean is None:
            self.mean, self.deviation = value, abs(value) / 2
        else:
            self.deviation += _DEVIATION * (abs(value - self.mean) - self.deviation)
            self.mean += _MEAN * (value - self.mean)

    def bound(self, unknown: float) -> float:
        return unknown if self.mean is None else self.mean + _TIMES * self.deviation


@dataclass(slots=True, eq=False)
class _Known:
    """Of one target."""

    ratio: Smoothed
    """Tokens per character of a prompt."""
    rest: Smoothed
    """A prompt's tokens beyond those of its characters; may be below 0."""
    answer: Smoothed
    """Tokens of one answer."""

    def least(self) -> float:
        """Tokens in a character of which there is no doubt. What others sent proves nothing: after a hundred prompts in
        Chinese a long one in English must not be turned away for ever."""
        mean = self.ratio.mean
        if mean is None:
            return _SURE
        return min(mean, 1 / CHARS_PER_TOKEN, max(_SURE, mean - _TIMES * self.ratio.deviation))


class Expected(NamedTuple):
    """What one call will probably take. Tokens."""

    prompt: int
    """Once; a call for several answers may have to send it several times."""
    certain: int
    """That part of the prompt of which there is no doubt."""
    answer: int
    """Of each answer."""


class Estimates:
    """What is known of targets. Bounded, and for one thread."""

    def __init__(self) -> None:
        self._known: LRUCache[str, _Known] = LRUCache(REMEMBERED)

    def prompt(self, target: str, chars: int) -> int:
        """Tokens of a prompt, as they are most likely: for what was cut off before its target could say."""
        known: _Known | None = self._known.get(target)
        rest = (known.rest.mean or 0.0) if known is not None else 0.0
        # What longer ones took less than their characters say must not make a short one nothing.
        return max(math.ceil(chars * _LEAST), round(_text(known, chars) + rest))

    def expect(self, target: str, chars: int, *, sure: int | None = None, at_most: int | None = None) -> Expected:
        """`target`: provider/model; `chars`: of all text that is sent; `sure`: of those that it reads in any case, if
        that is not all; `at_most`: tokens that the caller allows an answer.
        """
        known: _Known | None = self._known.get(target)
        text = _text(known, chars)
        if known is None:
            prompt, answer = text, float(EXPECTED_ANSWER)
        else:
            prompt, answer = text + known.rest.bound(0.0), known.answer.bound(EXPECTED_ANSWER)
        sure = chars if sure is None else sure
        certain = sure * (_SURE if known is None else known.least())
        prompt = max(prompt, certain, sure * _SURE)
        if at_most is not None:
            answer = min(answer, at_most)
        return Expected(round(prompt), round(certain), round(max(0.0, answer)))

    def learn(self, target: str, chars: int, tokens: Tokens, *, sure: int | None = None, answers: int = 1) -> None:
        """From what a target reported of one call; `chars` and `sure` as in expect(); `answers`: how many it gave, 0
        where it gives no texts.
        """
        if tokens.prompt == 0:
            return  # it does not count, or another one's words were repeated
        known: _Known | None = self._known.get(target)
        if known is None:
            known = self._known[target] = _Known(Smoothed(), Smoothed(), Smoothed())
        in_doubt = 0 if sure is None else chars - sure
        if in_doubt <= chars * _DOUBT and tokens.prompt >= chars * _LEAST:
            if chars >= LONG:
                known.ratio.learn(min(tokens.prompt / chars, _MOST), _MOST)
            known.rest.learn(tokens.prompt - _text(known, chars), _REST)
        if answers:
            known.answer.learn(tokens.completion / answers, EXPECTED_ANSWER)


def _text(known: _Known | None, chars: int) -> float:
    ratio = known.ratio.mean if known is not None else None
    return chars / CHARS_PER_TOKEN if ratio is None else chars * ratio
