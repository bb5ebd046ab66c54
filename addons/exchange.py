"""All we know of one call, from its first header to its log line.

An exchange belongs to a flow. It is kept beside it in a weak map and not in `flow.metadata`, because a flow with a
dataclass in its metadata cannot be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from mitmproxy import http

from addons.node import Node, Ticket
from addons.spool import Spool
from rules.access import Client
from rules.decide import Decision
from rules.health import Candidate
from rules.limits import Allowance
from rules.snapshot import Rules
from rules.targets import Target
from wire.answer import Streamed, Whole
from wire.errors import Busy, Fault, NotAsAsked, Resting, TimedOut
from wire.openai import Delta, Json, ModelRequest, Reading, Reply, Usage
from wire.parts import Part
from wire.surfaces import CHAT, Surface
from wire.upload import Upload


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
    patience: float | None = None
    """Seconds to the first content for a server that shows signs of life meanwhile; None: as for any other."""
    upload: Upload | None = None
    """In place of `body`: what is made of the exchange's spool while it is sent."""
    relays: bool = False
    """The reply is passed on as it is."""
    first_token_times: float = 1
    """Its first content may take so many times as long as that of a chat."""
    trusted: bool = False
    """The server promises to go on from the text so far, where there is one."""

    def head(self) -> bytes:
        """Written from nothing, so that nothing of the caller's can leak; the only place where the key is seen."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"
        authorization = f"authorization: Bearer {self.target.key}\r\n" if self.target.key else ""
        return (
            f"POST {self.path} HTTP/1.1\r\n"
            f"host: {authority}\r\n"
            f"content-type: {self.upload.content_type if self.upload is not None else 'application/json'}\r\n"
            f"accept: {self.accept}\r\n"
            "accept-encoding: identity\r\n"
            "user-agent: unigate\r\n"
            f"{authorization}"
            f"content-length: {self.upload.length if self.upload is not None else len(self.body)}\r\n\r\n"
        ).encode()


@dataclass(slots=True)
class Attempt:
    """One try at one target."""

    target: Target
    started: float
    node: Node | None = None
    """Where it holds a place; None once it has given it back, or never had one."""
    probes: bool = False
    """It is the one call that a half-open breaker lets through."""
    ended: float | None = None
    """When its place was given back."""
    awaited: bool = False
    """It has the whole request and has not begun to answer."""
    accepted: bool = False
    """It took the call and began to work on it: its answer's status was 200."""
    completed: bool = False
    """Its answer came to its end."""
    pieces: int = 0
    """Deltas of its reply with something in them: as good as each of them is a token."""
    chars: int = 0
    """Characters of what it said, where it did not count its tokens itself."""
    chars_before: int = 0
    """Characters that the answer had already when it went on with it."""
    chars_sent: int | None = None
    """Characters of the prompt that it was sent, with the beginning of an answer where it is to go on with one. None:
    it was never made ready."""
    relays: bool = False
    """Its reply is passed on as it is: a piece of that is no token."""
    entered: float = 0.0
    """What its server's enter() gave."""
    busy: float = 0.0
    """Seconds of its server's time that were this call's own; with n calls at once, each has an n-th of them."""
    tried: bool = False
    """It was asked, or could not be reached. Not so where it could not be told the request, was full, or is resting."""
    continues: bool = False
    """It was asked to go on from what the caller has already."""
    first_token: float | None = None
    """When its first content came."""
    usage: Json | None = None
    """As the target itself counted, last."""
    counted: int = 0
    """How many of its pieces had come by then."""
    fault: Fault | None = None

    @property
    def worked(self) -> bool:
        """Whether its target worked for the call, or must be taken to have: it had the whole request, and was still
        waited for when the caller left or the time was up."""
        return self.accepted or (self.awaited and (self.fault is None or isinstance(self.fault, TimedOut)))

    def note(self, readings: Iterable[Reading]) -> None:
        """Counts what came of its reply."""
        for reading in readings:
            if type(reading) is Delta:
                self.pieces += bool(reading.delta)
            elif type(reading) is Usage:
                self.usage, self.counted = reading.usage, self.pieces


