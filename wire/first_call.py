"""`parallel_tool_calls: false` for servers that do not know it: what they call besides the first tool is left out.

The trap: a model that wanted two calls makes the second one again in its next turn, once it has seen the first one's
result. Half of a second call, though, would break the caller's program.
"""

from __future__ import annotations

from wire.openai import Delta, Json, Reading, Reply


class FirstCall:
    """A reader of which every choice makes one tool call at the most."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def feed(self, data: bytes) -> list[Reading]:
        return self._read(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._read(self._reply.close())

    def _read(self, readings: list[Reading]) -> list[Reading]:
        out: list[Reading] = []
        for reading in readings:
            if isinstance(reading, Delta) and "tool_calls" in reading.delta:
                reading = reading._replace(delta=_with_first(reading.delta))
                if not reading.delta and reading.logprobs is None and reading.finish_reason is None:
                    continue
            out.append(reading)
        return out


def _with_first(delta: Json) -> Json:
    """The readers count calls from 0."""
    calls = [call for call in delta["tool_calls"] if call["index"] == 0]
    others = {key: value for key, value in delta.items() if key != "tool_calls"}
    return others | {"tool_calls": calls} if calls else others
