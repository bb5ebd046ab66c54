"""Audio and images: checked, passed on with another model's name, or put in the words of a local model."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from tests.wire.cases import Case, cases, params
from tests.wire.forms import MP3, WAV, body, part, read, recording
from wire.dialects import DIALECTS, Facets
from wire.errors import BadRequest
from wire.media import (
    MediaRequest,
    TranscriptionRequest,
    check_image_edit,
    check_image_variation,
    check_images,
    check_speech,
    check_transcription,
    check_translation,
)
from wire.openai import ChatRequest, Json, Translated
from wire.profiles import PROFILES
from wire.surfaces import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES, SPEECH, TRANSCRIPTION, TRANSLATION
from wire.transcripts import seconds
from wire.upload import PIECE, Span, Upload

SURFACES = {
    surface.name: surface for surface in (IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES, SPEECH, TRANSCRIPTION, TRANSLATION)
}
FORMS: Mapping[str, Any] = {
    "transcription": check_transcription,
    "translation": check_translation,
    "image edits": check_image_edit,
    "image variations": check_image_variation,
}
SOUNDS = {
    "wav": WAV,
    "mp3": MP3,
    "id3": b"ID3\x04" + MP3,
    "ogg": b"OggS" + bytes(60),
    "byte": b"\xff",
    "odd_wav": WAV[:12] + b"LIST" + WAV[16:],
}


def form_of(fields: Json) -> bytes:
    """A form as a case spells it: texts, lists of texts, and files by their kind."""
    parts: list[bytes] = []
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            match one:
                case {"wav": filename}:
                    parts.append(part(name, WAV, filename))
                case {"empty": filename}:
                    parts.append(part(name, b"", filename))
                case {"text": length}:
                    parts.append(part(name, "x" * length))
                case _:
                    parts.append(part(name, one))
    return body(*parts)


def checked(case: Case) -> MediaRequest:
    endpoint = case.row.get("endpoint", "transcription")
    request: MediaRequest
    if "json" in case.row:
        asked = SURFACES[endpoint].check(case.row["json"])
        assert isinstance(asked, MediaRequest)
        request = asked
    else:
        request = FORMS[endpoint](read(form_of(case.row["form"])))
    return request


def written(translated: Translated, raw: bytes) -> bytes:
    """The body that goes out, of the form that came in."""
    assert translated.upload is not None
    data = b"".join(translated.upload.pieces(lambda start, end: raw[start:end]))
    assert len(data) == translated.upload.length
    return data


MEDIA = cases("media")


@pytest.mark.parametrize("case", params(case for case in MEDIA if case.file == "refused"))
def test_a_bad_call_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        checked(case)
    assert caught.value.param == case.row["param"]
    assert case.row["says"] in caught.value.message
    assert caught.value.kind is None


@pytest.mark.parametrize("case", params(case for case in MEDIA if case.file == "accepted"))
def test_a_good_call_passes(case: Case) -> None:
    request = checked(case)
    nothing = {"stream": False, "prompt_chars": 0, "binary": False, "has_images": False, "body": case.row.get("json")}
    names = ("operation", "model", "stream", "prompt_chars", "binary", "has_images", "body")
    assert {name: getattr(request, name) for name in names} == nothing | case.row["gives"]
    assert request.choices == 1


# -- passed on


@pytest.mark.parametrize("model", ["whisper-1", "Systran/faster-whisper-large-v3", "m", "größer"])
def test_of_a_form_nothing_changes_but_the_models_name(model: str) -> None:
    raw = recording(prompt="whisper-1 is no model here", temperature="0")
    request = check_transcription(read(raw))
    translated = DIALECTS["openai"].operations["transcription"].translate(request, model, Facets())
    assert written(translated, raw) == recording(model=model, prompt="whisper-1 is no model here", temperature="0")
    assert translated.dropped == ()
    assert translated.upload is not None
    assert translated.upload.content_type == request.form.content_type if request.form else None


def test_of_json_nothing_changes_but_the_models_name() -> None:
    asked = {"model": "tts-1", "input": "Hi", "voice": "alloy", "next_year": [1, {"a": None}]}
    translated = DIALECTS["openai"].operations["speech"].translate(check_speech(asked), "kokoro", Facets())
    assert translated == Translated(b'{"model":"kokoro","input":"Hi","voice":"alloy","next_year":[1,{"a":null}]}', ())
    assert asked["model"] == "tts-1"


def test_an_edit_is_passed_on_as_it_came() -> None:
    raw = body(part("image", b"\x89PNG", "a.png"), part("model", "gpt-image-1"), part("prompt", "x"))
    request = check_image_edit(read(raw))
    translated = DIALECTS["openai"].operations["image edits"].translate(request, "flux", Facets())
    assert written(translated, raw) == raw.replace(b"gpt-image-1", b"flux")
    as_json = check_image_edit({"model": "m", "prompt": "x"})
    assert DIALECTS["openai"].operations["image edits"].translate(as_json, "flux", Facets()).body == (
        b'{"model":"flux","prompt":"x"}'
    )


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("transcription", "/v1/audio/transcriptions"),
        ("translation", "/v1/audio/translations"),
        ("speech", "/v1/audio/speech"),
        ("images", "/v1/images/generations"),
        ("image edits", "/v1/images/edits"),
        ("image variations", "/v1/images/variations"),
    ],
)
def test_a_media_endpoint_is_found_from_the_configured_path(operation: str, path: str) -> None:
    row = DIALECTS["openai"].operations[operation]
    assert row.path("", Facets()) == row.path("/v1/chat/completions", Facets()) == path
    asked = check_images({"model": "m", "prompt": "x"})
    assert row.first_token_times(asked, Facets()) > 1  # nothing comes while an image is made


def test_every_request_has_an_endpoint_at_a_compatible_server() -> None:
    asked = [
        check_images({"model": "m", "prompt": "x"}),
        check_image_variation(read(body(part("model", "m"), part("image", b"x", "a.png")))),
        check_transcription(read(recording())),
        check_translation(read(recording())),
    ]
    assert all(request.operation in DIALECTS["openai"].operations for request in asked)
    assert {request.operation for request in asked} < PROFILES["deepseek"].lacks
    assert {"images", "speech"}.isdisjoint(DIALECTS["ollama"].operations)


# -- an upload


def test_an_upload_is_made_in_small_pieces_and_as_long_as_it_says() -> None:
    raw = bytes(range(256)) * 4096
    for start, end in ((0, len(raw)), (1, PIECE), (5, 5), (7, PIECE + 8), (100, 102)):
        upload = Upload("x", (b"before", Span(start, end, base64=True), b"", Span(start, end), b"after"))
        pieces = list(upload.pieces(lambda a, b: raw[a:b]))
        assert all(0 < len(piece) <= PIECE * 4 // 3 for piece in pieces)
        data = raw[start:end]
        assert b"".join(pieces) == b"before" + base64.b64encode(data) + data + b"after"
        assert upload.length == len(b"".join(pieces))


def test_an_upload_reads_each_byte_when_it_is_sent_and_not_before() -> None:
    asked: list[tuple[int, int]] = []

    def look(start: int, end: int) -> bytes:
        asked.append((start, end))
        return bytes(end - start)

    pieces = Upload("x", (Span(0, 10), Span(20, 30, base64=True))).pieces(look)
    assert asked == []
    assert next(pieces) == bytes(10)
    assert asked == [(0, 10)]
    assert next(pieces) == base64.b64encode(bytes(10))
    assert asked == [(0, 10), (20, 30)]


# -- a local model that hears


def translate(case: Case) -> tuple[Translated, bytes, bytes]:
    sound = SOUNDS[case.row.get("sound", "wav")]
    raw = recording(sound, **case.row["form"])
    request = FORMS[case.row.get("endpoint", "transcription")](read(raw))
    facets = dict(case.row.get("facets", {}))
    if "capabilities" in facets:
        facets["capabilities"] = frozenset(facets["capabilities"])
    operation = DIALECTS["ollama"].operations[request.operation]
    return operation.translate(request, case.common["body"]["model"], Facets(**facets)), raw, sound


TRANSCRIPTS = cases("transcripts")


@pytest.mark.parametrize("case", params(case for case in TRANSCRIPTS if "fault" not in case.row))
def test_a_recording_is_put_in_a_chat(case: Case) -> None:
    translated, raw, sound = translate(case)
    sent = orjson.loads(written(translated, raw))
    (message,) = sent.pop("messages")
    assert sent == case.common["body"] | case.row["body"]
    words: str = case.row["words"] if "words" in case.row else case.common["words"]
    content = words + ("\n" + case.row["more"] if "more" in case.row else "")
    digest = hashlib.sha256(base64.b64decode(message["images"][0])).hexdigest()
    assert digest == hashlib.sha256(sound).hexdigest()
    assert message == {"role": "user", "content": content, "images": message["images"]}
    assert translated.dropped == tuple(case.row.get("dropped", ()))


@pytest.mark.parametrize("case", params(case for case in TRANSCRIPTS if "fault" in case.row))
def test_what_a_local_model_cannot_do_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        translate(case)
    expected = case.row["fault"]
    assert (caught.value.kind, caught.value.param) == (expected["kind"], expected["param"])
    assert expected["says"] in caught.value.message


def test_a_wav_says_how_long_it_is() -> None:
    def length(sound: bytes) -> float | None:
        request: TranscriptionRequest = check_transcription(read(recording(sound)))
        return seconds(request.file)

    assert length(WAV) == 1.0
    assert length(WAV[:44] + bytes(8000)) == 0.25
    assert length(WAV[:28] + bytes(4) + WAV[32:]) is None  # no bytes a second
    assert length(WAV[:40]) is None
    assert length(MP3) is None


def test_a_chat_is_no_stream_of_bytes() -> None:
    assert not ChatRequest(body={}, model="m").binary
