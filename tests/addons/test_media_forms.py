"""Forms that callers send: passed on byte for byte, refused in clear words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.addons.calls import Http2
from tests.addons.media import big_form, post, send_form, send_over_http_2, spools, two_servers
from tests.wire.forms import CONTENT_TYPE, WAV, body, part, recording


def test_a_form_goes_on_byte_for_byte_but_for_the_models_name() -> None:
    raw = recording(WAV, prompt="model", temperature="0")
    with two_servers() as (gateway, one, _):
        assert send_form(gateway, raw).json()["text"] == "Heard well."
        assert one.seen[0].body == raw.replace(b"whisper-1", b"served-0")
        assert one.seen[0].headers["content-type"] == CONTENT_TYPE


@pytest.mark.parametrize("pause", [0, 0.001])
def test_a_form_may_come_in_any_pieces(pause: float) -> None:
    raw = recording(WAV[:3000])

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(raw), 61):
            time.sleep(pause)
            yield raw[at : at + 61]

    with two_servers() as (gateway, one, _):
        answer = post(gateway, "/v1/audio/transcriptions", content=slowly(), headers={"content-type": CONTENT_TYPE})
        assert answer.status_code == 200
        assert one.seen[0].body == raw.replace(b"whisper-1", b"served-0")


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        (body(part("file", WAV, "a.wav")), "model", "You must provide 'model'"),
        (body(part("model", "m")), "file", "You must provide 'file'"),
        (body(part("model", "m"), part("file", WAV, "a.wav"))[:-6], None, "last boundary is missing"),
        (b"--no such form", None, "malformed at byte"),
        (b"", None, "last boundary is missing"),
        (body(*(part("a", "x") for _ in range(200))), None, "more than 128 parts"),
    ],
)
def test_an_ugly_form_is_refused_in_clear_words(raw: bytes, param: str | None, says: str) -> None:
    with two_servers() as (gateway, one, _):
        answer = send_form(gateway, raw)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == param
        assert not one.seen
        assert send_form(gateway, recording()).status_code == 200  # and the gateway goes on


def test_a_form_without_a_boundary_is_refused_before_it_is_read() -> None:
    with two_servers() as (gateway, _, _):
        answer = post(
            gateway, "/v1/audio/transcriptions", content=b"x", headers={"content-type": "multipart/form-data"}
        )
        assert answer.status_code == 400
        assert "no boundary" in answer.json()["error"]["message"]


def test_a_form_that_breaks_in_the_middle_is_answered_at_once_and_read_past() -> None:
    raw = b"--nothing like it" + bytes(3_000_000)
    before = spools()
    with two_servers() as (gateway, one, _):
        answer = send_form(gateway, raw)
        assert answer.status_code == 400
        assert not one.seen
        gateway.until(lambda: spools() == before, "the form's file is gone")


def test_a_form_sent_as_json_is_refused_with_what_would_be_right() -> None:
    with two_servers() as (gateway, _, _):
        answer = post(gateway, "/v1/audio/transcriptions", json={"model": "whisper-1", "file": "a.wav"})
        assert answer.status_code == 400
        assert "multipart/form-data" in answer.json()["error"]["message"]


def test_a_form_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    raw, _ = big_form(200_000)
    with two_servers(more="  limits: {body: 100KB}\n") as (gateway, one, _):
        for content in (raw, iter([raw[:90_000], raw[90_000:]])):
            answer = post(gateway, "/v1/audio/transcriptions", content=content, headers={"content-type": CONTENT_TYPE})
            assert answer.status_code == 413
        assert not one.seen


def test_http_2_callers_send_forms_too() -> None:
    raw, digest = big_form(700_000)
    with two_servers() as (gateway, one, _), Http2(gateway) as caller:
        number = send_over_http_2(caller, "/v1/audio/transcriptions", CONTENT_TYPE, raw)
        assert caller.heads[number][":status"] == "200"
        assert json.loads(caller.bodies[number])["text"] == "Heard well."
        assert one.seen[0].digest() == digest
