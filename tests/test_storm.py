"""The storm in small: hundreds of calls through the gateway while all of its targets fail, and none comes out wrong.

The big one is `scripts/bench --storm`. What tells right from wrong is tested first: a judge that lets a doubled word
pass would let everything pass.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from scripts.benchmark.flapping import COOL_DOWN, SLACK, Flapping, State, flap, flapping_rules, pair, phases
from scripts.benchmark.fleet import BERTHS, Record, Server, rules, sky
from scripts.benchmark.storm import Caller, Door, Outcome, Report, put, question, ride
from scripts.benchmark.verdict import Answer, End, Verdict, judge
from scripts.benchmark.weather import FAULTS, MIDWAY, expected, pieces_of, turn
from tests.gateway import Gateway

DUE = "bado keru limo nepa"
ERROR = {"message": "No target could answer.", "type": "server_error", "param": None, "code": None}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


# The judge


def chunk(delta: object = None, reason: str | None = None, **more: object) -> dict[str, object]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**common, "choices": choices, **more}


ROLE, STOP = chunk({"role": "assistant", "content": ""}), chunk({}, "stop")


def said(*words: str) -> list[object]:
    return [chunk({"content": word}) for word in words]


def stream(*events: object, done: int = 1, tail: str = "") -> Answer:
    parts = [event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n" for event in events]
    return Answer(200, ("".join(parts) + "data: [DONE]\n\n" * done + tail).encode(), "text/event-stream; charset=utf-8")


WORDS = said("bado", " keru", " limo", " nepa")


@pytest.mark.parametrize(
    ("answer", "usage", "end", "why"),
    [
        pytest.param(stream(ROLE, *WORDS, STOP), False, "exact", "", id="the text, one reason, one end"),
        pytest.param(stream(": alive\n\n", ROLE, *WORDS, STOP), False, "exact", "", id="comments are nothing"),
        pytest.param(stream(ROLE, *said(DUE), STOP, chunk(usage=USAGE)), True, "exact", "", id="usage that was asked for"),
        pytest.param(stream(ROLE, *said("bado keru"), STOP), False, "WRONG", "cut short after 2 of 4 words", id="cut short, and looks complete"),
        pytest.param(stream(ROLE, STOP), False, "WRONG", "cut short after 0 of 4 words", id="nothing at all"),
        pytest.param(stream(ROLE, *WORDS[:3], *WORDS[2:], STOP), False, "WRONG", "1 words doubled, limo among them", id="a word twice"),
        pytest.param(stream(ROLE, *WORDS, *WORDS, STOP), False, "WRONG", "doubled", id="all of it twice"),
        pytest.param(stream(ROLE, *WORDS[:1], *WORDS[2:], STOP), False, "WRONG", "a gap: 3 of 4 words", id="a word is missing in the middle"),
        pytest.param(stream(ROLE, *said("bado", "keru limo nepa"), STOP), False, "WRONG", "garbled", id="a blank is missing"),
        pytest.param(stream(ROLE, *WORDS), False, "WRONG", "finish_reasons []", id="no reason"),
        pytest.param(stream(ROLE, *WORDS, STOP, STOP), False, "WRONG", "finish_reasons ['stop', 'stop']", id="two reasons"),
        pytest.param(stream(ROLE, *WORDS, chunk({}, "length")), False, "WRONG", "finish_reasons ['length']", id="another reason"),
        pytest.param(stream(ROLE, *WORDS[:3], STOP, *WORDS[3:]), False, "WRONG", "text after the finish_reason", id="text after the end"),
        pytest.param(stream(ROLE, *WORDS, STOP, done=0), False, "WRONG", "does not end in one [DONE]", id="no [DONE]"),
        pytest.param(stream(ROLE, *WORDS, STOP, done=2), False, "WRONG", "does not end in one [DONE]", id="two [DONE]"),
        pytest.param(stream(ROLE, *WORDS, STOP, tail="data: {"), False, "WRONG", "half an event", id="half an event at the end"),
        pytest.param(stream(ROLE, "data: {\n\n", *WORDS, STOP), False, "WRONG", "unreadable", id="a line that is not JSON"),
        pytest.param(stream(ROLE, *WORDS[:2], ROLE, *WORDS[2:], STOP), False, "WRONG", "2 deltas with a role", id="begun twice"),
        pytest.param(stream(*WORDS, STOP), False, "WRONG", "0 deltas with a role", id="no role"),
        pytest.param(stream(ROLE, *WORDS, {**STOP, "id": "chatcmpl-2"}), False, "WRONG", "different answers", id="two ids"),
        pytest.param(stream(ROLE, *WORDS, STOP), True, "WRONG", "0 times usage where 1 was due", id="no usage"),
        pytest.param(stream(ROLE, *WORDS, STOP, *[chunk(usage=USAGE)] * 2), True, "WRONG", "2 times usage", id="usage twice"),
        pytest.param(stream(ROLE, *WORDS, STOP, chunk(usage=USAGE)), False, "WRONG", "1 times usage where 0", id="usage that nobody asked for"),
        pytest.param(stream(ROLE, *WORDS, STOP, chunk(usage={**USAGE, "total_tokens": 12})), True, "WRONG", "usage 9 + 4 = 12", id="a sum that is none"),
        pytest.param(stream(ROLE, *WORDS, STOP, chunk(usage={**USAGE, "completion_tokens": 8, "total_tokens": 17})), True, "WRONG", "for 4 words", id="both attempts counted"),
        pytest.param(stream(ROLE, *WORDS[:2], {"error": ERROR}), False, "error", "in the stream: No target", id="an error in the stream and then the end"),
        pytest.param(stream({"error": ERROR}), False, "error", "in the stream", id="an error at once"),
        pytest.param(stream(ROLE, *WORDS[:2], {"error": ERROR}, done=0), False, "WRONG", "does not end", id="an error and no end"),
        pytest.param(stream(ROLE, *WORDS, STOP, {"error": ERROR}), False, "WRONG", "an error in the wrong place", id="an error after the end"),
        pytest.param(stream(ROLE, *WORDS[1:], {"error": ERROR}), False, "WRONG", "an error in the wrong place", id="an error after a wrong text"),
        pytest.param(stream(ROLE, {"error": ERROR}, *WORDS, STOP), False, "WRONG", "an error in the wrong place", id="an error and then more"),
        pytest.param(Answer(503, json.dumps({"error": ERROR}).encode()), False, "error", "503 server_error: No target", id="an error with a status"),
        pytest.param(Answer(502, b"<html>Bad Gateway</html>"), False, "WRONG", "status 502", id="an error of another tongue"),
        pytest.param(Answer(503, b'{"error": {"message": "x", "type": "y"}}'), False, "WRONG", "no error of OpenAI's", id="an error without its fields"),
        pytest.param(Answer(302, json.dumps({"error": ERROR}).encode()), False, "WRONG", "no error of OpenAI's", id="a redirection"),
        pytest.param(Answer(200, b"{}"), False, "WRONG", "content type", id="a whole answer where a stream was due"),
    ],
)  # fmt: skip
def test_a_stream_is_judged(answer: Answer, usage: bool, end: End, why: str) -> None:
    verdict = judge(answer, DUE, streamed=True, usage=usage)
    assert (verdict.end, why in verdict.why) == (end, True), verdict


def whole(content: object = DUE, reason: str = "stop", usage: object = USAGE, choices: int = 1) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
    document = {"object": "chat.completion", "choices": [choice] * choices, "usage": usage}
    return Answer(200, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("answer", "end", "why"),
    [
        pytest.param(whole(), "exact", "", id="the text and one reason"),
        pytest.param(whole("bado keru limo"), "WRONG", "cut short after 3 of 4 words", id="cut short"),
        pytest.param(whole(f"{DUE} {DUE}"), "WRONG", "4 words doubled", id="said twice"),
        pytest.param(whole("something else"), "WRONG", "garbled", id="another text"),
        pytest.param(whole(None), "WRONG", "unreadable", id="no text"),
        pytest.param(whole(reason="length"), "WRONG", "finish_reason length", id="another reason"),
        pytest.param(whole(usage=None), "WRONG", "unreadable", id="no usage"),
        pytest.param(whole(usage={**USAGE, "completion_tokens": 0, "total_tokens": 9}), "WRONG", "usage", id="nothing counted"),
        pytest.param(whole(choices=2), "WRONG", "2 choices", id="two choices"),
        pytest.param(Answer(200, b'{"object": "chat'), "WRONG", "unreadable", id="half a document"),
        pytest.param(Answer(429, json.dumps({"error": ERROR}).encode()), "error", "429", id="an error with a status"),
        pytest.param(stream(ROLE, *WORDS, STOP), "WRONG", "content type", id="a stream where a whole answer was due"),
    ],
)  # fmt: skip
def test_a_whole_answer_is_judged(answer: Answer, end: End, why: str) -> None:
    verdict = judge(answer, DUE, streamed=False)
    assert (verdict.end, why in verdict.why) == (end, True), verdict


def test_a_report_counts_and_names_what_is_wrong() -> None:
    record = Record(broken={0, 1, 2})
    record.faults.update(none=6, half_line=4)
    ends = [Verdict("exact"), Verdict("exact"), Verdict("error", "503 x"), Verdict("WRONG", "hung")]
    report = Report([Outcome(n, n % 2 == 0, end, 0.1) for n, end in enumerate(ends)], 1.0, 2, record)
    assert (report.count("exact"), report.count("error"), report.count("WRONG")) == (2, 1, 1)
    assert report.continued == 1  # the second one was whole, the third no success
    assert report.failed == pytest.approx(0.4)
    assert "WRONG: call 3, whole, 0.1 s: hung" in report.lines()
    assert not report.well
    assert Report(report.outcomes[:3], 1.0, 2, record).well
    record.strange.append("what is this")
    assert not Report(report.outcomes[:3], 1.0, 2, record).well


# The sky


def test_texts_are_told_apart() -> None:
    texts = [expected(call) for call in range(500)]
    assert len(set(texts)) == 500
    for text in texts:
        words = text.split(" ")
        assert 20 <= len(words) == len(set(words)) <= 60
        assert "".join(pieces_of(text)) == text


def test_what_a_request_meets_derives_from_the_seed_and_from_nothing_else() -> None:
    keys = [(call, berth.name, attempt) for call in range(400) for berth in BERTHS for attempt in range(2)]
    turns = [turn(7, *key) for key in keys]
    assert turns == [turn(7, *key) for key in keys]
    assert turns != [turn(8, *key) for key in keys]
    met = {one.fault for one in turns}
    assert met == {None, *FAULTS}
    assert set(FAULTS) >= MIDWAY
    assert sum(one.fault is not None for one in turns) / len(turns) == pytest.approx(0.35, abs=0.03)


def test_each_fault_of_a_server_is_one() -> None:
    """A caller that asks a server itself, without a gateway between, gets no exact answer where there is a fault."""

    async def ends() -> dict[str, Verdict]:
        found = {}
        for fault in FAULTS.keys() - {"resources", "silent_before_headers", "silent_midway", "life_signs_only"}:
            async with sky(1, {fault: 100.0}) as (servers, _):
                found[fault] = await direct(servers[4])
        async with sky(1, {"resources": 100.0}) as (servers, _):
            found["resources"] = await direct(servers[2])
        async with sky(1, {}) as (servers, _):
            found["none"] = await direct(servers[4])
        return found

    async def direct(server: Server) -> Verdict:
        body, streamed, usage = question(0)
        caller = Caller(server.port)
        for _ in range(5):  # a connection may be reset at the door
            outcome = await put(caller, 0, (body, streamed, usage))
            if server.record.requests:
                break
        caller.close()
        return outcome.verdict

    verdicts = asyncio.run(ends())
    assert verdicts.pop("none") == Verdict("exact")
    refusals = {"status_429", "status_429_with_retry_after", "status_500", "status_503", "model_missing", "key_refused"}
    assert {fault for fault, verdict in verdicts.items() if verdict.end == "error"} == refusals
    assert {verdict.end for verdict in verdicts.values()} == {"error", "WRONG"}


# Through the gateway


def with_gateway[T](measure: Callable[[Door], Coroutine[Any, Any, T]]) -> T:
    """Runs a measure in this thread; servers and callers share its loop, the gateway has a thread of its own."""
    opened: list[Gateway] = []

    async def door(text: str) -> tuple[int, Callable[[], str]]:
        gateway = Gateway(text, log_form="json")
        await asyncio.to_thread(gateway.__enter__)
        opened.append(gateway)
        return gateway.port, gateway.log.getvalue

    async def main() -> T:
        try:
            return await measure(door)
        finally:
            for gateway in opened:
                await asyncio.to_thread(gateway.__exit__, None, None, None)

    return asyncio.run(main())


def through(seed: int, calls: int, at_a_time: int, percent: dict[str, float] | None = None) -> tuple[Report, str]:
    async def measure(door: Door) -> tuple[Report, str]:
        async with sky(seed, FAULTS if percent is None else percent) as (servers, record):
            port, log = await door(rules(servers))
            report = await ride(port, record, calls=calls, at_a_time=at_a_time)
            return report, log()

    return with_gateway(measure)


def test_under_a_fair_sky_each_call_is_answered_by_its_first_target() -> None:
    report, _ = through(1, 100, 10, {})
    assert report.count("exact") == 100, "\n".join(report.lines())
    assert report.record.requests == {(call, BERTHS[call // 2 % 5].name): 1 for call in range(100)}
    assert report.connections == 10


def test_in_a_storm_every_call_ends_with_its_text_or_with_an_explicit_error() -> None:
    report, log = through(1, 500, 25)
    told = "\n".join(report.lines())
    assert report.count("WRONG") == 0, told
    assert not report.record.strange, told
    assert 0.25 < report.failed < 0.45, told
    assert report.count("exact") >= 450, told
    assert report.continued >= 20, told
    assert "Traceback" not in log


def test_a_target_that_comes_and_goes_costs_little_and_is_soon_back() -> None:
    plan: list[tuple[State, float]] = [
        *(("up", 1.0), ("reset", 1.5), ("up", 1.5)),
        *(("error", 1.5), ("up", 1.5), ("refused", 1.5), ("up", 1.5)),
    ]

    async def measure(door: Door) -> Flapping:
        async with pair(1) as (flapper, healthy):
            port, log = await door(flapping_rules(flapper, healthy))
            return await flap(port, flapper, plan, log)

    result = with_gateway(measure)
    told = "\n".join(result.lines())
    assert [one.verdict.end for one in result.outcomes] == ["exact"] * 400, told
    assert result.openings >= 3, told
    assert result.waste < 0.1, told
    assert len(result.returns) == 3, told
    assert result.longest is not None, told
    assert result.longest <= COOL_DOWN + SLACK, told


def test_the_phases_of_a_flapping_target_derive_from_the_seed() -> None:
    plan = phases(3, 60)
    assert plan == phases(3, 60)
    assert plan != phases(4, 60)
    assert sum(seconds for _, seconds in plan) == pytest.approx(60)
    assert [state == "up" for state, _ in plan] == [number % 2 == 0 for number in range(len(plan))]
    assert {state for state, _ in plan} == {"up", "refused", "reset", "error"}
    assert all(1 <= seconds <= 7 for _, seconds in plan[:-1])


def test_the_log_tells_what_was_wasted() -> None:
    def call(*failed: str) -> str:
        return json.dumps({"message": "200 POST", "request_id": "req_1", "failed": failed})

    opened = json.dumps({"message": "flapper/storm:7b at http://x: is overloaded (503); it is not asked for 1 s"})
    lines = [
        call("flapper/storm:7b is overloaded (503)"),
        opened,
        json.dumps({"message": "200 POST", "request_id": "req_2"}),
        call("flapper/storm:7b is not asked for a while, because it is overloaded (503)"),
        call("flapper/storm:7b could not be reached", "flapper/storm:7b could not be reached", "healthy/storm:7b x"),
        "no JSON",
    ]
    result = Flapping()
    result.read_log("\n".join(lines))
    assert (result.openings, result.calls, result.wasted) == (1, 3, 2)
    assert result.waste == pytest.approx(2 / 3)
