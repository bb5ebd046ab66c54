"""The streamed answer remembers what it said, and may be written by one upstream after another."""

from __future__ import annotations

from time import process_time

import orjson

from wire.answer import StreamedAnswer, WholeAnswer
from wire.errors import DONE
from wire.openai import FINISHED, Delta, Json, Reading, Usage, usage_object


def _answer() -> StreamedAnswer:
    return StreamedAnswer(call_id="chatcmpl-1", created=1, model="first", include_usage=True)


def _chunks(stream: bytes) -> list[Json]:
    events = [event for event in stream.removesuffix(DONE).split(b"\n\n") if event]
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


def _logged(text: str) -> Delta:
    return Delta({"content": text}, None, 0, {"content": [{"token": text, "logprob": -1.0}]})


def test_it_keeps_what_the_caller_has_seen() -> None:
    answer = _answer()
    assert (answer.said.text, answer.said.tokens) == ("", 0)
    answer.write([Delta({"reasoning_content": "h"}), Delta({"reasoning_content": "m"})])
    answer.write([Delta({"content": "a"}), Delta({"content": "b"}), _logged("c"), Delta({"content": "d"}, "length")])
    assert answer.said.reasoning == ["h", "m"]
    assert answer.said.content == ["a", "b", "c", "d"]
    assert answer.said.tokens == 6
    assert (answer.said.calls, answer.said.choices, answer.said.other) == (False, False, False)


def test_what_comes_first_is_kept_too_whatever_it_is() -> None:
    for delta in ({"content": "a"}, {"content": "a", "reasoning_content": "h"}):
        answer = _answer()
        answer.write([Delta(delta), Delta(delta)])
        assert answer.said.content == ["a", "a"]
        assert len(answer.said.reasoning) == len(delta) * 2 - 2


def test_what_was_not_written_was_not_said() -> None:
    answer = _answer()
    answer.write([Delta({"content": "a"}), Delta({}, "stop"), Delta({"content": "b"})])
    answer.write([Delta({"tool_calls": [{"index": 0}]}), FINISHED, Delta({"content": "c"})])
    assert answer.said.content == ["a"]
    assert not answer.said.calls


def test_it_knows_what_cannot_be_continued() -> None:
    for first in ([], [Delta({"content": "a"})]):
        calls, refusal, choices, opened = (_answer() for _ in range(4))
        calls.write([*first, Delta({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]})])
        refusal.write([*first, Delta({"refusal": "No"})])
        choices.write([*first, Delta({"content": "a"}, None, 1)])
        opened.write([*first, Delta({}, "stop", 1)])
        assert (calls.said.calls, calls.said.other, calls.said.choices) == (True, False, False)
        assert (refusal.said.calls, refusal.said.other, refusal.said.choices) == (False, True, False)
        assert (choices.said.calls, choices.said.other, choices.said.choices) == (False, False, True)
        assert choices.said.text == "a" * len(first)
        assert not opened.said.choices


def test_it_is_complete_when_every_choice_that_began_has_ended() -> None:
    answer = _answer()
    assert not answer.complete
    answer.write([Delta({"content": "a"}), Delta({"content": "b"}, None, 1)])
    assert not answer.complete
    answer.write([Delta({}, "stop")])
    assert not answer.complete
    answer.write([Delta({"content": "c"}, "length", 1)])
    assert answer.complete
    assert not answer.done


def test_an_answer_that_only_said_its_end_is_complete() -> None:
    answer = _answer()
    answer.write([Usage(usage_object(1, 1)), Delta({}, "stop")])
    assert answer.complete


def test_a_whole_answer_is_complete_by_the_same_rule() -> None:
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    assert not answer.complete
    answer.write([Delta({"content": "a"}), Delta({"content": "b"}, "stop", 1)])
    assert not answer.complete
    answer.write([Delta({}, "stop")])
    assert answer.complete
    assert not answer.done


def test_another_upstream_goes_on_with_the_same_answer() -> None:
    begun: list[Reading] = [Delta({"content": "Hello"}), Usage(usage_object(9, 1))]
    rest: list[Reading] = [Delta({"content": " there"}), Delta({}, "stop"), Usage(usage_object(8, 3)), FINISHED]
    answer = _answer()
    stream = answer.write(begun) + answer.write(rest)
    assert stream == _answer().write(begun + rest)
    chunks = _chunks(stream)
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("chatcmpl-1", 1, "first")}
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [delta for delta in deltas if "role" in delta] == [{"role": "assistant", "content": "", "refusal": None}]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello there" == answer.said.text
    assert [chunk["usage"] for chunk in chunks if chunk["usage"]] == [usage_object(8, 3)]
    assert stream.count(b"[DONE]") == 1


