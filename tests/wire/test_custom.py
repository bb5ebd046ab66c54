"""Custom tools at servers that know functions only: as functions upstream, as custom calls to the caller."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wire.answer import StreamedAnswer, WholeAnswer
from wire.custom import CustomCalls, as_function, as_function_call, custom_names
from wire.dialects import DIALECTS, Facets
from wire.first_call import FirstCall
from wire.openai import FINISHED, ChatRequest, Delta, Json, Reading, Usage

RUN: Json = {"type": "custom", "custom": {"name": "run"}}


class Told:
    """A reader that says what it was told, a batch for each feed and the last one at its close."""

    def __init__(self, *batches: list[Reading]) -> None:
        self._batches = list(batches)

    def feed(self, data: bytes) -> list[Reading]:
        return self._batches.pop(0)

    def close(self) -> list[Reading]:
        return self._batches.pop(0) if self._batches else []


def _call(arguments: str, *, index: int = 0, name: str | None = None) -> Delta:
    function: Json = {"arguments": arguments}
    fragment: Json = {"index": index}
    if name is not None:
        function = {"name": name} | function
        fragment |= {"id": f"call_{index}", "type": "function"}
    return Delta({"tool_calls": [fragment | {"function": function}]})


def _read(*readings: Reading) -> list[Reading]:
    reply = CustomCalls(Told(*([reading] for reading in readings)), frozenset({"run"}))
    return [new for _ in readings for new in reply.feed(b"")]


def _inputs(readings: list[Reading]) -> list[str]:
    deltas = [reading.delta for reading in readings if isinstance(reading, Delta)]
    return [call["custom"]["input"] for delta in deltas for call in delta.get("tool_calls", ()) if "custom" in call]


def _said(pieces: list[str]) -> str:
    """The input out of the pieces of a call's arguments."""
    first, *rest = pieces
    return "".join(_inputs(_read(_call(first, name="run"), *map(_call, rest), Delta({}, "tool_calls"), FINISHED)))


TEXT = st.text(st.one_of(st.sampled_from('"\\/\n\tudé😀\u2028'), st.characters(exclude_categories=["Cs"])))


@given(text=TEXT, ascii_only=st.booleans(), blanks=st.booleans(), draw=st.data())
@example(text="😀", ascii_only=True, blanks=False, draw=None)
def test_the_text_comes_out_whole_however_its_arguments_were_cut(
    text: str, ascii_only: bool, blanks: bool, draw: Any
) -> None:
    inside = orjson.dumps(text).decode()
    if ascii_only:
        inside = "".join(
            mark if mark.isascii() else f"\\u{unit:04x}" if (unit := ord(mark)) < 0x10000 else _pair(unit)
            for mark in inside
        )
    arguments = f' {{ "input" : {inside} }} ' if blanks else f'{{"input":{inside}}}'
    if draw is None:
        cuts = list(range(len(arguments)))
    else:
        cuts = sorted(draw.draw(st.lists(st.integers(0, len(arguments)), max_size=len(arguments))))
    pieces = [arguments[start:end] for start, end in pairwise([0, *cuts, len(arguments)])]
    assert _said(pieces) == text


def _pair(unit: int) -> str:
    high, low = divmod(unit - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def test_the_text_is_passed_on_as_it_grows() -> None:
    found = _read(_call("", name="run"), _call('{"inp'), _call('ut": "ls'), _call(" -l"), _call('a"}'), FINISHED)
    head = {"index": 0, "id": "call_0", "type": "custom", "custom": {"name": "run", "input": ""}}
    more = [{"index": 0, "custom": {"input": text}} for text in ("ls", " -l", "a")]
    assert found == [*(Delta({"tool_calls": [call]}) for call in (head, *more)), FINISHED]


def test_a_backslash_before_an_escape_is_no_half_of_a_pair() -> None:
    assert _said(['{"input":"\\\\ud83d', 'x"}']) == "\\ud83dx"
    assert _said(['{"input":"\\\\\\ud83d', '\\ude00"}']) == "\\😀"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"\\d+"}', "\\d+"),
        ('{"input":"\\uZZ"}', "\\uZZ"),
        ('{"input":"\\ud83d!"}', "\ufffd!"),
        ('{"input":"cut in the mid', "cut in the mid"),
        ('{"input":"cut in an escape \\u12', "cut in an escape \\u12"),
        ('{"input":"said"} and more', "said"),
        ('{"command":"ls"}', "ls"),
        ('{"first":1,"input":"ls"}', "ls"),
        ('"ls"', "ls"),
        ("ls -la", "ls -la"),
        ('say "hi"', 'say "hi"'),
        ("{}", ""),
        ("", ""),
        (" ", ""),
        ("[1]", "[1]"),
        ('{"input":5}', '{"input":5}'),
        ('{"a":1,"b":2}', '{"a":1,"b":2}'),
    ],
)
def test_what_a_model_writes_that_was_not_asked_for_is_made_the_best_of(arguments: str, text: str) -> None:
    assert _said([arguments]) == text
    assert _said(["", *arguments]) == text


