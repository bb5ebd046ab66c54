"""/v1/embeddings: what is refused, what the servers are sent, what becomes of their vectors."""

from __future__ import annotations

import base64
import copy
import struct
from array import array
from typing import Any

import orjson
import pytest

from tests.wire.cases import CREATED, Case, cases, facets_of, params
from wire.answer import Opening
from wire.dialects import DIALECTS, Facets
from wire.embeddings import (
    AT_ONCE,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    EmbedReply,
    check_embeddings,
    in_base64,
    in_numbers,
    split_embeddings,
)
from wire.errors import BadRequest, Fault, Garbled, Untranslatable
from wire.inputs import MAX_INPUTS
from wire.openai import FINISHED, Delta, Json, Reading, Usage, usage_object
from wire.parts import Joined, WholePart
from wire.rejections import rejection

ALL = cases("embeddings")
REFUSED = [case for case in ALL if case.file == "refused"]
SENT = [case for case in ALL if case.file == "sent"]
REPLIES = [case for case in ALL if case.file == "replies"]
ANSWERED = [case for case in REPLIES if "fault" not in case.row]
FAILED = [case for case in REPLIES if "fault" in case.row]


def _asked(case: Case, **common: Any) -> EmbeddingsRequest:
    given = {"model": "m", **common} | case.row.get("request", {})
    return check_embeddings({name: value for name, value in given.items() if value is not None or name == "odd"})


def _answer(request: EmbeddingsRequest) -> EmbeddingsAnswer:
    return EmbeddingsAnswer(Opening("test", CREATED, "m", request))


def _read(case: Case, request: EmbeddingsRequest, pieces: list[bytes]) -> list[Reading]:
    reply = DIALECTS[case.row["to"]].operations["embeddings"].read(str, "application/json", facets_of(case), request)
    return [*(reading for piece in pieces for reading in reply.feed(piece)), *reply.close()]


# Checked


@pytest.mark.parametrize("case", params(REFUSED))
def test_a_bad_request_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        check_embeddings({"model": "m", "input": "a"} | case.row["request"])
    fault = caught.value
    assert (type(fault).__name__, fault.code, fault.param) == (
        case.row["class"],
        case.row["code"],
        case.row["param"],
    )
    assert case.row["says"] in fault.message
    assert fault.kind is None


def test_openais_limits_hold_and_are_said_in_its_words() -> None:
    assert len(check_embeddings({"model": "m", "input": ["a"] * MAX_INPUTS}).inputs) == MAX_INPUTS
    for given, where in ((["a"] * 2049, "input"), ([1] * 2049, "input"), ([[1], [1] * 2049], "input[1]")):
        with pytest.raises(BadRequest) as caught:
            check_embeddings({"model": "m", "input": given})
        assert (caught.value.code, caught.value.param) == ("array_above_max_length", where)
        assert "maximum length 2048, but got an array with length 2049" in caught.value.message


@pytest.mark.parametrize(
    ("given", "inputs", "chars"),
    [
        ("Hello", ("Hello",), 5),
        (["a", "bc"], ("a", "bc"), 3),
        ([1, 2], ([1, 2],), 8),
        ([[1], [2, 3]], ([1], [2, 3]), 12),
        (["a", "a"], ("a", "a"), 2),
    ],
)
def test_an_input_has_four_forms(given: Any, inputs: tuple[Any, ...], chars: int) -> None:
    request = check_embeddings({"model": "m", "input": given, "n": 7, "stream": True})
    assert (request.inputs, request.prompt_chars, request.choices) == (inputs, chars, 1)
    assert (request.stream, request.as_base64, request.dimensions) == (False, False, None)


# Sent


@pytest.mark.parametrize("case", params(case for case in SENT if "fault" not in case.row))
def test_a_request_is_put_in_the_servers_words(case: Case) -> None:
    request = _asked(case, input="Hello")
    before = copy.deepcopy(request.body)
    translated = DIALECTS[case.row["to"]].operations["embeddings"].translate(request, "real", facets_of(case))
    assert orjson.loads(translated.body) == case.row["body"]
    assert translated.dropped == tuple(case.row.get("dropped", ()))
    assert request.body == before


@pytest.mark.parametrize("case", params(case for case in SENT if "fault" in case.row))
def test_what_a_server_cannot_do_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(Untranslatable) as caught:
        DIALECTS[case.row["to"]].operations["embeddings"].translate(
            _asked(case, input="Hello"), "real", facets_of(case)
        )
    assert caught.value.param == case.row["fault"]["param"]
    assert case.row["fault"]["says"] in caught.value.message


@pytest.mark.parametrize(
    ("dialect", "path", "expected"),
    [
        ("ollama", "", "/api/embed"),
        ("ollama", "/v1", "/api/embed"),
        ("sandbox", "", "/api/embed"),
        ("openai", "", "/v1/embeddings"),
        ("openai", "/x/v1/chat/completions", "/x/v1/embeddings"),
    ],
)
def test_the_endpoint_is_found_from_the_configured_path(dialect: str, path: str, expected: str) -> None:
    assert DIALECTS[dialect].operations["embeddings"].path(path, Facets()) == expected


