"""The table of dialects: addresses and parts."""

from __future__ import annotations

import pytest

from wire.check_chat import check_chat
from wire.compat_reply import CompatReply
from wire.completions import check_completion
from wire.dialects import DIALECTS, WHILE_IT_WORKS, Facets
from wire.errors import Fault, Garbled
from wire.lines import MAX_LINE
from wire.ollama_reply import OllamaReply
from wire.openai import Delta, Finished, Usage, is_content, usage_object
from wire.profiles import PROFILES


@pytest.mark.parametrize(
    ("dialect", "profile", "path", "expected"),
    [
        ("ollama", "compat", "", "/api/chat"),
        ("ollama", "compat", "/", "/api/chat"),
        ("ollama", "compat", "/v1", "/api/chat"),
        ("ollama", "compat", "/api/", "/api/chat"),
        ("ollama", "compat", "/api/chat", "/api/chat"),
        ("ollama", "compat", "/models/ollama", "/models/ollama/api/chat"),
        ("sandbox", "compat", "", "/api/chat"),
        ("openai", "compat", "", "/v1/chat/completions"),
        ("openai", "compat", "/v1/", "/v1/chat/completions"),
        ("openai", "compat", "/openai/v2", "/openai/v2/chat/completions"),
        ("openai", "compat", "/x/chat/completions", "/x/chat/completions"),
        ("openai", "deepseek", "", "/chat/completions"),
        ("openai", "deepseek", "/beta", "/beta/chat/completions"),
        ("openai", "deepseek", "/chat/completions", "/chat/completions"),
    ],
)
def test_a_chat_endpoint_is_found_from_the_configured_path(
    dialect: str, profile: str, path: str, expected: str
) -> None:
    assert DIALECTS[dialect].operations["chat"].path(path, Facets(profile=profile)) == expected


@pytest.mark.parametrize(
    ("dialect", "profile", "path", "expected"),
    [
        ("ollama", "compat", "/v1", "/api/chat"),
        ("openai", "compat", "/v1", "/v1/chat/completions"),
        ("openai", "deepseek", "", "/beta/chat/completions"),
        ("openai", "deepseek", "/", "/beta/chat/completions"),
        ("openai", "deepseek", "/v1", "/beta/chat/completions"),
        ("openai", "deepseek", "/chat/completions", "/beta/chat/completions"),
        ("openai", "deepseek", "/v1/chat/completions", "/beta/chat/completions"),
        ("openai", "deepseek", "/beta", "/beta/chat/completions"),
        ("openai", "deepseek", "/behind/proxy", "/behind/proxy/beta/chat/completions"),
        ("openai", "deepseek", "/behind/v1", "/behind/beta/chat/completions"),
    ],
)
def test_an_answer_is_continued_where_the_server_can_do_so(
    dialect: str, profile: str, path: str, expected: str
) -> None:
    assert DIALECTS[dialect].operations["chat"].path(path, Facets(profile=profile), prefill=True) == expected


def test_patience_and_a_promise_to_go_on_are_facts_about_deepseek_alone() -> None:
    assert {name: row.patience for name, row in PROFILES.items() if row.patience is not None} == {"deepseek": 300.0}
    assert [name for name, row in PROFILES.items() if row.prefill_message] == ["deepseek"]


def test_a_text_that_is_asked_for_as_a_whole_is_waited_for_longer() -> None:
    chat, completion = (DIALECTS["openai"].operations[name].first_token_times for name in ("chat", "completions"))
    plain, llama = Facets(), Facets(profile="llama_cpp_python")
    for stream in (False, True):
        asked = check_chat({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream})
        assert chat(asked, plain) == 1
        assert chat(asked, llama) == (1 if stream else WHILE_IT_WORKS)
        begun = check_completion({"model": "m", "prompt": "Hi", "stream": stream})
        assert completion(begun, plain) == 1
        assert completion(begun, llama) == (1 if stream else WHILE_IT_WORKS)
    best = check_completion({"model": "m", "prompt": "Hi", "best_of": 2})
    assert completion(best, plain) == WHILE_IT_WORKS
    assert DIALECTS["ollama"].operations["chat"].first_token_times(asked, plain) == 1


def test_every_dialect_names_the_media_type_of_its_streams() -> None:
    assert {name: dialect.operations["chat"].accept for name, dialect in DIALECTS.items()} == {
        "ollama": "application/x-ndjson",
        "openai": "text/event-stream",
        "sandbox": "application/x-ndjson",
    }


def test_content_is_what_a_caller_waits_for() -> None:
    assert is_content(Delta({"content": "a"}))
    assert is_content(Delta({"reasoning_content": "a"}))
    assert is_content(Delta({"tool_calls": [{"index": 0}]}))
    assert not is_content(Delta({}, "stop"))
    assert not is_content(Delta({}, logprobs={"content": None}))
    assert not is_content(Usage(usage_object(1, 2)))
    assert not is_content(Finished())
    assert not is_content(Fault("no"))


def test_a_runaway_line_ends_either_reader_for_good() -> None:
    runaway = b"x" * (MAX_LINE // 2 + 1)
    for reply in (OllamaReply(lambda: "id"), CompatReply(lambda: "id", PROFILES["compat"], "text/event-stream")):
        assert reply.feed(runaway) == []
        (fault,) = reply.feed(runaway)
        assert isinstance(fault, Garbled)
        assert reply.feed(b"\n") == reply.close() == []


def test_a_whole_reply_that_never_ends_is_given_up() -> None:
    reply = CompatReply(lambda: "id", PROFILES["compat"], "application/json", limit=8)
    assert reply.feed(b"12345678") == []
    (fault,) = reply.feed(b"9")
    assert isinstance(fault, Garbled)
    assert reply.feed(b"") == reply.close() == []


def test_tool_arguments_nested_deeper_than_can_be_written_are_garbled() -> None:
    deep = b'{"x":' + b"[" * 300 + b"]" * 300 + b"}"
    call = b'"tool_calls":[{"function":{"name":"f","arguments":' + deep + b"}}]"
    (native,) = OllamaReply(lambda: "id").feed(b'{"message":{' + call + b'},"done":true}\n')
    assert isinstance(native, Garbled)
    reply = CompatReply(lambda: "id", PROFILES["compat"], "text/event-stream")
    (compatible,) = reply.feed(b'data: {"choices":[{"delta":{' + call + b"}}]}\n\n")
    assert isinstance(compatible, Garbled)
