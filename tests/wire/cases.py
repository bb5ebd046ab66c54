"""Case files, and what turns a reply of theirs into an answer.

A file under `tests/cases` holds rows: a sentence for a name, what comes in, what must come out. A reply case says what
an upstream sent; it is read and answered here exactly as a call would, in any pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from wire.answer import StreamedAnswer, WholeAnswer
from wire.dialects import DIALECTS, Facets
from wire.errors import Fault
from wire.openai import ChatRequest, Delta, Finished, Json, Reading, Reply
from wire.rejections import rejection

CASES = Path(__file__).parent.parent / "cases"
CALL_ID = "chatcmpl-test"
CREATED = 1_800_000_000
MODEL = "chat"


@dataclass(frozen=True)
class Case:
    """One row of a file, and what the file says for all of its rows."""

    file: str
    name: str
    common: Json
    row: Json


def cases(folder: str) -> list[Case]:
    """Every row of every file in a folder of `tests/cases`, in order."""
    found: list[Case] = []
    for path in sorted((CASES / folder).glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = content.pop("cases")
        found += [Case(path.stem, row["name"], content, row) for row in rows]
    return found


ASKED = ChatRequest(body={"messages": []}, model="m")
"""A request that asks for nothing in particular."""


def params(found: Iterable[Case]) -> list[Any]:
    """The cases as parameters of a test, under their own names."""
    return [pytest.param(case, id=f"{case.file}: {case.name}") for case in found]


def facets_of(case: Case) -> Facets:
    """What the case says of its server; nothing of it is said in common."""
    given = dict(case.row.get("facets", {}))
    if "capabilities" in given:
        given["capabilities"] = frozenset(given["capabilities"])
    return Facets(profile=case.row.get("profile", "compat"), **given)


def made_ids() -> Iterator[str]:
    """Ids for the calls that came without one: call_made_1, call_made_2, …"""
    return (f"call_made_{number}" for number in count(1))


def reader(case: Case) -> Reply:
    """A new reader for the case's reply."""
    ids = made_ids()
    dialect = case.common["dialect"]
    facets = Facets(profile=case.common.get("profile", "compat"))
    content_type = case.row["upstream"].get("content_type", "text/event-stream")
    return DIALECTS[dialect].operations["chat"].read(lambda: next(ids), content_type, facets, asked(case))


def asked(case: Case) -> ChatRequest:
    """The request that the case's reply answers: `asked` says what it asked for in particular."""
    particular = case.common.get("asked", {}) | case.row.get("asked", {})
    return replace(ASKED, body=ASKED.body | particular)


def body(case: Case) -> bytes:
    """The bytes that the upstream sent."""
    text: str = case.row["upstream"]["body"]
    return text.encode()


def is_read(case: Case) -> bool:
    """False for an error answer, which no reader ever sees."""
    return "status" not in case.row["upstream"]


def readings(case: Case, pieces: Iterable[bytes]) -> list[Reading]:
    """What the reply is read into, up to its end or its fault."""
    if not is_read(case):
        upstream = case.row["upstream"]
        return [rejection(upstream["status"], body(case), upstream.get("retry_after"))]
    reply = reader(case)
    found = [reading for piece in pieces for reading in reply.feed(piece)]
    found += reply.close()
    for number, reading in enumerate(found):
        if isinstance(reading, Fault | Finished):
            return found[: number + 1]
    raise AssertionError("A reply ended with neither a fault nor its end.")


def streamed(case: Case, pieces: Iterable[bytes], *, include_usage: bool = True) -> bytes:
    """The whole SSE answer."""
    answer = StreamedAnswer(call_id=CALL_ID, created=CREATED, model=MODEL, include_usage=include_usage)
    reply = reader(case)
    out = [answer.write(reply.feed(piece)) for piece in pieces]
    out.append(answer.write(reply.close()))
    assert answer.done
    return b"".join(out)


def whole(found: list[Reading]) -> Json:
    """The whole reply, decoded; raises the Fault if there is one."""
    answer = WholeAnswer(call_id=CALL_ID, created=CREATED, model=MODEL)
    value: Json = orjson.loads(answer.write(found))
    assert answer.done
    return value


def said(found: list[Reading]) -> dict[str, str]:
    """All text of the readings of one choice, by kind."""
    texts: dict[str, str] = {}
    for reading in found:
        if isinstance(reading, Delta):
            for key, value in reading.delta.items():
                if isinstance(value, str):
                    texts[key] = texts.get(key, "") + value
    return texts
