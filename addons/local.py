"""The endpoints that we answer ourselves, and the table of all endpoints."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson
from mitmproxy import http

from addons import responses
from addons.catalogue import find_model, list_models
from addons.exchange import Exchange, readable
from addons.explain import explain
from addons.exposition import exposition
from addons.route import HeaderView
from addons.standings import limits_shown
from addons.state import State
from addons.status import status_of
from wire.check import parse_body
from wire.errors import ModelNotFound
from wire.openai import ModelRequest
from wire.surfaces import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    RESPONSES,
    SPEECH,
    TRANSCRIPTION,
    TRANSLATION,
    Surface,
)

type Answer = Callable[[http.HTTPFlow, Exchange, State], http.Response | Awaitable[http.Response]]
"""At once, or later; raises the fault."""
type Read = Callable[[http.HTTPFlow, Exchange, State], ModelRequest]
"""Reads and checks a call that goes to a model; raises the fault."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    methods: tuple[str, ...]
    answer: Answer | None = None
    """None: the call goes to a model."""
    surface: Surface = CHAT
    """What its caller speaks, where the call goes to a model."""
    read: Read | None = None
    """How a call that goes to a model is read; None: its body is the JSON that the surface checks."""
    open: bool = False
    """Answered without a key."""
    to_the_end: bool = False
    """Answered also while the gateway waits for its last calls to end."""
    own: bool = False
    """A page of the gateway's own, which tells of all that goes on: not for a named client, unless its row lists it."""
    path: str = ""
    """As the table below has it."""


def _json(exchange: Exchange, value: Any, status: int = 200) -> http.Response:
    headers = {"content-type": "application/json"} | exchange.headers()
    return http.Response.make(status, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE), headers)


def _models(_flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    return _json(exchange, {"object": "list", "data": list(list_models(exchange, state))})


def _model(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    # The SDKs percent-encode a slash in an id; a plain one is read as well.
    wanted = readable(unquote(flow.request.path.partition("?")[0].partition("/models/")[2]))
    model = find_model(exchange, state, wanted)
    if model is None:
        message = f"The model `{wanted[:200]}` does not exist or you do not have access to it."
        raise ModelNotFound(message, param="model")
    return _json(exchange, model)


def _health(_flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    health = state.health()
    return _json(exchange, health, 503 if health["status"] == "unhealthy" else 200)


async def _status(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    limits = await limits_shown(state.limiter, exchange, flow.request.query.get("client"))
    said = asdict(status_of(state)) | {"targets": state.nodes.rows()}
    return _json(exchange, said | ({"limits": limits} if limits else {}))


def _metrics(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    text, content_type = exposition(state, flow.request.headers.get("accept", ""))
    return http.Response.make(200, text, {"content-type": content_type} | exchange.headers())


def _explain(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    body = parse_body(flow.request.raw_content or b"")
    endpoint = body.get("endpoint")
    if isinstance(body.get("request"), dict):
        body = body["request"]
    assert exchange.client is not None
    explained = explain(state, body, endpoint=endpoint, client=exchange.client.name, headers=HeaderView(flow))
    headers = {"content-type": "application/json"} | exchange.headers()
    return http.Response.make(200, explained.as_json(), headers)


_TABLE = {
    "/chat/completions": Endpoint(("POST",), surface=CHAT),
    "/completions": Endpoint(("POST",), surface=COMPLETIONS),
    "/embeddings": Endpoint(("POST",), surface=EMBEDDINGS),
    "/audio/transcriptions": Endpoint(("POST",), surface=TRANSCRIPTION),
    "/audio/translations": Endpoint(("POST",), surface=TRANSLATION),
    "/audio/speech": Endpoint(("POST",), surface=SPEECH),
    "/images/generations": Endpoint(("POST",), surface=IMAGES),
    "/images/edits": Endpoint(("POST",), surface=IMAGE_EDITS),
    "/images/variations": Endpoint(("POST",), surface=IMAGE_VARIATIONS),
    "/responses": Endpoint(("POST",), surface=RESPONSES, read=responses.read_responses),
    "/responses/input_tokens": Endpoint(("POST",), responses.not_offered),
    "/responses/compact": Endpoint(("POST",), responses.not_offered),
    "/responses/{id}": Endpoint(("GET", "HEAD", "DELETE"), responses.response),
    "/responses/{id}/input_items": Endpoint(("GET", "HEAD"), responses.input_items),
    "/responses/{id}/cancel": Endpoint(("POST",), responses.cancel),
    "/traces/ingest": Endpoint(("POST",), responses.no_traces),
    "/models": Endpoint(("GET", "HEAD"), _models),
    "/models/{id:path}": Endpoint(("GET", "HEAD"), _model),
    "/health": Endpoint(("GET", "HEAD"), _health, open=True, to_the_end=True),
    "/metrics": Endpoint(("GET", "HEAD"), _metrics, to_the_end=True, own=True),
    "/gateway/status": Endpoint(("GET", "HEAD"), _status, to_the_end=True, own=True),
    "/gateway/explain": Endpoint(("POST",), _explain, own=True),
}
"""Paths without their /v1. `{id}` is one segment of a path, `{id:path}` all the rest of it."""

ENDPOINTS = {path: replace(endpoint, path=path) for path, endpoint in _TABLE.items()}

_TEMPLATES = tuple(
    (re.compile(path.replace("{id:path}", ".+").replace("{id}", "[^/]+")), endpoint)
    for path, endpoint in ENDPOINTS.items()
    if "{" in path
)


def endpoint_at(path: str) -> Endpoint | None:
    """The endpoint of a path, with or without its /v1."""
    path = path.removeprefix("/v1") if path.startswith("/v1/") else path
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        endpoint = next((row for form, row in _TEMPLATES if form.fullmatch(path)), None)
    return endpoint
