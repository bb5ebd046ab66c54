"""What the SDK makes of audio and images that come through the gateway."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.addons.media import sdk, two_servers
from tests.standins.media import PICTURE, SOUND
from tests.wire.forms import WAV


def test_the_sdk_transcribes() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), prompt="Grüße")
        assert heard.text == "Heard well."
        (seen,) = one.seen
        assert seen.path == "/v1/audio/transcriptions"
        assert seen.fields["model"] == [b"served-0"]
        assert seen.fields["prompt"] == ["Grüße".encode()]
        assert seen.digest() == hashlib.sha256(WAV).hexdigest()
        assert seen.headers["authorization"] == "Bearer sk-up-0"
        assert "x-stainless-lang" not in seen.headers
        spoken = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), response_format="vtt")
        assert str(spoken).startswith("WEBVTT")
        with pytest.deprecated_call():
            english = client.audio.translations.create(model="whisper-1", file=("a.wav", WAV))
        assert english.text == "Heard well."
        assert one.seen[-1].path == "/v1/audio/translations"
        stream = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), stream=True)
        assert [event.type for event in stream] == [
            "transcript.text.delta",
            "transcript.text.delta",
            "transcript.text.done",
        ]
        gateway.until(lambda: "14+45 tokens" in gateway.log.getvalue(), "the usage in the log")


def test_the_sdk_speaks() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello", response_format="mp3")
        assert spoken.content == SOUND
        assert spoken.response.headers["content-type"] == "audio/mpeg"
        assert spoken.response.headers["x-gateway-target"] == "m0/served-0"
        assert one.seen[0].json == {
            "input": "Hello",
            "model": "served-0",
            "voice": "alloy",
            "response_format": "mp3",
        }
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="Hello", stream_format="sse"
        ) as events:
            text = events.read()
            assert events.headers["content-type"] == "text/event-stream"
        assert base64.b64encode(SOUND) in text
        assert text.count(b"data: ") == 2


def test_the_sdk_paints() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        painted = client.images.generate(model="gpt-image-1", prompt="A cat", n=2)
        assert painted.data is not None
        assert painted.data[0].b64_json == PICTURE
        assert one.seen[0].json["model"] == "served-0"
        events = [*client.images.generate(model="gpt-image-1", prompt="A cat", stream=True, partial_images=1)]
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        edited = client.images.edit(
            model="gpt-image-1", prompt="A hat", image=[("a.png", b"\x89PNG1"), ("b.png", b"\x89PNG2")]
        )
        assert edited.data is not None
        assert one.seen[-1].path == "/v1/images/edits"
        assert one.seen[-1].fields["image[]"] == [b"\x89PNG1", b"\x89PNG2"]
        with pytest.deprecated_call():
            client.images.create_variation(model="dall-e-2", image=("a.png", b"\x89PNG"))
        assert one.seen[-1].path == "/v1/images/variations"
