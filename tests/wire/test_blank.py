"""Blank answers where JSON was asked for."""

from __future__ import annotations

import pytest

from wire.blank import NotBlank
from wire.errors import Cut, Fault, UpstreamFault
from wire.openai import FINISHED, Delta, Json, Reading, Usage, is_content, usage_object


class _Script:
    """A reply whose readings are given: each byte fed is worth one of them."""

    def __init__(self, readings: list[Reading], last: list[Reading]) -> None:
        self._readings = readings
        self._last = last

    def feed(self, data: bytes) -> list[Reading]:
        given, self._readings = self._readings[: len(data)], self._readings[len(data) :]
        return given

    def close(self) -> list[Reading]:
        return self._last


def _read(readings: list[Reading], last: list[Reading] | None = None, size: int = 1) -> list[list[Reading]]:
    """What each feed gives, and the close after them."""
    reply = NotBlank(_Script(readings, last or []))
    fed = [reply.feed(b"x" * size) for _ in range(0, len(readings), size)]
    return [*fed, reply.close()]


def _flat(batches: list[list[Reading]]) -> list[Reading]:
    return [reading for batch in batches for reading in batch]


USAGE = Usage(usage_object(3, 4))
BLANK: list[Reading] = [Delta({"content": " "}), Delta({"content": "\n\t "}, None, 0, {"content": []})]
CALL: Json = {"tool_calls": [{"index": 0, "id": "a"}]}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Delta({"content": "{"}), id="Text"),
        pytest.param(Delta({"content": " \n{"}, "stop"), id="Text after blanks"),
        pytest.param(Delta(CALL), id="A tool call"),
        pytest.param(Delta({"content": " "} | CALL), id="A tool call beside blanks"),
        pytest.param(Delta({"refusal": "No"}), id="A refusal"),
        pytest.param(Delta({"reasoning_content": "hm", "content": "{"}), id="Text beside reasoning"),
        pytest.param(Delta({"content": "1"}, None, 1), id="Text of another choice"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_blanks_pass_with_the_answer_that_follows_them(answer: Delta, size: int) -> None:
    readings: list[Reading] = [*BLANK, answer, Delta({"content": " "}), Delta({}, "stop"), USAGE, FINISHED]
    assert _flat(_read(readings, size=size)) == readings


def test_blanks_are_held_back_until_then_and_nothing_after() -> None:
    batches = _read([*BLANK, Delta({"content": "{"}), Delta({"content": " "}), Delta({}, "stop")])
    assert [len(batch) for batch in batches] == [0, 0, 3, 1, 1, 0]


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param([], id="Nothing"),
        pytest.param([Delta({}, "stop")], id="Only an end"),
        pytest.param([*BLANK, Delta({}, "stop")], id="Blanks"),
        pytest.param([*BLANK, Delta({"content": " "}, "length")], id="Blanks up to the limit"),
        pytest.param([Delta({"reasoning_content": "hm"}), *BLANK, Delta({}, "stop")], id="A thought and blanks"),
        pytest.param([Delta({"content": " ", "reasoning_content": "hm"}, "stop")], id="A thought beside blanks"),
        pytest.param([Delta({"reasoning_content": "hm"}, "stop")], id="A thought alone"),
    ],
)
@pytest.mark.parametrize("at_close", [False, True])
def test_an_answer_of_blanks_is_a_failure(readings: list[Reading], at_close: bool) -> None:
    batches = _read(readings, [FINISHED]) if at_close else _read([*readings, USAGE, FINISHED])
    out = _flat(batches)
    fault = out.pop()
    assert isinstance(fault, UpstreamFault)
    assert (fault.kind, fault.message) == ("blank", "gave a blank answer where JSON was asked for")
    thoughts = [reading.delta for reading in out if isinstance(reading, Delta)]
    assert all(thought == {"reasoning_content": "hm"} for thought in thoughts)
    assert not any(isinstance(reading, Delta) and reading.finish_reason for reading in out)
    assert (USAGE in out) is not at_close


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param([Delta({}, "content_filter")], id="a filter took it"),
        pytest.param([*BLANK, Delta({}, "content_filter")], id="a filter took it after blanks"),
        pytest.param([Delta({}, "length")], id="the limit came before it"),
    ],
)
def test_an_answer_that_is_empty_for_a_reason_is_the_answer(readings: list[Reading]) -> None:
    assert _flat(_read([*readings, FINISHED])) == [*readings, FINISHED]


def test_blanks_up_to_the_limit_are_a_failure() -> None:
    (fault,) = _flat(_read([*BLANK, Delta({}, "length"), FINISHED]))
    assert isinstance(fault, UpstreamFault)


def test_a_thought_passes_at_once_and_the_blanks_beside_it_do_not() -> None:
    logprobs: Json = {"content": []}
    alone, beside = (
        Delta({"reasoning_content": "h"}),
        Delta({"reasoning_content": "m", "content": " "}, None, 0, logprobs),
    )
    text = Delta({"content": "{"})
    batches = _read([alone, beside, text])
    assert batches[0] == [alone]
    assert batches[1] == [Delta({"reasoning_content": "m"}, None, 0, logprobs)]
    assert batches[2] == [Delta({"content": " "}), text]


def test_an_end_beside_a_thought_comes_after_what_was_held() -> None:
    batches = _read([Delta({"reasoning_content": "m"}, "stop"), Delta({"content": "1"}, "stop", 1)])
    assert batches[0] == [Delta({"reasoning_content": "m"})]
    assert batches[1] == [Delta({}, "stop"), Delta({"content": "1"}, "stop", 1)]


def test_what_is_held_back_is_no_content() -> None:
    assert not any(is_content(reading) for reading in _flat(_read([*BLANK, Delta({}, "stop"), USAGE])))


def test_another_failure_stays_what_it_is() -> None:
    cut: Fault = Cut("stopped")
    assert _flat(_read([*BLANK, cut])) == [cut]
    assert _flat(_read(BLANK, [cut])) == [cut]
