"""Places at a target: so many calls at once and no more, the others wait their turn, and not for ever."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from addons import plan
from tests.addons.calls import Answer, clean_log, pieces
from tests.addons.crowd import Caller, ask, ask_many, at_rest, row, rows, waiting
from tests.gateway import Gateway
from tests.standins import (
    CutAfter,
    DeepSeekStandIn,
    ErrorAfter,
    HoldAfter,
    Normal,
    OllamaStandIn,
    Pace,
    Plan,
    Silence,
    Status,
    until,
)

LOCAL, REMOTE = "ollama/m", "deepseek/deepseek-flash"
SAID = {LOCAL: "Hello from the llama here", REMOTE: "Greetings from the deep sea"}
BUSY = {"type": "requests", "param": None, "code": "rate_limit_exceeded"}


@contextmanager
def local(count: int = 1) -> Iterator[list[OllamaStandIn]]:
    """Servers that speak Ollama."""
    if count == 0:
        yield []
        return
    with OllamaStandIn(["m"], reply=pieces(SAID[LOCAL])) as one, local(count - 1) as others:
        yield [one, *others]


def rules(
    ollamas: list[OllamaStandIn],
    deepseek: DeepSeekStandIn | None = None,
    *,
    parallel: int = 2,
    queue: int = 100,
    wait: str = "5s",
    timeouts: str = "connect: 1s, first_token: 3s, idle: 3s, total: 8s, keep_alive: 5s",
    breaker: str = "failures: 1000",
) -> str:
    remote = ""
    use = ["ollama/m"]
    if deepseek is not None:
        remote = f"deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek.url}], key: sk-ds-test}}"
        use.append(REMOTE)
    return f"""
providers:
  ollama: {{dialect: ollama, urls: [{", ".join(server.url for server in ollamas)}], parallel: {parallel}}}
  {remote}
rules:
  - {{name: remote, when: {{model: deep}}, use: [{use[-1]}]}}
  - {{name: all, use: [{", ".join(use)}]}}
defaults:
  timeouts: {{{timeouts}}}
  failover: {{backoff: 10ms}}
  breaker: {{{breaker}}}
  admission: {{queue: {queue}, wait: {wait}}}
  refresh: 200ms
