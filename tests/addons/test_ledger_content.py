"""What the ledger keeps of prompts and answers, where it is asked to: a bounded part, without secrets.

That it keeps nothing where it is not asked to is in test_ledger.py, with all other columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.ledger_content import bounded
from addons.logs import redactor
from tests.addons.ledgers import read, settled, sqlite_url
from tests.gateway import Gateway, quick_rules
from tests.standins import CutAfter, DeepSeekStandIn, OllamaStandIn

SECRET = "not-a-shape-of-a-key-but-one"
MOST = 200
LEDGER = "ledger: {{url: '{url}', content: {most}B}}\nclients: {{app: {{key: {secret}}}}}"


class Asked:
    """A gateway whose ledger keeps content, and what it kept of one call."""

    def __init__(self, gateway: Gateway, url: str, ollama: OllamaStandIn) -> None:
        self.gateway, self.ollama, self._url = gateway, ollama, url

    def kept(self, path: str, body: dict[str, Any], **more: Any) -> tuple[str | None, str | None]:
        with self.gateway.client(SECRET) as client:
            answer = client.post(path, **(more or {"json": {"model": "qwen2.5:7b", **body}}))
        settled(self.gateway)
        (row,) = [row for row in read(self._url)[0] if row["request_id"] == answer.headers["x-request-id"]]
        return row["prompt"], row["answer"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    url = sqlite_url(tmp_path_factory.mktemp("ledger"))
    more = LEDGER.format(url=url, most=MOST, secret=SECRET)
    with (
        OllamaStandIn(reply=["Hello", " dear", " reader"]) as ollama,
        DeepSeekStandIn("sk-ds-test", reply=["Hello", " dear", " reader"], thinking=False) as deepseek,
        Gateway(quick_rules(ollama=ollama.url, deepseek=deepseek.url, more=more)) as gateway,
    ):
        yield Asked(gateway, url, ollama)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body", "prompt"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}]},
            [{"role": "user", "content": "Hi"}],
        ),
        ("/v1/completions", {"prompt": "Say hello"}, "Say hello"),
        ("/v1/responses", {"input": "Say hello"}, "Say hello"),
    ],
)
def test_prompt_and_answer_are_kept(
    asked: Asked, path: str, body: dict[str, Any], prompt: object, stream: bool
) -> None:
    kept, answer = asked.kept(path, {**body, "stream": stream})
    assert kept is not None
    assert orjson.loads(kept) == prompt
    assert answer == "Hello dear reader"


def test_the_answer_of_a_call_that_was_asked_in_parts_is_its_first_choice(asked: Asked) -> None:
    _, answer = asked.kept("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "n": 2})
    assert answer == "Hello dear reader"


def test_an_answer_that_went_on_elsewhere_is_one(asked: Asked) -> None:
    asked.ollama.plan(CutAfter(1))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    assert asked.kept("/v1/chat/completions", body)[1] == "Hello dear reader"


def test_of_a_call_that_was_refused_before_it_was_read_there_is_nothing(asked: Asked) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": -1}
    assert asked.kept("/v1/chat/completions", body) == (None, None)


def test_of_a_form_nothing_is_kept(asked: Asked) -> None:
    form = {"files": {"file": ("a.wav", b"RIFF")}, "data": {"model": "whisper-1", "prompt": "a name that is said"}}
    assert asked.kept("/v1/audio/transcriptions", {}, **form) == (None, None)


def test_vectors_are_not_kept(asked: Asked) -> None:
    prompt, answer = asked.kept("/v1/embeddings", {"input": ["some text"]})
    assert (prompt, answer) == ('["some text"]', None)


def test_a_long_prompt_is_cut(asked: Asked) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    content = [{"type": "text", "text": "What is this?"}, image]
    prompt, _ = asked.kept("/v1/chat/completions", {"messages": [{"role": "user", "content": content}] * 3})
    assert prompt is not None
    assert prompt.startswith('[{"role":"user","content":[{"type":"text","text":"What is this?"}')
    assert prompt.endswith("…")
    assert MOST - 4 < len(prompt.encode()) <= MOST


def test_keys_are_masked(asked: Asked) -> None:
    words = f"my keys are {SECRET} and sk-abcdefghijkl, Bearer abcdef sk-ds-test"
    prompt, _ = asked.kept("/v1/chat/completions", {"messages": [{"role": "user", "content": words}]})
    assert prompt == '[{"role":"user","content":"my keys are *** and ***, *** ***"}]'


@given(st.text(alphabet="aé€😀", max_size=40), st.integers(1, 60), st.text(alphabet="xyé", max_size=40))
def test_what_is_kept_is_never_longer_than_asked(before: str, most: int, after: str) -> None:
    kept = bounded(before + after, most, lambda text: text)
    assert len(kept.encode()) <= most
    assert kept == before + after or (before + after).startswith(kept.removesuffix("…"))


@given(st.integers(0, 1300), st.integers(0, 60), st.integers(4, 300))
def test_no_part_of_a_secret_stays_at_a_cut(length: int, others: int, most: int) -> None:
    clean = redactor([SECRET])
    text = f"{SECRET} " * others + "x" * length + SECRET + "y" * 2000
    kept = bounded(text, most, clean)
    assert not any(SECRET[:size] in kept for size in range(5, len(SECRET) + 1))
