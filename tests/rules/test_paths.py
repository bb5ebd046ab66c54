"""Endpoints as the file names them."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter

from rules.paths import OPENAI, Paths, meant, path, permits, unknown

KNOWN = (
    "/chat/completions",
    "/models",
    "/models/{id:path}",
    "/responses",
    "/responses/{id}",
    "/audio/speech",
    "/health",
)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        (" /v1/models/ ", "/models"),
        ("/v1beta/models", "/v1beta/models"),
        ("/v1/v1/models", "/v1/models"),
        (" /v1/ ", OPENAI),
    ],
)
def test_a_path_is_the_same_with_and_without_its_v1(written: str, means: str) -> None:
    assert path(written) == means


def test_paths_are_kept_as_the_file_has_them_and_asked_about_as_what_they_mean() -> None:
    written = TypeAdapter(Paths).validate_python([" /v1/models/ ", "/metrics", "/v1"])
    assert written == ("/v1/models/", "/metrics", "/v1")
    assert meant(written) == {"/models", "/metrics", OPENAI}


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("v1/models", "a path begins with a slash, such as /v1/chat/completions"),
        ("https://api.example/v1/models", "a path begins with a slash, such as /v1/chat/completions"),
        ("", "a path begins with a slash, such as /v1/chat/completions"),
        ("*", "a path begins with a slash, such as /v1/chat/completions"),
        ("/v1/audio/*", "a path means all that is below it too; write it without *"),
        ("/", "this would be every path; write /v1 for all that OpenAI has too, or leave `endpoints` out"),
        ("//", "this would be every path; write /v1 for all that OpenAI has too, or leave `endpoints` out"),
        ("/v1/v1", "this would be every path; write /v1 for all that OpenAI has too, or leave `endpoints` out"),
    ],
)
def test_what_is_no_path_is_refused_in_words_that_fit(written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        path(written)


@pytest.mark.parametrize(
    "written", ["/v1/models", "/models", "/v1/responses/{id}", "/v1/audio", "/health", "/v1/health", "/v1"]
)
def test_a_path_of_an_endpoint_or_above_one_is_known(written: str) -> None:
    assert unknown(written, KNOWN) is None


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("/v1/chat/completion", "there is no such endpoint (did you mean '/v1/chat/completions'?)"),
        ("/chat/completion", "there is no such endpoint (did you mean '/chat/completions'?)"),
        ("/v1/zzz", "there is no such endpoint; there are /v1/chat/completions, /v1/models, /v1/responses, "
                    "/v1/audio/speech, /v1/health"),
        ("/x", "there is no such endpoint; there are /chat/completions, /models, /responses, /audio/speech, /health"),
    ],
)  # fmt: skip
def test_an_unknown_path_is_told_with_those_that_there_are(written: str, complaint: str) -> None:
    assert unknown(written, KNOWN) == complaint


@pytest.mark.parametrize("own", [False, True])
def test_a_listed_path_permits_itself_and_all_below_it_and_nothing_else(own: bool) -> None:
    listed = frozenset({"/models", "/audio"})
    assert [one for one in (*KNOWN, "/models2", "/audio/speech/x") if permits(listed, one, own=own)] == [
        "/models",
        "/models/{id:path}",
        "/audio/speech",
        "/audio/speech/x",
    ]


def test_an_empty_list_permits_nothing() -> None:
    assert not any(permits(frozenset(), one, own=own) for one in KNOWN for own in (False, True))


def test_v1_alone_permits_all_but_the_gateways_own_pages() -> None:
    assert all(permits(frozenset({OPENAI}), one, own=False) for one in KNOWN)
    assert not any(permits(frozenset({OPENAI, "/gateway"}), one, own=True) for one in KNOWN)
    assert permits(frozenset({OPENAI, "/gateway"}), "/gateway/status", own=True)
