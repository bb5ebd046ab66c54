"""What is said in a recording, as a local model hears it: asked as a chat, answered as OpenAI's transcription.

The trap: a chat model answers, it does not transcribe. It is asked for the words alone and without chance, it knows no
times (so no subtitles), and one that runs out of context in the middle leaves a transcript that looks complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from wire.check import InvalidType, InvalidValue
from wire.errors import ContextTooLong, Untranslatable
from wire.media import TranscriptionRequest, TranslationRequest
from wire.multipart import Part
from wire.ollama_reply import OllamaReply
from wire.openai import Delta, Json, ModelRequest, Reading, Translated
from wire.relay import RelayedStream, RelayedWhole
from wire.upload import Span, Upload

FORMATS = ("json", "text", "verbose_json")
"""What can be written without knowing when a word was said."""
_TRANSCRIBE = (
    "Transcribe the recording word for word, in the language that is spoken. Answer with the transcript alone: no "
    "introduction, no remarks, no quotes."
)
_TRANSLATE = (
    "Translate what is said in the recording into English. Answer with the translation alone: no introduction, no "
    "remarks, no quotes."
)
_CARRIED = frozenset(
    {"model", "prompt", "language", "languages[]", "keywords[]", "response_format", "stream", "temperature"}
)
_HERE = "\0"
"""Stands where the recording goes."""


def to_ollama_transcript(
    request: TranscriptionRequest, model: str, *, num_ctx: int | None, keep_alive: str | None, hears: bool = True
) -> Translated:
    """The /api/chat body, with the recording where Ollama takes images (ollama_api section 2).

    `hears`: False where the model is known to take no sound. Raises Untranslatable where another target may do it.
    """
    asked = request.body
    if not hears:
        raise Untranslatable(f"The local model `{model}` takes no audio. Name one that does.", param="model")
    if _kind_of_sound(request.file.head) is None:
        raise Untranslatable("'file' must be WAV or MP3 for a local model.", param="file")
    _check_form(request)
    options: Json = {"temperature": _temperature(asked.get("temperature"))}
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    body: Json = {
        "model": model,
        "messages": [{"role": "user", "content": _words(request), "images": [_HERE]}],
        "stream": True,
        "truncate": False,
        "think": False,
        "options": options,
    }
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    before, after = _around_file(body)
    upload = Upload("application/json", (before, Span(request.file.start, request.file.end, base64=True), after))
    return Translated(b"", tuple(name for name in asked if name not in _CARRIED), upload)


def _around_file(body: Json) -> tuple[bytes, bytes]:
    """The body's JSON before and after its recording. In a text of the caller's these quotes are escaped."""
    before, after = orjson.dumps(body).split(b'"images":["\\u0000"]')
    return before + b'"images":["', b'"]' + after


def _kind_of_sound(head: bytes) -> str | None:
    """By the first bytes, as Ollama tells it: RIFF with WAVE, or MP3 with a tag or a frame."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return "mp3"
    return None


def _check_form(request: TranscriptionRequest) -> None:
    """Raises Untranslatable for what a model that knows no times cannot answer."""
    form = request.body.get("response_format") or "json"
    if form not in FORMATS:
        raise Untranslatable(
            f"'response_format' can be {', '.join(FORMATS)} with a local model: it does not know when a word was said.",
            param="response_format",
        )
    if form == "verbose_json":
        if request.body.get("timestamp_granularities[]"):
            raise Untranslatable("A local model does not know when a word was said.", param="timestamp_granularities[]")
        if seconds(request.file) is None:
            raise Untranslatable(
                "'response_format' can be verbose_json for WAV only with a local model: it tells how long the "
                "recording is.",
                param="response_format",
            )


def _temperature(text: Any) -> float:
    """OpenAI's default is 0, and a chat model's is not."""
    if text is None or text == "":
        return 0.0
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise InvalidType("'temperature' must be a number.", param="temperature") from None
    if not 0 <= value <= 1:
        raise InvalidValue("'temperature' must be between 0 and 1.", param="temperature")
    return value