def test_arguments_that_begin_late_are_read_when_they_are_complete() -> None:
    pieces = [*('{"b":"' + "x" * 50 + '",'), '"input":"ls"}']
    assert _said(pieces) == "ls"


def test_the_callers_own_functions_stay_functions() -> None:
    own = _call('{"x":1}', index=0, name="f")
    found = _read(own, _call('{"input":"ls"}', index=1, name="run"), _call("", index=0), Delta({}, "tool_calls"))
    assert found[0] == own
    assert _inputs(found) == ["ls"]
    assert found[2:] == [_call("", index=0), Delta({}, "tool_calls")]


def test_logprobs_of_a_fragment_that_says_nothing_yet_are_told() -> None:
    logprobs = {"content": [{"token": "{", "logprob": -1.0}]}
    begun, more = _call("", name="run"), _call("{")
    assert _read(begun, more._replace(logprobs=logprobs))[1:] == [Delta({}, None, 0, logprobs)]
    assert _read(begun, more)[1:] == []
    first = FirstCall(Told([_call("{}", index=1, name="f")._replace(logprobs=logprobs)], [_call("{}", index=1)]))
    assert first.feed(b"") == [Delta({}, None, 0, logprobs)]
    assert first.close() == []


def test_the_last_of_a_text_comes_before_the_end_of_its_choice() -> None:
    last = Delta({"content": "!"}, "tool_calls")
    found = _read(_call('"ls', name="run"), last)
    rest = {"tool_calls": [{"index": 0, "custom": {"input": '"ls'}}]}
    assert found[1:] == [Delta({"content": "!"} | rest, "tool_calls")]
    ended = _read(_call('{"input":"ls\\', name="run"), Usage({}), FINISHED)
    assert ended[1:] == [Usage({}), Delta({"tool_calls": [{"index": 0, "custom": {"input": "\\"}}]}), FINISHED]


def test_a_tool_becomes_a_function_and_its_call_a_function_call() -> None:
    lark = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "x"'}}
    tool = {"type": "custom", "custom": {"name": "run", "description": "Runs it.", "format": lark}}
    function = as_function(tool)["function"]
    assert (function["name"], function["parameters"]["required"]) == ("run", ["input"])
    assert function["description"] == 'Runs it.\nThe input must match this grammar (lark):\nstart: "x"'
    assert as_function(RUN | {"custom": {"name": "run", "format": {"type": "text"}}})["function"]["description"] == ""
    call = as_function_call({"id": "a", "type": "custom", "custom": {"name": "run", "input": 'a"b'}})
    assert call == {"id": "a", "type": "function", "function": {"name": "run", "arguments": '{"input":"a\\"b"}'}}
    assert custom_names([RUN, {"type": "function", "function": {"name": "f"}}]) == {"run"}
    assert custom_names(None) == frozenset()


STREAM = b"""data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"run","arguments":"{\\"input\\":"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\"ls -la\\"}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

"""


def test_a_caller_of_deepseek_gets_the_custom_call_that_it_asked_for() -> None:
    request = ChatRequest(body={"messages": [], "tools": [RUN]}, model="m")
    read = DIALECTS["openai"].operations["chat"].read
    whole = WholeAnswer(call_id="c", created=1, model="m")
    reply = read(lambda: "made", "text/event-stream", Facets(profile="deepseek"), request)
    message = orjson.loads(whole.write(reply.feed(STREAM)))["choices"][0]["message"]
    assert message["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "run", "input": "ls -la"}}]
    assert message["content"] is None
    streamed = StreamedAnswer(call_id="c", created=1, model="m", include_usage=False)
    events = streamed.write(read(lambda: "made", "text/event-stream", Facets(profile="deepseek"), request).feed(STREAM))
    deltas = [orjson.loads(event[6:])["choices"][0]["delta"] for event in events.split(b"\n\n")[:-2]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": ""}},
        {"index": 0, "custom": {"input": "ls -la"}},
    ]
    assert streamed.said.calls


def test_a_custom_call_of_a_server_that_knows_them_is_numbered_and_folded_as_a_function_is() -> None:
    def chunk(calls: list[Json], **more: Any) -> bytes:
        choice = {"index": 0, "delta": {"tool_calls": calls}, **more}
        return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"

    begins = {"id": "a", "type": "custom", "custom": {"name": "run", "input": "l"}}
    again = {"id": "b", "type": "custom", "custom": {"name": "run"}}
    data = chunk([begins]) + chunk([{"custom": {"input": "s"}}]) + chunk([again], finish_reason="tool_calls")
    request = ChatRequest(body={"messages": [], "tools": [RUN]}, model="m")
    reply = DIALECTS["openai"].operations["chat"].read(lambda: "made", "text/event-stream", Facets(), request)
    whole = WholeAnswer(call_id="c", created=1, model="m")
    message = orjson.loads(whole.write([*reply.feed(data), *reply.close()]))["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}},
        {"id": "b", "type": "custom", "custom": {"name": "run", "input": ""}},
    ]