@dataclass(frozen=True, slots=True)
class Pause:
    """There is nothing to ask at this moment."""

    until: float
    ticket: Ticket | None = None
    """The call's place in a queue; None where it waits for a target to be ready again."""

    @property
    def over(self) -> bool:
        """True where it ends before its time."""
        return self.ticket is not None and (self.ticket.granted is not None or self.ticket.called_off)


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
    endpoint: str = ""
    """As the table of endpoints has it: `/chat/completions`."""
    to_model: bool = False
    """It came to an endpoint whose calls go to models."""
    traceparent: str | None = None
    """The caller's own span, as the header of that name has it."""
    allowance: Allowance | None = None
    """What it has taken of its limits."""
    admitted: bool = False
    """Its limits let it pass, or it has none."""
    surface: Surface = CHAT
    """What the caller speaks."""
    spool: Spool | None = None
    """The caller's body, where it is a form."""
    request: ModelRequest | None = None
    parts: tuple[Part, ...] = ()
    """What it is split into, where one upstream call cannot answer it."""
    decision: Decision | None = None
    plan: tuple[Candidate[Target], ...] = ()
    """The targets in order, with what is known of each in this call."""
    place: int = 0
    """Which of them was asked last."""
    upstream: UpstreamCall | None = None
    """What the layer sends next. None: there is nothing to send, and nothing is sent."""
    rest_until: float | None = None
    """Until when it waits for targets that rest because of other calls; None while there was no need."""
    pause: Pause | None = None
    """Why there is nothing to send just now, though something will be."""
    repair: NotAsAsked | None = None
    """The answer that was not the JSON that was asked for: the next one is asked for with it."""
    begun: bool = False
    """The caller has the beginning of the answer: whoever answers now must go on from there."""
    attempts: list[Attempt] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    answer: Streamed | Whole | None = None
    on_done: Callable[[Streamed | Whole], None] | None = None
    """Is told once that the answer is complete, before the caller gets its last bytes."""
    first_token: float | None = None
    fault: Fault | None = None
    """Why the call as a whole failed."""
    ended: bool = False

    @property
    def ends(self) -> float:
        """When the call as a whole has taken too long."""
        return self.started + self.rules.defaults.timeouts.total

    @property
    def serving(self) -> Attempt | None:
        """The attempt under way."""
        attempt = self.attempts[-1] if self.attempts else None
        return attempt if attempt is not None and attempt.node is not None else None

    def note_said(self) -> None:
        """The attempt under way ends: where its target has not counted, how much it said is found in the answer."""
        attempt = self.attempts[-1] if self.attempts else None
        if attempt is not None and attempt.accepted and attempt.usage is None and isinstance(self.answer, Streamed):
            attempt.chars = self.answer.said.chars - attempt.chars_before

    def conclude(self) -> None:
        """Before the caller gets its last bytes: what it asks for next may build on this answer."""
        if self.on_done is not None and self.answer is not None and self.answer.done:
            tell, self.on_done = self.on_done, None
            tell(self.answer)

    def forget_frames(self) -> None:
        """A fault that was raised knows the frames it came through, and they know the flow: as long as its exchange
        holds the flow, a weak map of flows never lets go of either."""
        for fault in (self.fault, *(attempt.fault for attempt in self.attempts)):
            if fault is not None:
                fault.__traceback__ = fault.__context__ = fault.__cause__ = None

    def stop_asking(self) -> None:
        """Nobody else is asked in this call."""
        self.upstream, self.plan = None, ()
        pause, self.pause = self.pause, None
        if pause is not None and pause.ticket is not None:
            pause.ticket.cancel()

    def _not_asked(self, decision: Decision) -> list[str]:
        said = [f"{skip.target}: {skip.why}" for skip in decision.skipped if not skip.as_meant]
        if len(self.attempts) > 1:
            passed_over = (attempt for attempt in self.attempts if isinstance(attempt.fault, Resting | Busy))
            said += [f"{attempt.target.name}: {attempt.fault.message}" for attempt in passed_over if attempt.fault]
        return list(dict.fromkeys(said))  # each part of a call may have met the same

    def headers(self) -> dict[str, str]:
        """What every answer of ours says about its way."""
        said = {"x-request-id": self.request_id}
        decision = self.decision
        if decision is not None and decision.rule is not None:
            said["x-gateway-rule"] = header_value(decision.rule)
            missed = "; ".join(self._not_asked(decision))
            if missed:
                said["x-gateway-skipped"] = header_value(missed)
        if self.upstream is not None:
            said["x-gateway-target"] = header_value(self.upstream.target.name)
        if self.dropped:
            said["x-gateway-dropped"] = header_value(", ".join(self.dropped))
        if self.allowance is not None:
            said |= self.allowance.headers
        return said


type Exchanges = WeakKeyDictionary[http.HTTPFlow, Exchange]


def readable(text: str) -> str:
    """Text that mitmproxy made of a caller's bytes. What was not UTF-8 stands in it as half a surrogate pair, which
    neither JSON nor a log can carry."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def header_value(text: str) -> str:
    """Text that may come from a caller, as a header can carry it: printable ASCII, one line, bounded."""
    text = text[:512]
    if text.isascii() and text.isprintable():  # nearly always
        return text
    return "".join(char if " " <= char <= "~" else "?" for char in text)
