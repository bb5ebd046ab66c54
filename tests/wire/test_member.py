"""One member of an object that passes by: what a parser of the whole would have found, whatever pieces it comes in."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.member import Member


def found(data: bytes, size: int = 1, *, limit: int = 1000) -> list[Any]:
    member = Member("usage", limit)
    return [
        value
        for at in range(0, len(data), size)
        for piece in (data[at : at + size], b"")
        for value in member.feed(piece)
    ]


_NAMES = st.sampled_from(["usage", 'us"age', "\\usage", "", "a"]) | st.text(max_size=4)
_TEXTS = st.sampled_from(['"usage":{"a":1}', "\\", '"', "}", "],{", '\\\\"']) | st.text(max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_it_is_what_a_parser_of_the_whole_finds(value: Any, size: int, indent: int | None, plain: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=plain).encode()
    expected = [value["usage"]] if isinstance(value, dict) and "usage" in value else []
    assert found(data, size) == expected


@given(st.binary(max_size=30) | st.text('"usage{}[]:,\\ 1').map(str.encode), st.integers(1, 9))
def test_whatever_comes_it_breaks_on_nothing_and_no_piece_matters(data: bytes, size: int) -> None:
    for start in (b"", b'{"usage":'):
        assert found(start + data, size) == found(start + data, 1000)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"usage":1,"usage":{"a":2}}', [1, {"a": 2}]),
        (b'{"usage":{"a":1}} {"usage":{"a":2}}', [{"a": 1}]),
        (b'{"usage":nonsense,"b":1}', []),
        (b'{"usage":', []),
        (b'{"usage"', []),
        (b'{"usage" "x":1}', []),
        (b"", []),
    ],
    ids=["twice", "after the end", "no JSON", "without a value", "cut in its name", "without a colon", "nothing"],
)
def test_it_is_read_where_the_object_has_it(data: bytes, values: list[Any]) -> None:
    assert found(data) == found(data, 1000) == values


def test_what_is_too_long_is_not_kept() -> None:
    long = orjson.dumps({"a": "x" * 100})
    assert found(b'{"usage":' + long + b',"usage":2}', limit=50) == [2]
    assert found(b'{"' + b"x" * 100 + b'":1,"usage":2}', 7, limit=50) == [2]
