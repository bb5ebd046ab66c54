"""All we know of one call, from its first header to its log line.

An exchange belongs to a flow. It is kept beside it in a weak map and not in `flow.metadata`, because a flow with a
dataclass in its metadata cannot be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from mitmproxy import http

from rules.access import Client
from rules.decide import Decision, Rules, Target
from wire.answer import StreamedAnswer, WholeAnswer
from wire.errors import Fault
from wire.openai import ChatRequest, Reply


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """A request that is ready to be sent to a target, and the way to read its reply."""

    target: Target
    host: str
    port: int
    tls: bool
    path: str
    accept: str
    body: bytes
    read: Callable[[str], Reply]
    """(content type) -> the reader of the reply."""

    def head(self) -> bytes:
        """Written from nothing, so that nothing of the caller's can leak; the only place where the key is seen."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"
        authorization = f"authorization: Bearer {self.target.key}\r\n" if self.target.key else ""
        return (
            f"POST {self.path} HTTP/1.1\r\n"
            f"host: {authority}\r\n"
            "content-type: application/json\r\n"
            f"accept: {self.accept}\r\n"
            "accept-encoding: identity\r\n"
            "user-agent: unigate\r\n"
            f"{authorization}"
            f"content-length: {len(self.body)}\r\n\r\n"
        ).encode()


@dataclass(slots=True)
class Attempt:
    """One try at one target."""

    target: Target
    started: float
    fault: Fault | None = None


@dataclass(slots=True, weakref_slot=True, eq=False)
class Exchange:
    """One call. Times are of the monotonic clock, in seconds."""

    request_id: str
    rules: Rules
    """The snapshot that the call began with."""
    started: float
    created: int
    """Unix time, for the answer's `created`."""
    client: Client | None = None
    request: ChatRequest | None = None
    decision: Decision | None = None
    waiting: list[Target] = field(default_factory=list)
    """Targets that were not tried yet, in order."""
    upstream: UpstreamCall | None = None
    """What the layer sends next. None: there is nothing to send, and nothing is sent."""
    attempts: list[Attempt] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    answer: StreamedAnswer | WholeAnswer | None = None
    first_token: float | None = None
    fault: Fault | None = None
    """Why the call as a whole failed."""
    ended: bool = False

    def headers(self) -> dict[str, str]:
        """What every answer of ours says about its way."""
        said = {"x-request-id": self.request_id}
        decision = self.decision
        if decision is not None and decision.rule is not None:
            said["x-gateway-rule"] = header_value(decision.rule)
            missed = "; ".join(f"{skip.target}: {skip.why}" for skip in decision.skipped if not skip.as_meant)
            if missed:
                said["x-gateway-skipped"] = header_value(missed)
        if self.upstream is not None:
            said["x-gateway-target"] = header_value(self.upstream.target.name)
        if self.dropped:
            said["x-gateway-dropped"] = header_value(", ".join(self.dropped))
        return said


type Exchanges = WeakKeyDictionary[http.HTTPFlow, Exchange]


def readable(text: str) -> str:
    """Text that mitmproxy made of a caller's bytes. What was not UTF-8 stands in it as half a surrogate pair, which
    neither JSON nor a log can carry."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def header_value(text: str) -> str:
    """Text that may come from a caller, as a header can carry it: printable ASCII, one line, bounded."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:512])
