"""What came of a call: exactly its text, an explicit error, or anything else, which is wrong."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

End = Literal["exact", "error", "WRONG"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended, and what was wrong or which error it was."""

    end: End
    why: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, its framing taken off."""

    status: int
    body: bytes
    kind: str = "application/json"
    """Its content type."""


def wrong(why: str) -> Verdict:
    return Verdict("WRONG", why)


def judge(answer: Answer, text: str, *, streamed: bool, usage: bool = False) -> Verdict:
    """Judge an answer by the text that was due. `usage`: the caller of a stream asked for it."""
    if answer.status != 200:
        return _judge_refusal(answer)
    if streamed != answer.kind.startswith("text/event-stream"):
        return wrong(f"content type {answer.kind}")
    try:
        return _judge_stream(answer.body, text, usage) if streamed else _judge_whole(answer.body, text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return wrong(f"unreadable: {type(error).__name__}: {error}: {answer.body[-200:]!r}")


def _judge_refusal(answer: Answer) -> Verdict:
    try:
        error = json.loads(answer.body)["error"]
        said = f"{answer.status} {error['type']}: {error['message']}"
        named = {"message", "type", "param", "code"} <= set(error)
    except (ValueError, LookupError, TypeError):
        return wrong(f"status {answer.status} with {answer.body[:200]!r}")
    if not 400 <= answer.status < 600 or not named or not error["message"]:
        return wrong(f"no error of OpenAI's: {said}")
    return Verdict("error", said)


def _judge_text(text: str, due: str) -> Verdict:
    if text == due:
        return Verdict("exact")
    words = text.split()
    if due.startswith(text):
        return wrong(f"cut short after {len(words)} of {len(due.split())} words")
    doubled = [word for word, count in Counter(words).items() if count > 1]
    if doubled:
        return wrong(f"{len(doubled)} words doubled, {doubled[0]} among them")
    if [word for word in due.split() if word in words] == words:
        return wrong(f"a gap: {len(words)} of {len(due.split())} words")
    return wrong(f"garbled: {text[:300]!r}")


def _judge_usage(usage: Any, due: str) -> str | None:
    prompt, completion, total = (usage[f"{name}_tokens"] for name in ("prompt", "completion", "total"))
    most = len(due.split())
    if prompt < 0 or not 1 <= completion <= most or prompt + completion != total:
        return f"usage {prompt} + {completion} = {total} for {most} words"
    return None


def _judge_whole(body: bytes, due: str) -> Verdict:
    document = json.loads(body)
    choices = document["choices"]
    if document["object"] != "chat.completion" or len(choices) != 1:
        return wrong(f"{document['object']} with {len(choices)} choices")
    (choice,) = choices
    if choice["finish_reason"] != "stop":
        return wrong(f"finish_reason {choice['finish_reason']}")
    if strange := _judge_usage(document["usage"], due):
        return wrong(strange)
    return _judge_text(choice["message"]["content"], due)


def _judge_stream(body: bytes, due: str, usage_due: bool) -> Verdict:
    """One role, the text, one finish_reason, usage if it was asked for, one [DONE]; or an error and then [DONE]."""
    events = list(_events(body))
    if events[-1:] != ["[DONE]"] or events.count("[DONE]") != 1:
        return wrong(f"does not end in one [DONE]: {body[-200:]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    text, roles = "", 0
    reasons: list[str] = []
    usages: list[object] = []
    for number, chunk in enumerate(chunks):
        if "error" in chunk:
            if number != len(chunks) - 1 or reasons or not due.startswith(text):
                return wrong(f"an error in the wrong place, after {text[-100:]!r}, {reasons}")
            return Verdict("error", f"in the stream: {chunk['error']['message']}")
        if chunk.get("usage") is not None:
            usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            roles += "role" in delta
            if reasons and delta.get("content"):
                return wrong("text after the finish_reason")
            text += delta.get("content") or ""
            reasons += [choice["finish_reason"]] if choice["finish_reason"] is not None else []
    if len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) != 1:
        return wrong("chunks of different answers")
    verdict = _judge_text(text, due)
    if verdict.end != "exact":
        return verdict
    if reasons != ["stop"]:
        return wrong(f"finish_reasons {reasons}")
    if roles != 1:
        return wrong(f"{roles} deltas with a role")
    if len(usages) != usage_due:
        return wrong(f"{len(usages)} times usage where {int(usage_due)} was due")
    strange = _judge_usage(usages[0], due) if usages else None
    return wrong(strange) if strange else verdict


def _events(body: bytes) -> Iterator[str]:
    """The data of each event. Half an event at the end is no event; comments are none either."""
    *whole, rest = body.decode().split("\n\n")
    if rest:
        raise ValueError("half an event at the end")
    for block in whole:
        data = [line[5:].strip() for line in block.split("\n") if line.startswith("data:")]
        if data:
            yield "\n".join(data)
