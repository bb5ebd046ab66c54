"""The responses that are kept for a while: so that a caller can build on one, read it again, or delete it.

They are kept as bytes, which are counted easily; a conversation's earlier items are shared by all of its responses. The
trap: an id may be guessed or overheard, so every client has its own, and nobody is told of another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
from cachetools import TTLCache

from wire.openai import Json
from wire.responses_kept import response_of

MAX_BYTES = 64 * 1024 * 1024
"""Of all that is kept; what was used longest ago goes first."""
MAX_COUNT = 1000
KEPT = 3600.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, and all items that led to it."""

    response: bytes
    """The Response object."""
    earlier: tuple[bytes, ...]
    """Arrays of items: of the responses before it, and what was given for this one."""
    output: bytes
    """The array of its own items."""

    @property
    def history(self) -> tuple[bytes, ...]:
        """What a response that builds on this one begins with."""
        return (*self.earlier, self.output)

    @property
    def size(self) -> int:
        """What it counts for: at least its share of MAX_BYTES, so that there are never more than MAX_COUNT."""
        return max(len(self.response) + sum(map(len, self.history)), MAX_BYTES // MAX_COUNT)


def items_in(segments: Sequence[bytes]) -> list[Json]:
    return [item for segment in segments for item in orjson.loads(segment)]


class ResponseStore:
    """(client, id) -> a response, for an hour at the most."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._kept: TTLCache[tuple[str, str], Kept] = TTLCache(
            MAX_BYTES, KEPT, timer=clock, getsizeof=lambda kept: kept.size
        )

    def keep(self, client: str, response: Json, given: Sequence[Json], history: tuple[bytes, ...]) -> bool:
        """False where it is too large, or cannot be written (the caller's items may nest deeper than what we write)."""
        try:
            kept = Kept(orjson.dumps(response), (*history, orjson.dumps(list(given))), orjson.dumps(response["output"]))
        except orjson.JSONEncodeError:
            return False
        if kept.size > MAX_BYTES:
            return False
        self._kept[client, response["id"]] = kept
        return True

    def get(self, client: str, response_id: str) -> Kept | None:
        return self._kept.get((client, response_id))

    def delete(self, client: str, response_id: str) -> bool:
        """Whether it was there."""
        return self._kept.pop((client, response_id), None) is not None

    def finder(self, client: str) -> Callable[[str], Json | None]:
        """For one request: an item's id -> the item, where it was made for a response that is kept.

        Each response is read once, however many of its items are asked for.
        """
        read: dict[str, dict[str, Json]] = {}

        def find(item_id: str) -> Json | None:
            name = response_of(item_id)
            if name not in read:
                kept = self.get(client, name)
                items = items_in([kept.earlier[-1], kept.output]) if kept is not None else []
                read[name] = {item["id"]: item for item in items if "id" in item}
            return read[name].get(item_id)

        return find