"""


@contextmanager
def gateway_of(text: str) -> Iterator[Gateway]:
    """A gateway; at the end nobody holds a place in it or waits for one, and its log is clean."""
    with Gateway(text) as gateway, clean_log(gateway):
        yield gateway
        gateway.until(lambda: at_rest(gateway), f"no place is taken: {rows(gateway)}", 2.0)


def remote() -> DeepSeekStandIn:
    return DeepSeekStandIn("sk-ds-test", reply=pieces(SAID[REMOTE]), thinking=False)


# ---------------------------------------------------------------------------------------------------------
# So many at once


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_a_server_never_has_more_calls_in_hand_than_its_parallel_says(parallel: int) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=parallel)) as gateway:
        ollama.always = Pace(0.005 * parallel)  # so many are to be there at the same time
        answers = ask_many(gateway, 30)
        assert {(answer.status, answer.text) for answer in answers} == {(200, SAID[LOCAL])}
        assert ollama.most_in_flight == parallel
        assert len(ollama.chats) == 30


@pytest.mark.parametrize(("said", "at_once"), [("", 4), ("parallel: 3", 3)], ids=["left out", "of admission"])
def test_an_ollama_server_that_says_nothing_is_given_four_calls_or_what_admission_says(said: str, at_once: int) -> None:
    with local() as [ollama]:
        text = (
            f"providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}\nrules: [{{name: all, use: [ollama/m]}}]\n"
            f"defaults: {{refresh: 200ms, admission: {{{said}}}}}"
        )
        with gateway_of(text) as gateway:
            ollama.always = Pace(0.01)
            assert {answer.status for answer in ask_many(gateway, 12)} == {200}
            assert ollama.most_in_flight == at_once


def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1)) as gateway:
        ollama.always = HoldAfter(1)
        callers: list[Caller] = []
        for number in range(6):
            callers.append(Caller(gateway, "m", stream=number % 2 == 0))
            held = number  # all but the first wait
            gateway.until(lambda: rows(gateway) != [] and waiting(gateway, LOCAL) == held, "it waits")  # noqa: B023
        served: list[Answer] = []
        for _ in callers:
            assert until(lambda: ollama.holding == 1)
            taken = row(gateway, LOCAL)
            assert (taken["in_flight"], taken["waiting"]) == (1, 5 - len(served))
            ollama.release()
            served.append(callers[len(served)].answer())  # any other order would stand still here
        assert [answer.text for answer in served] == [SAID[LOCAL]] * 6
        for caller in callers:
            caller.leave()


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1)) as gateway:
        ollama.plan(HoldAfter(1), HoldAfter(1))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            with Caller(gateway) as second:
                gateway.until(lambda: waiting(gateway, LOCAL) == 1, "the second one waits")
                ollama.release()
                assert first.answer().status == 200
                assert until(lambda: ollama.holding == 1)
                with Caller(gateway) as third:
                    gateway.until(lambda: waiting(gateway, LOCAL) == 1, "the third one waits")
                    ollama.release()
                    assert second.answer().status == third.answer().status == 200


# ---------------------------------------------------------------------------------------------------------
# When the queue is full, and when waiting takes too long


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_a_call_beyond_the_queue_goes_to_the_next_target_at_once(queue: int) -> None:
    with local() as [ollama], remote() as deepseek, gateway_of(rules([ollama], deepseek, queue=queue)) as gateway:
        ollama.always = HoldAfter(0)
        callers = [Caller(gateway) for _ in range(2 + queue)]
        gateway.until(lambda: ollama.holding == 2 and waiting(gateway, LOCAL) == queue, "all places are taken")
        began = time.monotonic()
        over = ask_many(gateway, 4)
        assert time.monotonic() - began < 2.5
        assert {(answer.target, answer.text) for answer in over} == {(REMOTE, SAID[REMOTE])}
        ollama.always = None
        ollama.release()
        assert {caller.answer().target for caller in callers} == {LOCAL}
        assert ollama.most_in_flight == 2
        for caller in callers:
            caller.leave()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_beyond_the_queue_of_the_only_target_is_told_to_come_again(stream: bool) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, queue=1)) as gateway:
        ollama.always = HoldAfter(0)
        with Caller(gateway) as one, Caller(gateway) as other:
            gateway.until(lambda: ollama.holding == 1 and waiting(gateway, LOCAL) == 1, "all places are taken")
            answer = ask(gateway, "m", stream)
            assert answer.status == 429
            assert not answer.streamed
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            words = "No target could answer: ollama/m is busy: all its places are taken."
            assert answer.error == {"message": words, **BUSY}
            ollama.always = None
            ollama.release()
            assert one.answer().status == other.answer().status == 200
        assert len(ollama.chats) == 2


def test_a_call_that_waited_long_enough_goes_to_the_next_target() -> None:
    with (
        local() as [ollama],
        remote() as deepseek,
        gateway_of(rules([ollama], deepseek, parallel=1, wait="150ms")) as gateway,
    ):
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            began = time.monotonic()
            assert ask(gateway).target == REMOTE
            assert 0.14 < time.monotonic() - began < 2.5
            ollama.release()
            assert first.answer().target == LOCAL


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_that_waited_long_enough_for_the_only_target_is_told_to_come_again(stream: bool) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, wait="100ms")) as gateway:
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            answer = ask(gateway, "m", stream)
            assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
            assert int(answer.headers["retry-after"]) >= 1
            ollama.release()
            assert first.answer().status == 200
        assert len(ollama.chats) == 1


def test_the_time_of_the_whole_call_ends_waiting_too() -> None:
    short = "connect: 1s, first_token: 3s, idle: 3s, total: 300ms, keep_alive: 5s"
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, timeouts=short)) as gateway:
        assert ask(gateway).status == 200
        (node,) = gateway.state.nodes._nodes.values()
        gateway._loop.call_soon_threadsafe(node.begin)  # a call that outlives all others
        began = time.monotonic()
        assert ask(gateway).status == 429
        assert 0.28 < time.monotonic() - began < 2.5
        assert len(ollama.chats) == 1
        gateway._loop.call_soon_threadsafe(node.leave)


def test_a_stream_that_waits_is_told_so_and_answered_in_the_end() -> None:
    often = "connect: 1s, first_token: 3s, idle: 3s, total: 8s, keep_alive: 50ms"
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, timeouts=often)) as gateway:
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as first, Caller(gateway, stream=True) as second:
            second.read_until(b": ")
            assert second.received.startswith(b"HTTP/1.1 200 ")
            assert b"x-gateway-target" not in second.received, "who answers is not known yet"
            time.sleep(0.2)
            ollama.release()
            assert first.answer().status == 200
            answer = second.answer()
            assert answer.comments >= 3
            assert (answer.text, answer.done, answer.finish) == (SAID[LOCAL], 1, ["stop"])


def test_a_stream_that_was_told_to_wait_and_waits_in_vain_ends_in_an_error_frame() -> None:
    often = "connect: 1s, first_token: 3s, idle: 3s, total: 8s, keep_alive: 50ms"
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, wait="200ms", timeouts=often)) as gateway:
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            answer = ask(gateway, "m", True)
            assert (answer.status, answer.done, answer.chunks[-1]["error"]["code"]) == (200, 1, "rate_limit_exceeded")
            assert answer.comments >= 2
            ollama.release()
            assert first.answer().status == 200


# ---------------------------------------------------------------------------------------------------------
# Several servers


def test_a_call_that_waits_for_either_of_two_servers_takes_the_first_that_is_free() -> None:
    with local(2) as [one, other], gateway_of(rules([one, other], parallel=1)) as gateway:
        for server, rival in ((one, other), (other, one)):
            server.always = rival.always = HoldAfter(0)
            with Caller(gateway) as first, Caller(gateway) as second, Caller(gateway) as third:
                assert until(lambda: one.holding == other.holding == 1)
                gateway.until(lambda: sum(row["waiting"] for row in rows(gateway)) == 2, "it waits at both")
                before = (len(server.chats), len(rival.chats))
                server.release()
                assert until(lambda: len(server.chats) == before[0] + 1)  # noqa: B023
                assert len(rival.chats) == before[1]
                assert [row["waiting"] for row in rows(gateway)] == [0, 0], "and left the other queue"
                server.always = rival.always = None
                assert until(lambda: server.holding == 1)  # noqa: B023
                server.release()
                rival.release()
                assert {caller.answer().status for caller in (first, second, third)} == {200}
            gateway.until(lambda: at_rest(gateway), "all is over")


def test_two_servers_have_twice_the_places() -> None:
    with local(2) as servers, gateway_of(rules(servers, parallel=2)) as gateway:
        for server in servers:
            server.always = Pace(0.003)
        assert {answer.text for answer in ask_many(gateway, 24)} == {SAID[LOCAL]}
        assert [server.most_in_flight for server in servers] == [2, 2]


def test_who_waits_for_a_server_that_is_not_asked_any_more_goes_on_to_the_next_target() -> None:
    with local() as [ollama], remote() as deepseek:
        text = rules([ollama], deepseek, parallel=2, breaker="failures: 1, cool_down: 1m")
        with gateway_of(text) as gateway:
            # One place serves for ever. The other one fails, and with it the target.
            ollama.plan(HoldAfter(0), Silence(0.3))
            with Caller(gateway) as first:
                assert until(lambda: ollama.holding == 1)
                callers = [Caller(gateway, stream=number % 2 == 0) for number in range(5)]
                gateway.until(lambda: waiting(gateway, LOCAL) == 4, "four calls wait")
                began = time.monotonic()
                assert [caller.answer().target for caller in callers] == [REMOTE] * 5
                assert time.monotonic() - began < 1.5
                assert row(gateway, LOCAL)["breaker"] == "open"
                assert len(ollama.chats) == 2
                ollama.release()
                assert first.answer().target == LOCAL
                for caller in callers:
                    caller.leave()


# ---------------------------------------------------------------------------------------------------------
# Places come back


ENDINGS: dict[str, tuple[Plan, int]] = {
    "after a good answer": (Normal(), 200),
    "after a failure": (Status(500), 200),
    "after the caller's own fault": (Status(400, {"error": "no"}), 400),
    "after a broken stream": (CutAfter(2), 200),
    "after an error in the stream": (ErrorAfter(2), 200),
    "after a missing model": (Status(404, {"error": "model 'm' not found"}), 200),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("plan", "status"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_place_comes_back(plan: Plan, status: int, stream: bool) -> None:
    with local() as [ollama], remote() as deepseek, gateway_of(rules([ollama], deepseek, parallel=1)) as gateway:
        for _ in range(3):
            ollama.plan(plan)
            assert ask(gateway, "m", stream).status == status
            ollama._plans.clear()
            assert ask(gateway, "m", stream).target == LOCAL
        assert ollama.most_in_flight == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_caller_who_leaves_frees_its_place_for_the_next(stream: bool, how: str) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1)) as gateway:
        ollama.plan(HoldAfter(1))
        first = Caller(gateway, stream=stream)
        assert until(lambda: ollama.holding == 1)
        with Caller(gateway, stream=stream) as second:
            gateway.until(lambda: waiting(gateway, LOCAL) == 1, "the second one waits")
            first.leave(how)
            assert second.answer().text == SAID[LOCAL]
        assert until(lambda: ollama.aborted == 1)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_caller_who_leaves_the_queue_is_not_waited_for(stream: bool, how: str) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1)) as gateway:
        ollama.plan(HoldAfter(1))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            leaving = Caller(gateway, stream=stream)
            gateway.until(lambda: waiting(gateway, LOCAL) == 1, "it waits")
            with Caller(gateway) as third:
                gateway.until(lambda: waiting(gateway, LOCAL) == 2, "and another one")
                leaving.leave(how)
                gateway.until(lambda: waiting(gateway, LOCAL) == 1, "it has left the queue", 1.0)
                ollama.release()
                assert first.answer().status == third.answer().status == 200
        assert len(ollama.chats) == 2


def test_a_call_that_is_killed_by_hand_frees_its_place() -> None:
    often = "connect: 1s, first_token: 3s, idle: 3s, total: 8s, keep_alive: 50ms"
    with local() as [ollama], gateway_of(rules([ollama], parallel=1, timeouts=often)) as gateway:
        ollama.always = HoldAfter(1)
        with Caller(gateway, stream=True) as first, Caller(gateway, stream=True) as second:
            gateway.until(lambda: ollama.holding == 1 and waiting(gateway, LOCAL) == 1, "one serves, one waits")
            for flow, _ in sorted(gateway.state.exchanges.items(), key=lambda one: one[1].started):
                gateway._loop.call_soon_threadsafe(flow.kill)
                gateway.until(lambda: not flow.live, "it is over", 2.0)  # noqa: B023
            gateway.until(lambda: at_rest(gateway), "no place is taken")
            for caller in (first, second):
                assert b"[DONE]" not in caller.received
        ollama.always = None
        assert ask(gateway).status == 200


def test_after_five_hundred_mixed_calls_no_place_is_taken_and_nobody_waits() -> None:
    chance = random.Random(11)
    kinds: list[Plan] = [
        Normal(), Normal(), Normal(), Pace(0.002), Status(500), Status(503), Status(429, headers={"Retry-After": "0"}),
        CutAfter(0), CutAfter(2), CutAfter(3, "clean"), ErrorAfter(1), Status(400, {"error": "no"}),
    ]  # fmt: skip
    with local(2) as servers, remote() as deepseek:
        text = rules(servers, deepseek, parallel=2, queue=5, wait="300ms")
        with gateway_of(text) as gateway:
            for server in (*servers, deepseek):
                server.plan(*chance.choices(kinds, k=600))
            answered = 0
            with ExitStack() as stack:
                callers: list[Caller] = []
                for number in range(500):
                    callers.append(stack.enter_context(Caller(gateway, "m", stream=number % 2 == 0)))
                    if len(callers) < 20:
                        continue
                    caller = callers.pop(chance.randrange(len(callers)))
                    if chance.random() < 0.2:
                        caller.leave(chance.choice(["close", "reset"]))
                    else:
                        answer = caller.answer()
                        assert answer.status in (200, 400, 429, 502, 503), answer
                        answered += 1
                        caller.leave()
            ask(gateway)  # which is let in after those who left before the gateway had seen them
            gateway.until(lambda: gateway.server.get_status().active_connections == 0, "all connections are closed")
            gateway.until(lambda: at_rest(gateway), "no place is taken", 3.0)
            assert [(row["in_flight"], row["waiting"]) for row in rows(gateway)] == [(0, 0)] * 3
            assert answered > 300


def test_the_status_shows_who_is_served_and_who_waits() -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=1)) as gateway:
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as first, gateway.client() as client:
            assert until(lambda: ollama.holding == 1)
            with Caller(gateway) as second:
                gateway.until(lambda: waiting(gateway, LOCAL) == 1, "one waits")
                (shown,) = json.loads(client.get("/gateway/status").content)["targets"]
                assert shown == {
                    "target": LOCAL, "url": ollama.url, "reachable": True, "breaker": "closed", "in_flight": 1, "waiting": 1,
                    "first_token_seconds": None,
                }  # fmt: skip
                ollama.release()
                assert first.answer().status == second.answer().status == 200
        assert math.isclose(row(gateway, LOCAL)["first_token_seconds"], 0.1, abs_tol=0.5)


def test_a_bug_on_the_way_out_of_the_queue_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaStandIn(["m"], reply=pieces(SAID[LOCAL])) as ollama:
        text = (
            f"providers: {{o: {{dialect: ollama, urls: [{ollama.url}], parallel: 1}}}}\n"
            "rules: [{name: all, use: [o/m]}]\ndefaults: {admission: {wait: 5s}}\n"
        )
        with Gateway(text) as gateway:
            ollama.plan(HoldAfter(1))
            with Caller(gateway) as first, ExitStack() as stack:
                assert until(lambda: ollama.holding == 1)
                second = stack.enter_context(Caller(gateway))
                gateway.until(lambda: waiting(gateway, "o/m") == 1, "one waits")
                with monkeypatch.context() as patch:
                    patch.setattr(plan, "_translated", lambda *_: 1 / 0)
                    ollama.release()
                    assert first.answer().status == 200
                    assert second.answer().status == 500
            assert ask(gateway).status == 200
            gateway.until(lambda: at_rest(gateway), "no place is taken")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_parts_of_a_call_do_not_wait_in_a_queue_for_each_other(stream: bool) -> None:
    with local() as [ollama], gateway_of(rules([ollama], parallel=2, queue=0)) as gateway:
        ollama.pace = 0.01  # so that two of them meet
        answer = ask(gateway, stream=stream, n=7)
        assert answer.status == 200
        assert len(answer.finish) == 7
        assert ollama.most_in_flight == 2


def test_what_several_parts_have_met_is_said_once() -> None:
    with (
        local() as [ollama],
        DeepSeekStandIn("sk-ds-test") as deepseek,
        gateway_of(rules([ollama], deepseek, parallel=1, queue=0)) as gateway,
    ):
        ollama.plan(HoldAfter(1))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            answer = ask(gateway, n=4)
            assert answer.target == REMOTE
            assert answer.headers["x-gateway-skipped"].count("is busy") == 1
            ollama.release()
            assert first.answer().status == 200
