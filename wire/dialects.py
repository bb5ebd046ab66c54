"""The table of dialects: how a target of each kind is addressed, asked and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from wire.compat import comes_as_stream, to_compat
from wire.compat_reply import read_compat
from wire.completions import CompletionRequest
from wire.completions_upstream import (
    CompletionReply,
    GenerateReply,
    completes_in_stream,
    to_compat_completion,
    to_ollama_generate,
)
from wire.embeddings import EmbeddingsRequest, EmbedReply, is_long, to_compat_embeddings, to_ollama_embed
from wire.images import remote_images
from wire.media import MediaRequest, TranscriptionRequest, to_relay
from wire.ollama import ollama_reply, to_ollama
from wire.openai import ChatRequest, ModelRequest, Reply, Translated
from wire.profiles import PROFILES
from wire.relay import RelayedReply
from wire.transcripts import TranscriptReply, to_ollama_transcript

WHILE_IT_WORKS = 5.0
"""What does not come word by word (an image, a transcript, a vector, a text asked for as a whole): until its work is
nearly done a server is silent, and not dead. With the usual limits that leaves another target time within the ten
minutes that OpenAI's SDKs wait."""


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
    relays: bool = False
    """Its replies are passed on as they are, their media type too."""
    first_token_times: Callable[[Asked, Facets], float] = lambda asked, facets: 1.0
    """Its first word may take so many times as long as that of a chat that is streamed."""
    goes_on: Callable[[Facets], bool] = lambda facets: False
    """Whether it promises to go on from the text so far, where the request has a prefill."""
    inlines: Callable[[Asked, Facets], tuple[str, ...]] = lambda asked, facets: ()
    """URLs of the request's images that it cannot be told: it wants the images themselves."""


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


def _compat_completions_path(path: str, facets: Facets, prefill: bool = False) -> str:
    base = _compat_base(path, facets)
    special = PROFILES[facets.profile].completions_path
    if special is not None and not base.endswith(special):
        base = base.removesuffix("/v1") + special
    return base + "/completions"


def _too_long(urls: tuple[str, ...], limit: int | None) -> tuple[str, ...]:
    return tuple(url for url in urls if limit is not None and len(url) > limit)


def _while_it_works(_request: ModelRequest, _facets: Facets) -> float:
    return WHILE_IT_WORKS