def test_reasoning_has_both_of_its_names_in_every_chunk() -> None:
    answer = _answer()
    both = {"content": "a", "reasoning_content": "i"}
    logged = Delta({"reasoning_content": "j"}, None, 0, {"content": None})
    pieces = [Delta({"reasoning_content": '"h"'}), Delta({"reasoning_content": '"g"'}), Delta(both), logged]
    deltas = [chunk["choices"][0]["delta"] for chunk in _chunks(answer.write([*pieces, Delta(both, None, 1)]))]
    assert [delta for delta in deltas if "role" not in delta] == [
        {"reasoning_content": '"h"', "reasoning": '"h"'},
        {"reasoning_content": '"g"', "reasoning": '"g"'},
        {"content": "a", "reasoning_content": "i", "reasoning": "i"},
        {"reasoning_content": "j", "reasoning": "j"},
        {"content": "a", "reasoning_content": "i", "reasoning": "i"},
    ]
    assert answer.said.reasoning == ['"h"', '"g"', "i", "j"]
    assert both == {"content": "a", "reasoning_content": "i"}


def test_what_the_first_server_says_of_itself_is_in_every_chunk() -> None:
    answer = _answer()
    server = {"system_fingerprint": "fp_1", "service_tier": "flex"}
    other = {"system_fingerprint": "fp_2"}
    first = Delta({"content": "a"}, server=server)
    readings = [first, Delta({"content": "b"}), Delta({"content": "c"}, None, 1, server=other)]
    chunks = _chunks(answer.write([*readings, Delta({}, "stop"), Usage(usage_object(1, 1)), FINISHED]))
    assert [chunk["system_fingerprint"] for chunk in chunks] == ["fp_1"] * len(chunks)
    assert [chunk["service_tier"] for chunk in chunks] == ["flex"] * len(chunks)
    assert not any("system_fingerprint" in chunk for chunk in _chunks(_answer().write([Delta({"content": "a"})])))


def test_what_the_first_server_says_of_itself_is_in_the_whole_reply() -> None:
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    first, second = {"system_fingerprint": "fp_1"}, {"system_fingerprint": "fp_2", "service_tier": "flex"}
    readings: list[Reading] = [Delta({"content": "a"}, server=first), Delta({"content": "b"}, server=second), FINISHED]
    reply = orjson.loads(answer.write(readings))
    assert (reply["system_fingerprint"], reply.get("service_tier")) == ("fp_1", None)


def test_nothing_follows_a_whole_reply() -> None:
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    reply = answer.write([Delta({"content": "a"}, "stop"), FINISHED])
    assert answer.write([Delta({"content": "b"}), FINISHED]) == b""
    assert orjson.loads(reply)["choices"][0]["message"]["content"] == "a"


def test_what_a_server_says_of_a_call_beyond_openai_is_in_the_whole_reply_too() -> None:
    said = {"google": {"thought_signature": "c2lnbmVk"}}
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    readings: list[Reading] = [
        Delta({"tool_calls": [call | {"extra_content": said}]}),
        Delta({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, "tool_calls"),
        FINISHED,
    ]
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    (whole,) = orjson.loads(answer.write(readings))["choices"][0]["message"]["tool_calls"]
    assert whole == {
        "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": said,
    }  # fmt: skip


def test_logprobs_are_folded_in_linear_time_and_change_nothing_that_was_read() -> None:
    pieces = [_logged(text) for text in "abc"]
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    reply = orjson.loads(answer.write([*pieces, FINISHED]))
    assert [token["token"] for token in reply["choices"][0]["logprobs"]["content"]] == ["a", "b", "c"]
    assert pieces == [_logged(text) for text in "abc"]
    many: list[Reading] = [_logged("a")] * 40_000
    answer = WholeAnswer(call_id="chatcmpl-1", created=1, model="first")
    before = process_time()
    answer.write(many)
    assert process_time() - before < 3, "each token copies those before it"
