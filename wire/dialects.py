"""The table of dialects: how a target of each kind is addressed, asked and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wire.compat import CompatReply, to_compat
from wire.ollama import OllamaReply, to_ollama
from wire.openai import ChatRequest, Reply, Translated
from wire.profiles import PROFILES


@dataclass(frozen=True, slots=True)
class Facets:
    """What a rules file says about a provider, as far as its dialect needs it."""

    profile: str = "compat"
    num_ctx: int | None = None
    keep_alive: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row: everything that differs between kinds of upstream."""

    accept: str
    """The media type of a streamed reply."""
    chat_path: Callable[[str, Facets], str]
    """(path of the configured URL) -> path of its chat endpoint."""
    translate: Callable[[ChatRequest, str, Facets], Translated]
    """(request, the upstream's name for the model) -> its body."""
    read: Callable[[Callable[[], str], str, Facets], Reply]
    """(maker of ids, content type of the reply) -> the reader of one reply."""


def _ollama_path(path: str, _facets: Facets) -> str:
    base = path.rstrip("/")
    for ending in ("/api/chat", "/api", "/v1"):
        base = base.removesuffix(ending)
    return base + "/api/chat"


def _compat_path(path: str, facets: Facets) -> str:
    base = path.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return (base or PROFILES[facets.profile].first_path) + "/chat/completions"


_OLLAMA = Dialect(
    accept="application/x-ndjson",
    chat_path=_ollama_path,
    translate=lambda request, model, facets: to_ollama(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive
    ),
    read=lambda make_id, _type, _facets: OllamaReply(make_id),
)
_COMPAT = Dialect(
    accept="text/event-stream",
    chat_path=_compat_path,
    translate=lambda request, model, facets: to_compat(request, model, PROFILES[facets.profile]),
    read=lambda make_id, content_type, facets: CompatReply(make_id, PROFILES[facets.profile], content_type),
)

DIALECTS: Mapping[str, Dialect] = {
    "ollama": _OLLAMA,
    "openai": _COMPAT,
    "sandbox": _OLLAMA,  # the built-in stand-in speaks as Ollama does
}
