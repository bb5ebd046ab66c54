"""An answer that broke off goes on: what its caller has seen, how another target is asked, how the two are joined.

The trap: a target that is handed the beginning of an answer does one of three things. It goes on, it starts over (most
servers that know no prefill do), or it starts over and says something else. Only its own words tell which, and until
they do nothing may be passed on: a doubled or a mixed answer looks like a complete one, which is worse than an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import count
from typing import assert_never

from wire.errors import Fault, NotContinued
from wire.openai import Delta, Finished, Json, ModelRequest, Prefill, Reading, Usage

SAME_BY_CHANCE = 16
"""Characters. A continuation that begins like the whole answer for fewer than these does so by chance."""
SHORT = 12
"""Characters. So little is repeated by a target that keeps its promise to go on; more is not."""


@dataclass(slots=True)
class Said:
    """What the caller has seen of an answer, in the pieces it came in. StreamedAnswer adds to it as it writes."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: bool = False
    """A tool call was begun."""
    choices: bool = False
    """More than choice 0 spoke."""
    other: bool = False
    """Something that is neither text, reasoning nor a tool call: a refusal, audio, annotations."""

    @property
    def text(self) -> str:
        return "".join(self.content)

    @property
    def chars(self) -> int:
        """Of content and reasoning."""
        return sum(map(len, self.content)) + sum(map(len, self.reasoning))

    @property
    def tokens(self) -> int:
        """How many there were at the least: every piece, of content or reasoning, held one."""
        return len(self.content) + len(self.reasoning)

    def add(self, delta: Json) -> None:
        """Notes one delta of choice 0."""
        for key, value in delta.items():
            if key == "content":
                self.content.append(value)
            elif key == "reasoning_content":
                self.reasoning.append(value)
            elif key in ("tool_calls", "function_call"):
                self.calls = True
            else:
                self.other = True


def why_not(request: ModelRequest, said: Said) -> str | None:
    """Why the answer cannot be continued, in words for the caller; None where it can."""
    if said.calls:
        return "a tool call was under way"
    if said.other:
        return "it held more than text"
    if said.choices or request.choices > 1:
        return "several choices were asked for"
    if request.wants_json and said.text.strip():
        return "JSON was asked for, and a part of it was sent"
    return None


def continued[Asked: ModelRequest](request: Asked, said: Said) -> Asked:
    """The request for the rest of the answer; the same request where no text was said, for then nothing is lost."""
    text = said.text
    if not text.strip():
        return request
    return replace(request, prefill=Prefill(text, said.tokens))


class _Way(Enum):
    """What a target does that was asked for the rest of an answer."""

    UNKNOWN = auto()
    GOES_ON = auto()
    STARTED_OVER = auto()
    FAILED = auto()
    """Nothing of it is passed on any more."""


class _Repeat:
    """Compares text that comes in pieces with a known one, by characters. Blanks before either do not count."""

    __slots__ = ("_begun", "_known", "differs", "same")

    def __init__(self, known: str) -> None:
        """`known` holds more than blanks."""
        self._known = known.lstrip()
        self._begun = False
        self.same = 0
        """Characters that were repeated so far."""
        self.differs = False

    def take(self, text: str) -> str | None:
        """What of this piece goes beyond the known text; None while not all of that was repeated, and for ever if it
        `differs`.
        """
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        left = len(self._known) - self.same
        if len(text) < left:
            if self._known.startswith(text, self.same):
                self.same += len(text)
                return None
        elif text.startswith(self._known[self.same :]):
            self.same += left
            return text[left:]
        self.differs = True
        self.same = next(place for place, new in zip(count(self.same), text) if self._known[place] != new)
        return None


