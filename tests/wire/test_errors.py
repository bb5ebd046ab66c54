"""Faults: what is behind an upstream's error answer, and how a caller is told."""

from __future__ import annotations

import re

import pytest

from wire import errors
from wire.errors import Fault, fault_body, fault_frame


def test_a_fault_is_openais_object_as_a_body_and_as_the_end_of_a_stream() -> None:
    fault = errors.BadRequest("'n' is “odd”.", param="n")
    spoken = '{"error":{"message":"\'n\' is “odd”.","type":"invalid_request_error","param":"n","code":null}}'.encode()
    assert fault_body(fault) == spoken + b"\n"
    assert fault_frame(fault) == b"data: " + spoken + b"\n\ndata: [DONE]\n\n"


def _tree(kind: type[Fault]) -> list[type[Fault]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


@pytest.mark.parametrize("fault_class", _tree(Fault), ids=lambda fault_class: fault_class.__name__)
def test_every_fault_has_a_status_and_a_code_that_sdks_can_read(fault_class: type[Fault]) -> None:
    fault = fault_class("Why.")
    assert 400 <= fault.status < 600
    assert fault.code is None or isinstance(fault.code, str)
    assert str(fault) == "Why."


KINDS: dict[type[Fault], str] = {
    errors.Untranslatable: "unsupported",
    errors.TooLargeThere: "unsupported",
    errors.ContextTooLong: "context",
    errors.UpstreamFault: "stream_error",
    errors.ConnectFailed: "connect",
    errors.TlsFailed: "tls",
    errors.TimedOut: "first_token",
    errors.Cut: "cut",
    errors.Garbled: "malformed",
    errors.Overloaded: "status_503",
    errors.Resting: "resting",
    errors.RateLimited: "status_429",
    errors.Busy: "busy",
    errors.KeyRefused: "key",
    errors.CallForbidden: "key",
    errors.CreditUsedUp: "key",
    errors.NotAsAsked: "schema",
    errors.NotContinued: "not_continued",
    errors.ModelMissing: "model_missing",
}


def test_every_fault_of_a_target_is_of_a_kind_and_no_other_is() -> None:
    kinds = {fault_class: fault_class("Why.").kind for fault_class in _tree(Fault)}
    assert {fault_class: kind for fault_class, kind in kinds.items() if kind is not None} == KINDS


def test_a_fault_may_say_its_kind_more_exactly_than_its_class() -> None:
    assert errors.Cut("Why.", kind="reset").kind == "reset"
    assert errors.Cut("Why.").kind == "cut"
    assert errors.Cut("Why.", kind="reset").kind == "reset"
    assert errors.BadRequest("Why.").kind is None


def test_a_target_that_was_not_asked_is_told_as_if_it_had_been() -> None:
    busy, resting = errors.Busy("is full"), errors.Resting("is resting", retry_after=3.0)
    assert (busy.status, busy.type, busy.code) == (429, "requests", "rate_limit_exceeded")
    assert (resting.status, resting.code, resting.retry_after) == (503, "server_is_overloaded", 3.0)


def test_the_tree_that_is_drawn_is_the_tree_that_there_is() -> None:
    drawn = re.findall(r"^ {4}([ |`-]*)([A-Z]\w+) +(?:(\d{3})|) *(\S*)", errors.__doc__ or "", re.MULTILINE)
    seen = {name: kind.strip("-") or None for _, name, _, kind in drawn}
    assert seen == {kind.__name__: kind("Why.").kind for kind in _tree(Fault) if kind.__module__ == "wire.errors"}
    assert {name: int(status) for _, name, status, _ in drawn if status} == {
        kind.__name__: kind.status
        for kind in _tree(Fault)
        if kind.__module__ == "wire.errors" and (kind is Fault or kind.status != kind.__mro__[1].status)  # type: ignore[attr-defined]
    }
