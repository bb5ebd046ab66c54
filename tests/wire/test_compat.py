"""What a server with quirks is told that depends on more than the request's own body: the model, what was fetched, what
was thought before.
"""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.strategies import histories, tool_lists
from wire.check_chat import check_chat
from wire.compat import to_compat
from wire.errors import Untranslatable
from wire.fields import FIELDS
from wire.openai import ChatRequest, Json
from wire.profiles import PROFILES

DEEPSEEK = PROFILES["deepseek"]
LONG = "https://example.com/" + "a" * 8173
"""One character more than it takes."""
DATA = "data:image/png;base64," + "A" * 10_000


def _showing(url: str) -> ChatRequest:
    parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    return check_chat({"model": "m", "messages": [{"role": "user", "content": parts}]})


def _sent(request: ChatRequest, model: str = "deepseek-flash") -> list[Json]:
    messages: list[Json] = orjson.loads(to_compat(request, model, DEEPSEEK).body)["messages"]
    return messages


def test_a_model_that_sees_nothing_is_sent_no_image() -> None:
    request = _showing(DATA)
    assert _sent(request) == request.body["messages"]
    with pytest.raises(Untranslatable, match="'deepseek-v4-pro' sees no images") as caught:
        to_compat(request, "deepseek-v4-pro", DEEPSEEK)
    assert caught.value.param == "messages[0].content[1].image_url"


@pytest.mark.parametrize("url", [LONG[:-1], DATA, DATA.replace("data", "DATA", 1)])
def test_an_image_that_it_can_be_told_of_passes_as_it_came(url: str) -> None:
    request = _showing(url)
    assert _sent(request) == request.body["messages"]


def test_a_url_that_is_too_long_is_the_image_itself_where_it_was_fetched() -> None:
    request = _showing(LONG)
    before = orjson.dumps(request.body)
    with pytest.raises(Untranslatable, match=f"has {len(LONG)} characters; this model takes URLs of 8192") as caught:
        _sent(request)
    assert caught.value.param == "messages[0].content[1].image_url.url"
    part = _sent(replace(request, fetched={LONG: DATA}))[0]["content"][1]
    assert part == {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}
    assert orjson.dumps(request.body) == before


def test_a_turn_that_called_tools_gets_back_what_is_remembered_of_its_reasoning() -> None:
    def turn(*ids: str, **more: str) -> list[Json]:
        calls = [{"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}} for name in ids]
        results = [{"role": "tool", "tool_call_id": name, "content": "ok"} for name in ids]
        return [{"role": "assistant", "content": None, "tool_calls": calls, **more}, *results]

    messages = [*turn("a", "b"), *turn("c"), *turn("b", reasoning_content="own"), *turn("b", reasoning="older")]
    request = check_chat({"model": "m", "messages": messages})
    remembering = replace(request, thoughts={"b": "remembered", "x": "of another"})
    sent = [message for message in _sent(remembering) if message["role"] == "assistant"]
    assert [message["reasoning_content"] for message in sent] == ["remembered", "", "own", "older"]
    off = check_chat(request.body | {"thinking": {"type": "disabled"}})
    sent = [message for message in _sent(replace(off, thoughts={"b": "remembered"})) if message["role"] == "assistant"]
    assert [message.get("reasoning_content") for message in sent] == [None, None, "own", "older"]


_WORDS = st.text(st.characters(codec="utf-8"), max_size=6)
_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)
_OURS = {"model", "stream", "stream_options"}
_CHECKED = _OURS | {"messages", "functions", "function_call", *FIELDS}
"""Fields whose values are looked at, so that not anything passes."""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=histories(),
    extra=st.dictionaries(_WORDS.filter(lambda name: name not in _CHECKED), _ANYTHING, max_size=5),
    known=st.fixed_dictionaries(
        {},
        optional={
            "tools": tool_lists(),
            "temperature": st.none() | st.floats(0, 2),
            "max_tokens": st.none() | st.integers(1, 99),
            "max_completion_tokens": st.none() | st.integers(1, 99),
            "n": st.none() | st.integers(1, 3),
            "metadata": st.none() | st.dictionaries(_WORDS, _WORDS, max_size=2),
            "stream_options": st.none() | st.just({"include_usage": False, "of_the_server": 1}),
            "stream": st.none() | st.booleans(),
        },
    ),
)
def test_a_server_without_quirks_gets_all_that_was_sent_but_the_model_and_the_stream(
    messages: list[Json], extra: Json, known: Json
) -> None:
    if not known.get("stream"):
        known.pop("stream_options", None)
    body = {"model": "m", "messages": messages, **known, **extra}
    sent = to_compat(check_chat(body), "gpt-x", PROFILES["compat"])
    found = orjson.loads(sent.body)
    assert {name: value for name, value in found.items() if name not in _OURS} == {
        name: value for name, value in body.items() if name not in _OURS
    }
    assert (found["model"], found["stream"]) == ("gpt-x", True)
    assert found["stream_options"] == (known.get("stream_options") or {}) | {"include_usage": True}
    assert sent.dropped == ()


def test_a_server_without_quirks_gets_the_very_messages() -> None:
    request = _showing(LONG)
    body = orjson.loads(to_compat(request, "gpt-x", PROFILES["compat"]).body)
    assert body == request.body | {"model": "gpt-x", "stream": True, "stream_options": {"include_usage": True}}


def test_a_whole_answer_in_sound_is_asked_for_as_a_whole() -> None:
    """A stream has sound in another format, and in pieces."""
    asked = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    request = check_chat({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **asked})
    sent = orjson.loads(to_compat(request, "gpt-audio", PROFILES["compat"]).body)
    assert sent == request.body | {"model": "gpt-audio", "stream": False}