class Joint:
    """Stands between the reader of a reply that continues an answer and the answer's writer.

    What it gives is what the caller has not seen yet. It holds text back only while that text repeats what was said.
    """

    __slots__ = (
        "_blanks",
        "_drops_thoughts",
        "_ends_open",
        "_held",
        "_text",
        "_thought",
        "_tokens",
        "_trusted",
        "_way",
    )

    def __init__(self, said_text: str, said_reasoning: str, tokens: int, *, trusted: bool) -> None:
        """`tokens` of the new prompt are those of the text so far. `trusted`: the target promises to go on from it."""
        is_known = bool(said_text.strip())
        self._text = _Repeat(said_text)
        self._trusted = trusted
        self._ends_open = said_text[-1:].isspace()
        """A word may begin here."""
        self._tokens = tokens
        self._held: list[Delta | Usage] = []
        """Not passed on yet: deltas that hold nothing but text, and what came between them."""
        self._blanks = 0 if is_known else len(said_text)
        """Where nothing but blanks was said: how many of them are still to be skipped."""
        self._thought = _Repeat(said_reasoning) if said_reasoning.strip() and not is_known else None
        self._drops_thoughts = is_known or self._thought is not None
        """After the answer's beginning reasoning would be a second thought; before, it must go on from the first."""
        if not is_known:
            self._way = _Way.STARTED_OVER  # it was asked to
        else:
            self._way = _Way.GOES_ON if trusted and len(said_text.strip()) < SHORT else _Way.UNKNOWN

    def read(self, readings: list[Reading]) -> list[Reading]:
        """What of these readings is new to the caller. Nothing follows a Fault, which may be a NotContinued."""
        out: list[Reading] = []
        for reading in readings:
            if self._way is _Way.FAILED:
                break
            match reading:
                case Delta(choice=0):
                    self._read_delta(reading, out)
                case Delta():
                    out.append(reading)
                case Usage() if self._way is _Way.UNKNOWN:
                    self._held.append(reading)
                case Usage():
                    out.append(self._counted(reading))
                case Finished():
                    if self._may_pass(out):
                        out.append(reading)
                case Fault():
                    self._fail(reading, out)
                case _:
                    assert_never(reading)
        return out

    def _read_delta(self, piece: Delta, out: list[Reading]) -> None:
        reasoning = piece.delta.get("reasoning_content")
        left: Delta | None = piece
        if reasoning is not None and self._drops_thoughts:
            left = _changed(piece, "reasoning_content", self._new_thought(reasoning))
        if left is not None and self._blanks and "content" in left.delta:
            left = self._without_blanks(left)
        if left is None:
            return
        if self._way is _Way.UNKNOWN:
            self._compare(left, out)
        else:
            out.append(left)

    def _new_thought(self, reasoning: str) -> str:
        beyond = None if self._thought is None else self._thought.take(reasoning)
        if beyond is not None:
            self._drops_thoughts = False
        elif self._thought is not None and self._thought.differs:
            self._thought = None
        return beyond or ""

    def _without_blanks(self, piece: Delta) -> Delta | None:
        content: str = piece.delta["content"]
        text = content.lstrip()
        skipped = min(len(content) - len(text), self._blanks)
        self._blanks = 0 if text else self._blanks - skipped
        return _changed(piece, "content", content[skipped:]) if skipped else piece

    def _compare(self, piece: Delta, out: list[Reading]) -> None:
        beyond = self._text.take(piece.delta.get("content", ""))
        if beyond is not None:
            self._way = _Way.STARTED_OVER
            out += [reading for reading in self._held if isinstance(reading, Usage)]
            self._held.clear()
            left = _changed(piece, "content", beyond)
            if left is not None:
                out.append(left)
            return
        self._held.append(piece)
        is_text = piece.finish_reason is None and piece.delta.keys() <= {"content"}
        if self._text.differs or not is_text:
            self._may_pass(out)

    def _may_pass(self, out: list[Reading]) -> bool:
        """Nothing more will be known of the way: gives what is held, if that is not a second answer."""
        if self._way is _Way.UNKNOWN:
            if self._text.same >= SAME_BY_CHANCE or (not self._trusted and self._begins_anew()):
                self._fail(NotContinued("started its answer over and said something else"), out)
                return False
            self._way = _Way.GOES_ON
            out += [self._counted(reading) if isinstance(reading, Usage) else reading for reading in self._held]
            self._held.clear()
        return True

    def _begins_anew(self) -> bool:
        """Whether the new text cannot well be the rest of a sentence: a capital letter right behind its last word.

        To most servers that promise nothing the beginning of an answer is history, and they give another answer. What
        this takes for one by mistake (the `Element` of `getElement`) ends in an error or at the next target; the other
        mistake would look complete.
        """
        new = "".join(reading.delta.get("content", "") for reading in self._held if isinstance(reading, Delta))
        return bool(new) and new[0].isupper() and not self._ends_open

    def _fail(self, fault: Fault, out: list[Reading]) -> None:
        self._way = _Way.FAILED
        self._held.clear()
        out.append(fault)

    def _counted(self, reading: Usage) -> Usage:
        """The text so far was a part of the prompt only for us: for the caller it is a part of the answer."""
        if self._way is not _Way.GOES_ON:
            return reading
        usage = reading.usage
        moved = min(self._tokens, usage["prompt_tokens"])
        return Usage(
            usage
            | {
                "prompt_tokens": usage["prompt_tokens"] - moved,
                "completion_tokens": usage["completion_tokens"] + moved,
            }
        )


def _changed(piece: Delta, key: str, text: str) -> Delta | None:
    """The delta with another text under that key; None where nothing is left. Its logprobs are of the text it had."""
    delta = {name: value for name, value in piece.delta.items() if name != key}
    if text:
        delta[key] = text
    if not delta and piece.finish_reason is None:
        return None
    return piece._replace(delta=delta, logprobs=None)
