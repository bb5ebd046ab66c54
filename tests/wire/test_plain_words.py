"""What a log may keep of an error: the words that errors have, and nothing that can only be a prompt's."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import BadRequest, Fault, NotAsAsked
from wire.plain_words import GAP, MOST, logged, plain_words
from wire.rejections import in_stream_error, rejection

CANARY = "canaryprompt"


@pytest.mark.parametrize(
    "text",
    [
        "model requires more system memory (8.2 GiB) than is available (5.1 GiB)",
        "request (9 tokens) exceeds the available context size (8 tokens), try increasing it",
        "llama runner process has terminated: exit status 2",
        "The engine is currently overloaded, please try again later",
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        "an error was encountered while running the model: unexpected EOF",
        "'messages[0].content' must be a string",
        "tokens per min (TPM): Limit 30000, Used 29,900, Requested 500. Please try again in 1.2s.",
        "status=500 n_ctx=4096 at 93%",
    ],
)
def test_what_errors_say_is_kept_as_it_is(text: str) -> None:
    assert plain_words(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CUDA error: out of memory\n in alloc at ggml-cuda.cu:123", "CUDA error: out of memory in … at …"),
        ("model 'qwen2.5:7b' not found, try pulling it first", "model … not found, try pulling it first"),
        (
            "error parsing tool call: raw='tell canaryprompt', err=invalid character 'c' looking for",
            "error parsing tool call: … err=invalid character … looking for",
        ),
        ("limit reached in organization org-0815", "limit reached in organization …"),
        ("you said 4711 and 4111 1111 1111 1111", "you … and …"),
        ("you said\n\u202e密钥 🐦 to error", "you … to error"),
        ("the error canary_tokens canary-error canarytoken", "the error …"),
        ("boom", ""),
        ("", ""),
        (" \n ", ""),
        ("---", ""),
        ("12345", ""),
    ],
)
def test_what_may_be_a_callers_is_not_kept(text: str, kept: str) -> None:
    assert plain_words(text) == kept


@given(st.lists(st.sampled_from(["error", "memory,", "(8 tokens)", CANARY, f"'{CANARY}'", "\n", "…"])))
def test_it_is_short_and_on_one_line_and_holds_no_word_that_it_does_not_know(words: list[str]) -> None:
    kept = plain_words(" ".join(words))
    assert len(kept) <= MOST
    assert "\n" not in kept
    assert CANARY not in kept
    assert f"{GAP} {GAP}" not in kept


@given(st.text(max_size=300))
def test_what_is_kept_stays_as_it_is(text: str) -> None:
    kept = plain_words(text)
    assert plain_words(kept) in (kept, "")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 413, 418, 422, 429, 500, 501, 503, 529])
@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f"you said: {CANARY}",
        f"model '{CANARY}' not found",
        f"'{CANARY}' exceeds the context size",
        f"{CANARY} does not support tools",
        f"flagged by moderation: {CANARY}",
    ],
)
def test_a_log_never_has_what_an_upstream_quotes(status: int, text: str) -> None:
    body = {"error": {"message": text, "code": status}}
    for fault in (rejection(status, orjson.dumps(body)), in_stream_error(body["error"])):
        assert CANARY not in logged(fault) + fault.detail
        assert logged(fault)


def test_the_caller_is_told_what_the_server_says_of_the_request() -> None:
    fault = rejection(400, orjson.dumps({"error": {"message": f"'{CANARY}' is no role"}}))
    assert fault.message == f"'{CANARY}' is no role"
    assert logged(fault) == "… is no role"


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        (BadRequest("'temperature' must be a number, but it is a string."), None),
        (BadRequest("'messages[0].role' is 'canary'; use one of 'system', 'user'."),
         "'messages[0].role' is '…'; use one of 'system', 'user'."),
        (BadRequest("'tool_choice' names the tool 'it's canary', which is not among 'tools'."),
         "'tool_choice' names the tool '…', which is not among 'tools'."),
        (BadRequest("'response_format.json_schema.schema' is not valid: \"canary\" is not of type \"object\"."),
         "'response_format.json_schema.schema' is not valid: \"…\" is not of type \"object\"."),
        (Fault("No target could answer: 'canary'."), None),
        (NotAsAsked("$.canary: Additional properties are not allowed ('canary' was unexpected)"),
         "… Additional properties are not allowed … was unexpected)"),
        (NotAsAsked("canary"), "answered with something else than was asked for"),
    ],
)  # fmt: skip
def test_our_own_words_name_fields_and_not_what_stands_in_them(fault: Fault, kept: str | None) -> None:
    assert logged(fault) == (kept or fault.message)
