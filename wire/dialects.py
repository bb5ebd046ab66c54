"""The table of dialects: how a target of each kind is addressed, asked and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

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


class ChatPath(Protocol):
    """(path of the configured URL, whether the request has a prefill) -> path of the chat endpoint."""

    def __call__(self, path: str, facets: Facets, prefill: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row: everything that differs between kinds of upstream."""

    accept: str
    """The media type of a streamed reply."""
    chat_path: ChatPath
    models_path: Callable[[str, Facets], str]
    """(path of the configured URL) -> path of its list of models."""
    translate: Callable[[ChatRequest, str, Facets], Translated]
    """(request, the upstream's name for the model) -> its body."""
    read: Callable[[Callable[[], str], str, Facets], Reply]
    """(maker of ids, content type of the reply) -> the reader of one reply."""


def _ollama_base(path: str) -> str:
    base = path.rstrip("/")
    for ending in ("/api/chat", "/api", "/v1"):
        base = base.removesuffix(ending)
    return base


def _compat_base(path: str, facets: Facets) -> str:
    given = path.rstrip("/")
    base = given.removesuffix("/chat/completions")
    return base if given else PROFILES[facets.profile].first_path


def _ollama_chat_path(path: str, facets: Facets, prefill: bool = False) -> str:
    return _ollama_base(path) + "/api/chat"


def _compat_chat_path(path: str, facets: Facets, prefill: bool = False) -> str:
    base = _compat_base(path, facets)
    special = PROFILES[facets.profile].prefill_path
    if prefill and special is not None and not base.endswith(special):
        base = base.removesuffix("/v1") + special
    return base + "/chat/completions"


_OLLAMA = Dialect(
    accept="application/x-ndjson",
    chat_path=_ollama_chat_path,
    models_path=lambda path, _facets: _ollama_base(path) + "/api/tags",
    translate=lambda request, model, facets: to_ollama(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive
    ),
    read=lambda make_id, _type, _facets: OllamaReply(make_id),
)
_COMPAT = Dialect(
    accept="text/event-stream",
    chat_path=_compat_chat_path,
    models_path=lambda path, facets: _compat_base(path, facets) + "/models",
    translate=lambda request, model, facets: to_compat(request, model, PROFILES[facets.profile]),
    read=lambda make_id, content_type, facets: CompatReply(make_id, PROFILES[facets.profile], content_type),
)

DIALECTS: Mapping[str, Dialect] = {
    "ollama": _OLLAMA,
    "openai": _COMPAT,
    "sandbox": _OLLAMA,  # the built-in stand-in speaks as Ollama does
}
