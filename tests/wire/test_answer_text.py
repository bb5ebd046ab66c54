"""What an answer says of itself as text: the same, whichever way it goes out."""

from __future__ import annotations

import pytest

from wire.answer import Answer, Opening
from wire.openai import FINISHED, Delta, Json, Reading
from wire.surfaces import CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, RESPONSES, Surface

CHATTED: Json = {"messages": [{"role": "user", "content": "hi"}]}
OLD: Json = CHATTED | {"functions": [{"name": "look", "parameters": {"type": "object"}}]}
SPEAKING = [(CHAT, CHATTED), (CHAT, OLD), (COMPLETIONS, {"prompt": "hi"}), (RESPONSES, {"input": "hi"})]
IDS = ["chat", "functions", "completions", "responses"]


def answer(surface: Surface, body: Json, stream: bool) -> Answer:
    request = surface.check({"model": "m", "stream": stream, **body})
    opening = Opening("1", 0, "m", request, wall=lambda: 0.0)
    return surface.streamed(opening) if stream else surface.whole(opening)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("surface", "body"), SPEAKING, ids=IDS)
def test_the_text_is_that_of_the_first_choice_so_far(surface: Surface, body: Json, stream: bool) -> None:
    made = answer(surface, body, stream)
    assert made.text == ""
    readings: list[Reading] = [Delta({"reasoning_content": "Hm."}), Delta({"content": "Hel"}), Delta({"content": "lo"})]
    made.write(readings)
    if surface is not RESPONSES:  # which has but one
        made.write([Delta({"content": "Bye"}, choice=1)])
    assert made.text == "Hello"
    made.write([Delta({}, "stop"), FINISHED])
    assert made.text == "Hello"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("surface", "body"), [SPEAKING[0], SPEAKING[3]], ids=[IDS[0], IDS[3]])
def test_a_call_of_a_tool_is_no_text(surface: Surface, body: Json, stream: bool) -> None:
    made = answer(surface, body, stream)
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    made.write([Delta({"tool_calls": [call]}), Delta({}, "tool_calls"), FINISHED])
    assert made.text == ""


@pytest.mark.parametrize(
    ("surface", "body", "reading"),
    [
        (EMBEDDINGS, {"input": "hi"}, Delta({"embedding": [0.5]})),
        (IMAGES, {"prompt": "a cat"}, Delta({"raw": b'{"data": []}'})),
    ],
    ids=["vectors", "images"],
)
def test_what_is_no_text_has_none(surface: Surface, body: Json, reading: Delta) -> None:
    made = answer(surface, body, stream=False)
    made.write([reading])
    assert made.text == ""