def _words(request: TranscriptionRequest) -> str:
    """What the model is told to do, and what the caller knows of the recording."""
    asked = request.body
    words = [_TRANSLATE if isinstance(request, TranslationRequest) else _TRANSCRIBE]
    languages = [text for text in (asked.get("language"), *_list(asked, "languages[]")) if text]
    if languages:
        words.append(f"Language of the recording: {', '.join(map(str, languages))}.")
    keywords = _list(asked, "keywords[]")
    if keywords:
        words.append(f"Words that may occur in it: {', '.join(map(str, keywords))}.")
    if asked.get("prompt"):
        words.append(f"What came before it, or is known of it: {asked['prompt']}")
    return "\n".join(words)


def _list(asked: Json, name: str) -> list[Any]:
    value = asked.get(name) or []
    return value if isinstance(value, list) else [value]


def seconds(file: Part) -> float | None:
    """How long a WAV recording is, by its own header; None where that cannot be told."""
    head, size = file.head, file.size
    if _kind_of_sound(head) != "wav" or head[12:16] != b"fmt " or len(head) < 44:
        return None
    rate = int.from_bytes(head[28:32], "little")
    return round((size - 44) / rate, 3) if rate else None


class TranscriptReply:
    """Reads Ollama's reply. A transcript that ended for want of context is none."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._reply = OllamaReply(make_id)

    def feed(self, data: bytes) -> list[Reading]:
        return self._checked(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._checked(self._reply.close())

    @staticmethod
    def _checked(readings: list[Reading]) -> list[Reading]:
        for number, reading in enumerate(readings):
            if isinstance(reading, Delta) and reading.finish_reason == "length":
                fault = ContextTooLong("The recording is too long for the model's context.", param="file")
                return [*readings[:number], fault]
        return readings


class TranscriptStream(RelayedStream):
    """Events of a transcription. Those of a server that sends them itself are passed on."""

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []
        self._blanks = ""
        """Held back until more is said: at the end they are no part of it."""
        self._passes = False

    def _piece(self, delta: Json) -> bytes:
        if "raw" in delta:
            self._passes = True
            return super()._piece(delta)
        text: str = self._blanks + delta.get("content", "")
        if not self._text:
            text = text.lstrip()
        said = text.rstrip()
        self._blanks = text[len(said) :]
        if not said:
            return b""
        self._text.append(said)
        return _event({"type": "transcript.text.delta", "delta": said})

    def _end(self) -> bytes:
        if self._passes:
            return b""
        return _event({"type": "transcript.text.done", "text": "".join(self._text)} | _counted(self.usage))


def _event(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _counted(usage: Json | None) -> Json:
    """The counts as a transcription has them."""
    if usage is None:
        return {}
    return {
        "usage": {
            "type": "tokens",
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
        }
    }


class TranscriptWhole(RelayedWhole):
    """A transcription in the form that the caller asked for. That of a server that writes it itself is passed on."""

    def __init__(self, request: ModelRequest) -> None:
        super().__init__()
        self._asked = request.body
        self._into_english = isinstance(request, TranslationRequest)
        self._seconds = seconds(request.file) if isinstance(request, TranscriptionRequest) else None
        self._text: list[str] = []
        self._passes = False

    def _add(self, delta: Json) -> None:
        if "raw" in delta:
            self._passes = True
            super()._add(delta)
        else:
            self._text.append(delta.get("content", ""))

    def _whole(self) -> bytes:
        if self._passes:
            return super()._whole()
        asked = self._asked
        text = "".join(self._text).strip()
        match asked.get("response_format"):
            case "text":
                self.content_type = "text/plain; charset=utf-8"
                return text.encode() + b"\n"
            case "verbose_json":
                task = "translate" if self._into_english else "transcribe"
                language = "english" if self._into_english else asked.get("language") or "unknown"
                return orjson.dumps({"task": task, "language": language, "duration": self._seconds, "text": text})
            case _:
                return orjson.dumps({"text": text} | _counted(self.usage))
