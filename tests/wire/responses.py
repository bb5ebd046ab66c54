"""What the tests of /v1/responses share: its events taken apart, and an answer put together from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from wire.answer import Opening
from wire.openai import Json, Reading
from wire.responses import check_responses
from wire.responses_answer import ResponsesStreamed, ResponsesWhole

CALL_ID = "0123456789abcdef0123456789abcdef"
CREATED = 1_800_000_000
ENDED = 1_800_000_007
ENDS = ("response.completed", "response.incomplete", "response.failed")


def opening(**asked: Any) -> Opening:
    """Of an answer to a request that asks for nothing else."""
    request = check_responses({"model": "m", "input": "Hi", **asked})
    return Opening(CALL_ID, CREATED, "chat", request, lambda: ENDED + 0.5)


def streamed(readings: Sequence[Reading], **asked: Any) -> list[Json]:
    """The events of the answer to these readings."""
    return events(ResponsesStreamed(opening(**asked)).write([*readings]))


def whole(readings: Sequence[Reading], **asked: Any) -> Json:
    value: Json = orjson.loads(ResponsesWhole(opening(**asked)).write([*readings]))
    return value


def events(stream: bytes) -> list[Json]:
    """The events of a stream. Each has its type in front, too; comments are left out."""
    blocks = stream.split(b"\n\n")
    assert blocks.pop() == b""
    found: list[Json] = []
    for block in blocks:
        if block.startswith(b":"):
            continue
        name, data = block.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


def replayed(found: Sequence[Json]) -> list[Json]:
    """The output that the events tell of, as far as it was said; fails where a bracket is missing or out of place."""
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"] for event in found[:2]] == ["response.created", "response.in_progress"]
    for event in found[:2]:
        assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", [])
    items: list[Json] = []
    closed: set[int] = set()
    open_part: dict[int, Json] = {}
    for event in found[2:-1]:
        name = event["type"].removeprefix("response.")
        number = event["output_index"]
        if name == "output_item.added":
            assert number == len(items)
            assert event["item"].get("status") == "in_progress"
            assert not open_part, "a part of another item is still open"
            items.append(orjson.loads(orjson.dumps(event["item"])))
            continue
        assert number < len(items), "an item that was not added"
        assert number not in closed, "an item that is done already"
        item = items[number]
        if name == "output_item.done":
            assert number not in open_part
            assert {**event["item"], "encrypted_content": None, "status": None} == {
                **item, "encrypted_content": None, "status": None
            }  # fmt: skip
            items[number] = event["item"]
            closed.add(number)
            continue
        assert event["item_id"] == item["id"]
        if name == "content_part.added":
            assert event["content_index"] == len(item["content"])
            assert not open_part
            open_part[number] = orjson.loads(orjson.dumps(event["part"]))
            item["content"].append(open_part[number])
        elif name == "content_part.done":
            assert open_part.pop(number) == event["part"]
        else:
            _replay_text(name, event, item, open_part.get(number))
    assert found[-1]["type"] in ENDS
    if found[-1]["type"] != "response.failed":
        assert not open_part
        assert closed == set(range(len(items)))
    return items


_KEYS = {
    "output_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
    "function_call_arguments": "arguments",
    "custom_tool_call_input": "input",
}


def _replay_text(name: str, event: Json, item: Json, part: Json | None) -> None:
    kind, _, what = name.partition(".")
    key = _KEYS[kind]
    if kind in ("output_text", "reasoning_text", "refusal"):
        assert part is not None, "no part is open"
        assert part["type"] == kind
        assert event["content_index"] == len(item["content"]) - 1
        holder = part
    else:
        assert item["type"] == {"arguments": "function_call", "input": "custom_tool_call"}[key]
        holder = item
    if what == "annotation.added":
        assert event["annotation_index"] == len(holder["annotations"])
        holder["annotations"].append(event["annotation"])
    elif what == "delta":
        holder[key] += event["delta"]
        if kind == "output_text":
            holder["logprobs"] += event["logprobs"]
    else:
        assert what == "done"
        assert event[key] == holder[key]
        assert event.get("logprobs") == holder.get("logprobs")
        assert event.get("name") == (item["name"] if kind == "function_call_arguments" else None)
