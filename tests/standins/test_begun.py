"""An answer begun, as stand-ins go on with it, or do not."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.standins import DeepSeekStandIn, OllamaStandIn, Prefill
from tests.standins.asking import HELLO, ask, chat, lines_of

LONG = "Say one two three four five six seven eight nine ten"
WHOLE = f"You said: {LONG}"
BEGUN = WHOLE[:30]
ALTERNATE = "conversation roles must alternate user/assistant/user/assistant/..."


def prefilled(begun: str, **fields: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": LONG}, {"role": "assistant", "content": begun, **fields}]


def begin(client: httpx.Client, standin: DeepSeekStandIn, path: str, begun: str, **fields: object) -> httpx.Response:
    body = {"model": "deepseek-flash", "messages": prefilled(begun, **fields)}
    return client.post(f"{standin.url}{path}", json=body, headers={"Authorization": f"Bearer {standin.key}"})


@pytest.mark.parametrize(
    ("prefill", "begun", "said"),
    [
        ("continue", BEGUN, WHOLE[30:]),
        ("continue", "", WHOLE),
        ("continue", "Something else", WHOLE),
        ("continue", WHOLE, ""),
        ("start_over", BEGUN, WHOLE),
        ("differ", BEGUN, f"{BEGUN[:20]} ... but on second thought, no."),
        ("differ", "a" * 60, f"{'a' * 30} ... but on second thought, no."),
    ],
)
def test_an_answer_begun_is_gone_on_with_or_not(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn, prefill: Prefill, begun: str, said: str
) -> None:
    ollama.prefill = deepseek.prefill = prefill
    native = chat(client, ollama, messages=prefilled(begun))
    compatible = begin(client, deepseek, "/beta/chat/completions", begun, prefix=True)
    assert "".join(line["message"]["content"] for line in lines_of(native)) == said
    assert compatible.json()["choices"][0]["message"]["content"] == said


def test_an_answer_begun_may_be_refused(client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    ollama.prefill = deepseek.prefill = "refuse"
    native = chat(client, ollama, messages=prefilled(BEGUN))
    inner = json.loads(native.json()["error"])["error"]
    compatible = begin(client, deepseek, "/beta/chat/completions", BEGUN, prefix=True)
    assert (native.status_code, inner["code"], inner["type"]) == (500, 500, "server_error")
    assert inner["message"].endswith(ALTERNATE)
    assert (compatible.status_code, compatible.json()["error"]["type"]) == (400, "invalid_request_error")
    assert chat(client, ollama).status_code == ask(client, deepseek).status_code == 200


def test_a_model_that_thinks_does_not_think_again_before_it_goes_on(
    client: httpx.Client, ollama: OllamaStandIn
) -> None:
    lines = lines_of(chat(client, ollama, model="deepseek-r1:7b", messages=prefilled(BEGUN)))
    assert not any("thinking" in line["message"] for line in lines)
    ollama.prefill = "start_over"
    assert "thinking" in lines_of(chat(client, ollama, model="deepseek-r1:7b", messages=prefilled(BEGUN)))[0]["message"]


def test_prefixes_belong_to_the_beta_path_and_to_the_last_message(
    client: httpx.Client, deepseek: DeepSeekStandIn
) -> None:
    refused = begin(client, deepseek, "/chat/completions", BEGUN, prefix=True)
    bad = begin(client, deepseek, "/beta/chat/completions", BEGUN, prefix="yes")
    early = [{"role": "assistant", "content": "x", "prefix": True}, *HELLO]
    misplaced = client.post(
        f"{deepseek.url}/beta/chat/completions",
        json={"model": "deepseek-flash", "messages": early},
        headers={"Authorization": f"Bearer {deepseek.key}"},
    )
    assert [answer.status_code for answer in (refused, bad, misplaced)] == [400, 400, 400]
    for path in ("/chat/completions", "/beta/chat/completions"):
        turn = begin(client, deepseek, path, BEGUN).json()
        assert turn["choices"][0]["message"]["content"] == WHOLE
