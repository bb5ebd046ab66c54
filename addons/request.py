"""A call's way in: who is calling, is the call sound, which targets does it go to.

The caller's key is taken out of the flow before anything else looks at it (masks.py).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from loguru import logger
from mitmproxy.http import HTTPFlow, Response
from mitmproxy.net.http.url import parse_authority

from addons.cors import preflight
from addons.exchange import Exchange, readable
from addons.fetch import host_of
from addons.http1 import fault_response
from addons.lines import one_line
from addons.local import Endpoint, endpoint_at
from addons.masks import misplaced, take_key
from addons.permission import check_endpoint, check_model, identify
from addons.plan import decide_next
from addons.route import HeaderView, facts_of, images_to_fetch, no_route, parts_of
from addons.spool import Spool
from addons.state import State, new_request_id
from rules.access import is_local_origin
from rules.decide import Decision, decide
from rules.paths import permits
from rules.snapshot import Rules
from wire.check import parse_body
from wire.errors import (
    BadRequest,
    Fault,
    Forbidden,
    MethodNotAllowed,
    NoRoute,
    NotFound,
    ShuttingDown,
    TooLarge,
)
from wire.multipart import is_form
from wire.openai import ChatRequest, ModelRequest


class Request:
    def __init__(self, state: State) -> None:
        self.state = state

    def requestheaders(self, flow: HTTPFlow) -> None:
        state = self.state
        exchange = Exchange(
            request_id=new_request_id(), rules=state.rules, started=state.clock(), created=int(state.wall())
        )
        state.exchanges[flow] = exchange
        state.total += 1
        key = take_key(flow)
        if flow.error is not None:
            # The layer has found the head malformed and answers by itself; only the log is left to us.
            exchange.fault = BadRequest(flow.error.msg)
            return
        try:
            self._admit(flow, exchange, key)
        except Fault as fault:
            flow.request.headers.pop("expect", None)  # no "100 Continue" for a body that nobody will read
            refuse(flow, exchange, fault)

    def _admit(self, flow: HTTPFlow, exchange: Exchange, key: str | None) -> None:
        """Everything that can be said before the body is read; raises the fault."""
        state = self.state
        if flow.is_replay == "request":
            raise BadRequest("A call cannot be replayed through the gateway: its key is gone. Send it again.")
        if flow.client_conn not in state.served:
            raise Fault("This connection is not served by the gateway.")
        endpoint = find_endpoint(flow)
        if endpoint is not None and not is_offered(endpoint, exchange.rules):
            endpoint = None
        if state.draining and not (endpoint is not None and endpoint.to_the_end):
            raise ShuttingDown("The gateway is shutting down. Try again in a moment.", retry_after=5)
        # One look at all headers: mitmproxy's own way to find one costs as much as reading them all.
        head = {name.lower(): value for name, value in flow.request.headers.fields}
        parent = head.get(b"traceparent")
        if parent is not None:
            exchange.traceparent = parent.decode("latin-1")
        if flow.request.method == "OPTIONS":
            flow.response = preflight(exchange, endpoint, head)
            if flow.response is not None:
                return
        if not (endpoint is not None and endpoint.open):
            exchange.client = identify(exchange.rules, key, state.wall(), lambda: misplaced(flow))
        origin = head.get(b"origin")
        if origin is not None and not may_call(origin.decode("latin-1"), exchange.rules):
            raise Forbidden(
                "Without keys, calls from web pages of other sites are refused. List the page's origin under "
                "proxy.cors.origins, or set API_KEYS and send one of them."
            )
        if endpoint is not None:
            exchange.endpoint, exchange.to_model = endpoint.path, endpoint.answer is None
        else:
            path = readable(flow.request.path.partition("?")[0])
            raise NotFound(f"Invalid URL ({readable(flow.request.method)[:20]} {path[:200]})")
        if exchange.client is not None:
            check_endpoint(exchange.client, endpoint.path, exchange.rules, own=endpoint.own)
        if flow.request.method not in endpoint.methods:
            method = readable(flow.request.method)[:20]
            raise MethodNotAllowed(f"Not allowed to {method} here; use {' or '.join(endpoint.methods)}.")
        limit = exchange.rules.defaults.limits.body
        length = head.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise TooLarge(f"The request body has {int(length)} bytes; the limit is {limit.human_readable()}.")
        if head.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
            raise BadRequest("Compressed request bodies are not read here. Send the body uncompressed.")
        content_type = head.get(b"content-type", b"").decode("latin-1")
        if endpoint.answer is None and endpoint.surface.check_form is not None and is_form(content_type):
            exchange.spool = Spool(content_type)
        if state.keep_bodies:
            show_host(flow)

    def request(self, flow: HTTPFlow) -> Awaitable[None] | None:
        if flow.response is not None:
            return None
        exchange = self.state.exchanges[flow]
        endpoint = find_endpoint(flow)
        assert endpoint is not None
        try:
            if endpoint.answer is None:
                return self._route(flow, exchange, endpoint)
            answer = endpoint.answer(flow, exchange, self.state)
            if not isinstance(answer, Response):
                return self._answer_later(answer, flow, exchange)
            flow.response = answer
        except Fault as fault:
            refuse(flow, exchange, fault)
        return None

    async def _answer_later(self, answer: Awaitable[Response], flow: HTTPFlow, exchange: Exchange) -> None:
        try:
            flow.response = await answer
        except Fault as fault:
            refuse(flow, exchange, fault)

    def _route(self, flow: HTTPFlow, exchange: Exchange, endpoint: Endpoint) -> Awaitable[None] | None:
        """Checks a request to a model and decides where it goes; raises the fault. What is returned goes on with it."""
        exchange.surface = endpoint.surface
        if exchange.spool is not None:
            assert endpoint.surface.check_form is not None
            request = endpoint.surface.check_form(exchange.spool.form())
        elif endpoint.read is not None:
            request = endpoint.read(flow, exchange, self.state)
        else:
            request = endpoint.surface.check(parse_body(flow.request.raw_content or b""))
        exchange.request = request
        client = exchange.client
        assert client is not None
        check_model(client, request.model, exchange.rules)
        facts = facts_of(request, client=client.name, headers=HeaderView(flow), servers=self.state.seen)
        decision = exchange.decision = decide(exchange.rules, facts)
        if not decision.pools:
            raise no_route(request.model, decision, self.state.seen, self.state.names)
        waiting = self.state.limiter.admit(exchange)
        if waiting is not None:
            return self._go_on_after(waiting, flow, exchange, request)
        return self._go_on(flow, exchange, request)

    async def _go_on_after(
        self, waiting: Awaitable[None], flow: HTTPFlow, exchange: Exchange, request: ModelRequest
    ) -> None:
        """When its limits are known."""
        try:
            await waiting
            further = self._go_on(flow, exchange, request)
            if further is not None:
                await further
        except Fault as fault:
            refuse(flow, exchange, fault)

    def _go_on(self, flow: HTTPFlow, exchange: Exchange, request: ModelRequest) -> Awaitable[None] | None:
        """The call may go on; raises the fault where it cannot. What is returned goes on with it."""
        decision = exchange.decision  # where a budget is used up it is not what it was
        assert decision is not None
        urls = images_to_fetch(request, decision, self.state.models)
        if urls:
            return self._fetch(flow, exchange, decision, urls)
        self._begin(flow, exchange, request, decision)
        return None

    async def _fetch(self, flow: HTTPFlow, exchange: Exchange, decision: Decision, urls: tuple[str, ...]) -> None:
        """Fetches images before the call goes on: whether they came is for the targets that need them."""
        request, defaults = exchange.request, exchange.rules.defaults
        assert isinstance(request, ChatRequest)
        try:
            fetched, unfetched = await self.state.fetcher.fetch(urls, defaults.images, defaults.limits.body)
            for url, why in unfetched.items():
                logger.info("{}: no image from {}: {}", exchange.request_id, one_line(host_of(url)), why)
            exchange.request = replace(request, fetched=fetched, unfetched=unfetched)
            self._begin(flow, exchange, exchange.request, decision)
        except Fault as fault:
            refuse(flow, exchange, fault)

    def _begin(self, flow: HTTPFlow, exchange: Exchange, request: ModelRequest, decision: Decision) -> None:
        """Has the first target, or the parts of the call, ready to be asked; raises the fault."""
        state = self.state
        exchange.parts = parts_of(exchange.surface, request, decision)
        if exchange.parts:
            flow.comment = f"{decision.rule} → {len(exchange.parts)} parts"
            return
        exchange.plan = state.nodes.plan(exchange.rules, decision, request.prompt_chars, state.chance(), state.wall())
        decide_next(flow, exchange, state)
        if exchange.upstream is not None:
            flow.comment = f"{decision.rule} → {exchange.upstream.target.name}"
        elif exchange.pause is not None:
            flow.comment = f"{decision.rule} → waiting for a place"
        else:
            assert exchange.fault is not None
            raise exchange.fault


def refuse(flow: HTTPFlow, exchange: Exchange, fault: Fault) -> None:
    """Answers with a fault; nothing goes upstream."""
    exchange.fault = fault
    exchange.stop_asking()
    extra = exchange.headers()
    if isinstance(fault, NoRoute) and fault.retry_after is None:
        extra["x-should-retry"] = "false"  # the SDKs would try again at once, and in vain
    endpoint = find_endpoint(flow) if isinstance(fault, MethodNotAllowed) else None
    if endpoint is not None:
        extra["allow"] = ", ".join(endpoint.methods)
    flow.response = fault_response(fault, exchange.request_id, extra)


def show_host(flow: HTTPFlow) -> None:
    """Lets the flow show the host that the caller asked for, instead of the address that reverse mode made up."""
    try:
        host, port = parse_authority(flow.request.host_header or "", check=True)
    except ValueError:
        return
    data = flow.request.data
    data.scheme = b"https" if flow.client_conn.tls else b"http"
    data.host, data.port = host, port or (443 if flow.client_conn.tls else 80)


def may_call(page: str, rules: Rules) -> bool:
    """Whether pages of this origin may call: with keys whoever has one, without any those that we know of."""
    if rules.keys.required or is_local_origin(page):
        return True
    return rules.origins is not None and rules.origins.answer_to(page) is not None


def is_offered(endpoint: Endpoint, rules: Rules) -> bool:
    """Whether the rules let an endpoint be answered at all."""
    return endpoint.open or rules.endpoints is None or permits(rules.endpoints, endpoint.path, own=endpoint.own)


def find_endpoint(flow: HTTPFlow) -> Endpoint | None:
    """The endpoint of a path, with or without its /v1."""
    return endpoint_at(flow.request.path.partition("?")[0])
