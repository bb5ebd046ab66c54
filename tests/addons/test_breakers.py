"""Breakers: a target that fails is left alone for a while, one call tries it again, and what is said of it is true."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from addons import inventory, nodes
from tests.addons.calls import Http2, clean_log, pieces, unanswered
from tests.addons.crowd import Caller, ask, ask_many, at_rest, row, rows, times_in_log
from tests.gateway import Gateway
from tests.standins import (
    CutAfter,
    DeepSeekStandIn,
    HoldAfter,
    Normal,
    OllamaStandIn,
    Plan,
    RawServer,
    ResetBeforeHeaders,
    Silence,
    Status,
    until,
)
from tests.standins.raw import Close, Expect, Script, Send, Wait, whole

MODEL, OTHER = "ollama/m", "ollama/other"
REMOTE = "deepseek/deepseek-flash"
SAID = {MODEL: "Hello from the llama here", REMOTE: "Greetings from the deep sea"}


@contextmanager
def servers() -> Iterator[tuple[OllamaStandIn, DeepSeekStandIn]]:
    with (
        OllamaStandIn(["m", "other"], reply=pieces(SAID[MODEL])) as ollama,
        DeepSeekStandIn("sk-ds-test", reply=pieces(SAID[REMOTE]), thinking=False) as deepseek,
    ):
        yield ollama, deepseek


def rules(
    ollama: OllamaStandIn,
    deepseek: DeepSeekStandIn,
    *,
    breaker: str = "failures: 3, cool_down: 1m",
    key: str = "sk-ds-test",
    attempts: int = 1,
    refresh: str = "200ms",
    wait: str = "2s",
    keys: str = "",
) -> str:
    """`m` and `other` ask Ollama first, `deep` DeepSeek; `lonely` and `deep-only` know of no other target."""
    return f"""
proxy: {{auth: {{tokens: [{keys}]}}}}
providers:
  ollama: {{dialect: ollama, urls: [{ollama.url}], parallel: 64}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek.url}], key: {key}}}
rules:
  - {{name: lonely, when: {{model: lonely}}, use: [{MODEL}]}}
  - {{name: deep-only, when: {{model: deep-only}}, use: [{REMOTE}]}}
  - {{name: deep, when: {{model: deep}}, use: [{REMOTE}, {MODEL}]}}
  - {{name: local, use: ["ollama/{{model}}", {REMOTE}]}}
defaults:
  timeouts: {{connect: 400ms, first_token: 2s, idle: 2s, total: 8s, keep_alive: 5s}}
  failover: {{backoff: 10ms, attempts: {attempts}, wait: {wait}}}
  breaker: {{{breaker}}}
  refresh: {refresh}
