"""What is known of each model on each Ollama server, and what follows from it for a call.

The inventory asks the servers and fills this in; a call only looks. What is known of a model belongs to its digest:
it is asked once, and again when the name stands for another model. So the window that is chosen for a model never
changes while we run, and no call makes a server load a model anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rules.conditions import model_name
from rules.targets import Target
from wire.dialects import Facets
from wire.models import ModelFacts

MOST_MODELS = 500
"""Of one server. Of more nothing is known."""
ASK_AGAIN = 60.0
"""Seconds after which a server that could not say anything of a model is asked again."""
NOTHING = ModelFacts()


@dataclass(frozen=True, slots=True)
class _Known:
    digest: str
    facts: ModelFacts
    good_until: float
    """Of the monotonic clock; infinite where the server has answered."""


class Models:
    """(server, model) -> what is known of it."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, _Known]] = {}
        """url -> model, as model_name() spells it -> what is known."""

    # -- for whoever asks the servers

    def unknown(self, url: str, listed: Mapping[str, str], now: float) -> list[tuple[str, str]]:
        """(name, digest) of those that the server is to be asked about, out of all it has: name -> digest.

        What it has no more is forgotten.
        """
        names = {model_name(name): (name, digest) for name, digest in [*listed.items()][:MOST_MODELS]}
        known = self._known[url] = {name: one for name, one in self._known.get(url, {}).items() if name in names}
        return [
            (name, digest)
            for spelled, (name, digest) in names.items()
            if (one := known.get(spelled)) is None or one.digest != digest or one.good_until <= now
        ]

    def learnt(self, url: str, name: str, digest: str, facts: ModelFacts | None, now: float) -> None:
        """The server's answer; None where there was nothing in it."""
        good_until = math.inf if facts is not None else now + ASK_AGAIN
        self._known.setdefault(url, {})[model_name(name)] = _Known(digest, facts or NOTHING, good_until)

    # -- for a call

    def of(self, target: Target) -> ModelFacts:
        known = self._known.get(target.url, {}).get(target.known_as)
        return known.facts if known is not None else NOTHING

    def facets(self, target: Target) -> Facets:
        """What the target's dialect needs to know to ask it."""
        return Facets(target.profile, self.num_ctx(target), target.keep_alive, self.of(target).capabilities)

    def num_ctx(self, target: Target) -> int | None:
        """Tokens of context that it is asked to have; None: it is left to the server."""
        if target.num_ctx is not None or target.context_memory is None:
            return target.num_ctx
        return self.of(target).window_within(target.context_memory)

    def window(self, target: Target) -> int | None:
        """Tokens that a prompt and its answer may have there; None: not known."""
        if target.window is not None:
            return target.window
        facts = self.of(target)
        asked = self.num_ctx(target) or facts.num_ctx
        # Ollama gives no more than the model was trained for.
        return min(asked, facts.context_length or asked) if asked is not None else None

    def most(self, target: Target) -> int | None:
        """Tokens that it can have at the most; None: not known."""
        return self.window(target) or self.of(target).context_length


def digests(rows: Iterable[object]) -> dict[str, str]:
    """name -> what changes when the name stands for another model, from the rows of /api/tags."""
    return {
        name: str(row.get("digest") or row.get("modified_at") or "")
        for row in rows
        if isinstance(row, dict) and isinstance(name := row.get("name"), str)
    }
