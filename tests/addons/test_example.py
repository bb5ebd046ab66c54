"""Examples: whatever the schema, a value that fits it, always the same, and never without an end."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest

from addons.example import MAX_LENGTH, example
from addons.example_pattern import example_of

NODE = {
    "type": "object",
    "properties": {"value": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
FITS: dict[str, Any] = {
    "anything": {},
    "an object with all there is": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 30, "maxLength": 31},
            "short": {"type": "string", "maxLength": 3},
            "flag": {"type": "boolean"},
            "nothing": {"type": "null"},
            "maybe": {"type": ["string", "null"]},
            "fixed": {"const": {"a": 1}},
            "one": {"enum": ["C", "F"]},
        },
        "required": ["text", "short", "flag", "nothing", "maybe", "fixed", "one"],
        "additionalProperties": False,
    },
    "a list that recurs": {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    "a tree that recurs from its root": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    },
    "an optional property that recurs": {"type": "object", "properties": {"more": {"$ref": "#"}}},
    "one of several kinds": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
        ]
    },
    "all of several": {
        "allOf": [
            {"$ref": "#/definitions/A"},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ],
        "definitions": {"A": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}},
    },
    "a choice beside properties": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "anyOf": [{"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
    },
    "choices of which one can be": {"anyOf": [False, {"allOf": [{"type": "integer"}, False]}, {"const": 2}]},
    "several items that differ": {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "string"}},
    "several numbers that differ": {"type": "array", "minItems": 5, "uniqueItems": True, "items": {"type": "integer"}},
    "several of an enum": {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"enum": [1, 2]}},
    "a tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    "no items at all": {"type": "array", "maxItems": 0, "items": {"type": "string"}},
    "required names that are nowhere described": {"type": "object", "required": ["a"]},
    "a record": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "a path with marks in it": {
        "$ref": "#/$defs/a~1b%25/anyOf/1",
        "$defs": {"a/b%": {"anyOf": [True, {"const": "x"}]}},
    },
    "an integer above": {"type": "integer", "minimum": 40},
    "an integer below": {"type": "integer", "maximum": -3},
    "an integer strictly between": {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7},
    "a number strictly between": {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    "a multiple": {"type": "integer", "minimum": 40, "multipleOf": 7},
    "a multiple of a fraction": {"type": "number", "minimum": 0.5, "maximum": 0.9, "multipleOf": 0.25},
    "a pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$", "minLength": 9},
    "a pattern with no marks at its ends": {"type": "string", "pattern": "x", "minLength": 9},
    "an email": {"type": "string", "format": "email", "pattern": "^(?!\\.)[a-z@.]+$"},
    "a moment": {"type": "string", "format": "date-time"},
    "no type, but properties": {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    "no type, but items": {"items": {"type": "integer"}, "minItems": 1},
    "no kinds in the list of kinds": {"type": [], "properties": []},
}


@pytest.mark.parametrize("case", FITS)
def test_an_example_fits_its_schema_and_is_always_the_same(case: str) -> None:
    schema = FITS[case]
    made = example(schema, "answer")
    if case != "no kinds in the list of kinds":
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(made)
    assert example(schema, "answer") == made


def test_lists_and_choices_are_filled_where_they_can_be() -> None:
    assert example({"type": "array", "items": {"type": "integer"}}, "n") == [1]
    assert example({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, "n") == {"value": "sandbox value", "next": None}
    assert example({"type": "array"}, "n") == []


def test_a_choice_can_be_avoided_but_is_made_where_there_is_no_other() -> None:
    schema = {"anyOf": [{"const": 1}, {"const": 2}]}
    assert example(schema, "n", avoid=lambda choice: choice == {"const": 1}) == 2
    assert example(schema, "n", avoid=lambda choice: True) == 1


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"in": DEEP}, "required": ["in"]}
WIDE = {f"d{n}": {"anyOf": [{"required": ["x"], "properties": {"x": {"$ref": f"#/$defs/d{m}"}}} for m in range(12)]} for n in range(12)}  # fmt: skip
ENDLESS: dict[str, tuple[Any, Any]] = {
    "one that holds itself": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {}),
    "one that is itself": ({"$ref": "#"}, "sandbox answer"),
    "one that nothing fits": (False, "sandbox answer"),
    "one that leads elsewhere": ({"anyOf": [{"$ref": "https://example.com/"}, {"$ref": "#/no"}, {"const": 2}]}, 2),
    "one that leads into no value": ({"$ref": "#/type/x", "type": "object"}, {}),
    "levels without end": (DEEP, {}),
    "ways without end": ({"type": "object", "$ref": "#/$defs/d0", "$defs": WIDE}, {}),
    "items that cannot be": ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "sandbox answer"),
    "items without end": ({"type": "array", "minItems": 10**9, "items": {"type": "integer"}}, "sandbox answer"),
    "names without end": ({"type": "object", "minProperties": 10**9}, {}),
    "numbers that are none": ({"type": "integer", "minimum": 1e300}, 1),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_has_no_example_has_an_end(case: str) -> None:
    schema, expected = ENDLESS[case]
    assert example(schema, "answer") == expected


def test_a_string_without_end_has_one() -> None:
    assert len(example({"type": "string", "minLength": 10**12}, "answer")) == MAX_LENGTH


PATTERNS = (
    "^$", "^.x?$", "a", "^a|b$", r"^\d{4}-\d{2}-\d{2}$", r"^\w+\s\S\D\W$", "^[^a-z]+$", r"^[^\w-]$", r"^[\d_]{2,}$", "^[]x]$",
    "^(?:ab)?c*d+?(e|f){2}$", r"^\+[1-9]\d{1,14}$", r"^\.\t[\n]$", "^[a-]$", "^#[0-9a-fA-F]{6}$", r"^[\w.]+@[\w.]+\.[a-z]{2,}$",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_found_in_what_is_made_of_it(pattern: str) -> None:
    made = example_of(pattern)
    assert made is not None
    assert re.search(pattern, made)


@pytest.mark.parametrize(
    ("pattern", "least", "most"), [("^[a-z]+$", 7, 7), ("^(ab)*c?$", 6, 7), ("x", 5, 5), ("^a{2,9}b*$", 12, 12)]
)
def test_it_is_as_long_as_it_must_be(pattern: str, least: int, most: int) -> None:
    made = example_of(pattern, least, most)
    assert made is not None
    assert least <= len(made) <= most
    assert re.search(pattern, made)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b",
        "(?:a",
        "a{999}b{999}",
        r"[^\w\s-]",
        r"(a)\1",
        "[a",
        "(a",
        "a)",
        "*a",
        "a{x}",
        "^a{9999}$",
        "((((a{99}){99}){99}){99})",
        r"[^\w\W -]x\b",
        "(" * 5000,
    ],
)
def test_nothing_is_made_of_what_is_not_understood(pattern: str) -> None:
    assert example_of(pattern) is None


def test_nothing_is_made_that_would_be_too_long_or_too_short() -> None:
    assert example_of("^abc$", 0, 2) is None
    assert example_of("^abc$", 4, 9) is None
