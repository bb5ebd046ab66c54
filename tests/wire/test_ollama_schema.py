"""A tool's JSON Schema as Ollama keeps it, and in words what it does not."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.cases import Case, cases, params
from wire.errors import BadRequest
from wire.ollama_format import call_format, grammar
from wire.ollama_schema import native_parameters
from wire.openai import Json

WHERE = "tools[0].function.parameters"
CASES = cases("ollama_schema")
KEPT = {"type", "items", "description", "enum", "properties", "required", "anyOf"}


@pytest.mark.parametrize("case", params(case for case in CASES if "fault" not in case.row))
def test_a_schema_is_what_ollama_keeps_and_the_rest_is_said(case: Case) -> None:
    found = native_parameters(case.row["parameters"], WHERE)
    assert found.schema == case.row["schema"]
    assert found.words == case.row.get("words", "")


@pytest.mark.parametrize("case", params(case for case in CASES if "fault" in case.row))
def test_what_is_no_schema_is_the_callers_mistake(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        native_parameters(case.row["parameters"], WHERE)
    assert (caught.value.kind, caught.value.param) == (None, case.row["fault"]["param"])
    assert case.row["fault"]["says"] in caught.value.message


def test_a_schema_that_would_grow_without_end_goes_on_in_words() -> None:
    """Each definition holds the next one twice: 2**40 of the last."""
    defs: Json = {
        f"d{number}": {"properties": {"a": {"$ref": f"#/$defs/d{number + 1}"}, "b": {"$ref": f"#/$defs/d{number + 1}"}}}
        for number in range(40)
    }
    found = native_parameters({"properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defs}, WHERE)
    text = orjson.dumps(found.schema["properties"])
    assert len(text) < 20_000
    assert b"(as #/$defs/d" in text
    assert found.schema["$defs"] == defs


@pytest.mark.parametrize("key", ["items", "properties", "allOf", "anyOf"])
def test_a_schema_nested_deeper_than_any_honest_one_is_refused(key: str) -> None:
    schema: Json = {"type": "string"}
    for _ in range(300):
        inner: Any = {"x": schema} if key == "properties" else [schema] if key.endswith("Of") else schema
        schema = {key: inner}
    with pytest.raises(BadRequest, match="levels deep"):
        native_parameters({"properties": {"x": schema}}, WHERE)


def test_references_within_all_of_lead_no_deeper_than_that_either() -> None:
    defs: Json = {"d20": {"type": "string"}}
    for number in reversed(range(20)):
        schema = _ref(f"d{number + 1}")
        for _ in range(90):
            schema = {"allOf": [schema]}
        defs[f"d{number}"] = schema
    with pytest.raises(BadRequest, match="levels deep"):
        native_parameters({"properties": {"x": _ref("d0")}, "$defs": defs}, WHERE)
    assert native_parameters({"properties": {"x": _ref("d19")}, "$defs": defs}, WHERE).schema["properties"] == {
        "x": {"type": "string"}
    }


def test_a_grammar_of_a_schema_nested_so_deeply_is_left_to_the_server() -> None:
    schema: Json = {"pattern": "x"}
    for _ in range(200):
        schema = {"items": schema}
    assert grammar(schema) is schema


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


NAMES = st.sampled_from(["a", "b", "$ref", "items"])
SCHEMAS = st.recursive(
    st.sampled_from([True, {}, {"type": "string", "pattern": "\\S"}, {"const": None}, _ref("a"), _ref("b"), _ref("c")])
    | st.just({"$ref": "#"}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", ["string", "null"]]),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "oneOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "default": st.none() | st.integers(0, 3),
            "maxLength": st.sampled_from([5, 50_000]),
            "description": st.just("D."),
            "required": st.just(["a"]),
            "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "other.json"]),
        },
    ),
    max_leaves=12,
)


def _only_what_is_kept(schema: Json) -> bool:
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema["items"]] if "items" in schema else []
    return schema.keys() <= KEPT and all(_only_what_is_kept(one) for one in inner)


@settings(max_examples=300, deadline=None)
@given(
    parameters=st.fixed_dictionaries(
        {"properties": st.dictionaries(NAMES, SCHEMAS, max_size=3)},
        optional={"$defs": st.dictionaries(NAMES, SCHEMAS, max_size=3), "allOf": st.lists(SCHEMAS, max_size=2)},
    )
)
def test_whatever_a_schema_says_ollama_gets_nothing_that_it_drops(parameters: Json) -> None:
    before = copy.deepcopy(parameters)
    with suppress(BadRequest):  # true among the schemas that all must fit is no object of schemas
        schema = dict(native_parameters(parameters, WHERE).schema)
        schema.pop("$defs", None)
        assert _only_what_is_kept(schema)
    assert b'"pattern":"\\\\S"' not in orjson.dumps(
        call_format([{"function": {"name": "f", "parameters": parameters}}])
    )
    assert parameters == before
