"""A call that comes as text, in whatever pieces a model says it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
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
    ascii_only = draw.draw(st.booleans())
    spaced = json.dumps(arguments, ensure_ascii=ascii_only, indent=draw.draw(st.sampled_from([None, 1])))
    tokens = ["{", '"name"', ":", json.dumps(name, ensure_ascii=ascii_only), ",", '"arguments"', ":", spaced, "}"]
    text = "".join(blank + token for blank, token in zip(blanks, tokens, strict=True))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    reader = CallText(frozenset({name}))
    pieces = [reader.take(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert [piece.name for piece in pieces if piece.name is not None] == [name]
    assert orjson.loads("".join(piece.arguments for piece in pieces)) == arguments
    assert not any(piece.text for piece in pieces)
    assert not reader.is_open
    assert reader.rest() == Piece()


@settings(max_examples=300, deadline=None)
@given(text=st.text('{}"name:\\ ,xarguments', max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_text_that_is_no_call_comes_through_whole(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader = CallText(frozenset({"the only name there is"}))
    pieces = [reader.take(text[start:end]) for start, end in pairwise(edges)]
    assert "".join(piece.text for piece in [*pieces, reader.rest()]) == text
    assert {piece._replace(text="") for piece in pieces} <= {Piece()}
