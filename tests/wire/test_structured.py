"""Answers that must be JSON, or fit a schema: judged when they are complete, before they look so."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from tests.wire.test_custom import Told
from wire.check_chat import check_chat
from wire.errors import BadRequest, Cut, NotAsAsked
from wire.openai import FINISHED, ChatRequest, Delta, Json, Reading, Usage
from wire.structured import MAX_WORDS, Expected, Fits, expected, repaired

PRICES = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"properties": {"price": {"type": "number"}}}}},
    "required": ["items"],
}


def _asking(form: Any) -> ChatRequest:
    return ChatRequest(body={"messages": [{"role": "user", "content": "Hi"}], "response_format": form}, model="m")


def _schema(schema: Json, *, strict: Any = True) -> ChatRequest:
    return _asking({"type": "json_schema", "json_schema": {"name": "a", "strict": strict, "schema": schema}})


def _wanted(request: ChatRequest) -> Expected:
    wanted = expected(request)
    assert wanted is not None
    return wanted


def _why(request: ChatRequest, text: str) -> str | None:
    return _wanted(request).why_not(text)


@pytest.mark.parametrize("form", [None, {}, {"type": "text"}, {"type": "grammar"}])
def test_of_text_nothing_is_expected(form: Any) -> None:
    assert expected(_asking(form)) is None


@pytest.mark.parametrize(
    ("request_", "text", "why"),
    [
        (_asking({"type": "json_object"}), ' {"a": 1}\n', None),
        (_asking({"type": "json_object"}), "[1]", "it is JSON, but not an object"),
        (_asking({"type": "json_object"}), "```json\n{}\n```", "it is not JSON: "),
        (_asking({"type": "json_object"}), '{"a": 1', "it is not JSON: "),
        (_asking({"type": "json_schema"}), "[1]", None),
        (_asking({"type": "json_schema"}), "Sure!", "it is not JSON: unexpected character"),
        (_schema(PRICES, strict=False), '{"items": 1}', None),
        (_schema(PRICES, strict=None), '{"items": 1}', None),
        (_schema(PRICES), '{"items": [{"price": 1.5}]}', None),
        (_schema(PRICES), '{"items": [{}, {"price": "1"}]}', '$.items[1].price: the value is not of type "number"'),
        (_schema(PRICES), "{}", '$: "items" is a required property'),
        (_schema(PRICES), "items", "it is not JSON: "),
        (_schema({"enum": ["x" * 1000]}), '"y"', '$: the value is not one of "xxx'),
        (_schema({"pattern": "^(?!x)a"}), '"xa"', "$: the value does not match"),
        (_schema({"type": "string", "$schema": "http://json-schema.org/draft-07/schema#"}), "1", "$: the value is not of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_its_place(request_: ChatRequest, text: str, why: str | None) -> None:
    said = _why(request_, text)
    assert said == why if why is None else said is not None and said.startswith(why)
    assert len(said or "") <= MAX_WORDS + 2


def test_an_answer_is_never_quoted() -> None:
    secret = "s3cret" * 50
    for schema in ({"enum": ["a"]}, {"type": "number"}, {"pattern": "^a"}, {"maxLength": 3}, {"const": 1}):
        assert "s3cret" not in (_why(_schema(schema), f'"{secret}"') or "s3cret")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"x": {"type": "text"}}}, "$.properties.x.type: the value is not valid"),
        ({"pattern": "("}, "$.pattern: "),
        ({"pattern": "((a{1000}){1000}){100}"}, "$.pattern: "),
        ({"$ref": "#/$defs/none"}, "Pointer '/$defs/none' does not exist"),
        ({"$ref": "http://127.0.0.1:9/a.json"}, "Retrieval is disabled"),
        ({"$ref": "file:///etc/hostname"}, "Retrieval is disabled"),
        ({"$schema": "http://127.0.0.1:9/schema"}, "Unknown meta-schema"),
    ],
)
def test_a_strict_schema_that_is_none_is_the_callers_to_mend(schema: Json, says: str) -> None:
    with pytest.raises(BadRequest, match="not a valid JSON Schema") as caught:
        expected(_schema(schema))
    assert (caught.value.param, caught.value.kind) == ("response_format.json_schema.schema", None)
    assert says in caught.value.message
    with pytest.raises(BadRequest, match="not a valid JSON Schema"):
        check_chat(_schema(schema).body | {"model": "m"})
    assert expected(_schema(schema, strict=False)) is not None


def _doubling(steps: int) -> Json:
    both = {
        f"a{step}": {"anyOf": [{"$ref": f"#/$defs/a{step + 1}"}, {"$ref": f"#/$defs/a{step + 1}"}]}
        for step in range(steps)
    }
    return {"$ref": "#/$defs/a0", "$defs": both | {f"a{steps}": {"type": "string"}}}


def test_a_schema_whose_branches_double_takes_no_time() -> None:
    started = time.perf_counter()
    assert (
        _why(_schema(_doubling(5)), "1")
        == "$: the value is not valid under any of the schemas listed in the 'anyOf' keyword"
    )
    assert _why(_schema(_doubling(16)), "1") == "it does not fit the schema"
    assert _why(_schema(_doubling(16)), '"x"') is None
    with pytest.raises(BadRequest, match="too many branches"):
        expected(_schema(_doubling(60)))
    chain = {f"a{step}": {"$ref": f"#/$defs/a{step + 1}"} for step in range(5000)}
    with pytest.raises(BadRequest, match="nested too deeply"):
        expected(_schema({"$ref": "#/$defs/a0", "$defs": chain | {"a5000": True}}))
    assert time.perf_counter() - started < 5


def test_branches_that_exclude_one_another_do_not_add_up_within_properties() -> None:
    address = {"type": "object", "properties": {f"line{n}": {"type": "string"} for n in range(100)}}
    schema: Json = {"$defs": {"address": address}, "type": "object"}
    schema["properties"] = {f"p{n}": {"$ref": "#/$defs/address"} for n in range(1000)}
    schema["dependentSchemas"] = {"p0": {"required": ["p1"]}}
    assert _why(_schema(schema), '{"p1": {"line1": 1}}') == '$.p1.line1: the value is not of type "string"'
    assert _why(_schema(schema), '{"p0": {}}') == '$: "p1" is a required property'


def test_a_schema_may_hold_itself_and_names_with_slashes() -> None:
    tree = {
        "$ref": "#/$defs/a~1b~0",
        "$defs": {"a/b~": {"type": "object", "properties": {"next": {"$ref": "#/$defs/a~1b~0"}}}},
    }
    assert _why(_schema(tree), '{"next":{"next":{}}}') is None
    assert _why(_schema(tree), '{"next":{"next":1}}') == '$.next.next: the value is not of type "object"'
    assert _why(_schema({"$ref": "#"}), "1") is None


def test_of_a_tree_with_several_kinds_of_nodes_it_is_not_said_what_does_not_fit() -> None:
    kinds = [{"properties": {"kind": {"const": kind}, "next": {"$ref": "#"}}, "required": ["kind"]} for kind in "abcde"]
    text = '{"kind":"a","next":' * 20 + "{}" + "}" * 20
    started = time.perf_counter()
    assert _why(_schema({"anyOf": kinds}), text) == "it does not fit the schema"
    assert time.perf_counter() - started < 5


def test_values_that_are_nested_too_deeply_cannot_be_checked() -> None:
    text = "[" * 1000 + "]" * 1000
    assert _why(_schema({"type": "object"}), text) == "it cannot be checked: Recursion limit reached"


def test_a_pattern_that_takes_for_ever_is_given_up() -> None:
    started = time.perf_counter()
    for pattern in (r"^(a+)+$", r"^(?=(a+)+$)(a+)+\1$"):
        assert _why(_schema({"pattern": pattern}), '"' + "a" * 5000 + 'b"') is not None
    assert time.perf_counter() - started < 5


# -- the reader


def _read(wanted: Expected, *batches: list[Reading]) -> list[Reading]:
    reply = Fits(Told(*batches), wanted)
    return [reading for _ in batches[1:] for reading in reply.feed(b"")] + reply.close()


STOP = Delta({}, "stop")
OBJECT = Expected(an_object=True)


def _text(text: str) -> Delta:
    return Delta({"content": text})


def test_an_answer_that_fits_passes_as_it_came() -> None:
    usage = Usage({"prompt_tokens": 1})
    found = _read(OBJECT, [Delta({"reasoning_content": "h"}), _text('{"a"')], [_text(":1}"), STOP, usage, FINISHED])
    assert found == [Delta({"reasoning_content": "h"}), _text('{"a"'), _text(":1}"), usage, STOP, FINISHED]


def test_logprobs_that_come_with_the_end_are_told_once() -> None:
    logprobs = {"content": [{"token": "}", "logprob": -1.0}]}
    found = _read(OBJECT, [_text("{}"), Delta({}, "stop", 0, logprobs), FINISHED])
    assert found == [_text("{}"), Delta({}, None, 0, logprobs), STOP, FINISHED]


def test_an_answer_that_does_not_fit_ends_in_a_fault_before_it_looks_complete() -> None:
    *before, fault = _read(OBJECT, [_text("Sure"), Delta({"content": "!"}, "stop")], [Usage({}), FINISHED, STOP])
    assert before == [_text("Sure"), _text("!"), Usage({})]
    assert isinstance(fault, NotAsAsked)
    assert (fault.kind, fault.status, fault.answer) == ("schema", 502, "Sure!")
    assert fault.message.startswith("gave an answer that is not what was asked for: it is not JSON: ")
    assert "Sure" not in fault.message


@pytest.mark.parametrize(
    "readings",
    [
        [_text('{"a":'), Delta({}, "length"), FINISHED],
        [_text("no"), Delta({}, "content_filter"), FINISHED],
        [Delta({"refusal": "I cannot."}), STOP, FINISHED],
        [_text("Wait."), Delta({"tool_calls": [{"index": 0}]}), Delta({}, "tool_calls"), FINISHED],
        [Delta({"tool_calls": [{"index": 0}]}), STOP, FINISHED],
        [_text("{}"), Delta({"content": "no"}, None, 1), Delta({}, "stop", 1), STOP, FINISHED],
        [_text("no"), Cut("broke off")],
    ],
    ids=["cut short", "filtered", "a refusal", "a call", "a call that stops", "another choice", "broken off"],
)
def test_what_is_no_complete_answer_is_not_judged(readings: list[Reading]) -> None:
    assert _read(OBJECT, readings) == readings


def test_what_breaks_off_after_its_end_was_complete_all_the_same() -> None:
    cut = Cut("broke off")
    assert _read(OBJECT, [_text("{}"), STOP], [cut]) == [_text("{}"), STOP, cut]
    assert isinstance(_read(OBJECT, [_text("no"), STOP], [cut])[-1], NotAsAsked)


def test_another_try_shows_the_answer_and_what_is_wrong_with_it() -> None:
    request = _asking({"type": "json_object"})
    before = orjson.dumps(request.body)
    fault = _read(OBJECT, [_text("Sure!"), STOP, FINISHED])[-1]
    assert isinstance(fault, NotAsAsked)
    again = repaired(request, fault.answer, fault.message)
    assert orjson.dumps(request.body) == before
    assert again.body["messages"][:-2] == request.body["messages"]
    assert again.body["messages"][-2] == {"role": "assistant", "content": "Sure!"}
    assert again.body["messages"][-1]["role"] == "user"
    words = again.body["messages"][-1]["content"]
    assert words.startswith("This answer is not what was asked for: it is not JSON: unexpected character")
    assert again.body["response_format"] == {"type": "json_object"}
