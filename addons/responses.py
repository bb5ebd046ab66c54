"""/v1/responses: what is kept of responses, and the endpoints that look at it.

A response that is built upon stands for the whole conversation before it: its items are put before the caller's own.
Its `instructions` are not carried over, as OpenAI has it.
"""

from __future__ import annotations

from urllib.parse import unquote

import orjson
from mitmproxy import http

from addons.exchange import Exchange, readable
from addons.response_store import Kept, items_in
from addons.state import State
from wire.answer import Answer
from wire.check import parse_body
from wire.errors import BadRequest, NotFound
from wire.openai import Json, ModelRequest
from wire.responses import EARLIER, ResponsesRequest, check_responses
from wire.responses_answer import ResponsesStreamed, ResponsesWhole
from wire.responses_items import MOST_SHOWN
from wire.responses_kept import RESPONSE, page, spelled_out


class EarlierNotFound(NotFound):
    code = "previous_response_not_found"


def read_responses(flow: http.HTTPFlow, exchange: Exchange, state: State) -> ModelRequest:
    """Reads and checks a call to a model, the conversation before it included; raises the fault."""
    body = parse_body(flow.request.raw_content or b"")
    client = _client(exchange)
    request, history = with_history(body, client, state)

    def keep(answer: Answer) -> None:
        if isinstance(answer, ResponsesStreamed | ResponsesWhole) and answer.response is not None:
            given = spelled_out(request.items, answer.response["id"].removeprefix(RESPONSE))
            state.responses.keep(client, answer.response, given, history)

    if body.get("store") is not False:
        exchange.on_done = keep
    return request


def with_history(body: Json, client: str, state: State) -> tuple[ResponsesRequest, tuple[bytes, ...]]:
    """The checked request, and the items of the conversation before it; raises the fault."""
    earlier = body.get(EARLIER)
    history: tuple[bytes, ...] = ()
    if isinstance(earlier, str):
        kept = state.responses.get(client, earlier)
        if kept is None:
            raise EarlierNotFound(
                f"Previous response with id '{earlier[:MOST_SHOWN]}' not found. Responses are kept for an hour at the "
                "most, and not at all with 'store' false; send all items in 'input' instead.",
                param=EARLIER,
            )
        history = kept.history
    return check_responses(body, items_in(history), state.responses.finder(client)), history


def response(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    """GET and DELETE of one response."""
    if flow.request.method == "DELETE":
        wanted = _wanted(flow)
        if not state.responses.delete(_client(exchange), wanted):
            raise _not_found(wanted)
        return _json(exchange, orjson.dumps({"id": wanted, "object": "response", "deleted": True}))
    if flow.request.query.get("stream") == "true":
        raise BadRequest("'stream': only responses made in the background can be streamed again.", param="stream")
    return _json(exchange, _kept(flow, exchange, state).response)


def input_items(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    """GET of what a response was made from, the conversation before it included."""
    items = items_in(_kept(flow, exchange, state).earlier)
    query = flow.request.query
    found = page(items, limit=query.get("limit"), order=query.get("order"), after=query.get("after"))
    return _json(exchange, orjson.dumps(found))


def cancel(flow: http.HTTPFlow, exchange: Exchange, state: State) -> http.Response:
    _kept(flow, exchange, state)
    raise BadRequest("Only responses made with 'background' can be cancelled, and none are made so here.")


def not_offered(flow: http.HTTPFlow, _exchange: Exchange, _state: State) -> http.Response:
    path = readable(flow.request.path.partition("?")[0])
    raise NotFound(f"{path[:200]} is not offered by this gateway: it needs OpenAI's own models.")


def no_traces(_flow: http.HTTPFlow, exchange: Exchange, _state: State) -> http.Response:
    """Agents report to OpenAI what they did, prompts included. It is taken, and nothing of it is read or kept."""
    return http.Response.make(204, b"", exchange.headers())


def _client(exchange: Exchange) -> str:
    assert exchange.client is not None
    return exchange.client.name


def _wanted(flow: http.HTTPFlow) -> str:
    rest = flow.request.path.partition("?")[0].partition("/responses/")[2]
    return readable(unquote(rest.partition("/")[0]))


def _kept(flow: http.HTTPFlow, exchange: Exchange, state: State) -> Kept:
    wanted = _wanted(flow)
    kept = state.responses.get(_client(exchange), wanted)
    if kept is None:
        raise _not_found(wanted)
    return kept


def _not_found(wanted: str) -> NotFound:
    return NotFound(f"Response with id '{wanted[:MOST_SHOWN]}' not found.")


def _json(exchange: Exchange, body: bytes) -> http.Response:
    return http.Response.make(200, body + b"\n", {"content-type": "application/json"} | exchange.headers())
