"""Audio and images: calls that are routed like any other and passed on as they are, but for the model's name.

The trap: a form looks like JSON with a file in it, and is not. Its values are texts (`stream` is "true"), its lists are
fields of one name, and its file must never be looked at, nor held: a request here says where in the body things lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from wire.check import (
    InvalidType,
    InvalidValue,
    MissingParameter,
    check_fields,
    check_model,
    integer,
    kind_of,
    of_type,
    required,
)
from wire.errors import BadRequest
from wire.multipart import Form, Part
from wire.openai import Json, ModelRequest, Translated, encoded
from wire.upload import Span, Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRequest(ModelRequest):
    """A checked request whose answer is made by the target alone. Of a form, `body` holds the texts."""

    form: Form | None = None
    """Where the call came as a form: its parts."""

    @property
    def choices(self) -> int:
        """One: several images are one answer."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest(MediaRequest):
    operation: ClassVar[str] = "transcription"
    file: Part
    """The recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationRequest(TranscriptionRequest):
    operation: ClassVar[str] = "translation"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest(MediaRequest):
    """Speech as bytes of sound: they go out as they come."""

    operation: ClassVar[str] = "speech"
    binary: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEventsRequest(MediaRequest):
    """Speech as events."""

    operation: ClassVar[str] = "speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest(MediaRequest):
    operation: ClassVar[str] = "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEditRequest(MediaRequest):
    operation: ClassVar[str] = "image edits"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVariationRequest(MediaRequest):
    operation: ClassVar[str] = "image variations"


# -- checks. What only the target knows, it refuses itself: its refusal comes back as it is.


def check_transcription(form: Form) -> TranscriptionRequest:
    """POST /v1/audio/transcriptions; raises BadRequest with `param`."""
    return _checked_recording(form, TranscriptionRequest)


def check_translation(form: Form) -> TranslationRequest:
    """POST /v1/audio/translations; raises BadRequest with `param`."""
    return _checked_recording(form, TranslationRequest)


def _checked_recording[Asked: TranscriptionRequest](form: Form, kind: type[Asked]) -> Asked:
    body = _texts(form)
    model = check_model(body)
    files = [part for part in form.parts if part.name == "file"]
    if not files:
        raise MissingParameter("You must provide 'file' (the recording, as a file of the form).", param="file")
    if len(files) > 1:
        raise InvalidValue(f"'file' is there {len(files)} times; send one recording per call.", param="file")
    (file,) = files
    if not file.is_file:
        raise InvalidType("'file' must be a file: its part of the form has no filename.", param="file")
    if not file.size:
        raise InvalidValue("'file' is empty.", param="file")
    return kind(
        body=body,
        model=model,
        stream=_flag(body, "stream"),
        prompt_chars=_characters(body.get("prompt")),
        form=form,
        file=file,
    )


def check_speech(body: Json) -> SpeechRequest | SpeechEventsRequest:
    """POST /v1/audio/speech; raises BadRequest with `param`."""
    model = check_model(body)
    text = required(body, "input", str)
    if not text.strip():
        raise InvalidValue("'input' is empty. Send the text that is to be spoken.", param="input")
    voice = body.get("voice")
    if voice is None:
        raise MissingParameter("You must provide 'voice' (a name, or an object with an 'id').", param="voice")
    if not isinstance(voice, str | dict):
        raise InvalidType(f"'voice' must be a name or an object, but it is {kind_of(voice)}.", param="voice")
    form = body.get("stream_format")
    if form not in (None, "audio", "sse"):
        raise InvalidValue("'stream_format' must be 'audio' or 'sse'.", param="stream_format")
    kind = SpeechEventsRequest if form == "sse" else SpeechRequest
    how = _characters(body.get("instructions"))
    return kind(body=body, model=model, stream=True, prompt_chars=len(text), maybe_chars=how)


def check_images(body: Json) -> ImageRequest:
    """POST /v1/images/generations; raises BadRequest with `param`."""
    model = check_model(body)
    prompt = _prompt(body)
    check_fields(body, _IMAGE_FIELDS)
    return ImageRequest(body=body, model=model, stream=bool(body.get("stream")), prompt_chars=len(prompt))


def check_image_edit(asked: Form | Json) -> ImageEditRequest:
    """POST /v1/images/edits, as a form or as JSON; raises BadRequest with `param`."""
    if isinstance(asked, Form):
        body = _texts(asked)
        model = check_model(body)
        _image(asked, "image", "image[]")
        stream, form = _flag(body, "stream"), asked
    else:
        body, form = asked, None
        model = check_model(body)
        check_fields(body, _IMAGE_FIELDS)
        stream = bool(body.get("stream"))
    prompt = _prompt(body)
    return ImageEditRequest(body=body, model=model, stream=stream, prompt_chars=len(prompt), has_images=True, form=form)


def check_image_variation(form: Form) -> ImageVariationRequest:
    """POST /v1/images/variations; raises BadRequest with `param`."""
    body = _texts(form)
    model = check_model(body)
    _image(form, "image")
    return ImageVariationRequest(body=body, model=model, has_images=True, form=form)


def refuse_json(body: Json) -> NoReturn:
    """For endpoints that take forms only."""
    raise BadRequest("Send this call as multipart/form-data: its file goes along as a part of a form.")


_IMAGE_FIELDS: dict[str, Callable[[str, Any], None]] = {
    "n": integer(1),
    "stream": of_type(bool, "true or false"),
}


def _texts(form: Form) -> Json:
    """The fields of a form. Several of one name make a list."""
    found: Json = {}
    for part in form.parts:
        if part.is_file:
            continue
        # What was not held is longer than any name or prompt; a check that needs it says so.
        value: Any = part.text if part.text is not None else [f"{part.size} bytes"]
        known = found.get(part.name)
        if part.name not in found:
            found[part.name] = [value] if part.name.endswith("[]") else value
        else:
            found[part.name] = [*known, value] if isinstance(known, list) else [known, value]
    return found


def _flag(body: Json, name: str) -> bool:
    match body.get(name):
        case None | "" | "false" | "False" | "0":
            return False
        case "true" | "True" | "1":
            return True
        case _:
            raise InvalidValue(f"'{name}' must be true or false.", param=name)


def _prompt(body: Json) -> str:
    prompt = required(body, "prompt", str)
    if not prompt.strip():
        raise InvalidValue("'prompt' is empty. Say what the image is to show.", param="prompt")
    return prompt


def _characters(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0


def _image(form: Form, *names: str) -> None:
    """Raises BadRequest where a form has no image."""
    images = [part for part in form.parts if part.name in names]
    if not images:
        raise MissingParameter("You must provide 'image' (as a file of the form).", param="image")
    for part in images:
        if not part.is_file or not part.size:
            raise InvalidValue("'image' must be a file with something in it.", param="image")


# -- the request as it goes on


def to_relay(request: MediaRequest, model: str) -> Translated:
    """The caller's own body with the target's name for the model in it. Of a form every other byte stays as it was."""
    form = request.form
    if form is None:
        return Translated(encoded(request.body | {"model": model}), ())
    (field,) = (part for part in form.parts if part.name == "model")  # checked: it is there once
    parts = (Span(0, field.start), model.encode(), Span(field.end, form.size))
    return Translated(b"", (), Upload(form.content_type, parts))
