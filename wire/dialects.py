"""The table of dialects: how a target of each kind is addressed, asked and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from wire.compat import CompatReply, to_compat
from wire.ollama import OllamaReply, to_ollama
from wire.openai import ChatRequest, ModelRequest, Reply, Translated
from wire.profiles import PROFILES


@dataclass(frozen=True, slots=True)
class Facets:
    """What is known of a target, as far as its dialect needs it: from the rules file and from the server itself."""

    profile: str = "compat"
    num_ctx: int | None = None
    keep_alive: str | None = None
    capabilities: frozenset[str] | None = None
    """Of Ollama's words (completion, tools, vision, thinking, audio, embedding, insert); None: not known."""


class Path(Protocol):
    """(path of the configured URL, whether the request has a prefill) -> path of the endpoint."""

    def __call__(self, path: str, facets: Facets, prefill: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class Operation[Asked: ModelRequest]:
    """One thing that can be asked of a kind of upstream: how it is addressed, asked and read."""

    accept: str
    """The media type of a streamed reply."""
    path: Path
    translate: Callable[[Asked, str, Facets], Translated]
    """(request, the upstream's name for the model) -> its body; raises BadRequest where it cannot be told."""
    read: Callable[[Callable[[], str], str, Facets, Asked], Reply]
    """(maker of tool call ids, content type of the reply, facets, request) -> the reader of one reply."""
    one_by_one: Callable[[Asked, Facets], bool] = lambda asked, facets: False
    """Whether it cannot be told the request at once: several choices, several prompts, a long list of inputs."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row: everything that differs between kinds of upstream."""

    models_path: Callable[[str, Facets], str]
    """(path of the configured URL) -> path of its list of models."""
    operations: Mapping[str, Operation[Any]]
    """By ModelRequest.operation; what is missing cannot be asked of such a server."""


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


_OLLAMA_CHAT: Operation[ChatRequest] = Operation(
    accept="application/x-ndjson",
    path=_ollama_chat_path,
    translate=lambda request, model, facets: to_ollama(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive
    ),
    read=lambda make_id, _type, _facets, _request: OllamaReply(make_id),
    one_by_one=lambda request, _facets: request.choices > 1,
)
_COMPAT_CHAT: Operation[ChatRequest] = Operation(
    accept="text/event-stream",
    path=_compat_chat_path,
    translate=lambda request, model, facets: to_compat(request, model, PROFILES[facets.profile]),
    read=lambda make_id, content_type, facets, _request: CompatReply(make_id, PROFILES[facets.profile], content_type),
    one_by_one=lambda request, facets: request.choices > 1 and "n" in PROFILES[facets.profile].drops,
)
_OLLAMA = Dialect(
    models_path=lambda path, _facets: _ollama_base(path) + "/api/tags",
    operations={"chat": _OLLAMA_CHAT},
)
_COMPAT = Dialect(
    models_path=lambda path, facets: _compat_base(path, facets) + "/models",
    operations={"chat": _COMPAT_CHAT},
)

DIALECTS: Mapping[str, Dialect] = {
    "ollama": _OLLAMA,
    "openai": _COMPAT,
    "sandbox": _OLLAMA,  # the built-in stand-in speaks as Ollama does
}
