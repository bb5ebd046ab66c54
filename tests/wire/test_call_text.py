"""A call that comes as text, in whatever pieces a model says it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.call_text import CallText, Piece

BLANKS = st.text(" \n\t", max_size=3)
NAMES = st.text(min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\{}[] é😀', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\}x', max_size=3), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text('k"\\', max_size=3), VALUES, max_size=3)


@settings(max_examples=300, deadline=None)
@given(name=NAMES, arguments=ARGUMENTS, blanks=st.lists(BLANKS, min_size=9, max_size=9), draw=st.data())
def test_a_call_in_any_pieces_is_that_call(name: str, arguments: Any, blanks: list[str], draw: st.DataObject) -> None:
    forced, whole = draw.draw(st.sampled_from([(True, False), (False, False), (False, True)]))
    ascii_only = draw.draw(st.booleans())
    spaced = json.dumps(arguments, ensure_ascii=ascii_only, indent=draw.draw(st.sampled_from([None, 1])))
    tokens = ["{", '"name"', ":", json.dumps(name, ensure_ascii=ascii_only), ",", '"arguments"', ":", spaced, "}"]
    text = "".join(blank + token for blank, token in zip(blanks, tokens, strict=True))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    reader = CallText(frozenset({name}), forced=forced, whole=whole)
    pieces = [reader.take(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pieces.append(reader.rest())
    assert [piece.name for piece in pieces if piece.name is not None] == [name]
    assert orjson.loads("".join(piece.arguments for piece in pieces)) == arguments
    assert not any(piece.text for piece in pieces)
    assert not reader.is_open


@settings(max_examples=300, deadline=None)
@given(text=st.text('{}"name:\\ ,xarguments', max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_text_that_is_no_call_comes_through_whole(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader = CallText(frozenset({"the only name there is"}))
    pieces = [reader.take(text[start:end]) for start, end in pairwise(edges)]
    assert "".join(piece.text for piece in [*pieces, reader.rest()]) == text
    assert {piece._replace(text="") for piece in pieces} <= {Piece()}


ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["get", "get_city", "g", 5, None]),
        "arguments": st.none() | st.text('}"', max_size=2) | ARGUMENTS,
        "why": VALUES,
    },
)


@settings(max_examples=300, deadline=None)
@given(answer=ANSWERS, cuts=st.lists(st.integers(0, 80), max_size=8), whole=st.booleans())
def test_an_answer_in_any_pieces_is_text_unless_it_is_a_call(answer: Any, cuts: list[int], whole: bool) -> None:
    text = json.dumps(answer)
    begins_as_a_call = [*answer][:2] == ["name", "arguments"] and isinstance(answer["arguments"], dict)
    is_call = begins_as_a_call and answer["name"] == "get_city" and (not whole or len(answer) == 2)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader = CallText(frozenset({"get_city"}), forced=False, whole=whole)
    pieces = [*(reader.take(text[start:end]) for start, end in pairwise(edges)), reader.rest()]
    if is_call:
        assert orjson.loads("".join(piece.arguments for piece in pieces)) == answer["arguments"]
        assert not any(piece.text for piece in pieces)
    else:
        assert "".join(piece.text for piece in pieces) == text
        assert {piece._replace(text="") for piece in pieces} <= {Piece()}


def _texts(pieces: list[str], *, forced: bool = False) -> list[str]:
    reader = CallText(frozenset({"get_city"}), forced=forced)
    return [reader.take(piece).text for piece in pieces]


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["{", '"age"'], ["", '{"age"']),
        (['{"name": "get_', 'c', 'at', '"}'], ["", "", '{"name": "get_cat', '"}']),
        (['{"name": "get_city"', "}"], ["", '{"name": "get_city"}']),
        (['{"name": "get_city"', ", ", '"why"'], ["", "", '{"name": "get_city", "why"']),
        (['{"name": "get_city", "arguments": ', "["], ["", '{"name": "get_city", "arguments": [']),
    ],
)  # fmt: skip
def test_an_answer_is_held_no_longer_than_it_may_be_a_call(pieces: list[str], said: list[str]) -> None:
    assert _texts(pieces) == said


@pytest.mark.parametrize("forced", [True, False])
def test_a_name_that_no_function_begins_with_is_text_at_once(forced: bool) -> None:
    assert _texts(['{"name": "gut'], forced=forced) == ['{"name": "gut']


def test_blanks_without_end_before_the_arguments_are_no_call() -> None:
    beginning = '{"name": "get_city"'
    assert _texts([beginning, " " * 2000]) == ["", beginning + " " * 2000]
