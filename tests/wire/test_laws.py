"""Laws that hold for every reply there is a case of, at every endpoint: however it was cut, whatever it held.

The endpoints are rows of rows.py. The schemas of OpenAI's replies stand beside the project and are read there where they
are; the strict types of the `openai` package are asked everywhere.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from tests.wire.cases import Case
from tests.wire.rows import ROWS, Row, misfits, opening, readings_of, streamed, whole, without_nulls
from wire import errors
from wire.errors import Fault, fault_object

CUTS = 300
"""Positions of a body at which it is cut in two: all of a short one, so many of a long one."""
FEW_CUTS = 12
"""The same, where the bytes are read as another endpoint's are and only answered otherwise."""
SCHEMAS = Path(__file__).parents[2].parent / "shared" / "reference"

type Law = tuple[Row, Case]


def laws(of: Callable[[Row], Iterable[Case]], rows: Iterable[Row] = ROWS) -> list[Any]:
    return [pytest.param((row, case), id=f"{row.name}: {case.file}: {case.name}") for row in rows for case in of(row)]


STREAMING = [row for row in ROWS if row.event_type is not None]
EVERY = laws(lambda row: row.replies)
EVERY_STREAM = laws(lambda row: row.replies, STREAMING)
COMPLETE_STREAMS = laws(lambda row: row.complete, STREAMING)
BROKEN_STREAMS = laws(lambda row: row.broken, STREAMING)
BROKEN = laws(lambda row: row.broken)


def cuts(row: Row, data: bytes) -> Iterator[list[bytes]]:
    """The data byte by byte, in sevens, and cut in two in many places."""
    yield [data[at : at + 1] for at in range(len(data))]
    yield [data[at : at + 7] for at in range(0, len(data), 7)]
    step = max(1, len(data) // (CUTS if row.reads else FEW_CUTS))
    for cut in range(0, len(data) + 1, step):
        yield [data[:cut], data[cut:]]


@pytest.mark.parametrize("law", EVERY_STREAM)
def test_a_stream_cut_anywhere_gives_the_same_bytes(law: Law) -> None:
    row, case = law
    data = row.body(case)
    expected = streamed(row, case, [data])
    for pieces in cuts(row, data):
        assert streamed(row, case, pieces) == expected


@settings(max_examples=200, deadline=None)
@given(law=st.sampled_from([param.values[0] for param in EVERY_STREAM]), draw=st.data())
def test_a_stream_in_any_pieces_gives_the_same_bytes(law: Law, draw: st.DataObject) -> None:
    row, case = law
    data = row.body(case)
    edges = [0, *sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12))), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert streamed(row, case, pieces) == streamed(row, case, [data])


@pytest.mark.parametrize("law", EVERY)
def test_a_whole_reply_in_pieces_is_the_same(law: Law) -> None:
    row, case = law
    data = row.body(case)
    once = readings_of(row, case, [data])
    often = readings_of(row, case, [data[at : at + 1] for at in range(len(data))])
    assert [repr(reading) for reading in often] == [repr(reading) for reading in once]


@pytest.mark.parametrize("law", COMPLETE_STREAMS)
def test_the_whole_reply_is_the_fold_of_the_stream(law: Law) -> None:
    row, case = law
    data = row.body(case)
    assert row.unfolded(row.parsed(streamed(row, case, [data]))) == whole(row, case, [data])


@pytest.mark.parametrize("law", BROKEN_STREAMS)
def test_a_broken_stream_ends_in_its_fault_and_never_looks_complete(law: Law) -> None:
    row, case = law
    fault = readings_of(row, case, [row.body(case)])[-1]
    assert isinstance(fault, Fault)
    *events, last = row.parsed(streamed(row, case, [row.body(case)]))
    assert row.says(last, fault)
    assert not row.looks_complete(events)


@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_reply_is_no_whole_one(law: Law) -> None:
    row, case = law
    fault = readings_of(row, case, [row.body(case)])[-1]
    assert isinstance(fault, Fault)
    with pytest.raises(type(fault)):
        whole(row, case, [row.body(case)])


# -- the strict types of the SDK, and the published schemas


@pytest.mark.parametrize("law", EVERY)
def test_every_answer_fits_the_strict_types_of_the_sdk(law: Law) -> None:
    row, case = law
    if "fault" not in case.row:
        reply = row.published(whole(row, case, [row.body(case)]))
        assert misfits(row.reply_type, reply) == []
    if row.event_type is not None:
        for event in row.parsed(streamed(row, case, [row.body(case)])):
            if "error" not in event:
                assert misfits(row.event_type, row.strictly(row.published(event))) == []


FAULTS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Fault) and kind.__module__ == errors.__name__
]


class Schemas:
    """One of the two files: each definition's validator is made once."""

    def __init__(self, path: Path) -> None:
        self._bundle = json.loads(path.read_text(encoding="utf-8"))
        self._made: dict[str, Draft202012Validator] = {}
        self.strict = "relaxed" not in path.stem
        """It does not know all nulls that the live service sends."""

    def misfits(self, name: str, value: Any) -> list[str]:
        """What of the value does not fit."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Draft202012Validator({**self._bundle, "$ref": f"#/$defs/{name}"})
        return [error.message for error in made.iter_errors(value)]


PUBLISHED = [Schemas(path) for path in sorted(SCHEMAS.glob("openai_schemas*.json"))]
"""The published schemas, strict and relaxed, where they are: no file, no test, and nothing that is skipped."""


def _made(kind: type[Fault]) -> Fault:
    """A fault of that class, whatever else its class wants to know."""
    wanted = [
        name for name, one in inspect.signature(kind).parameters.items() if one.default is inspect.Parameter.empty
    ]
    make: Callable[..., Fault] = kind
    return make(**dict.fromkeys(wanted, "It failed."))


if PUBLISHED:

    @pytest.mark.parametrize("law", EVERY)
    def test_every_answer_fits_the_published_schemas(law: Law) -> None:
        row, case = law
        reply = row.published(whole(row, case, [row.body(case)])) if "fault" not in case.row else None
        stream = row.parsed(streamed(row, case, [row.body(case)])) if row.event_schema else []
        events = [*map(row.published, stream)]
        for schemas in PUBLISHED:
            if reply is not None:
                assert schemas.misfits(row.reply_schema, without_nulls(reply) if schemas.strict else reply) == []
            for event in events:
                name = "ErrorResponse" if "error" in event else row.event_schema
                assert schemas.misfits(name, row.strictly(event) if schemas.strict else event) == []

    @pytest.mark.parametrize("kind", FAULTS)
    def test_every_error_fits_the_published_schemas(kind: type[Fault]) -> None:
        fault = _made(kind)
        for schemas in PUBLISHED:
            for fault.param in (None, "messages[0]"):
                assert schemas.misfits("ErrorResponse", fault_object(fault)) == []


# -- the table itself


def test_every_surface_has_replies_that_end_well_and_replies_that_do_not() -> None:
    for row in ROWS:
        assert row.complete, row.name
    surfaces = {row.surface.name for row in ROWS}
    assert surfaces == {row.surface.name for row in ROWS if row.broken}


@pytest.mark.parametrize("row", STREAMING, ids=lambda row: row.name)
def test_a_stream_of_which_nothing_came_but_comments_ends_in_words_of_its_kind(row: Row) -> None:
    fault = errors.TimedOut("kept silent")
    request = row.request(row.replies[0], True)
    (said,) = row.parsed(row.surface.last_words(fault))
    (answered,) = row.parsed(row.surface.streamed(opening(request)).write([fault]))
    assert row.says(said, fault)
    assert row.says(answered, fault)
