"""A blank answer where JSON was asked for is a failure of the target, seen before any of it is passed on.

The trap: in JSON mode some servers put blanks in place of what is not JSON (openai_api section 6.2), and some models
write blanks up to their limit. Either comes as a complete answer with status 200.
"""

from __future__ import annotations

from wire.errors import UpstreamFault
from wire.openai import Delta, Finished, Json, Reading, Reply


class NotBlank:
    """The reader of a reply, for a request that wants JSON: text is held back until some of it is not blank.

    What is held back is no content to anybody. Reasoning passes at once: that is no answer, but a sign of life.
    """

    __slots__ = ("_held", "_passes", "_reply")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._held: list[Delta] = []
        """Blank text, and the finish_reasons after it."""
        self._passes = False

    def feed(self, data: bytes) -> list[Reading]:
        return self._read(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._read(self._reply.close())

    def _read(self, readings: list[Reading]) -> list[Reading]:
        if self._passes:
            return readings
        out: list[Reading] = []
        for reading in readings:
            match reading:
                case Delta() if not self._passes:
                    self._read_delta(reading, out)
                case Finished() if not self._passes:
                    if self._is_meant():
                        out += [*self._held, reading]
                    else:
                        out.append(UpstreamFault("gave a blank answer where JSON was asked for", kind="blank"))
                case _:
                    out.append(reading)
        return out

    def _is_meant(self) -> bool:
        """Whether there is a reason for the blank: a filter took the answer, or the caller's limit came before it."""
        reason = next((piece.finish_reason for piece in self._held if piece.finish_reason is not None), None)
        empty = not any(piece.delta.get("content") for piece in self._held)
        return reason == "content_filter" or (reason == "length" and empty)

    def _read_delta(self, piece: Delta, out: list[Reading]) -> None:
        if _is_answer(piece.delta):
            self._passes = True
            out += [*self._held, piece]
            self._held.clear()
        elif "reasoning_content" in piece.delta:
            thought = {"reasoning_content": piece.delta["reasoning_content"]}
            blank = {key: value for key, value in piece.delta.items() if key != "reasoning_content"}
            out.append(piece._replace(delta=thought, finish_reason=None))
            if blank or piece.finish_reason is not None:
                self._held.append(piece._replace(delta=blank, logprobs=None))
        else:
            self._held.append(piece)


def _is_answer(delta: Json) -> bool:
    """True for text that is not blank, and for whatever is neither text nor reasoning: a tool call, a refusal."""
    return bool(delta.get("content", "").strip()) or not delta.keys() <= {"content", "reasoning_content"}
