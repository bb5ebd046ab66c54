"""A request that one upstream call cannot answer is asked in parts, and their answers are joined into one.

Several choices of a server that gives one, several prompts of one that takes one, a list of inputs that is too long:
each part is a request of its own, with its own attempts and targets. The trap is in the counts: the parts of one prompt
share its tokens, and an answer is over only when all of its parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from wire.answer import Streamed, Whole
from wire.errors import Fault
from wire.openai import FINISHED, ChatRequest, Delta, Finished, Json, ModelRequest, Reading, Usage
from wire.resume import Said


@dataclass(frozen=True, slots=True)
class Part:
    """One of the requests that a request is split into."""

    request: ModelRequest
    """What one upstream call can answer."""
    choice: int
    """The number that its choice 0 has in the whole answer."""
    prompt: int = 0
    """Parts of the same prompt have the same number: its tokens are counted once."""


def split_chat(request: ChatRequest) -> tuple[Part, ...]:
    """One part per choice, none for one choice. A seed is counted up: with the same one all choices would be equal."""
    if request.choices == 1:
        return ()
    seed = request.body.get("seed")
    parts: list[Part] = []
    for choice in range(request.choices):
        body = {name: value for name, value in request.body.items() if name != "n"}
        if seed is not None:
            body["seed"] = another_seed(seed, choice)
        parts.append(Part(replace(request, body=body), choice))
    return tuple(parts)


def another_seed(seed: int, number: int) -> int:
    """The seed of the part with that number. It fits into 64 bits as the caller's own does."""
    return seed + number if seed + number < 2**63 else seed - number


class Joined:
    """The readings of all parts, as those of one reply: choices in their places, one usage, one end."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._usage: dict[int, Json] = {}
        """Part -> what it counted, as far as it did."""
        self._open = len(parts)

    def read(self, number: int, readings: Sequence[Reading]) -> list[Reading]:
        """The readings of the part with that number, of which none is a Fault: those are the parts' own business."""
        joined: list[Reading] = []
        for reading in readings:
            match reading:
                case Delta():
                    joined.append(reading._replace(choice=reading.choice + self._parts[number].choice))
                case Usage(usage):
                    self._usage[number] = usage
                case Finished():
                    self._open -= 1
                    if not self._open:
                        if self._usage:
                            joined.append(Usage(self._sum()))
                        joined.append(FINISHED)
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return joined

    def _sum(self) -> Json:
        whole: Json = {}
        seen: set[int] = set()
        for number, usage in sorted(self._usage.items()):
            prompt = self._parts[number].prompt
            of_prompt = prompt not in seen
            seen.add(prompt)
            _add(whole, usage, of_prompt)
        whole["total_tokens"] = whole.get("prompt_tokens", 0) + whole.get("completion_tokens", 0)
        return whole


def _add(whole: Json, usage: Json, of_prompt: bool) -> None:
    """Adds one part's counts; those of a prompt that was counted already are left out."""
    for key, value in usage.items():
        if key in whole and key.startswith("prompt") and not of_prompt:
            continue
        known = whole.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            whole[key] = {**known}
            _add(whole[key], value, True)
        elif isinstance(value, int | float) and isinstance(known, int | float):  # some servers count money too
            whole[key] = known + value
        else:
            whole[key] = value


class StreamedPart(Streamed):
    """What one part adds to a stream. It keeps its own record of what was said: each part goes on by itself."""

    def __init__(self, number: int, joined: Joined, answer: Callable[[], Streamed]) -> None:
        """`answer` is asked for when there is something to write."""
        self.said = Said()
        self._number = number
        self._joined = joined
        self._answer = answer
        self._opened: set[int] = set()
        self._finished: set[int] = set()

    @property
    def complete(self) -> bool:
        return bool(self._opened) and self._opened == self._finished

    def write(self, readings: list[Reading]) -> bytes:
        passed: list[Reading] = []
        for reading in readings:
            passed.append(reading)
            match reading:
                case Delta():
                    self._note(reading)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    break
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return self._answer().write(self._joined.read(self._number, passed))

    def _note(self, piece: Delta) -> None:
        self._opened.add(piece.choice)
        if piece.choice:
            self.said.choices = True
        else:
            self.said.add(piece.delta)
        if piece.finish_reason is not None:
            self._finished.add(piece.choice)
            self.finish_reason = self.finish_reason or piece.finish_reason

    def fail(self, fault: Fault) -> bytes:
        raise fault  # of the whole answer, never of a part alone


class WholePart(Whole):
    """What one part adds to a whole answer: kept until it is complete, for until then another target may answer it."""

    def __init__(self, number: int, joined: Joined, answer: Callable[[], Whole]) -> None:
        """`answer` is asked for when there is something to write."""
        self._number = number
        self._joined = joined
        self._answer = answer
        self._kept: list[Reading] = []
        self._opened: set[int] = set()
        self._finished: set[int] = set()

    @property
    def complete(self) -> bool:
        return bool(self._opened) and self._opened == self._finished

    def write(self, readings: list[Reading]) -> bytes:
        """The whole answer's bytes where this was its last part."""
        for reading in readings:
            match reading:
                case Delta():
                    self._opened.add(reading.choice)
                    if reading.finish_reason is not None:
                        self._finished.add(reading.choice)
                        self.finish_reason = self.finish_reason or reading.finish_reason
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    return self._answer().write(self._joined.read(self._number, [*self._kept, reading]))
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
            self._kept.append(reading)
        return b""
