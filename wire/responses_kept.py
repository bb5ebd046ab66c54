"""Input items as they are listed and built upon later: spelled out, each with an id and a status.

Callers write items in short forms, and strict clients read them back in the long one only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile, islice
from typing import Any

from wire.check import InvalidValue
from wire.openai import Json
from wire.responses_items import MOST_SHOWN, item_type

RESPONSE = "resp_"
"""What a response's id begins with; the id of its call follows."""
_CALL_ID = 32
"""Characters of a call's id. The items of its response have it in their ids too."""
MOST_LISTED = 100
LISTED = 20


def response_of(item_id: str) -> str:
    """The id of the response that an item with this id would be from."""
    return RESPONSE + item_id.partition("_")[2][:_CALL_ID]


def spelled_out(items: Iterable[Json], call_id: str) -> list[Json]:
    """The items of a request that was checked; an item without an id gets one made of the call's."""
    return [_spelled_out(item, f"{call_id}i{number:03d}") for number, item in enumerate(items)]


def _spelled_out(item: Json, tail: str) -> Json:
    kind = item_type(item)
    full: Json = {"id": f"{_PREFIXES[kind]}_{tail}", "type": kind}
    filled: Json = {"summary": []} if kind == "reasoning" else {"status": "completed"}
    full |= filled | {key: value for key, value in item.items() if value is not None}
    if kind == "message":
        full["content"] = _parts(item["content"], item["role"] == "assistant")
    elif isinstance(item.get("output"), list):
        full["output"] = [_part(part, is_said=False) for part in item["output"]]
    return full


_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def _parts(content: Any, is_said: bool) -> list[Json]:
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    return [_part(part, is_said=is_said) for part in parts]


def _part(part: Json, *, is_said: bool) -> Json:
    """`is_said`: it is the assistant's."""
    kind = part["type"]
    if is_said and kind != "refusal":
        return {"annotations": [], "logprobs": []} | part | {"type": "output_text"}
    if kind == "output_text":
        return {"type": "input_text", "text": part["text"]}
    return {"detail": "auto"} | part if kind == "input_image" else part


def page(items: Sequence[Json], *, limit: str | None, order: str | None, after: str | None) -> Json:
    """A list object of OpenAI's, for the query's parameters as they came; raises BadRequest.

    The newest come first unless `order` is `asc`. An `after` that is unknown is past the end.
    """
    if order not in (None, "asc", "desc"):
        raise InvalidValue("'order' must be 'asc' or 'desc'.", param="order")
    count = LISTED if limit is None else int(limit) if re.fullmatch("[0-9]{1,9}", limit) else 0
    if not 1 <= count <= MOST_LISTED:
        shown = (limit or "")[:MOST_SHOWN]
        raise InvalidValue(f"'limit' must be between 1 and {MOST_LISTED}, but it is '{shown}'.", param="limit")
    left: Iterable[Json] = items if order == "asc" else reversed(items)
    if after is not None:
        left = islice(dropwhile(lambda item: item["id"] != after, left), 1, None)
    found = list(islice(left, count + 1))
    data = found[:count]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": len(found) > count,
    }
