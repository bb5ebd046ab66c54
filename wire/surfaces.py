"""The table of surfaces: OpenAI's endpoints as the caller sees them, each with its check and its two kinds of answer.

A surface is one side of a call, a dialect (dialects.py) the other, and between them stands the language of openai.py:
any surface can be answered by any dialect that has the operation which its request asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wire.answer import Opening, Streamed, StreamedAnswer, Whole, WholeAnswer
from wire.check import check_chat
from wire.errors import Fault, fault_frame
from wire.openai import Json, ModelRequest
from wire.parts import Part, split_chat


@dataclass(frozen=True, slots=True)
class Surface:
    """One row: everything that differs between the endpoints that a model answers."""

    name: str
    check: Callable[[Json], ModelRequest]
    """The caller's body -> a request that every dialect can rely on; raises BadRequest with `param`."""
    streamed: Callable[[Opening], Streamed]
    whole: Callable[[Opening], Whole]
    split: Callable[[Any], tuple[Part, ...]] = lambda request: ()
    """The parts of a request for servers that cannot be told all of it at once; none where it cannot be split."""
    last_words: Callable[[Fault], bytes] = fault_frame
    """How a stream ends in which nothing but comments was sent."""


CHAT = Surface(
    name="chat",
    check=check_chat,
    streamed=lambda opening: StreamedAnswer(
        call_id=f"chatcmpl-{opening.call_id}",
        created=opening.created,
        model=opening.model,
        include_usage=opening.request.include_usage,
    ),
    whole=lambda opening: WholeAnswer(
        call_id=f"chatcmpl-{opening.call_id}", created=opening.created, model=opening.model
    ),
    split=split_chat,
)
