"""Every way in which a target fails, against what its caller gets: the fault matrix.

A row of the table is a sentence, what the target that is asked first does, and the verdict. Each row is played with
Ollama first and with DeepSeek first, as a whole call and as a stream, with another target behind it and without one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum, auto
from typing import Any

import pytest

from tests.addons.calls import (
    DEEPSEEK,
    OLLAMA,
    SOON,
    TEXT,
    UPSTREAM_KEY,
    Answer,
    Stale,
    World,
    at_rest,
    bad_line,
    ending,
    error_line,
    pieces,
    refusing,
    saying,
    unanswered,
    untrusted,
)
from tests.gateway import Gateway, patient
from tests.standins import (
    BadLine,
    Blank,
    CutAfter,
    DeepSeekStandIn,
    EmptyDeltas,
    ErrorAfter,
    Finish,
    Garbage,
    GarbageBody,
    HalfLine,
    HoldAfter,
    KeepAliveOnly,
    Lines,
    OllamaStandIn,
    Plan,
    RawServer,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Say,
    Silence,
    SilenceAfterHeaders,
    Status,
)
from tests.standins.raw import Send, whole

SLACK = 2.5
"""Seconds that an answer may come later than its limits say."""
PACE = 0.01
"""Seconds between two words, so that they are out before the answer breaks off."""
ORDERS = {"Ollama first": OLLAMA, "DeepSeek first": DEEPSEEK}
OTHER = {OLLAMA: DEEPSEEK, DEEPSEEK: OLLAMA}
TROUBLES = ("refused", "hole", "plain", "untrusted")
"""Addresses that lead to no server that could be spoken to; each is a provider of its own, of either dialect."""


class Verdict(Enum):
    """What becomes of a call whose first target fails, where there is a second one."""

    SECOND = auto()
    """The second one answers, and nothing of the first is seen."""
    JOINED = auto()
    """As above for a whole call; a stream holds the first one's words, and the second one's from there on."""
    FIRST = auto()
    """It was no failure: nobody else is asked."""
    REFUSED = auto()
    """The caller's own fault: nobody else is asked."""


@dataclass(frozen=True)
class Row:
    plan: Plan | Callable[[str], Plan]
    """What the first target does; a function of the target where the two dialects differ."""
    verdict: Verdict = Verdict.SECOND
    waits: float = 0.0
    """Seconds of silence until it counts as a failure."""
    asks_for: float = 0.0
    """Seconds that it asks us to wait, at the most, before it is asked again."""
    again: bool = True
    """The same target is asked a second time, where there is no other."""
    status: int = 502
    """What a caller gets where there is no other target, or where none is asked."""
    code: str | None = "upstream_error"
    at: str = ""
    """The trouble that stands at the first target's address."""
    only: str = ""
    """The one dialect that can fail so; empty: both."""
    asks: Mapping[str, object] = field(default_factory=dict)
    """What the request says besides."""

    def plan_for(self, target: str) -> Plan:
        return self.plan(target) if callable(self.plan) else self.plan


def words_then(*ends: Callable[[str], bytes]) -> Callable[[str], Plan]:
    """Four words, and then these lines."""
    return lambda target: Lines(
        [*(saying(target, word) for word in pieces(TEXT)[:4]), *(end(target) for end in ends)], PACE
    )


def too_long(target: str) -> Plan:
    if target == OLLAMA:
        text = (
            '{"error":{"code":400,"message":"request (4523 tokens) exceeds the available context size (512 tokens)"}}'
        )
        return Status(400, {"error": text})
    return Status(400, {"error": {"message": "This model's maximum context length is 131072 tokens."}})


def filtered(target: str) -> Plan:
    return Lines([saying(target, "I must not say"), *ending(target, "content_filter")])


