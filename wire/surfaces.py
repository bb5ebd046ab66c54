"""The table of surfaces: OpenAI's endpoints as the caller sees them, each with its check and its two kinds of answer.

A surface is one side of a call, a dialect (dialects.py) the other, and between them stands the language of openai.py:
any surface can be answered by any dialect that has the operation which its request asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wire.answer import Opening, Streamed, StreamedAnswer, Whole, WholeAnswer
from wire.check_chat import check_chat
from wire.completions import check_completion, split_completion
from wire.completions_answer import CompletionStreamed, CompletionWhole
from wire.embeddings import EmbeddingsAnswer, check_embeddings, split_embeddings
from wire.errors import Fault, fault_frame
from wire.legacy import FunctionStream, FunctionWhole, answers_functions, old_param
from wire.media import (
    check_image_edit,
    check_image_variation,
    check_images,
    check_speech,
    check_transcription,
    check_translation,
    refuse_json,
)
from wire.multipart import Form
from wire.openai import Json, ModelRequest
from wire.parts import Part, split_chat
from wire.relay import RelayedStream, RelayedWhole
from wire.responses import callers_param, check_responses
from wire.responses_answer import ResponsesStreamed, ResponsesWhole
from wire.responses_answer import last_words as responses_last_words
from wire.transcripts import TranscriptStream, TranscriptWhole


@dataclass(frozen=True, slots=True)
class Surface:
    """One row: everything that differs between the endpoints that a model answers."""

    name: str
    check: Callable[[Json], ModelRequest]
    """The caller's body -> a request that every dialect can rely on; raises BadRequest with `param`."""
    streamed: Callable[[Opening], Streamed]
    whole: Callable[[Opening], Whole]
    split: Callable[[Any], tuple[Part, ...]] = lambda request: ()
    """The parts of a request for servers that cannot be told all of it at once; none where it cannot be split."""
    check_form: Callable[[Form], ModelRequest] | None = None
    """The same for a body that is a multipart form; None: there is no such thing here."""
    prompt: str = "messages"
    """The field that holds what the model reads: an error about its length names it."""
    last_words: Callable[[Fault], bytes] = fault_frame
    """How a stream ends in which nothing but comments was sent."""
    param: Callable[[Any, str], str] = lambda request, param: param
    """(request, a parameter of its body) -> what the caller wrote there, where that is another one."""


CHAT = Surface(
    name="chat",
    check=check_chat,
    streamed=lambda opening: (FunctionStream if answers_functions(opening.request) else StreamedAnswer)(
        call_id=f"chatcmpl-{opening.call_id}",
        created=opening.created,
        model=opening.model,
        include_usage=opening.request.include_usage,
    ),
    whole=lambda opening: (FunctionWhole if answers_functions(opening.request) else WholeAnswer)(
        call_id=f"chatcmpl-{opening.call_id}", created=opening.created, model=opening.model
    ),
    split=split_chat,
    param=old_param,
)
COMPLETIONS = Surface(
    name="completions",
    check=check_completion,
    streamed=CompletionStreamed,
    whole=CompletionWhole,
    split=split_completion,
    prompt="prompt",
)
EMBEDDINGS = Surface(
    name="embeddings",
    check=check_embeddings,
    streamed=CompletionStreamed,  # never: a request for embeddings asks for no stream
    whole=EmbeddingsAnswer,
    split=split_embeddings,
    prompt="input",
)
RESPONSES = Surface(
    name="responses",
    check=check_responses,
    streamed=ResponsesStreamed,
    whole=ResponsesWhole,
    prompt="input",
    last_words=responses_last_words,
    param=callers_param,
)


def _relayed(
    name: str, check: Callable[[Json], ModelRequest], check_form: Callable[[Form], ModelRequest] | None = None
) -> Surface:
    return Surface(
        name=name,
        check=check,
        check_form=check_form,
        streamed=lambda opening: RelayedStream(binary=opening.request.binary, shown=False),
        whole=lambda opening: RelayedWhole(shown=False),
    )


def _transcribed(name: str, check_form: Callable[[Form], ModelRequest]) -> Surface:
    return Surface(
        name=name,
        check=refuse_json,
        check_form=check_form,
        streamed=lambda opening: TranscriptStream(),
        whole=lambda opening: TranscriptWhole(opening.request),
    )


TRANSCRIPTION = _transcribed("transcription", check_transcription)
TRANSLATION = _transcribed("translation", check_translation)
SPEECH = _relayed("speech", check_speech)
IMAGES = _relayed("images", check_images)
IMAGE_EDITS = _relayed("image edits", check_image_edit, check_image_edit)
IMAGE_VARIATIONS = _relayed("image variations", refuse_json, check_image_variation)
