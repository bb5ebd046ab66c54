"""What upstreams send, and what a caller gets for it: recorded from a running Ollama, and made for the other servers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wire.cases import Case, body, cases, params, readings, said, whole
from wire.errors import Fault
from wire.openai import Json

REPLIES = [*cases("ollama"), *cases("ollama_made"), *cases("compat"), *cases("deepseek")]
ANSWERED = [case for case in REPLIES if "fault" not in case.row]
FAILED = [case for case in REPLIES if "fault" in case.row]


def _seen(choice: Json) -> Json:
    """A choice as the case files write it: what is null or empty by default is left out."""
    message = choice["message"]
    assert message.pop("role") == "assistant"
    assert message.pop("annotations") == []
    assert message.pop("reasoning", None) == message.get("reasoning_content")  # clients read either
    seen: Json = {key: value for key, value in message.items() if value is not None or key == "content"}
    if "tool_calls" in seen:
        seen["tool_calls"] = [
            {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in seen["tool_calls"]
        ]
    seen["finish_reason"] = choice["finish_reason"]
    if choice["logprobs"] is not None:
        seen["logprobs"] = choice["logprobs"]
    return seen


@pytest.mark.parametrize("case", params(ANSWERED))
def test_a_reply_is_answered_in_full(case: Case) -> None:
    expected = dict(case.row["reply"])
    reply = whole(readings(case, [body(case)]))
    usage: Any = reply.pop("usage", None)
    counts = [usage[f"{name}_tokens"] for name in ("prompt", "completion", "total")] if usage else None
    assert counts == expected.pop("usage", None)
    for key, value in expected.pop("usage_also", {}).items():
        assert usage[key] == value
    for key, value in expected.pop("server", {}).items():
        assert reply.get(key) == value
    choices = expected.pop("choices", [expected])
    assert [_seen(choice) for choice in reply["choices"]] == choices
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(choices)))


@pytest.mark.parametrize("case", params(FAILED))
def test_a_failed_reply_is_a_fault_that_says_what_happened(case: Case) -> None:
    expected = case.row["fault"]
    found = readings(case, [body(case)])
    fault = found[-1]
    assert isinstance(fault, Fault)
    assert type(fault).__name__ == expected["class"]
    assert fault.kind == expected["kind"]
    assert (fault.status, fault.code) == (expected["status"], expected["code"])
    assert fault.param == expected.get("param")
    assert fault.retry_after == expected.get("retry_after")
    assert expected["says"] in fault.message
    assert said(found) == case.row.get("before", {})


def test_every_recorded_chat_exchange_is_here() -> None:
    assert len(cases("ollama")) == 76