_OLLAMA_CHAT: Operation[ChatRequest] = Operation(
    accept="application/x-ndjson",
    path=_ollama_chat_path,
    translate=lambda request, model, facets: to_ollama(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive, capabilities=facets.capabilities
    ),
    read=lambda make_id, _type, _facets, request: ollama_reply(request, make_id),
    one_by_one=lambda request, _facets: request.choices > 1,
    inlines=lambda request, facets: (
        remote_images(request) if facets.capabilities is None or "vision" in facets.capabilities else ()
    ),
)
_COMPAT_CHAT: Operation[ChatRequest] = Operation(
    accept="text/event-stream",
    goes_on=lambda facets: bool(PROFILES[facets.profile].prefill_message),
    path=_compat_chat_path,
    translate=lambda request, model, facets: to_compat(request, model, PROFILES[facets.profile]),
    read=lambda make_id, content_type, facets, request: read_compat(
        make_id, content_type, PROFILES[facets.profile], request
    ),
    one_by_one=lambda request, facets: request.choices > 1 and "n" in PROFILES[facets.profile].drops,
    first_token_times=lambda request, facets: (
        1.0 if comes_as_stream(request, PROFILES[facets.profile]) else WHILE_IT_WORKS
    ),
    inlines=lambda request, facets: _too_long(remote_images(request), PROFILES[facets.profile].max_url),
)
_OLLAMA_EMBED: Operation[EmbeddingsRequest] = Operation(
    accept="application/json",
    path=lambda path, _facets, prefill=False: _ollama_base(path) + "/api/embed",
    translate=lambda request, model, facets: to_ollama_embed(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive, capabilities=facets.capabilities
    ),
    read=lambda _make_id, _type, _facets, request: EmbedReply(request),
    one_by_one=lambda request, _facets: is_long(request),
    first_token_times=_while_it_works,
)
_COMPAT_EMBEDDINGS: Operation[EmbeddingsRequest] = Operation(
    accept="application/json",
    path=lambda path, facets, prefill=False: _compat_base(path, facets) + "/embeddings",
    translate=lambda request, model, facets: to_compat_embeddings(request, model, PROFILES[facets.profile]),
    read=lambda _make_id, _type, _facets, request: EmbedReply(request),
    first_token_times=_while_it_works,
)
_OLLAMA_GENERATE: Operation[CompletionRequest] = Operation(
    accept="application/x-ndjson",
    path=lambda path, _facets, prefill=False: _ollama_base(path) + "/api/generate",
    translate=lambda request, model, facets: to_ollama_generate(
        request, model, num_ctx=facets.num_ctx, keep_alive=facets.keep_alive, capabilities=facets.capabilities
    ),
    read=lambda make_id, _type, _facets, _request: GenerateReply(make_id),
    one_by_one=lambda request, _facets: request.samples > 1,
    goes_on=lambda _facets: True,
)
_COMPAT_COMPLETIONS: Operation[CompletionRequest] = Operation(
    accept="text/event-stream",
    path=_compat_completions_path,
    translate=lambda request, model, facets: to_compat_completion(request, model, PROFILES[facets.profile]),
    read=lambda make_id, content_type, facets, request: CompletionReply(
        make_id, PROFILES[facets.profile], content_type, request
    ),
    # A server that gives one choice only takes one prompt only.
    one_by_one=lambda request, facets: request.samples > 1 and "n" in PROFILES[facets.profile].drops,
    first_token_times=lambda request, facets: (
        1.0 if completes_in_stream(request, PROFILES[facets.profile]) else WHILE_IT_WORKS
    ),
    goes_on=lambda _facets: True,
)


def _relayed(ending: str) -> Operation[MediaRequest]:
    """An endpoint of OpenAI's whose calls and replies are passed on."""
    return Operation(
        accept="*/*",
        path=lambda path, facets, prefill=False: _compat_base(path, facets) + ending,
        translate=lambda request, model, _facets: to_relay(request, model),
        read=lambda _make_id, content_type, _facets, request: RelayedReply(content_type, whole=not request.stream),
        relays=True,
        first_token_times=_while_it_works,
    )


_OLLAMA_TRANSCRIPT: Operation[TranscriptionRequest] = Operation(
    accept="application/x-ndjson",
    path=_ollama_chat_path,
    translate=lambda request, model, facets: to_ollama_transcript(
        request,
        model,
        num_ctx=facets.num_ctx,
        keep_alive=facets.keep_alive,
        hears=facets.capabilities is None or "audio" in facets.capabilities,
    ),
    read=lambda make_id, _type, _facets, _request: TranscriptReply(make_id),
    first_token_times=_while_it_works,
)
_OLLAMA = Dialect(
    models_path=lambda path, _facets: _ollama_base(path) + "/api/tags",
    operations={
        "chat": _OLLAMA_CHAT,
        "embeddings": _OLLAMA_EMBED,
        "completions": _OLLAMA_GENERATE,
        "transcription": _OLLAMA_TRANSCRIPT,
        "translation": _OLLAMA_TRANSCRIPT,
    },
)
_COMPAT = Dialect(
    models_path=lambda path, facets: _compat_base(path, facets) + "/models",
    operations={
        "chat": _COMPAT_CHAT,
        "embeddings": _COMPAT_EMBEDDINGS,
        "completions": _COMPAT_COMPLETIONS,
        "transcription": _relayed("/audio/transcriptions"),
        "translation": _relayed("/audio/translations"),
        "speech": _relayed("/audio/speech"),
        "images": _relayed("/images/generations"),
        "image edits": _relayed("/images/edits"),
        "image variations": _relayed("/images/variations"),
    },
)

DIALECTS: Mapping[str, Dialect] = {
    "ollama": _OLLAMA,
    "openai": _COMPAT,
    "sandbox": _OLLAMA,  # the built-in stand-in speaks as Ollama does
}
