"""What models thought before they called a tool, for servers that want it back with the call's result.

OpenAI's clients never send reasoning back. DeepSeek refuses the next turn without it (openai_api section 6.2), so it is
remembered by tool call id and put back in. The trap: ids are the server's, and callers choose which ids they send. So
each client has its own memory, and nobody can have another one's thoughts put into a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from cachetools import TTLCache

from wire.openai import Delta, Finished, Reading, Reply

MAX_CHARS = 32 * 1024 * 1024
"""Of all that is remembered; the oldest goes first."""
KEPT = 6 * 3600.0
"""Seconds. A conversation that pauses for longer goes on without its thoughts."""

type _Memory = TTLCache[tuple[str, str], str]


class Thoughts:
    """(client, tool call id) -> the reasoning that led to the call."""

    def __init__(self, clock: Callable[[], float], max_chars: int = MAX_CHARS) -> None:
        self._memory: _Memory = TTLCache(max_chars, KEPT, timer=clock, getsizeof=len)
        self._max_chars = max_chars

    def of(self, client: str) -> Mapping[str, str]:
        """Tool call id -> reasoning, of one client."""
        return _Of(self._memory, client)

    def listen(self, client: str, reply: Reply) -> Reply:
        """The same reply; what it thinks before it calls tools is remembered when it is complete."""
        return _Listening(reply, lambda ids, text: self._keep(client, ids, text))

    def _keep(self, client: str, ids: list[str], text: str) -> None:
        if 0 < len(text) <= self._max_chars:
            for name in ids:
                self._memory[client, name] = text


class _Of(Mapping[str, str]):
    def __init__(self, memory: _Memory, client: str) -> None:
        self._memory = memory
        self._client = client

    def __getitem__(self, name: str) -> str:
        return self._memory[self._client, name]

    def __iter__(self) -> Iterator[str]:
        return (name for client, name in self._memory if client == self._client)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Listening:
    def __init__(self, reply: Reply, keep: Callable[[list[str], str], None]) -> None:
        self._reply = reply
        self._keep = keep
        self._thoughts: list[str] = []
        self._ids: list[str] = []

    def feed(self, data: bytes) -> list[Reading]:
        return self._heard(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._heard(self._reply.close())

    def _heard(self, readings: list[Reading]) -> list[Reading]:
        for reading in readings:
            if isinstance(reading, Delta):
                thought = reading.delta.get("reasoning_content")
                if thought is not None:
                    self._thoughts.append(thought)
                for call in reading.delta.get("tool_calls", ()):
                    if call.get("id"):
                        self._ids.append(call["id"])
            elif isinstance(reading, Finished) and self._ids:
                self._keep(self._ids, "".join(self._thoughts))
        return readings
