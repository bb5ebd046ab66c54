"""What a caller asks, checked and translated: refused with its parameter, or put in the upstream's own words."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import fields, replace
from time import process_time

import orjson
import pytest

from tests.wire.cases import Case, cases, params
from wire.check import parse_body
from wire.check_chat import check_chat
from wire.compat import to_compat
from wire.dialects import DIALECTS, Facets
from wire.errors import BadRequest
from wire.ollama import to_ollama
from wire.openai import ChatRequest, Json, Prefill, Translated
from wire.profiles import PROFILES

REFUSED = [case for case in cases("requests") if case.file == "refused"]
ACCEPTED = [case for case in cases("requests") if case.file == "accepted"]
LLAMA = cases("chat_to_llama_cpp_python")
TRANSLATED = [*cases("chat_to_ollama"), *cases("chat_to_deepseek"), *cases("chat_to_compat"), *LLAMA]


def _raw(case: Case) -> bytes:
    """The request's bytes: as the case spells them, or the file's common request with what differs."""
    if "json" in case.row:
        text: str = case.row["json"]
        return text.encode()
    return orjson.dumps(case.common["request"] | case.row["request"])


def _checked(case: Case) -> ChatRequest:
    request = check_chat(parse_body(_raw(case)))
    learnt = {name: case.row[name] for name in ("fetched", "unfetched", "thoughts") if name in case.row}
    request = replace(request, **learnt) if learnt else request
    return replace(request, prefill=Prefill(**case.row["prefill"])) if "prefill" in case.row else request


def _translate(case: Case) -> Translated:
    facets = Facets(profile=case.common.get("profile", "compat"), **case.row.get("facets", {}))
    chat = DIALECTS[case.common["dialect"]].operations["chat"]
    return chat.translate(_checked(case), case.common["body"]["model"], facets)


@pytest.mark.parametrize("case", params(REFUSED))
def test_a_bad_request_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        _checked(case)
    fault = caught.value
    assert type(fault).__name__ == case.row["class"]
    assert fault.kind is None
    assert (fault.status, fault.type) == (400, "invalid_request_error")
    assert (fault.code, fault.param) == (case.row.get("code"), case.row.get("param"))
    assert case.row["says"] in fault.message


@pytest.mark.parametrize("case", params(ACCEPTED))
def test_an_odd_request_passes(case: Case) -> None:
    request = _checked(case)
    assert request.body == parse_body(_raw(case))
    known = {field.name: getattr(request, field.name) for field in fields(request)}
    # The request itself, and what is learnt later.
    for name in ("body", "origin", "lost", "fetched", "unfetched", "thoughts"):
        del known[name]
    assert known == case.common["gives"] | case.row["gives"]


@pytest.mark.parametrize("case", params(case for case in TRANSLATED if "fault" not in case.row))
def test_a_request_is_put_in_the_upstreams_words(case: Case) -> None:
    translated = _translate(case)
    assert orjson.loads(translated.body) == case.common["body"] | case.row["body"]
    assert translated.dropped == tuple(case.row.get("dropped", ()))


@pytest.mark.parametrize("case", params(case for case in TRANSLATED if "fault" in case.row))
def test_what_cannot_be_carried_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        _translate(case)
    expected = case.row["fault"]
    assert type(caught.value).__name__ == expected["class"]
    assert caught.value.kind == expected["kind"]
    assert caught.value.param == expected["param"]
    assert expected["says"] in caught.value.message


@pytest.mark.parametrize("case", params(TRANSLATED))
def test_no_mapper_touches_what_the_caller_sent(case: Case) -> None:
    sent = parse_body(_raw(case))
    before = copy.deepcopy(sent)
    request = check_chat(sent)
    assert sent == before
    for asked in (request, replace(request, prefill=Prefill("Hello", 1))):
        for profile in PROFILES.values():
            with suppress(BadRequest):  # what cannot be carried must be left alone too
                to_compat(asked, "m", profile)
            assert sent == before
        with suppress(BadRequest):
            to_ollama(asked, "m", num_ctx=1, keep_alive="1m")
        assert sent == before


def _nested(levels: int) -> Json:
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"deep":' + b"[" * levels + b"]" * levels + b"}"
    return parse_body(body)


def test_a_request_nested_deeper_than_can_be_written_is_refused() -> None:
    assert orjson.loads(to_compat(check_chat(_nested(200)), "m", PROFILES["compat"]).body)["deep"]
    with pytest.raises(BadRequest, match="nested too deeply"):
        to_compat(check_chat(_nested(300)), "m", PROFILES["compat"])
    with pytest.raises(BadRequest, match="not valid JSON"):
        _nested(2000)


def test_arguments_nested_deeper_than_can_be_written_are_refused() -> None:
    call = {
        "id": "a",
        "type": "function",
        "function": {"name": "f", "arguments": '{"x":' + "[" * 300 + "]" * 300 + "}"},
    }
    request = check_chat({"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    with pytest.raises(BadRequest, match="nested too deeply"):
        to_ollama(request, "m", num_ctx=None, keep_alive=None)


def test_long_lists_of_tools_are_checked_in_linear_time() -> None:
    names = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(8_000)]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": names}}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": names, "tool_choice": choice}
    before = process_time()
    check_chat(body)
    assert process_time() - before < 1
