"""What a browser must be told before it lets a web page call us and read our answers (`proxy.cors`).

Before a call a browser asks whether it may come at all, by OPTIONS and without the caller's key (the preflight); and of
an answer, an error as well as any other, it hides everything from a page whose origin the answer does not name. To a
page that is not allowed nothing is said of the kind, and that alone keeps it out: it is the browser that does so, and
looks at no status. People look at it, and at the body; so it is a 403 that says what to change.

Every answer to a request that could be read passes the hooks below, whoever wrote it: an endpoint, a model, the layer,
or Guard. What cannot be read as HTTP is answered without them, and no browser sends such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mitmproxy import http
from mitmproxy.http import HTTPFlow

from addons.exchange import Exchange, header_value
from addons.local import Endpoint
from addons.state import State
from rules.limits import BUDGET_LEFT, BUDGET_LIMIT
from wire.errors import Forbidden

REMEMBERED = 600
"""Seconds for which a browser need not ask again; Chromium's own bound is 7200."""
HEADERS = frozenset(
    {"authorization", "content-type", "accept", "user-agent", "cache-control", "x-requested-with"}
    | {"idempotency-key", "x-request-id", "x-client-request-id", "x-api-key", "api-key"}
    | {"http-referer", "x-title", "traceparent", "tracestate", "baggage"}  # of apps for many providers, and of tracing
)
"""That a page may send, with those of _SDK_HEADER and those that rules look at. Most of them are not read here."""
_SDK_HEADER = re.compile(r"(?:openai|x-stainless)-[a-z0-9-]+")
EXPOSED = ", ".join(
    (
        *("x-request-id", "retry-after", "x-should-retry", "openai-processing-ms"),
        *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
        *(f"x-gateway-{what}" for what in ("rule", "target", "skipped", "dropped")),
        BUDGET_LIMIT,
        BUDGET_LEFT,
    )
)
"""The headers of an answer that a page may read beyond the few that every page may."""
DEPENDS = "origin, access-control-request-method, access-control-request-headers"


class Cors:
    """Writes into each answer that is about to go out who may read it."""

    def __init__(self, state: State) -> None:
        self.state = state

    def responseheaders(self, flow: HTTPFlow) -> None:
        self._stamp(flow)

    def response(self, flow: HTTPFlow) -> None:
        self._stamp(flow)

    def _stamp(self, flow: HTTPFlow) -> None:
        exchange = self.state.exchanges.get(flow)
        origins = (exchange.rules if exchange is not None else self.state.rules).origins
        if origins is None or flow.response is None:
            return
        headers = flow.response.headers
        if not origins.every and "vary" not in headers:
            headers["vary"] = "origin"
        page = flow.request.headers.get("origin")
        said = origins.answer_to(page) if page is not None else None
        if said is not None:
            headers["access-control-allow-origin"] = said
            headers["access-control-expose-headers"] = EXPOSED


def preflight(exchange: Exchange, endpoint: Endpoint | None, head: Mapping[bytes, bytes]) -> http.Response | None:
    """The answer to a browser that asks whether a page may call; raises Forbidden where it may not.

    `head` has its names in lower case. None: it is no such question, or nothing is said to browsers here.
    """
    origins = exchange.rules.origins
    page = head.get(b"origin", b"").decode("latin-1")
    if origins is None or not page or b"access-control-request-method" not in head:
        return None
    if origins.answer_to(page) is None:
        if page == "null":
            raise Forbidden(
                "Calls from web pages whose origin is null are refused: every file and every sandbox says so. Serve "
                "the page from an address, such as http://localhost:3000, and list that under proxy.cors.origins."
            )
        who = header_value(page)[:200]
        raise Forbidden(f"Calls from web pages of {who} are refused. List that origin under proxy.cors.origins.")
    # Where there is nothing the page shall be able to read that: a refusal here it would take for a dead server.
    methods = endpoint.methods if endpoint is not None else ("GET", "POST")
    headers = {
        "access-control-allow-methods": ", ".join(methods),
        "access-control-max-age": str(REMEMBERED),
        "vary": DEPENDS,
    }
    wanted = head.get(b"access-control-request-headers", b"").decode("latin-1").lower().split(",")
    allowed = HEADERS | {name.lower() for rule in exchange.rules.file.rules for name in rule.when.header or ()}
    names = [name for name in map(str.strip, wanted) if name in allowed or _SDK_HEADER.fullmatch(name)]
    if names:
        headers["access-control-allow-headers"] = ", ".join(names)
    if head.get(b"access-control-request-private-network") == b"true":
        headers["access-control-allow-private-network"] = "true"
    response = http.Response.make(204, b"", headers | exchange.headers())
    del response.headers["content-length"]  # RFC 9110, section 8.6: not with a 204
    return response
