"""A local model that hears: recordings as chats, and the cloud for what it cannot do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.addons.calls import clean_log
from tests.addons.media import EAR, SPEAK, asked_of, big_form, post, rules, sdk, send_form
from tests.gateway import Gateway
from tests.standins import CutAfter, OllamaStandIn
from tests.standins.media import SOUND, MediaStandIn
from tests.wire.forms import WAV, recording


@contextmanager
def an_ear(**options: Any) -> Iterator[tuple[Gateway, MediaStandIn, OllamaStandIn]]:
    with (
        MediaStandIn() as cloud,
        OllamaStandIn([EAR], reply=["Heard ", "locally."]) as ollama,
        Gateway(rules(cloud.url, ollama=ollama.url, **options)) as gateway,
        clean_log(gateway),
    ):
        yield gateway, cloud, ollama


def test_a_local_model_transcribes() -> None:
    raw = recording(WAV).replace(b"whisper-1", b"local-ear")
    with an_ear() as (gateway, cloud, ollama):
        answer = send_form(gateway, raw)
        assert answer.json()["text"] == "Heard locally."
        assert answer.json()["usage"]["type"] == "tokens"
        assert answer.headers["x-gateway-target"] == "ollama/hears"
        sent = asked_of(ollama)
        assert sent["model"] == "hears"
        assert base64.b64decode(sent["messages"][0]["images"][0]) == WAV
        assert not cloud.seen


def test_a_local_model_transcribes_as_the_caller_wants_it() -> None:
    with an_ear() as (gateway, _, _), sdk(gateway) as client:
        text = client.audio.transcriptions.create(model="local-ear", file=("a.wav", WAV), response_format="text")
        assert str(text) == "Heard locally.\n"
        full = client.audio.transcriptions.create(
            model="local-ear", file=("a.wav", WAV), response_format="verbose_json", language="en"
        )
        assert (full.text, full.duration, full.language) == ("Heard locally.", 1.0, "en")
        stream = client.audio.transcriptions.create(model="local-ear", file=("a.wav", WAV), stream=True)
        events = [*stream]
        assert [event.type for event in events][-1] == "transcript.text.done"
        assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == "Heard locally."
        with pytest.deprecated_call():
            english = client.audio.translations.create(model="local-ear", file=("a.wav", WAV))
        assert english.text == "Heard locally."


def test_a_streamed_transcript_of_a_local_model_is_a_stream_of_events() -> None:
    raw = recording(WAV, stream="true").replace(b"whisper-1", b"local-ear")
    with an_ear() as (gateway, _, ollama):
        answer = send_form(gateway, raw)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        ollama.plan(CutAfter(1))
        answer = send_form(gateway, raw)
        assert json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"] == "upstream_cut"
        assert answer.text.endswith("data: [DONE]\n\n")


def test_what_a_local_model_cannot_do_the_next_target_does() -> None:
    with an_ear() as (gateway, cloud, ollama):
        asked = len(ollama.chats)
        for form in (recording(WAV, response_format="vtt"), recording(b"OggS" + bytes(100))):
            answer = send_form(gateway, form.replace(b"whisper-1", b"local-ear"))
            assert answer.status_code == 200
            assert answer.headers["x-gateway-target"] == "m0/served-0"
        assert len(cloud.seen) == 2
        assert len(ollama.chats) == asked


def test_a_local_model_cannot_speak() -> None:
    with an_ear() as (gateway, cloud, _):
        spoken = json.loads(SPEAK) | {"model": "local-ear"}
        assert post(gateway, "/v1/audio/speech", json=spoken).content == SOUND
        assert len(cloud.seen) == 1


def test_a_recording_goes_from_a_local_model_to_the_cloud_when_it_fails() -> None:
    raw, digest = big_form(2_000_000)
    with an_ear() as (gateway, cloud, ollama):
        ollama.stop()
        answer = send_form(gateway, raw.replace(b"whisper-1", b"local-ear"))
        assert answer.json()["text"] == "Heard well."
        assert cloud.seen[0].digest() == digest