"""


@contextmanager
def gateway_of(text: str) -> Iterator[Gateway]:
    with Gateway(text) as gateway, clean_log(gateway):
        yield gateway
        gateway.until(lambda: at_rest(gateway), f"no place is taken: {rows(gateway)}", 2.0)


# ---------------------------------------------------------------------------------------------------------
# Opening, and what it costs nobody


FAILURES: dict[str, Plan] = {
    "a reset": ResetBeforeHeaders(),
    "a 500": Status(500),
    "a 503": Status(503),
    "a cut stream": CutAfter(0),
    "a 429 without a time": Status(429),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_after_so_many_failures_a_target_is_not_asked_any_more(failure: Plan, stream: bool) -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.always = failure
        for _ in range(10):
            answer = ask(gateway, "m", stream)
            assert (answer.status, answer.target, answer.text) == (200, REMOTE, SAID[REMOTE])
        assert len(ollama.chats) == 3
        assert row(gateway, MODEL)["breaker"] == "open"


def test_successes_in_between_keep_a_breaker_closed() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        for _ in range(5):
            ollama.plan(Status(500), Normal(), Status(500), Normal())
            for expected in (REMOTE, MODEL, REMOTE, MODEL):
                assert ask(gateway).target == expected
        assert len(ollama.chats) == 20


def test_each_failed_attempt_of_a_call_counts() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, attempts=2)) as gateway:
        ollama.always = Status(500)
        assert [ask(gateway).target for _ in range(4)] == [REMOTE] * 4
        assert len(ollama.chats) == 3


def test_what_is_no_fault_of_the_target_opens_nothing() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.always = Status(400, {"error": "the caller's own fault"})
        for _ in range(6):
            assert ask(gateway).status == 400
        assert len(ollama.chats) == 6
        assert row(gateway, MODEL)["breaker"] == "closed"


def test_a_missing_model_does_not_condemn_the_other_models_of_its_server() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.plan(*[Status(404, {"error": "model 'm' not found"})] * 3)
        assert [ask(gateway).target for _ in range(6)] == [REMOTE] * 6
        assert len(ollama.chats) == 3
        assert [ask(gateway, "other").target for _ in range(3)] == [OTHER] * 3
        assert row(gateway, MODEL)["breaker"] == "open"
        assert row(gateway, OTHER)["breaker"] == "closed"


def test_a_refused_connection_condemns_all_models_of_its_server() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, refresh="1m")) as gateway:
        gateway.state.report_down = lambda provider: None  # nobody looks at it in the background
        assert ask(gateway, "other").target == OTHER
        ollama.stop()
        before = ollama.connections_made
        assert [ask(gateway).target for _ in range(3)] == [REMOTE] * 3
        assert (row(gateway, MODEL)["breaker"], row(gateway, OTHER)["breaker"]) == ("open", "open")
        ollama.start()
        assert [ask(gateway, "other").target for _ in range(3)] == [REMOTE] * 3
        assert ollama.connections_made == before, "it is not even dialled"
        assert row(gateway, OTHER)["why"] == "could not be reached"


def test_a_server_that_takes_no_connection_costs_its_time_only_so_often() -> None:
    with servers() as (ollama, deepseek), unanswered() as hole:
        text = rules(ollama, deepseek, refresh="1m").replace(f"urls: [{ollama.url}]", f"urls: [{hole}]")
        text = text.replace("dialect: ollama, urls", "dialect: openai, key: sk-ds-test, urls")
        with gateway_of(text) as gateway:
            took = []
            for _ in range(6):
                began = time.monotonic()
                assert ask(gateway).target == REMOTE
                took.append(time.monotonic() - began)
            assert [seconds > 0.35 for seconds in took] == [True] * 3 + [False] * 3


def test_two_calls_of_one_connection_to_a_server_that_takes_none_end_each_at_its_own_time() -> None:
    with servers() as (ollama, deepseek), unanswered() as hole:
        text = rules(ollama, deepseek).replace(f"urls: [{deepseek.url}]", f"urls: [{hole}]")
        with gateway_of(text) as gateway, Http2(gateway) as client:
            client.socket.settimeout(3)
            numbers = []
            for _ in range(3):
                numbers.append(client.ask("deep", stream=True))
                time.sleep(0.05)
            client.read(lambda: len(client.ended) == 3)
            assert [client.answer(number).text for number in numbers] == [SAID[MODEL]] * 3


def test_the_weights_of_the_file_count() -> None:
    weights = "failures: 3, cool_down: 1m, weights: {status_503: 3, status_5xx: 0, model_missing: 1.5, reset: 0}"
    rows_of: list[tuple[Plan, int]] = [
        (Status(503), 1),
        (Status(500), 8),
        (Status(404, {"error": "model 'm' not found"}), 2),
        (ResetBeforeHeaders(), 8),
    ]
    with servers() as (ollama, deepseek):
        for plan, asked in rows_of:
            with gateway_of(rules(ollama, deepseek, breaker=weights)) as gateway:
                ollama.seen.clear()
                ollama.always = plan
                assert {ask(gateway).target for _ in range(8)} == {REMOTE}
                assert len(ollama.chats) == asked, plan


# ---------------------------------------------------------------------------------------------------------
# Half open


def test_one_of_many_calls_tries_a_target_again_and_its_success_lets_all_of_them_in() -> None:
    quick = "failures: 3, cool_down: 200ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.plan(*[Status(500)] * 3)
        for _ in range(3):
            ask(gateway)
        time.sleep(0.25)
        assert row(gateway, MODEL)["breaker"] == "half_open"
        ollama.plan(HoldAfter(0))
        with Caller(gateway) as probe:
            assert until(lambda: ollama.holding == 1)
            assert {answer.target for answer in ask_many(gateway, 12)} == {REMOTE}
            assert len(ollama.chats) == 4
            ollama.release()
            assert probe.answer().target == MODEL
        assert row(gateway, MODEL)["breaker"] == "closed"
        assert {answer.target for answer in ask_many(gateway, 6)} == {MODEL}


def test_of_a_crowd_that_comes_at_the_moment_of_the_probe_one_call_is_let_through() -> None:
    quick = "failures: 3, cool_down: 200ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.always = Status(500)
        for _ in range(3):
            ask(gateway)
        time.sleep(0.25)
        ollama.always = Silence(0.15)  # and then it closes: the probe fails
        assert {answer.target for answer in ask_many(gateway, 16)} == {REMOTE}
        assert 4 <= len(ollama.chats) <= 5, "one for each cool-down"
        assert ollama.most_in_flight == 1
        assert row(gateway, MODEL)["breaker"] != "closed"


def test_a_probe_that_fails_costs_another_cool_down() -> None:
    quick = "failures: 2, cool_down: 300ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.always = Status(500)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert ask(gateway).target == REMOTE
        assert 3 <= len(ollama.chats) <= 5, "two that opened it, and one for each cool-down"
        times = [seen.at for seen in ollama.chats]
        assert all(later - sooner > 0.28 for sooner, later in pairwise(times[1:]))


def test_a_target_that_just_came_back_is_on_probation() -> None:
    quick = "failures: 3, cool_down: 200ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.plan(*[Status(500)] * 3)
        for _ in range(3):
            ask(gateway)
        time.sleep(0.25)
        assert ask(gateway).target == MODEL
        assert row(gateway, MODEL)["breaker"] == "closed"
        ollama.plan(Status(500))
        assert ask(gateway).target == REMOTE
        assert row(gateway, MODEL)["breaker"] != "closed", "one failure was enough"


@pytest.mark.parametrize("plan", [HoldAfter(0), Silence()], ids=["after the headers", "before the headers"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_caller_who_leaves_while_its_call_is_the_probe_lets_the_next_one_try(how: str, plan: Plan) -> None:
    quick = "failures: 1, cool_down: 150ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.plan(Status(500), plan)
        assert ask(gateway).target == REMOTE
        time.sleep(0.2)
        probe = Caller(gateway)
        assert until(lambda: len(ollama.chats) == 2)
        assert ask(gateway).target == REMOTE
        probe.leave(how)
        gateway.until(lambda: at_rest(gateway), "the probe is over", 1.0)
        assert row(gateway, MODEL)["breaker"] == "half_open"
        assert ask(gateway).target == MODEL
        assert row(gateway, MODEL)["breaker"] == "closed"


def test_a_probe_that_ends_in_the_callers_own_fault_lets_the_next_one_try() -> None:
    quick = "failures: 1, cool_down: 150ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:
        ollama.plan(Status(500), Status(400, {"error": "no"}))
        assert ask(gateway).target == REMOTE
        time.sleep(0.2)
        assert ask(gateway).status == 400
        assert ask(gateway).target == MODEL


def test_a_late_success_of_a_call_from_before_does_not_close_a_breaker_that_rests() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.plan(HoldAfter(0), *[Status(500)] * 3)
        with Caller(gateway) as early:
            assert until(lambda: ollama.holding == 1)
            assert [ask(gateway).target for _ in range(3)] == [REMOTE] * 3
            ollama.release()
            assert early.answer().target == MODEL
        assert ask(gateway).target == REMOTE
        assert row(gateway, MODEL)["breaker"] == "open"


# ---------------------------------------------------------------------------------------------------------
# Keys and rate limits


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_refused_key_takes_the_server_out_at_once_and_the_operator_is_told_once(status: int, stream: bool) -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        deepseek.always = Status(status)
        for _ in range(5):
            answer = ask(gateway, "deep", stream)
            assert (answer.status, answer.target) == (200, MODEL)
        assert len(deepseek.chats) == 1
        # A 403 may be about this one model; our key and our credit are about all of them.
        who = "deepseek/deepseek-flash" if status == 403 else "deepseek"
        assert times_in_log(gateway, f"WARNING {who} at {deepseek.url}") == 1
        refused = [line for line in gateway.log.getvalue().splitlines() if "WARNING" in line]
        assert len(refused) == 1, refused
        alone = ask(gateway, "deep-only", stream)
        assert alone.status == 503
        assert 30 <= int(alone.headers["retry-after"]) <= nodes.KEY_REST
        assert len(deepseek.chats) == 1


def test_many_calls_that_find_the_key_refused_at_once_tell_the_operator_once() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        deepseek.always = Status(401)
        assert {answer.target for answer in ask_many(gateway, 10, "deep")} == {MODEL}
        warned = [line for line in gateway.log.getvalue().splitlines() if "WARNING" in line]
        assert len(warned) == 1, warned


@pytest.mark.parametrize("status", [401, 403])
def test_a_caller_never_sees_that_the_gateways_key_was_refused_as_its_own_401(status: int) -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        deepseek.always = Status(status)
        answer = ask(gateway, "deep-only")
        assert answer.status == 502
        assert answer.error["code"] in ("upstream_error", "upstream_key_refused")
        assert REMOTE in answer.error["message"]


def test_a_caller_whose_call_only_our_empty_account_could_pay_is_told_not_to_ask_again() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        deepseek.always = Status(402)
        answer = ask(gateway, "deep-only")
        assert (answer.status, answer.headers["x-should-retry"]) == (429, "false")
        assert (answer.error["type"], answer.error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert REMOTE in answer.error["message"]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_keeps_all_other_calls_away_for_that_long(status: int) -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.plan(Status(status, headers={"Retry-After": "1"}))
        began = time.monotonic()
        away = 0
        while ask(gateway).target == REMOTE:
            away += 1
            assert time.monotonic() < began + 4
        assert away > 5
        first, second = (seen.at for seen in ollama.chats)
        assert second - first > 0.98


def test_a_success_beside_it_does_not_shorten_what_retry_after_said() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek)) as gateway:
        ollama.plan(HoldAfter(0), Status(429, headers={"Retry-After": "30"}))
        with Caller(gateway) as early:
            assert until(lambda: ollama.holding == 1)
            assert ask(gateway).target == REMOTE
            ollama.release()
            assert early.answer().target == MODEL
        assert [ask(gateway).target for _ in range(3)] == [REMOTE] * 3
        assert len(ollama.chats) == 2


def test_a_call_alone_waits_for_what_retry_after_said_and_is_answered() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, attempts=2)) as gateway:
        ollama.plan(Status(429, headers={"Retry-After": "1"}))
        began = time.monotonic()
        assert ask(gateway, "lonely").status == 200
        assert 0.95 < time.monotonic() - began < 4.0


def test_calls_that_were_told_to_come_again_all_wait_and_are_answered() -> None:
    """The first of them tries; the others wait for what it finds, and are not sent away."""
    limited: Script = [Expect(), Wait(0.3), Send(whole(b"{}", status="429 No\r\nRetry-After: 1")), Close()]
    good = b'{"choices":[{"index":0,"message":{"content":"raw words"},"finish_reason":"stop"}]}'
    calls: list[Script] = [
        [Expect(), Send(whole(b'{"data": []}'))],
        *[limited] * 5,
        [Expect(), Wait(0.05), Send(whole(good))],
    ]
    with servers() as (ollama, deepseek), RawServer(*calls) as server:
        text = rules(ollama, deepseek, attempts=2, wait="5s").replace(deepseek.url, server.url)
        with gateway_of(text) as gateway:
            gateway.until(lambda: server.connections_made == 1, "the background has had its look")
            answers = ask_many(gateway, 5, "deep-only")
            assert [answer.status for answer in answers] == [200] * 5, [answer.body for answer in answers]


# ---------------------------------------------------------------------------------------------------------
# The only target


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_only_target_that_rests_is_answered_for_at_once_with_a_time_to_come_again(stream: bool) -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, attempts=2)) as gateway:
        ollama.always = Status(500)
        for _ in range(2):
            assert ask(gateway, "lonely").status in (502, 503)
        began = time.monotonic()
        answer = ask(gateway, "lonely", stream)
        assert time.monotonic() - began < 3.0
        assert answer.status == 503
        assert 50 <= int(answer.headers["retry-after"]) <= 60
        assert answer.error == {
            "message": "No target could answer: ollama/m is not asked for a while, because it had an internal error (500).",
            "type": "service_unavailable_error", "param": None, "code": "server_is_overloaded",
        }  # fmt: skip
        assert len(ollama.chats) == 3


# ---------------------------------------------------------------------------------------------------------
# Looks in the background


def test_a_local_server_that_comes_back_is_asked_again_without_waiting_for_the_cool_down() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, refresh="100ms")) as gateway:
        gateway.until(lambda: gateway.state.seen["ollama"].models is not None, "it is there")
        ollama.stop()
        for _ in range(3):
            answer = ask(gateway, "lonely")
            assert answer.status in (502, 503)
        gateway.until(lambda: gateway.state.seen["ollama"].models is None, "it is away")
        ollama.start()
        began = time.monotonic()
        gateway.until(lambda: gateway.state.seen["ollama"].models is not None, "it is back")
        assert ask(gateway, "lonely").target == MODEL
        assert time.monotonic() - began < 5.0
        assert row(gateway, MODEL)["breaker"] == "closed"


def test_a_compatible_server_that_comes_back_is_asked_again_without_waiting_for_the_cool_down() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, refresh="100ms")) as gateway:
        gateway.until(lambda: "deepseek" in gateway.state.seen, "it was looked at")
        deepseek.stop()
        for _ in range(4):
            assert ask(gateway, "deep").target == MODEL
        assert row(gateway, REMOTE)["breaker"] == "open"
        deepseek.start()
        gateway.until(lambda: row(gateway, REMOTE)["breaker"] == "closed", "it is asked again", 2.0)
        assert ask(gateway, "deep").target == REMOTE


def test_a_model_that_crashed_with_its_server_may_try_when_the_server_is_back() -> None:
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, refresh="100ms")) as gateway:
        ollama.plan(*[ResetBeforeHeaders()] * 3)
        for _ in range(3):
            assert ask(gateway).target == REMOTE
        assert row(gateway, MODEL)["breaker"] == "open"
        ollama.stop()
        gateway.until(lambda: gateway.state.seen["ollama"].models is None, "it is away")
        ollama.start()
        gateway.until(lambda: row(gateway, MODEL)["breaker"] == "half_open", "one call may try", 2.0)
        assert ask(gateway).target == MODEL


def test_a_look_alone_does_not_close_the_breaker_of_a_model_that_fails() -> None:
    """The list of models of a server whose model crashes with each call is as good as ever."""
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, refresh="50ms")) as gateway:
        ollama.always = Status(500)
        for _ in range(3):
            ask(gateway)
        time.sleep(0.4)
        assert ask(gateway).target == REMOTE
        assert len(ollama.chats) == 3


def test_a_key_that_is_taken_again_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "REMOTE_INTERVAL", 0.1)
    said: dict[str, Script] = {
        "list": [Expect(), Send(whole(b'{"data": []}'))],
        "refused": [Expect(), Send(whole(b"{}", status="401 Unauthorized"))],
    }
    with servers() as (ollama, deepseek), RawServer(said["refused"]) as server:
        text = rules(ollama, deepseek, refresh="100ms").replace(deepseek.url, server.url)
        with gateway_of(text) as gateway:
            gateway.until(lambda: "deepseek" in gateway.state.refusing, "it was looked at")
            assert ask(gateway, "deep").target == MODEL
            gateway.until(lambda: row(gateway, REMOTE)["breaker"] == "open", "it is left alone")
            server.scripts = [[*said["list"]]]
            gateway.until(lambda: row(gateway, REMOTE)["breaker"] == "closed", "its key is taken", 2.0)
            assert "deepseek" not in gateway.state.refusing


# ---------------------------------------------------------------------------------------------------------
# What is said of it


def test_the_state_is_seen_in_health_and_status_and_each_change_is_logged_once() -> None:
    quick = "failures: 3, cool_down: 1s"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick)) as gateway:

        def health() -> dict[str, str]:
            with gateway.client() as client:
                return dict(json.loads(client.get("/health").content)["breakers"])

        ask(gateway)
        assert health() == {}
        ollama.plan(*[Status(500)] * 3)
        assert {answer.target for answer in ask_many(gateway, 3)} == {REMOTE}
        for _ in range(3):
            ask(gateway)
        assert health() == {MODEL: "open"}
        with gateway.client() as client:
            shown = json.loads(client.get("/gateway/status").content)["targets"]
        found = {one["target"]: one for one in shown}
        assert set(found) == {MODEL, REMOTE}
        assert (found[MODEL]["breaker"], found[MODEL]["why"]) == ("open", "had an internal error (500)")
        assert 0 < found[MODEL]["rests_seconds"] <= 1
        assert (found[REMOTE]["breaker"], found[REMOTE]["in_flight"]) == ("closed", 0)
        assert "why" not in found[REMOTE]
        time.sleep(1.05)
        assert health() == {MODEL: "half_open"}
        assert ask(gateway).target == MODEL
        assert health() == {}
        for _ in range(5):
            ask(gateway)
        where = f"{MODEL} at {ollama.url}"
        assert times_in_log(gateway, f"WARNING {where}: had an internal error (500); it is not asked for 1 s") == 1
        assert times_in_log(gateway, f"{where}: answers again") == 1
        assert times_in_log(gateway, where) == 2


def test_what_is_said_of_a_closed_breaker_does_not_stay_for_the_next_failure() -> None:
    quick = "failures: 1, cool_down: 100ms"
    with servers() as (ollama, deepseek), gateway_of(rules(ollama, deepseek, breaker=quick, refresh="1m")) as gateway:
        gateway.state.report_down = lambda provider: None
        ollama.plan(Status(503))
        ask(gateway)
        assert row(gateway, MODEL)["why"] == "is overloaded (503)"
        time.sleep(0.15)
        assert ask(gateway).target == MODEL
        ollama.stop()
        assert ask(gateway, "other").target == REMOTE
        assert row(gateway, OTHER)["why"] == "could not be reached"
        assert row(gateway, MODEL)["why"] == "could not be reached"


def test_the_status_needs_a_key_where_keys_are_set_and_health_does_not() -> None:
    with (
        servers() as (ollama, deepseek),
        gateway_of(rules(ollama, deepseek, keys="sk-caller")) as gateway,
        gateway.client() as known,
        gateway.client("sk-unknown") as stranger,
    ):
        assert known.get("/gateway/status").status_code == known.get("/health").status_code == 200
        assert stranger.get("/health").status_code == 200
        refused = stranger.get("/gateway/status")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
