"""A request that one upstream call cannot answer is asked in parts, and their answers are joined into one.

Several choices of a server that gives one, several prompts of one that takes one, a list of inputs that is too long: each
part is a request of its own, with its own attempts and targets. The trap is in the counts: the parts of one prompt share
its tokens, and an answer is over only when all of its parts are.
"""

from __future__ import annotations

from dataclasses import dataclass

from wire.openai import ModelRequest


@dataclass(frozen=True, slots=True)
class Part:
    """One of the requests that a request is split into."""

    request: ModelRequest
    """What one upstream call can answer."""
    choice: int
    """The number that its choice 0 has in the whole answer."""
    prompt: int = 0
    """Parts of the same prompt have the same number: its tokens are counted once."""
