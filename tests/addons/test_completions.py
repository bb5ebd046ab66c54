"""/v1/completions through the gateway: OpenAI's own SDK on one side, stand-ins on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import openai
import pytest

from tests.gateway import Gateway, quick_rules
from tests.standins import CompatStandIn, CutAfter, DeepSeekStandIn, HalfLine, ModelCard, OllamaStandIn

MODEL = "qwen2.5:7b"
PROMPT = "Somebody went to the door"
SAID = " went on Somebody and came to its end."


CARDS = [
    ModelCard("coder:latest", ("completion", "insert")),
    ModelCard("small:latest", ("completion",), context=8),
]


def sdk(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-caller", max_retries=0)


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn([MODEL, "nomic-embed-text", *CARDS]) as server:
        yield server


@pytest.fixture
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with Gateway(quick_rules(ollama=ollama.url)) as server:
        yield server


def test_a_prompt_is_gone_on_with_whole_or_as_a_stream(gateway: Gateway, ollama: OllamaStandIn) -> None:
    with sdk(gateway) as client:
        whole = client.completions.create(model=MODEL, prompt=PROMPT)
        chunks = list(
            client.completions.create(
                model=MODEL, prompt=PROMPT, stream=True, stream_options={"include_usage": True}, max_tokens=3
            )
        )
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == (SAID, "stop", 0, None)
    assert whole.usage is not None
    assert (whole.object, whole.usage.completion_tokens) == ("text_completion", 8)
    assert whole.id.startswith("cmpl-")
    *said, end, usage = chunks
    assert "".join(chunk.choices[0].text for chunk in said) == " went on Somebody"
    assert (end.choices[0].text, end.choices[0].finish_reason) == ("", "length")
    assert usage.usage is not None
    assert (usage.choices, usage.usage.completion_tokens) == ([], 3)
    seen = ollama.chats[-1].json
    assert seen is not None
    assert (seen["raw"], seen["prompt"], seen["options"]["num_predict"]) == (True, PROMPT, 3)


def test_several_prompts_have_several_answers_each(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        made = client.completions.create(model=MODEL, prompt=["One", "Two"], n=2, echo=True)
        chunks = list(client.completions.create(model=MODEL, prompt=["One", "Two"], n=2, echo=True, stream=True))
    texts = [f"{word} went on {word} and came to its end." for word in ("One", "One", "Two", "Two")]
    assert [choice.text for choice in made.choices] == texts
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (8, 32)
    streamed = dict.fromkeys(range(4), "")
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert list(streamed.values()) == texts


def test_the_best_of_several_has_the_probabilities_that_were_asked_for(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        (plain,) = client.completions.create(model=MODEL, prompt=PROMPT, best_of=3).choices
        (probable,) = client.completions.create(model=MODEL, prompt=PROMPT, best_of=2, logprobs=2).choices
    assert (plain.text, plain.logprobs) == (SAID, None)
    logprobs = probable.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert "".join(logprobs.tokens) == SAID
    assert [SAID[at : at + len(token)] for at, token in zip(logprobs.text_offset, logprobs.tokens, strict=True)] == (
        logprobs.tokens
    )


def test_a_middle_is_filled_in_by_a_model_that_can(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        (choice,) = client.completions.create(model="coder", prompt="def f():", suffix="return x").choices
        for model in (MODEL, "nomic-embed-text"):
            with pytest.raises(openai.BadRequestError, match=r"does not support|cannot fill in|does not write"):
                client.completions.create(model=model, prompt="def f():", suffix="return x")
    assert choice.text == " went on def and came to its end. before return"


def test_a_prompt_that_is_too_long_is_named(gateway: Gateway) -> None:
    with sdk(gateway) as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt=f"{PROMPT} and came back again")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize("broken", [CutAfter(4), HalfLine(4)])
def test_another_server_goes_on_with_a_text_that_broke_off(broken: CutAfter | HalfLine) -> None:
    with ExitStack() as stack:
        ollama = stack.enter_context(OllamaStandIn())
        deepseek = stack.enter_context(DeepSeekStandIn("sk-ds-test"))
        gateway = stack.enter_context(Gateway(quick_rules(ollama=ollama.url, deepseek=deepseek.url)))
        client = stack.enter_context(sdk(gateway))
        ollama.pace = 0.01  # so that the beginning is out before it breaks off
        ollama.plan(broken)
        chunks = list(client.completions.create(model=MODEL, prompt=PROMPT, stream=True, echo=True, max_tokens=20))
        assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + SAID
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert len({chunk.id for chunk in chunks}) == 1
        (seen,) = deepseek.chats
        assert seen.path == "/beta/completions"
        assert seen.json == {
            "model": "deepseek-flash",
            "prompt": f"{PROMPT} went on Somebody and",
            "max_tokens": 16,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert deepseek.undocumented == set()


def test_deepseek_is_asked_for_one_answer_at_a_time() -> None:
    with DeepSeekStandIn("sk-ds-test") as deepseek, Gateway(quick_rules(deepseek=deepseek.url)) as gateway:
        with sdk(gateway) as client:
            made = client.completions.create(model="m", prompt=["One", "Two"], n=2, seed=1, user="u", logprobs=1)
        assert [choice.text for choice in made.choices] == [
            f" went on {word} and came to its end." for word in ("One", "One", "Two", "Two")
        ]
        assert all(choice.logprobs is not None for choice in made.choices)
        assert (len(deepseek.chats), deepseek.undocumented) == (4, set())


def test_a_compatible_server_is_asked_for_all_at_once() -> None:
    with CompatStandIn() as cloud:
        rules = f"""
        providers: {{cloud: {{dialect: openai, urls: [{cloud.url}]}}}}
        rules: [{{name: test, use: [cloud/any]}}]
        """
        with Gateway(rules) as gateway, sdk(gateway) as client:
            made = client.completions.create(model="m", prompt=["One", "Two"], n=2, best_of=3, echo=True)
            scored = client.completions.create(model="m", prompt="One", echo=True, logprobs=0, max_tokens=0)
            tokens = client.completions.create(model="m", prompt=[79, 110, 101], echo=True, max_tokens=1)
            assert len(cloud.chats) == 3
    assert [choice.text for choice in made.choices] == [
        f"{word} went on {word} and came to its end." for word in ("One", "One", "Two", "Two")
    ]
    (score,) = scored.choices
    assert score.logprobs is not None
    assert (score.text, score.logprobs.tokens, score.logprobs.text_offset) == ("One", ["One"], [0])
    assert (tokens.choices[0].text, tokens.choices[0].finish_reason) == ("One went", "length")
