"""What an Ollama server says of one of its models: /api/show, read as far as a gateway can use it.

The trap: only a server that was started for it gives a model more context than a small default, and each change of
`num_ctx` loads the model anew, which takes minutes. So a window is chosen once per model, as large as the model and
the memory for its context allow. Facts: ollama_api sections 2 and 4; the keys of `model_info` are GGUF's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from wire.openai import Json

BYTES_PER_NUMBER = 2
"""Of the keys and values that a context keeps: f16, Ollama's default."""
STEP = 1024
"""Tokens. A window is a multiple of it, where it is not the model's own limit."""
SMALLEST = 4096
"""Tokens: Ollama's own default on a small machine. No less is ever chosen, unless the model's limit is lower."""
_MOST = 2**40
"""No honest number of a model's is larger."""
_WRITTEN = re.compile(r"^num_ctx\s+(\d{1,12})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of one model on one server. None: the server does not say it."""

    capabilities: frozenset[str] | None = None
    """Of Ollama's words: completion, tools, insert, vision, embedding, thinking, image, audio."""
    context_length: int | None = None
    """Tokens that it was trained for: no context is larger."""
    token_bytes: int | None = None
    """Bytes of memory that each token of its context takes, at the most: some models keep less of a long context."""
    num_ctx: int | None = None
    """Tokens of context that its Modelfile asks for."""

    def window_within(self, memory: int) -> int | None:
        """The `num_ctx` to ask for, where the context may take so many bytes of memory; None: better none.

        What the author of its Modelfile chose stands. Without a known limit and a known size any number is a guess.
        """
        if self.num_ctx is not None or self.context_length is None or self.token_bytes is None:
            return None
        fits = min(self.context_length, memory // self.token_bytes) // STEP * STEP
        return max(fits, min(SMALLEST, self.context_length))


def read_show(answer: Any) -> ModelFacts | None:
    """The reply to /api/show; None where it is none."""
    if not isinstance(answer, dict):
        return None
    given = answer.get("capabilities")
    words = frozenset(word for word in given if isinstance(word, str)) if isinstance(given, list) else None
    info = answer.get("model_info")
    named = _of_architecture(info) if isinstance(info, dict) else {}
    parameters = answer.get("parameters")
    written = _WRITTEN.search(parameters) if isinstance(parameters, str) else None
    return ModelFacts(
        capabilities=words or None,  # a server that does not know the field yet cannot mean that a model has none
        context_length=_number(named.get("context_length")),
        token_bytes=_token_bytes(named),
        num_ctx=int(written[1]) if written is not None else None,
    )


def _of_architecture(info: Json) -> Json:
    """`llama.context_length` and its like without the architecture's name."""
    prefix = f"{info.get('general.architecture')}."
    return {name.removeprefix(prefix): value for name, value in info.items() if name.startswith(prefix)}


def _token_bytes(named: Json) -> int | None:
    """Two vectors, key and value, for each head of each layer; None where a part of it is not said."""
    layers = _number(named.get("block_count"))
    heads = _heads(named.get("attention.head_count"), layers)
    # A reply that is not `verbose` leaves lists empty: then as many as there are heads, which is never too few.
    kept = _heads(named.get("attention.head_count_kv"), layers) or heads
    if layers is None or heads is None or kept is None:
        return None
    width = _number(named.get("embedding_length"))
    usual = width * layers // heads if width is not None else None
    key = _number(named.get("attention.key_length")) or usual
    value = _number(named.get("attention.value_length")) or usual
    if not key or not value:
        return None
    return kept * (key + value) * BYTES_PER_NUMBER


def _heads(given: Any, layers: int | None) -> int | None:
    """How many in all layers together: GGUF has one number for each of them, or a list of all."""
    if isinstance(given, list):
        known = [head for head in given if type(head) is int and 0 <= head < _MOST]
        return sum(known) or None if len(known) == len(given) else None
    each = _number(given)
    return each * layers if each is not None and layers is not None else None


def _number(given: Any) -> int | None:
    return given if type(given) is int and 0 < given < _MOST else None