# Read and answered


@pytest.mark.parametrize("case", params(ANSWERED))
def test_vectors_are_answered_in_the_callers_format(case: Case) -> None:
    request = _asked(case, input=["a", "b"])
    body = case.row["upstream"].encode()
    found = _read(case, request, [body])
    answer = _answer(request)
    reply = orjson.loads(answer.write(found))
    assert (answer.done, answer.complete, answer.finish_reason) == (True, True, "stop")
    assert reply == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": number, "embedding": vector}
            for number, vector in enumerate(case.row["vectors"])
        ],
        "model": "m",
        "usage": {"prompt_tokens": case.row["tokens"], "total_tokens": case.row["tokens"]},
    }
    assert answer.usage == usage_object(case.row["tokens"], 0)


@pytest.mark.parametrize("case", params(FAILED))
def test_a_reply_that_makes_no_sense_is_a_fault(case: Case) -> None:
    (fault,) = _read(case, _asked(case, input=["a", "b"]), [case.row["upstream"].encode()])
    expected = case.row["fault"]
    assert isinstance(fault, Fault)
    assert (type(fault).__name__, fault.kind, fault.param) == (
        expected["class"],
        expected["kind"],
        expected.get("param"),
    )
    assert expected["says"] in fault.message


def test_an_endless_reply_is_given_up() -> None:
    reply = EmbedReply(check_embeddings({"model": "m", "input": "a"}), limit=8)
    assert reply.feed(b"12345678") == []
    (fault,) = reply.feed(b"9")
    assert isinstance(fault, Garbled)
    assert reply.feed(b"") == reply.close() == []


def test_a_fault_is_raised_for_nothing_was_sent() -> None:
    answer = _answer(check_embeddings({"model": "m", "input": ["a", "b"]}))
    assert answer.write([Delta({"embedding": [1.0]}, "stop", 0)]) == b""
    assert not answer.complete
    with pytest.raises(Garbled):
        answer.write([Garbled("no")])


def test_base64_is_little_endian_float32_and_numbers_come_back_from_it() -> None:
    numbers = [0.1, -2.5, 3e38, 1e-45]
    assert base64.b64decode(in_base64(numbers)) == struct.pack("<4f", *numbers)
    assert in_numbers(in_base64(numbers)) == list(array("f", numbers))
    assert in_base64("AAAAPw==") == "AAAAPw=="
    assert in_numbers(numbers) is numbers


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_has_no_place_in_json(odd: float) -> None:
    with pytest.raises(Garbled, match="cannot be read"):
        in_numbers(in_base64([1.0, odd, 2.0]))


def test_a_model_that_makes_no_embeddings_is_the_callers_to_change() -> None:
    fault = rejection(501, b'{"error":"this model does not support embeddings"}')
    assert isinstance(fault, Untranslatable)
    assert (fault.status, fault.param, fault.message) == (400, "model", "this model does not support embeddings")
    assert rejection(501, b"").message == "The model server cannot do this."


# Parts


def test_a_long_list_is_asked_in_parts_and_joined_in_order() -> None:
    texts = [f"text {number}" for number in range(2 * AT_ONCE + 1)]
    request = check_embeddings({"model": "m", "input": texts, "dimensions": 1, "encoding_format": "base64"})
    parts = split_embeddings(request)
    assert [(part.choice, part.prompt) for part in parts] == [(0, 0), (AT_ONCE, 1), (2 * AT_ONCE, 2)]
    asked = [part.request for part in parts]
    assert all(isinstance(one, EmbeddingsRequest) for one in asked)
    assert [one.body["input"] for one in asked] == [texts[:AT_ONCE], texts[AT_ONCE : 2 * AT_ONCE], texts[-1:]]
    assert sum(one.prompt_chars for one in asked) == request.prompt_chars
    assert len(request.body["input"]) == len(texts)
    operation = DIALECTS["ollama"].operations["embeddings"]
    assert operation.one_by_one(request, Facets())
    assert not any(operation.one_by_one(one, Facets()) for one in asked)
    assert not DIALECTS["openai"].operations["embeddings"].one_by_one(request, Facets())

    joined, answer = Joined(parts), _answer(request)
    data = b""
    for number in (2, 0, 1):
        part = WholePart(number, joined, lambda: answer)
        readings: list[Reading] = [
            Delta({"embedding": [float(parts[number].choice + place)]}, "stop", place)
            for place in range(len(parts[number].request.body["input"]))
        ]
        data += part.write([*readings, Usage(usage_object(10, 0)), FINISHED])
    reply: Json = orjson.loads(data)
    assert [in_numbers(row["embedding"]) for row in reply["data"]] == [[float(n)] for n in range(len(texts))]
    assert [row["index"] for row in reply["data"]] == list(range(len(texts)))
    assert reply["usage"] == {"prompt_tokens": 30, "total_tokens": 30}


def test_a_short_list_is_asked_at_once() -> None:
    assert split_embeddings(check_embeddings({"model": "m", "input": ["a"] * AT_ONCE})) == ()