JSON_ASKED: dict[str, object] = {
    "messages": [{"role": "user", "content": "Answer in json."}],
    "response_format": {"type": "json_object"},
}
JSON_TEXT = '{"said": "json"}'
"""What the next target answers to that."""
RATE_LIMITED: dict[str, Any] = {"status": 429, "code": "rate_limit_exceeded"}
REFUSED: dict[str, Any] = {"verdict": Verdict.REFUSED, "status": 400, "again": False}
TIMED_OUT: dict[str, Any] = {"status": 504, "code": "upstream_timeout"}
GARBLED: dict[str, Any] = {"code": "upstream_garbled"}
CUT: dict[str, Any] = {"code": "upstream_cut"}

ROWS: dict[str, Row] = {
    # -- it is not reached
    "its port refuses": Row(Status(500), at="refused", code="upstream_unreachable"),
    "nobody takes the connection": Row(Status(500), at="hole", waits=SOON, **TIMED_OUT),
    "it speaks no TLS": Row(Status(500), at="plain", again=False, code="upstream_unreachable"),
    "nobody trusts its certificate": Row(Status(500), at="untrusted", again=False, code="upstream_unreachable"),
    # -- it says nothing of sense
    "it resets before its headers": Row(ResetBeforeHeaders(), **CUT),
    "it resets after its headers": Row(ResetAfterHeaders(), **CUT),
    "it is silent before its headers": Row(Silence(), waits=SOON, again=False, **TIMED_OUT),
    "it is silent after its headers": Row(SilenceAfterHeaders(), waits=SOON, again=False, **TIMED_OUT),
    "it only says that it lives": Row(KeepAliveOnly(every=0.03), waits=SOON, again=False, **TIMED_OUT),
    "it only sends empty deltas": Row(EmptyDeltas(every=0.03), waits=SOON, again=False, **TIMED_OUT),
    "it speaks no HTTP": Row(Garbage(), code=None),
    "it sends a page with status 200": Row(GarbageBody(), code=None),
    "its first line is malformed": Row(lambda target: Lines([bad_line(target), *ending(target)]), **GARBLED),
    "its first line is cut in two": Row(HalfLine(0, "clean"), **CUT),
    "its first line is cut by a reset": Row(HalfLine(0, "reset"), **CUT),
    "its first line is an error": Row(ErrorAfter(0)),
    "it ends before it begins": Row(CutAfter(0, "clean"), **CUT),
    "its resources are out before the first word": Row(Finish("insufficient_system_resource", 1), only=DEEPSEEK),
    "it gives blanks where JSON was asked": Row(Blank(5), again=False, asks=JSON_ASKED),
    # -- it answers with a status
    "it gives up waiting for the request": Row(Status(408), **TIMED_OUT),
    "it sees a conflict": Row(Status(409), again=False, **GARBLED),
    "it finds it too early": Row(Status(425), **GARBLED),
    "it limits the rate": Row(Status(429), **RATE_LIMITED),
    "it limits the rate for a moment": Row(Status(429, None, {"Retry-After": "0.2"}), **RATE_LIMITED),
    "it limits the rate until a date": Row(
        lambda _: Status(429, None, {"Retry-After": formatdate(time.time() + 1, usegmt=True)}),
        asks_for=1.0,  # a date has no parts of a second: it may be a moment or a whole second away
        **RATE_LIMITED,
    ),
    "it limits the rate until nobody knows when": Row(Status(429, None, {"Retry-After": "soon"}), **RATE_LIMITED),
    "it limits the rate for too long": Row(Status(429, None, {"Retry-After": "9"}), again=False, **RATE_LIMITED),
    "it has an internal error": Row(Status(500)),
    "its proxy has no server": Row(Status(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"})),
    "it is overloaded": Row(Status(503), status=503, code="server_is_overloaded"),
    "its proxy gives up": Row(Status(504), **TIMED_OUT),
    "it sends us elsewhere": Row(Status(302, b"", {"Location": "http://127.0.0.1:1/"}), again=False, **GARBLED),
    "it moved for ever": Row(Status(308, b"", {"Location": "http://127.0.0.1:1/"}), again=False, **GARBLED),
    "it has nothing to say": Row(Status(204, b""), **GARBLED),
    "it has no such model": Row(
        Status(404, {"error": "model 'x' not found"}), again=False, status=404, code="model_not_found"
    ),
    "it has no such path": Row(Status(404, b"404 page not found"), again=False),
    "it wants another key": Row(Status(401), again=False, code="upstream_key_refused"),
    "it wants money": Row(Status(402), again=False, status=429, code="insufficient_quota"),
    "it forbids it": Row(Status(403), again=False, code="upstream_key_refused"),
    "its model knows no tools": Row(
        Status(400, {"error": "x does not support tools"}), again=False, status=400, code="unsupported_value"
    ),
    # -- it breaks off
    "it is reset in the middle": Row(CutAfter(5, "reset"), Verdict.JOINED, **CUT),
    "it ends clean in the middle": Row(CutAfter(5, "clean"), Verdict.JOINED, **CUT),
    "it falls silent in the middle": Row(HoldAfter(5), Verdict.JOINED, waits=SOON, **TIMED_OUT),
    "it sends an error in the middle": Row(words_then(error_line), Verdict.JOINED),
    "it sends a malformed line in the middle": Row(words_then(bad_line), Verdict.JOINED, **GARBLED),
    "it goes on after a malformed line": Row(BadLine(5), Verdict.JOINED, **GARBLED),
    "it ends in the middle of a line": Row(HalfLine(5, "clean"), Verdict.JOINED, **CUT),
    "it is reset in the middle of a line": Row(HalfLine(5, "reset"), Verdict.JOINED, **CUT),
    "its resources are out in the middle": Row(
        Finish("insufficient_system_resource", 5), Verdict.JOINED, only=DEEPSEEK
    ),
    # -- it is not its fault, or none at all
    "it calls the request bad": Row(
        Status(400, {"error": {"message": "'top_p' must be below 1."}}), code=None, **REFUSED
    ),
    "it finds the request too large": Row(
        Status(413, {"error": {"message": "Too large."}}), again=False, status=413, code="request_too_large"
    ),
    "it cannot work with the request": Row(Status(422, {"error": {"message": "No."}}), code=None, **REFUSED),
    "its filter refuses the prompt": Row(
        Status(400, {"error": {"message": "Content Exists Risk", "code": "content_filter"}}),
        code="content_filter",
        **REFUSED,
    ),
    "the prompt is longer than its window": Row(too_long, code="context_length_exceeded", **REFUSED),
    "its filter stops the answer": Row(filtered, Verdict.FIRST, only=DEEPSEEK),
}


def cases(*verdicts: Verdict) -> list[Any]:
    """(row, target that is asked first) of all rows with these verdicts."""
    return [
        pytest.param(row, target, id=f"{sentence}, {order}")
        for sentence, row in ROWS.items()
        for order, target in ORDERS.items()
        if row.verdict in verdicts and row.only in ("", target)
    ]


# ---------------------------------------------------------------------------------------------------------
# The runner


def rules_text(addresses: Mapping[str, Mapping[str, str]], *, timeouts: str, failover: str) -> str:
    """Models: `first <provider>` asks it and then the other stand-in, `only <provider>` nobody else."""
    dialects = {
        "ollama": "dialect: ollama, window: 1000",
        "deepseek": f"dialect: openai, profile: deepseek, key: {UPSTREAM_KEY}, patience: {SOON}s, window: 2000",
    }
    models = {"ollama": OLLAMA.partition("/")[2], "deepseek": DEEPSEEK.partition("/")[2]}
    behind = {"ollama": DEEPSEEK, "deepseek": OLLAMA}
    lines = ["providers:"]
    for dialect, said in dialects.items():
        lines += [f"  {dialect}{name}: {{{said}, urls: [{url}]}}" for name, url in addresses[dialect].items()]
    lines += ["rules:"]
    for dialect, model in models.items():
        for name in addresses[dialect]:
            target = f"{dialect}{name}/{model}"
            number = f"{dialect}{name}"
            lines.append(
                f"  - {{name: first.{number}, when: {{model: first.{number}}}, use: [{target}, {behind[dialect]}]}}"
            )
            lines.append(f"  - {{name: only.{number}, when: {{model: only.{number}}}, use: [{target}]}}")
    lines += [
        "defaults:",
        f"  timeouts: {{{timeouts}}}",
        f"  failover: {{{failover}}}",
        "  breaker: {failures: 1000000}",
        "  refresh: 10m",
    ]
    return "\n".join(lines)


SETTINGS: dict[str, dict[str, str]] = {
    "the usual": {"timeouts": patient(), "failover": "attempts: 2, backoff: 10ms, wait: 2s"},
    "context leads on": {"timeouts": patient(), "failover": "attempts: 2, backoff: 10ms, on: [context]"},
    "a short life": {
        "timeouts": patient(first_token="300ms", idle="300ms", total="400ms"),
        "failover": "attempts: 10, backoff: 100ms",
    },
}


@contextmanager
def servers_with(timeouts: str, failover: str) -> Iterator[World]:
    with ExitStack() as stack:
        ollama = stack.enter_context(OllamaStandIn(reply=pieces(TEXT)))
        deepseek = stack.enter_context(DeepSeekStandIn(UPSTREAM_KEY, reply=pieces(TEXT), thinking=False))
        raw = stack.enter_context(RawServer())
        plain = stack.enter_context(RawServer([Send(whole(b"", status="400 Bad Request"))]))
        refused = stack.enter_context(refusing())
        hole = stack.enter_context(unanswered(looked_at=False))
        strange, heard = stack.enter_context(untrusted())
        addresses = {
            name: {
                "": standin.url,
                "-refused": refused,
                "-hole": hole,
                "-plain": plain.url.replace("http:", "https:"),
                "-untrusted": strange,
            }
            for name, standin in (("ollama", ollama), ("deepseek", deepseek))
        }
        text = rules_text(addresses, timeouts=timeouts, failover=failover)
        gateway = stack.enter_context(Gateway(text))
        # Or the targets in trouble would not even be asked.
        gateway.state.seen = Stale(gateway.rules.file.providers, [OLLAMA.partition("/")[2]])
        yield World(ollama, deepseek, raw, gateway)
        assert heard == []  # a key is told to nobody who is not trusted


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    with servers_with(**SETTINGS[getattr(request, "param", "the usual")]) as made:
        yield made


@pytest.fixture
def servers(shared: World) -> Iterator[World]:
    with at_rest(shared):
        yield shared
    assert shared.ollama.leaked == shared.deepseek.leaked == []


streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def play(servers: World, row: Row, target: str, stream: bool, way: str = "first") -> tuple[Answer, float]:
    """The answer, and the seconds that it took."""
    servers.standin(target).pace = PACE
    servers.standin(target).always = row.plan_for(target)
    if row.asks is JSON_ASKED:
        servers.standin(OTHER[target]).always = Say([JSON_TEXT])
    provider = target.partition("/")[0] + (f"-{row.at}" if row.at else "")
    began = time.monotonic()
    with servers.gateway.hurried(SOON) if row.waits else nullcontext():
        answer = servers.ask(f"{way}.{provider}", stream, **row.asks)
    return answer, time.monotonic() - began


def in_time(took: float, waits: float, asked_for: float = 0.0) -> None:
    assert waits * 0.95 <= took < waits + asked_for + SLACK


def asked(servers: World, target: str) -> tuple[int, int]:
    """How often the first target was asked, and how often the other one."""
    return len(servers.standin(target).chats), len(servers.standin(OTHER[target]).chats)


def exact(answer: Answer, stream: bool, text: str = TEXT) -> None:
    """Every word once, one end, and nothing else."""
    assert (answer.status, answer.text, answer.finish) == (200, text, ["stop"])
    assert (answer.streamed, answer.done, answer.comments) == (stream, int(stream), 0)
    assert not any("error" in chunk for chunk in answer.chunks)


def named(target: str, row: Row) -> str:
    provider, _, model = target.partition("/")
    return f"{provider}-{row.at}/{model}" if row.at else target


@streamed_or_not
@pytest.mark.parametrize(("row", "target"), cases(Verdict.SECOND, Verdict.JOINED))
def test_the_next_target_completes_the_answer(servers: World, row: Row, target: str, stream: bool) -> None:
    answer, took = play(servers, row, target, stream)
    exact(answer, stream, JSON_TEXT if row.asks is JSON_ASKED else TEXT)
    joined = row.verdict is Verdict.JOINED and stream
    assert answer.target == (target if joined else OTHER[target])
    in_time(took, row.waits)
    assert asked(servers, target) == (0 if row.at else 1, 1)
    messages = (servers.standin(OTHER[target]).chats[0].json or {})["messages"]
    assert (messages[-1]["role"] == "assistant") is joined


@streamed_or_not
@pytest.mark.parametrize(("row", "target"), cases(Verdict.REFUSED))
def test_the_callers_own_fault_is_not_routed_around(servers: World, row: Row, target: str, stream: bool) -> None:
    answer, took = play(servers, row, target, stream)
    assert (answer.status, answer.streamed) == (400, False)
    assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", row.code)
    in_time(took, 0)
    assert asked(servers, target) == (1, 0)


@streamed_or_not
@pytest.mark.parametrize(("row", "target"), cases(Verdict.FIRST))
def test_an_answer_that_a_filter_stopped_is_an_answer(servers: World, row: Row, target: str, stream: bool) -> None:
    answer, _ = play(servers, row, target, stream)
    assert (answer.status, answer.text, answer.finish) == (200, "I must not say", ["content_filter"])
    assert asked(servers, target) == (1, 0)


@streamed_or_not
@pytest.mark.parametrize(("row", "target"), cases(Verdict.SECOND, Verdict.JOINED, Verdict.REFUSED))
def test_with_nobody_else_the_target_is_asked_again_where_that_may_help_and_the_error_says_all(
    servers: World, row: Row, target: str, stream: bool
) -> None:
    answer, took = play(servers, row, target, stream, "only")
    begun = row.verdict is Verdict.JOINED and stream
    times = 2 if row.again else 1
    assert answer.status == (200 if begun else row.status)
    if row.code is not None or row.verdict is Verdict.REFUSED:
        assert answer.error["code"] == row.code
    message = answer.error["message"]
    if row.verdict is not Verdict.REFUSED and row.status not in (400, 413):
        assert named(target, row) in message
        assert message.count("twice") == times - 1
    assert asked(servers, target) == (0 if row.at else times, 0)
    assert answer.streamed is begun
    if begun:
        assert answer.text
        assert TEXT.startswith(answer.text)
        assert (answer.finish, answer.done, "error" in answer.chunks[-1]) == ([], 1, True)
    in_time(took, row.waits * times, row.asks_for * (times - 1))
    if row is ROWS["it limits the rate for too long"]:
        assert answer.headers["retry-after"] == "9"


# ---------------------------------------------------------------------------------------------------------
# A clean end at each place


def ends_of(target: str) -> list[tuple[str, int]]:
    """(target, number of pieces after which it ends), at each place of its answer."""
    beside = 1 if target == OLLAMA else 3  # the done line; the role, the finish_reason and [DONE]
    return [(target, place) for place in range(len(pieces(TEXT)) + beside)]


@streamed_or_not
@pytest.mark.parametrize(("target", "place"), [*ends_of(OLLAMA), *ends_of(DEEPSEEK)])
def test_a_clean_end_is_noticed_at_each_place(servers: World, target: str, place: int, stream: bool) -> None:
    words = place if target == OLLAMA else place - 1
    complete = target == DEEPSEEK and words > len(pieces(TEXT))  # its finish_reason was there
    servers.standin(target).plan(CutAfter(place, "clean"))
    answer = servers.ask(f"first.{target.partition('/')[0]}", stream)
    exact(answer, stream)
    assert asked(servers, target) == (1, 0 if complete else 1)
    assert answer.target == (target if complete or (stream and words > 0) else OTHER[target])


# ---------------------------------------------------------------------------------------------------------
# Rules of other kinds


@streamed_or_not
@pytest.mark.parametrize("shared", ["context leads on"], indirect=True)
def test_a_prompt_that_is_too_long_goes_to_a_larger_window_where_the_rules_say_so(servers: World, stream: bool) -> None:
    servers.ollama.plan(too_long(OLLAMA))
    answer = servers.ask("first.ollama", stream)
    exact(answer, stream)
    assert answer.target == DEEPSEEK
    assert asked(servers, OLLAMA) == (1, 1)


@streamed_or_not
@pytest.mark.parametrize("shared", ["context leads on"], indirect=True)
def test_a_prompt_that_is_too_long_does_not_go_to_a_smaller_window(servers: World, stream: bool) -> None:
    servers.deepseek.plan(too_long(DEEPSEEK))
    answer = servers.ask("first.deepseek", stream)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert asked(servers, DEEPSEEK) == (1, 0)


@streamed_or_not
@pytest.mark.parametrize("target", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("shared", ["context leads on"], indirect=True)
@pytest.mark.parametrize("plan", [Status(503), Status(500), ResetBeforeHeaders()], ids=["503", "500", "reset"])
def test_what_the_rules_do_not_name_leads_nowhere(servers: World, target: str, plan: Plan, stream: bool) -> None:
    servers.standin(target).plan(plan)
    answer = servers.ask(f"first.{target.partition('/')[0]}", stream)
    assert answer.status in (502, 503)
    assert target in answer.error["message"]
    assert asked(servers, target) == (1, 0)


TOO_SLOW: dict[str, tuple[Plan, Plan]] = {
    "both are silent": (Silence(), Silence()),
    "both are cut short again and again": (Status(500), Status(503)),
    "one is silent and one says only that it lives": (Silence(), KeepAliveOnly(every=0.03)),
    "one is asked to wait for": (Status(429, None, {"Retry-After": "5"}), Silence()),
}


@streamed_or_not
@pytest.mark.parametrize("target", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("shared", ["a short life"], indirect=True)
@pytest.mark.parametrize("plans", TOO_SLOW.values(), ids=TOO_SLOW.keys())
def test_the_whole_call_has_its_time_and_no_more(
    servers: World, plans: tuple[Plan, Plan], target: str, stream: bool
) -> None:
    servers.standin(target).always, servers.standin(OTHER[target]).always = plans
    began = time.monotonic()
    answer = servers.ask(f"first.{target.partition('/')[0]}", stream)
    took = time.monotonic() - began
    assert took < 0.4 + SLACK
    assert answer.status >= 429
    assert target in answer.error["message"]
    assert OTHER[target] in answer.error["message"]
    counts = asked(servers, target)
    time.sleep(0.15)
    assert asked(servers, target) == counts  # nobody is asked after the end


@pytest.mark.parametrize("target", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("shared", ["a short life"], indirect=True)
def test_a_stream_that_takes_too_long_as_a_whole_is_not_continued(servers: World, target: str) -> None:
    servers.standin(target).pace = 0.05
    began = time.monotonic()
    answer = servers.ask(f"first.{target.partition('/')[0]}", True)
    assert 0.35 <= time.monotonic() - began < 0.4 + SLACK
    assert answer.text
    assert TEXT.startswith(answer.text)
    assert (answer.done, answer.finish, answer.error["code"]) == (1, [], "upstream_timeout")
    assert answer.error["message"].startswith("The answer broke off: ")
    assert asked(servers, target) == (1, 0)
