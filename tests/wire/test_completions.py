"""/v1/completions: what is refused, what the servers are sent, what becomes of their texts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.wire.cases import CREATED, Case, cases, facets_of, params
from tests.wire.rows import data_events
from wire.answer import Opening, Streamed
from wire.completions import MAX_TOKENS, CompletionRequest, check_completion, split_completion
from wire.completions_answer import CompletionStreamed, CompletionWhole
from wire.dialects import DIALECTS, Facets
from wire.errors import BadRequest, Fault, Garbled, Untranslatable, fault_frame
from wire.openai import FINISHED, Delta, Finished, Json, Prefill, Reading, Usage, usage_object
from wire.parts import Joined, WholePart
from wire.resume import continued, why_not

ALL = cases("completions")
REFUSED = [case for case in ALL if case.file == "refused"]
SENT = [case for case in ALL if case.file == "sent"]
REPLIES = [case for case in ALL if case.file == "replies"]
ANSWERED = [case for case in REPLIES if "fault" not in case.row]
FAILED = [case for case in REPLIES if "fault" in case.row]


def _asked(case: Case, **more: Any) -> CompletionRequest:
    request = check_completion({"model": "m", "prompt": "Once upon"} | case.row.get("request", {}) | more)
    return replace(request, prefill=Prefill(**case.row["prefill"])) if "prefill" in case.row else request


def _opening(request: CompletionRequest) -> Opening:
    return Opening("test", CREATED, "m", request)


def _read(case: Case, request: CompletionRequest, pieces: list[bytes]) -> list[Reading]:
    kind = case.row.get("content_type", "text/event-stream")
    reply = DIALECTS[case.row["to"]].operations["completions"].read(str, kind, facets_of(case), request)
    return [*(reading for piece in pieces for reading in reply.feed(piece)), *reply.close()]


def _body(case: Case) -> bytes:
    text: str = case.row["upstream"]
    return text.encode()


def _folded(chunks: list[Json]) -> list[Json]:
    """What a client makes of a stream."""
    choices: dict[int, Json] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            whole = choices.setdefault(
                choice["index"], {"index": choice["index"], "text": "", "logprobs": None, "finish_reason": None}
            )
            assert whole["finish_reason"] is None
            whole["text"] += choice["text"]
            whole["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] is not None:
                known = whole["logprobs"] or {key: [] for key in choice["logprobs"]}
                whole["logprobs"] = {key: [*known[key], *value] for key, value in choice["logprobs"].items()}
    return [choices[index] for index in sorted(choices)]


# Checked


@pytest.mark.parametrize("case", params(REFUSED))
def test_a_bad_request_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(BadRequest) as caught:
        check_completion({"model": "m", "prompt": "a"} | case.row["request"])
    fault = caught.value
    assert (type(fault).__name__, fault.code, fault.param) == (
        case.row["class"],
        case.row["code"],
        case.row["param"],
    )
    assert case.row["says"] in fault.message
    assert fault.kind is None


def test_a_request_says_how_many_answers_it_wants_and_how_many_are_made() -> None:
    request = check_completion({"model": "m", "prompt": ["ab", "c"], "n": 2, "best_of": 5, "suffix": "def"})
    assert (request.n, request.best_of, request.choices, request.samples) == (2, 5, 4, 10)
    assert (request.prompts, request.prompt_chars, request.max_tokens) == (("ab", "c"), 6, MAX_TOKENS)
    assert (request.echo, request.logprobs, request.stream, request.include_usage) == (False, None, False, False)
    plain = check_completion({"model": "m", "prompt": [1, 2], "best_of": 0, "stream": True})
    assert (plain.best_of, plain.samples, plain.prompts, plain.prompt_chars) == (1, 1, ([1, 2],), 8)
    usage = check_completion(
        {"model": "m", "prompt": "", "stream": True, "stream_options": {"include_usage": True}, "echo": True}
    )
    assert (usage.stream, usage.include_usage, usage.prompts, usage.echo) == (True, True, ("",), True)


# Sent


@pytest.mark.parametrize("case", params(case for case in SENT if "fault" not in case.row))
def test_a_request_is_put_in_the_servers_words(case: Case) -> None:
    request = _asked(case)
    before = copy.deepcopy(request.body)
    translated = DIALECTS[case.row["to"]].operations["completions"].translate(request, "real", facets_of(case))
    assert orjson.loads(translated.body) == case.row["body"]
    assert translated.dropped == tuple(case.row.get("dropped", ()))
    assert request.body == before


@pytest.mark.parametrize("case", params(case for case in SENT if "fault" in case.row))
def test_what_a_server_cannot_do_is_refused_with_its_parameter(case: Case) -> None:
    with pytest.raises(Untranslatable) as caught:
        DIALECTS[case.row["to"]].operations["completions"].translate(_asked(case), "real", facets_of(case))
    assert caught.value.param == case.row["fault"]["param"]
    assert case.row["fault"]["says"] in caught.value.message


@pytest.mark.parametrize(
    ("dialect", "profile", "path", "expected"),
    [
        ("ollama", "compat", "", "/api/generate"),
        ("ollama", "compat", "/v1", "/api/generate"),
        ("sandbox", "compat", "", "/api/generate"),
        ("openai", "compat", "", "/v1/completions"),
        ("openai", "compat", "/x/v1/chat/completions", "/x/v1/completions"),
        ("openai", "deepseek", "", "/beta/completions"),
        ("openai", "deepseek", "/v1", "/beta/completions"),
        ("openai", "deepseek", "/beta", "/beta/completions"),
        ("openai", "deepseek", "/chat/completions", "/beta/completions"),
    ],
)
def test_the_endpoint_is_found_from_the_configured_path(dialect: str, profile: str, path: str, expected: str) -> None:
    assert DIALECTS[dialect].operations["completions"].path(path, Facets(profile=profile)) == expected


@pytest.mark.parametrize(
    ("more", "ollama", "deepseek"),
    [
        ({}, False, False),
        ({"n": 2}, True, True),
        ({"best_of": 2}, True, True),
        ({"prompt": ["a", "b"]}, True, True),
        ({"prompt": ["a"]}, False, False),
    ],
)
def test_several_answers_are_asked_one_by_one_where_a_server_gives_one(
    more: Json, ollama: bool, deepseek: bool
) -> None:
    request = check_completion({"model": "m", "prompt": "a"} | more)
    assert DIALECTS["ollama"].operations["completions"].one_by_one(request, Facets()) is ollama
    compat = DIALECTS["openai"].operations["completions"]
    assert compat.one_by_one(request, Facets(profile="deepseek")) is deepseek
    assert not compat.one_by_one(request, Facets())


def test_a_text_is_gone_on_with_everywhere_and_a_chat_where_the_server_promises_it() -> None:
    promises = {
        (dialect, profile, operation): row.goes_on(Facets(profile=profile))
        for dialect, profile in (("ollama", "compat"), ("openai", "compat"), ("openai", "deepseek"))
        for operation, row in DIALECTS[dialect].operations.items()
        if operation in ("chat", "completions")
    }
    assert promises == {
        ("ollama", "compat", "chat"): False,
        ("ollama", "compat", "completions"): True,
        ("openai", "compat", "chat"): False,
        ("openai", "compat", "completions"): True,
        ("openai", "deepseek", "chat"): True,
        ("openai", "deepseek", "completions"): True,
    }


# Read and answered


def _expected(case: Case) -> list[Json]:
    return [
        {"text": text, "index": index, "logprobs": more[0] if more else None, "finish_reason": reason}
        for index, (text, reason, *more) in enumerate(case.row["choices"])
    ]


@pytest.mark.parametrize("case", params(ANSWERED))
def test_a_reply_is_answered_in_full(case: Case) -> None:
    request = _asked(case, stream=False)
    answer = CompletionWhole(_opening(request))
    reply = orjson.loads(answer.write(_read(case, request, [_body(case)])))
    usage = case.row.get("usage")
    counts = reply.pop("usage", None)
    assert (usage is None and counts is None) or list(counts.values())[:3] == usage
    assert reply == {
        "id": "cmpl-test",
        "object": "text_completion",
        "created": CREATED,
        "model": "m",
        "choices": _expected(case),
    }
    assert (answer.done, answer.complete) == (True, True)
    assert answer.finish_reason in {choice["finish_reason"] for choice in reply["choices"]}


@pytest.mark.parametrize("case", params(case for case in ANSWERED if "best_of" not in case.row.get("request", {})))
@pytest.mark.parametrize("include_usage", [True, False])
def test_the_whole_answer_is_the_fold_of_the_stream(case: Case, include_usage: bool) -> None:
    request = _asked(case, stream=True, stream_options={"include_usage": include_usage})
    answer = CompletionStreamed(_opening(request))
    found = _read(case, request, [_body(case)])
    chunks = data_events(b"".join(answer.write([reading]) for reading in found))
    assert (answer.done, answer.complete) == (True, True)
    assert _folded(chunks) == _expected(case)
    assert {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("cmpl-test", "text_completion", CREATED, "m")
    }
    counted = include_usage and "usage" in case.row
    if counted:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], case.row["usage"][2])
    assert all(("usage" in chunk) is include_usage and chunk.get("usage") is None for chunk in chunks)
    again = CompletionStreamed(_opening(request))
    assert _folded(data_events(again.write(found))) == _expected(case)


@pytest.mark.parametrize("case", params(FAILED))
def test_a_reply_that_broke_off_is_a_fault(case: Case) -> None:
    request = _asked(case)
    fault = _read(case, request, [_body(case)])[-1]
    assert isinstance(fault, Fault)
    assert (type(fault).__name__, fault.kind) == (case.row["fault"]["class"], case.row["fault"]["kind"])


# The answer


def _ask(**more: Any) -> CompletionRequest:
    return check_completion({"model": "m", "prompt": "Once upon"} | more)


def test_an_answer_without_a_word_has_one_choice_and_ends() -> None:
    endings: list[list[Reading]] = [[FINISHED], [Usage(usage_object(1, 0)), FINISHED]]
    for finished in endings:
        request = _ask(stream=True)
        chunks = data_events(CompletionStreamed(_opening(request)).write(finished))
        assert [choice for chunk in chunks for choice in chunk["choices"]] == [
            {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
        ]
        whole = CompletionWhole(_opening(_ask()))
        assert not whole.complete
        assert orjson.loads(whole.write(finished))["choices"] == [
            {"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}
        ]


def test_nothing_follows_a_finish_reason_nor_the_end() -> None:
    request = _ask(stream=True)
    said: list[Reading] = [Delta({"content": "a"}), Delta({}, "tool_calls"), Delta({"content": "b"}), FINISHED]
    answer = CompletionStreamed(_opening(request))
    chunks = data_events(answer.write([*said, Delta({"content": "c"})]))
    assert [choice["text"] for chunk in chunks for choice in chunk["choices"]] == ["a", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert orjson.loads(CompletionWhole(_opening(request)).write(said))["choices"][0]["text"] == "a"


def test_a_fault_ends_a_stream_in_an_error_and_is_raised_where_nothing_was_sent() -> None:
    fault = Garbled("no")
    answer = CompletionStreamed(_opening(_ask(stream=True)))
    assert not answer.complete
    assert answer.write([Delta({"content": "a"}), fault]).endswith(fault_frame(fault))
    assert answer.done
    with pytest.raises(Garbled):
        CompletionWhole(_opening(_ask())).write([fault])


def test_the_servers_fingerprint_is_passed_on() -> None:
    said: list[Reading] = [
        Delta({"content": "a"}, server={"system_fingerprint": "fp", "service_tier": "x"}),
        Delta({}, "stop", server={"system_fingerprint": "of another server"}),
        FINISHED,
    ]
    chunks = data_events(CompletionStreamed(_opening(_ask(stream=True))).write(said))
    assert [chunk["system_fingerprint"] for chunk in chunks] == ["fp", "fp"]
    whole = orjson.loads(CompletionWhole(_opening(_ask())).write(said))
    assert whole["system_fingerprint"] == "fp"
    assert "service_tier" not in whole


def test_what_was_said_is_known_without_the_echo() -> None:
    answer: Streamed = CompletionStreamed(_opening(_ask(stream=True, echo=True)))
    answer.write([Delta({"content": " a"}), Delta({"content": " time"}), Delta({"reasoning_content": "x"})])
    answer.write([Delta({}, logprobs={"content": None})])
    assert (answer.said.text, answer.said.tokens) == (" a time", 2)
    request = _ask(stream=True, echo=True, max_tokens=5)
    assert why_not(request, answer.said) is None
    rest = continued(request, answer.said)
    assert rest.max_tokens == 3
    several = CompletionStreamed(_opening(_ask(stream=True, n=2)))
    several.write([Delta({"content": "a"}, choice=1)])
    assert several.said.choices
    assert why_not(_ask(stream=True, prompt=["a", "b"]), answer.said) == "several choices were asked for"


# Parts


def test_one_answer_is_no_matter_of_parts() -> None:
    assert split_completion(_ask(n=1, best_of=1)) == ()


def test_each_answer_is_a_part_and_each_prompt_is_counted_once() -> None:
    request = _ask(prompt=["ab", "c"], n=2, seed=5, echo=True)
    parts = split_completion(request)
    assert [(part.choice, part.prompt, part.request.body) for part in parts] == [
        (0, 0, {"model": "m", "prompt": "ab", "seed": 5, "echo": True}),
        (1, 0, {"model": "m", "prompt": "ab", "seed": 6, "echo": True}),
        (2, 1, {"model": "m", "prompt": "c", "seed": 5, "echo": True}),
        (3, 1, {"model": "m", "prompt": "c", "seed": 6, "echo": True}),
    ]
    assert [part.request.prompt_chars for part in parts] == [2, 2, 1, 1]
    assert not any(DIALECTS["ollama"].operations["completions"].one_by_one(part.request, Facets()) for part in parts)


def _best(likelihoods: list[float | None], **more: Any) -> list[Json]:
    request = _ask(**more)
    parts = split_completion(request)
    joined, answer = Joined(parts), CompletionWhole(_opening(request))
    data = b""
    for number, logprob in enumerate(likelihoods):
        entry: Json = {"token": "t", "logprob": logprob, "bytes": None, "top_logprobs": []}
        logged = {"content": [entry, entry], "refusal": None} if logprob is not None else None
        end: list[Finished | Usage | Delta] = [Delta({}, "stop"), Usage(usage_object(3, 2)), FINISHED]
        part = WholePart(number, joined, lambda: answer)
        data += part.write([Delta({"content": f"text {number}"}, logprobs=logged), *end])
    reply: Json = orjson.loads(data)
    assert [choice["index"] for choice in reply["choices"]] == list(range(request.choices))
    assert reply["usage"] == usage_object(3 * len(request.prompts), 2 * len(parts))
    choices: list[Json] = reply["choices"]
    return choices


def test_the_most_likely_of_several_answers_are_given() -> None:
    parts = split_completion(_ask(n=1, best_of=3))
    assert [part.request.body for part in parts] == [{"model": "m", "prompt": "Once upon", "logprobs": 0}] * 3
    (best,) = _best([-0.5, -0.1, None], n=1, best_of=3)
    assert (best["text"], best["logprobs"]) == ("text 1", None)
    two = _best([-0.5, None, -0.1], n=2, best_of=3, logprobs=0, echo=True)
    assert [choice["text"] for choice in two] == ["Once upontext 2", "Once upontext 0"]
    assert two[0]["logprobs"]["text_offset"] == [9, 10]
    several = _best([-3, -2, -1, -4], prompt=["A", "B"], best_of=2, echo=True)
    assert [choice["text"] for choice in several] == ["Atext 1", "Btext 2"]
