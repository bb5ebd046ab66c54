"""Input items as they are listed and built upon: spelled out, with ids, page by page."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from openai.types.responses import ResponseItemList
from pydantic import TypeAdapter

from tests.wire.rows import misfits
from wire.check import InvalidValue
from wire.openai import Json
from wire.responses import check_responses
from wire.responses_kept import page, response_of, spelled_out

CALL_ID = "0123456789abcdef0123456789abcdef"
SCHEMAS = Path(__file__).parents[2].parent / "shared" / "reference"
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
GIVEN: list[Json] = [
    {"role": "user", "content": "Hi"},
    {"type": "message", "role": "user", "content": [{"type": "output_text", "text": "Be brief", "logprobs": []}, IMAGE]},
    {"role": "assistant", "content": "Hello"},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "incomplete", "content": [
        {"type": "input_text", "text": "A"}, {"type": "refusal", "refusal": "No"},
    ]},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}], "encrypted_content": None},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "id": None},
    {"type": "custom_tool_call", "call_id": "b", "name": "g", "input": "x"},
    {"type": "function_call_output", "call_id": "a", "output": "one"},
    {"type": "custom_tool_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "x"}, IMAGE]},
]  # fmt: skip


def _item(number: int, prefix: str, **fields: Any) -> Json:
    return {"id": f"{prefix}_{CALL_ID}i00{number}", "status": "completed", **fields}


SPELLED: list[Json] = [
    _item(0, "msg", type="message", role="user", content=[{"type": "input_text", "text": "Hi"}]),
    _item(1, "msg", type="message", role="user", content=[
        {"type": "input_text", "text": "Be brief"}, {"detail": "auto", **IMAGE},
    ]),
    _item(2, "msg", type="message", role="assistant", content=[
        {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []},
    ]),
    {"id": "msg_1", "type": "message", "role": "assistant", "status": "incomplete", "content": [
        {"type": "output_text", "text": "A", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "No"},
    ]},
    {
        "id": f"rs_{CALL_ID}i004",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    },
    _item(5, "fc", type="function_call", call_id="a", name="f", arguments="{}"),
    _item(6, "ctc", type="custom_tool_call", call_id="b", name="g", input="x"),
    _item(7, "fco", type="function_call_output", call_id="a", output="one"),
    _item(8, "ctco", type="custom_tool_call_output", call_id="b", output=[
        {"type": "input_text", "text": "x"}, {"detail": "auto", **IMAGE},
    ]),
]  # fmt: skip


def test_items_are_spelled_out() -> None:
    before = copy.deepcopy(GIVEN)
    assert spelled_out(GIVEN, CALL_ID) == SPELLED
    assert before == GIVEN


def test_spelling_out_twice_changes_nothing() -> None:
    assert spelled_out(SPELLED, "another") == SPELLED


def test_spelled_out_items_are_read_as_the_short_ones() -> None:
    short, long = (check_responses({"model": "m", "input": items}) for items in (GIVEN, SPELLED))
    assert short.body == long.body


def test_a_list_of_items_fits_every_schema() -> None:
    listed = page(SPELLED, limit=None, order="asc", after=None)
    assert misfits(TypeAdapter(ResponseItemList), listed) == []
    for path in SCHEMAS.glob("openai_schemas*.json"):
        bundle = json.loads(path.read_text(encoding="utf-8"))
        schema = Draft202012Validator({**bundle, "$ref": "#/$defs/ResponseItemList"})
        assert [error.message for error in schema.iter_errors(listed)] == []


def test_an_item_tells_the_response_that_it_is_of() -> None:
    assert response_of(SPELLED[0]["id"]) == f"resp_{CALL_ID}"
    assert response_of(f"msg_{CALL_ID}0001") == f"resp_{CALL_ID}"
    assert response_of("msg_1") == "resp_1"
    assert response_of("odd") == "resp_"


ITEMS: list[Json] = [{"id": f"i{number}"} for number in range(5)]


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "i4 i3 i2 i1 i0", False),
        ({"order": "desc"}, "i4 i3 i2 i1 i0", False),
        ({"order": "asc"}, "i0 i1 i2 i3 i4", False),
        ({"limit": "2"}, "i4 i3", True),
        ({"limit": "5"}, "i4 i3 i2 i1 i0", False),
        ({"limit": "2", "after": "i3"}, "i2 i1", True),
        ({"limit": "2", "order": "asc", "after": "i2"}, "i3 i4", False),
        ({"after": "i0"}, "", False),
        ({"after": "gone"}, "", False),
    ],
)
def test_a_list_comes_in_pages(query: dict[str, str], ids: str, more: bool) -> None:
    found = page(ITEMS, limit=query.get("limit"), order=query.get("order"), after=query.get("after"))
    listed = [item["id"] for item in found["data"]]
    assert listed == ids.split()
    first, last = (listed[0], listed[-1]) if listed else ("", "")
    assert (found["object"], found["has_more"], found["first_id"], found["last_id"]) == ("list", more, first, last)


def test_twenty_are_listed_unless_more_are_asked_for() -> None:
    many = [{"id": str(number)} for number in range(150)]
    assert len(page(many, limit=None, order=None, after=None)["data"]) == 20
    assert len(page(many, limit="100", order=None, after=None)["data"]) == 100


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "two"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"limit": ""}, "limit"),
        ({"order": "up"}, "order"),
    ],
)
def test_a_bad_query_is_refused_with_its_parameter(query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        page(ITEMS, limit=query.get("limit"), order=query.get("order"), after=None)
    assert caught.value.param == param
