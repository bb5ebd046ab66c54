"""A server that fails while it is sent a file, and the next one that gets the whole of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from addons.account import Account
from tests.addons.calls import Http2
from tests.addons.media import (
    SPEAK,
    big_form,
    head_of,
    in_a_hurry,
    send_form,
    send_over_http_2,
    two_servers,
    upload_over_http_2,
)
from tests.gateway import patient
from tests.standins.media import AnswerAt, CutAt, HushAt, RefuseAt, Reply, ResetAt, Slowly, StallAt
from tests.wire.forms import CONTENT_TYPE, recording

PLANS: dict[str, Any] = {
    "resets the connection": ResetAt(1_000_000),
    "resets it at the first byte": ResetAt(0),
    "is overloaded early": RefuseAt(1000, 503),
    "is overloaded and closes": RefuseAt(300_000, 503, reads_on=False),
    "stops reading": StallAt(500_000),
    "is out of order at the end": Reply(b'{"error":"no"}', status=500),
    "sends an error as an answer": Reply(b'{"error":{"message":"no"}}'),
    "sends half an answer": CutAt(10),
    "sends nothing": Reply(b""),
    "says nothing": HushAt(0, 10),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_the_next_server_gets_the_whole_file(plan: Any) -> None:
    raw, digest = big_form(5_000_000)
    with two_servers() as (gateway, one, two), in_a_hurry(gateway, plan):
        one.plans.append(plan)
        answer = send_form(gateway, raw)
        assert answer.status_code == 200, answer.text
        assert answer.json()["text"] == "Heard well."
        assert answer.headers["x-gateway-target"] == "m1/served-1"
        assert two.seen[0].digest() == digest
        assert two.seen[0].fields["model"] == [b"served-1"]
        gateway.until(lambda: not gateway.state.in_flight(), "no call is under way")


def test_an_early_413_ends_the_sending_and_the_next_server_may_take_more() -> None:
    raw, digest = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(RefuseAt(1000))
        answer = send_form(gateway, raw)
        assert (answer.status_code, answer.headers["x-gateway-target"]) == (200, "m1/served-1")
        assert two.seen[0].digest() == digest
        assert len(one.seen[0].body) == 1000


def test_a_413_of_every_server_is_told_to_the_caller() -> None:
    raw, _ = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(RefuseAt(1000))
        two.plans.append(RefuseAt(1000))
        answer = send_form(gateway, raw)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (
            413,
            "request_too_large",
            "invalid_request_error",
        )
        assert "Maximum content size" in error["message"]


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["at once", "in two parts"])
def test_a_server_that_answers_before_it_has_all_is_believed(pause: float) -> None:
    raw, _ = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(AnswerAt(100_000, pause=pause))
        assert send_form(gateway, raw).json() == {"text": "early"}
        connections = one.connections
        assert send_form(gateway, recording()).json()["text"] == "Heard well."
        assert one.connections == connections + 1  # the half-used connection is not used again
        assert not two.seen


def test_a_server_that_does_not_read_holds_up_no_other_call_of_its_caller() -> None:
    raw, _ = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(StallAt(100_000, 30))
        with Http2(gateway) as caller:
            stuck = upload_over_http_2(caller, "/v1/audio/transcriptions", CONTENT_TYPE, raw)
            gateway.until(lambda: one.seen != [] and one.seen[0].body != b"", "the first server stopped reading")
            for _ in range(3):
                number = send_over_http_2(caller, "/v1/audio/speech", "application/json", SPEAK)
                assert caller.heads[number][":status"] == "200"
            assert stuck not in caller.ended
        gateway.until(lambda: not gateway.state.in_flight(), "the call ended with its caller")
        assert not two.seen


def test_a_slow_reader_is_waited_for_as_long_as_it_reads() -> None:
    raw, digest = big_form(4_000_000)
    with two_servers(timeouts=patient(first_token="1s", idle="1s")) as (gateway, one, two):
        one.plans.append(Slowly(0.03))
        began = time.monotonic()
        assert send_form(gateway, raw).json()["text"] == "Heard well."
        assert time.monotonic() - began > 1.5
        assert one.seen[0].digest() == digest
        assert not two.seen


def test_the_whole_time_of_a_call_holds_for_an_upload_too() -> None:
    raw, _ = big_form(4_000_000)
    with two_servers(timeouts=patient(total="700ms")) as (gateway, one, two):
        one.plans.append(StallAt(100_000))
        began = time.monotonic()
        answer = send_form(gateway, raw)
        assert answer.status_code == 504
        assert 0.6 < time.monotonic() - began < 4
        assert not two.seen


def test_a_kept_connection_serves_one_upload_after_the_other() -> None:
    raw, digest = big_form(1_000_000)
    with two_servers() as (gateway, one, _), gateway.client() as client:
        for _ in range(4):
            answer = client.post("/v1/audio/transcriptions", content=raw, headers={"content-type": CONTENT_TYPE})
            assert answer.status_code == 200
        assert [seen.digest() for seen in one.seen] == [digest] * 4
        gets = 2  # the gateway's own looks at the server
        assert one.connections <= 1 + gets


def test_many_uploads_at_once_each_get_their_own_file() -> None:
    forms = [big_form(900_000 + number) for number in range(8)]
    answers: list[int] = []
    with two_servers() as (gateway, one, _):

        def send(raw: bytes) -> None:
            answers.append(send_form(gateway, raw).status_code)

        threads = [threading.Thread(target=send, args=(raw,)) for raw, _ in forms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        assert sorted(seen.digest() for seen in one.seen) == sorted(digest for _, digest in forms)


@pytest.mark.parametrize("kind", [CONTENT_TYPE, "application/json"], ids=["a file", "a long prompt"])
@pytest.mark.parametrize(("plan", "counted"), [(StallAt(100_000), False), (HushAt(0, 10), True)])
def test_who_leaves_pays_for_what_was_wholly_taken(kind: str, plan: Any, counted: bool) -> None:
    path, raw = "/v1/audio/transcriptions", big_form(8_000_000)[0]
    if kind != CONTENT_TYPE:
        messages = [{"role": "user", "content": "x" * 8_000_000}]
        path, raw = "/v1/chat/completions", json.dumps({"model": "m", "messages": messages}).encode()
    accounts: list[Account] = []
    with two_servers() as (gateway, one, two):
        gateway.state.watchers.append(accounts.append)
        one.plans.append(plan)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as caller:
            caller.sendall(head_of(raw, path, kind) + raw)
            gateway.until(lambda: bool(one.seen and one.seen[0].body), "the server has what it will take")
            if counted:
                attempts = [attempt for call in gateway.state.in_flight() for attempt in call.attempts]
                gateway.until(lambda: attempts[0].awaited, "the server has it all")
            else:
                time.sleep(0.3)
        gateway.until(lambda: accounts != [], "the call is told of")
        (account,) = accounts
        assert (account.status, [one.outcome for one in account.tried]) == (499, ["left"])
        assert (account.estimated, account.unpriced) == (counted, counted)  # its server has no price
        assert (account.tokens.prompt > 0) == (counted and kind != CONTENT_TYPE)
        assert not two.seen
