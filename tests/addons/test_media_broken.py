"""Sound, pictures and their events that break off: cut so that everybody sees it."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from tests.addons.calls import Http2, read_all
from tests.addons.media import SPEAK, head_of, in_a_hurry, log_of, post, send_over_http_2, two_servers
from tests.gateway import patient
from tests.standins.media import PICTURE, SOUND, CutAt, HushAt, Reply, ResetAt

CUTS: dict[str, Any] = {
    "closes": CutAt(20_000),
    "resets": CutAt(20_000, reset=True),
    "falls silent": HushAt(20_000, 10),
}


@pytest.mark.parametrize("plan", CUTS.values(), ids=CUTS.keys())
def test_sound_that_breaks_off_breaks_the_callers_connection(plan: Any) -> None:
    with two_servers() as (gateway, one, two), in_a_hurry(gateway, plan):
        one.plans.append(plan)
        with gateway.client() as client, client.stream("POST", "/v1/audio/speech", content=SPEAK) as answer:
            assert answer.status_code == 200
            got: list[bytes] = []
            with pytest.raises(httpx.RemoteProtocolError):
                got.extend(answer.iter_raw())
            assert SOUND.startswith(b"".join(got))
            assert b"".join(got)
        assert not two.seen
        gateway.until(lambda: "502 POST /v1/audio/speech" in log_of(gateway) or "504 POST" in log_of(gateway), "a line")


def test_sound_that_breaks_off_resets_an_http_2_stream_and_not_its_connection() -> None:
    with two_servers() as (gateway, one, _), Http2(gateway) as caller:
        one.plans.append(CutAt(20_000))
        first = send_over_http_2(caller, "/v1/audio/speech", "application/json", SPEAK)
        assert caller.resets == {first}
        assert SOUND.startswith(caller.bodies[first])
        second = send_over_http_2(caller, "/v1/audio/speech", "application/json", SPEAK)
        assert caller.bodies[second] == SOUND
        assert caller.resets == {first}


def test_sound_that_breaks_off_resets_a_connection_whose_end_would_be_the_answers() -> None:
    with two_servers() as (gateway, one, _):
        one.plans.append(CutAt(20_000))
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
            caller.sendall(head_of(SPEAK, "/v1/audio/speech", "application/json", "1.0") + SPEAK)
            with pytest.raises(ConnectionResetError):
                read_all(caller)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
            caller.sendall(head_of(SPEAK, "/v1/audio/speech", "application/json", "1.0") + SPEAK)
            assert read_all(caller).endswith(SOUND)


def test_sound_that_does_not_begin_is_asked_of_the_next_server() -> None:
    with two_servers() as (gateway, one, _):
        for plan in (CutAt(0), HushAt(0, 5), Reply(b"<html>", "text/html"), Reply(b"", "audio/mpeg"), ResetAt(3)):
            one.plans.append(plan)
            with in_a_hurry(gateway, plan):
                answer = post(gateway, "/v1/audio/speech", content=SPEAK)
            assert (answer.status_code, answer.headers["x-gateway-target"]) == (200, "m1/served-1")
            assert answer.content == SOUND


def test_in_the_sound_there_is_nothing_but_sound() -> None:
    with two_servers(timeouts=patient(keep_alive="20ms")) as (gateway, one, _):
        one.plans.append(HushAt(0, 0.2))
        assert post(gateway, "/v1/audio/speech", content=SPEAK).content == SOUND


@pytest.mark.parametrize(
    ("path", "asked", "begins"),
    [
        ("/v1/audio/speech", {"model": "t", "voice": "v", "input": "x", "stream_format": "sse"}, b"speech.audio.delta"),
        ("/v1/images/generations", {"model": "i", "prompt": "x", "stream": True}, b"partial_image"),
    ],
)
def test_events_that_break_off_end_in_an_error_event(path: str, asked: dict[str, Any], begins: bytes) -> None:
    with two_servers() as (gateway, one, two):
        whole = post(gateway, path, json=asked).content
        one.plans.append(CutAt(len(whole) - 20))
        data = post(gateway, path, json=asked).content
        events = [event for event in data.split(b"\n\n") if event]
        assert begins in events[0]
        assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "upstream_cut"
        assert events[-1] == b"data: [DONE]"
        assert len(events) == 3  # whole events only: the half one is left out
        assert not two.seen


@pytest.mark.parametrize("servers_left", [1, 0])
def test_after_a_comment_only_events_are_passed_on(servers_left: int) -> None:
    with two_servers(timeouts=patient(keep_alive="20ms")) as (gateway, one, two):
        late = Reply(b'{"created":1,"data":[{"b64_json":"' + PICTURE.encode() + b'"}]}', after=0.1)
        one.plans.append(late)
        if not servers_left:
            two.plans.append(late)
        answer = post(gateway, "/v1/images/generations", json={"model": "i", "prompt": "x", "stream": True})
        events = [event for event in answer.content.split(b"\n\n") if event and not event.startswith(b":")]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content.startswith(b": ")
        assert len(two.seen) == 1
        if servers_left:
            assert b"partial_image" in events[0]
        else:
            error = json.loads(events[0].removeprefix(b"data: "))["error"]
            assert (len(events), events[1], error["code"]) == (2, b"data: [DONE]", "upstream_garbled")
            assert "did not answer in events although it was asked to" in error["message"]


def test_a_whole_answer_that_breaks_off_late_is_asked_of_the_next_server() -> None:
    with two_servers() as (gateway, one, _):
        one.plans.append(CutAt(9000))
        answer = post(gateway, "/v1/images/generations", json={"model": "i", "prompt": "x"})
        assert answer.json()["data"][0]["b64_json"] == PICTURE
        assert answer.headers["x-gateway-target"] == "m1/served-1"


def test_a_caller_that_leaves_in_the_middle_of_the_sound_is_let_go() -> None:
    with two_servers() as (gateway, one, two):
        one.plans.append(HushAt(20_000, 10))
        with gateway.client() as client, client.stream("POST", "/v1/audio/speech", content=SPEAK) as answer:
            pieces = answer.iter_raw()  # kept: httpx ends the connection with it
            assert SOUND.startswith(next(pieces))
            assert len(gateway.state.in_flight()) == 1
        gateway.until(lambda: " 499 POST /v1/audio/speech" in log_of(gateway), "the line of a call that was left")
        assert not gateway.state.in_flight()
        assert not two.seen
