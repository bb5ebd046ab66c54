"""What is known of each model: asked once per digest, in the background, and a window that never changes."""

from __future__ import annotations

from typing import Any

import pytest

from addons.inventory import Inventory
from addons.models import ASK_AGAIN, MOST_MODELS, Models, digests
from addons.state import State
from rules.load import load_rules
from rules.schema import Defaults, Provider
from rules.targets import Target, target_of
from tests.addons.doors import until
from tests.addons.test_inventory import Clock, look, rules
from tests.gateway import Gateway
from tests.standins import ModelCard, OllamaStandIn, RawServer
from tests.standins.raw import Expect, Script, Send, Wait, head
from wire.models import ModelFacts
from wire.profiles import PROFILES

URL = "http://ollama.test"
GiB = 2**30
KNOWN = ModelFacts(frozenset({"completion", "vision"}), context_length=32768, token_bytes=57344)
SIZED = {"block_count": 28, "attention.head_count": 28, "attention.head_count_kv": 4, "attention.key_length": 128}


def target(model: str = "qwen2.5:7b", url: str = URL, **provider: Any) -> Target:
    said = Provider.model_validate({"dialect": "ollama", "urls": url, **provider})
    return target_of("ollama", said, model, url, Defaults())


def knowing(facts: ModelFacts | None = KNOWN, name: str = "qwen2.5:7b") -> Models:
    models = Models()
    models.learnt(URL, name, "d1", facts, 0.0)
    return models


def sized(name: str, **more: Any) -> ModelCard:
    """A model whose context has a known size: 57344 bytes for each token."""
    card = ModelCard.guess(name)
    info = {f"{card.family}.{key}": value for key, value in {**SIZED, "attention.value_length": 128}.items()}
    return ModelCard(card.name, card.capabilities, family=card.family, model_info=info, **more)


# -- what a call is told


@pytest.mark.parametrize(
    ("provider", "num_ctx", "window"),
    [
        ({}, 32768, 32768),
        ({"context_memory": "1GiB"}, 18432, 18432),
        ({"num_ctx": "none"}, None, None),
        ({"num_ctx": 8192}, 8192, 8192),
        ({"num_ctx": 65536}, 65536, 32768),  # no server gives more than the model was trained for
        ({"num_ctx": {"llama*": 8192}}, 32768, 32768),
        ({"num_ctx": {"qwen2.5:*": 16384, "*": "none"}}, 16384, 16384),
        ({"num_ctx": 8192, "window": 4096}, 8192, 4096),
        ({"window": 4096}, 32768, 4096),
    ],
)
def test_the_window_is_what_the_file_says_or_what_the_model_and_its_memory_allow(
    provider: dict[str, Any], num_ctx: int | None, window: int | None
) -> None:
    models, asked = knowing(), target(**provider)
    assert models.facets(asked).num_ctx == models.num_ctx(asked) == num_ctx
    assert models.window(asked) == window
    assert models.most(asked) == (window or 32768)


def test_of_a_model_that_nobody_knows_nothing_is_said() -> None:
    for models in (Models(), knowing(None), knowing(name="other")):
        facets = models.facets(target(keep_alive="5m", profile="compat"))
        assert (facets.num_ctx, facets.capabilities, facets.keep_alive, facets.profile) == (None, None, "5m", "compat")
        assert (models.window(target()), models.most(target())) == (None, None)
    assert Models().facets(target(num_ctx=8192)).num_ctx == 8192


def test_what_a_modelfile_chooses_is_the_window_and_not_sent() -> None:
    models = knowing(ModelFacts(None, context_length=32768, token_bytes=1, num_ctx=8192))
    assert (models.num_ctx(target()), models.window(target())) == (None, 8192)
    assert models.num_ctx(target(num_ctx=4096)) == 4096


def test_a_model_is_known_by_each_way_to_write_its_name_and_on_its_own_server_only() -> None:
    models = knowing(name="Qwen")
    assert models.facets(target("qwen:latest")).capabilities == frozenset({"completion", "vision"})
    assert models.facets(target("qwen:7b")).capabilities is None
    assert models.facets(target("qwen", url="http://other.test")).capabilities is None


# -- what is asked


def test_a_server_is_asked_once_about_each_digest() -> None:
    models = Models()
    assert models.unknown(URL, {"a": "1", "b": "1"}, 0) == [("a", "1"), ("b", "1")]
    models.learnt(URL, "a", "1", KNOWN, 0)
    assert models.unknown(URL, {"a": "1", "b": "1"}, 9e9) == [("b", "1")]
    assert models.unknown(URL, {"a": "2"}, 0) == [("a", "2")]
    assert models.unknown("http://other.test", {"a": "1"}, 0) == [("a", "1")]


def test_a_server_that_could_not_say_is_asked_again_later() -> None:
    models = Models()
    models.learnt(URL, "a", "1", None, 100.0)
    assert models.unknown(URL, {"a": "1"}, 100.0 + ASK_AGAIN - 1) == []
    assert models.unknown(URL, {"a": "1"}, 100.0 + ASK_AGAIN) == [("a", "1")]


def test_the_old_model_is_known_until_the_new_one_is() -> None:
    models = knowing()
    assert models.unknown(URL, {"qwen2.5:7b": "d2"}, 0) == [("qwen2.5:7b", "d2")]
    assert models.of(target()) == KNOWN
    models.learnt(URL, "qwen2.5:7b", "d2", None, 0)
    assert models.of(target()) == ModelFacts()


def test_a_model_that_is_gone_is_forgotten() -> None:
    models = knowing()
    assert models.unknown(URL, {}, 0) == []
    assert models.of(target()) == ModelFacts()


def test_a_server_with_very_many_models_is_not_asked_about_all_of_them() -> None:
    listed = {f"m{number}:latest": "1" for number in range(MOST_MODELS + 10)}
    assert len(Models().unknown(URL, listed, 0)) == MOST_MODELS


def test_a_row_without_a_digest_is_told_apart_by_its_time() -> None:
    rows = [{"name": "a", "digest": "d"}, {"name": "b", "modified_at": "t"}, {"name": "c"}, {"name": 4}, "x"]
    assert digests(rows) == {"a": "d", "b": "t", "c": ""}


# -- with real servers


def test_when_the_start_is_over_local_models_are_known() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        facets = state.facets(target("llava:7b", url=ollama.url))
        assert (facets.num_ctx, facets.capabilities) == (36864, frozenset({"completion", "tools", "vision"}))
        assert state.facets(target("plain", url=ollama.url)).num_ctx is None  # its size is not said

    with OllamaStandIn([sized("llava:7b"), "plain"]) as ollama:
        look(rules(ollama.url), then)


def test_a_model_is_asked_about_once_and_again_when_it_is_another_one() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        asked = target("a", url=ollama.url)
        lists = len(ollama.seen)
        await until(lambda: len(ollama.seen) > lists + 4)
        assert [seen.path for seen in ollama.seen].count("/api/show") == 1
        ollama.models = [sized("a", trained_context=8192, digest="2" * 64)]
        await until(lambda: state.models.num_ctx(asked) == 8192)
        assert [seen.path for seen in ollama.seen].count("/api/show") == 2

    with OllamaStandIn([sized("a")]) as ollama:
        look(rules(ollama.url, refresh="20ms"), then)


def last(body: bytes, status: str = "200 OK") -> Send:
    """An answer on a connection that is not used again: each request gets the next script."""
    return Send(head(status, {"Content-Length": str(len(body)), "Connection": "close"}) + body)


TAGS = last(b'{"models": [{"name": "a", "digest": "d"}]}')


@pytest.mark.parametrize("answer", [
    [Expect(), last(b"no", "404 No")],
    [Expect(), last(b"[]")],
    [Expect(), last(b"{")],
])  # fmt: skip
def test_a_server_that_knows_no_such_question_is_left_alone_for_a_while(answer: Script) -> None:
    clock = Clock()

    async def then(_inventory: Inventory, state: State) -> None:
        assert state.seen["ollama"].models == frozenset({"a:latest"})
        await until(lambda: server.connections_made >= 5)
        assert [seen.path for seen in server.seen].count("/api/show") == 1
        clock.now += ASK_AGAIN
        await until(lambda: [seen.path for seen in server.seen].count("/api/show") == 2)

    with RawServer([Expect(), TAGS], answer, [Expect(), TAGS]) as server:
        look(rules(server.url, refresh="20ms"), then, clock)


def test_a_question_that_is_not_answered_delays_no_look_and_is_asked_again() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        await until(lambda: [seen.path for seen in server.seen].count("/api/tags") >= 4, 2.5)
        assert state.seen["ollama"].models == frozenset({"a:latest"})
        assert state.models.of(target("a", url=server.url)) == ModelFacts()

    with RawServer([Expect(), TAGS], [Expect(), Wait(30)], [Expect(), TAGS]) as server:
        look(rules(server.url, refresh="100ms"), then)


def test_a_question_that_broke_off_is_asked_again_at_the_next_look() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        await until(lambda: state.facets(target("a", url=server.url)).capabilities == frozenset({"completion"}))
        assert [seen.path for seen in server.seen[:4]] == ["/api/tags", "/api/show"] * 2

    shown = last(b'{"capabilities": ["completion"], "model_info": {}}')
    with RawServer([Expect(), TAGS], [Expect()], [Expect(), TAGS], [Expect(), shown]) as server:
        look(rules(server.url, refresh="20ms"), then)


def test_each_call_to_a_model_asks_for_the_same_window() -> None:
    with OllamaStandIn([sized("qwen2.5:7b"), "plain"]) as ollama:
        text = (
            f"providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}], context_memory: 1GiB}}}}\n"
            "rules: [{name: all, use: ['ollama/{model}']}]"
        )
        with Gateway(text) as gateway:
            assert gateway.chat().status_code == 200
            assert gateway.chat(stream=True).status_code == 200
            assert gateway.chat(max_tokens=5).status_code == 200
            assert gateway.chat(n=2).status_code == 200
            assert gateway.chat(model="plain").status_code == 200
        sent = [(seen.json or {}).get("options", {}).get("num_ctx") for seen in ollama.chats]
        assert sent == [18432] * 5 + [None]
        assert [load[:2] for load in ollama.loads if load[0] == "qwen2.5:7b"] == [("qwen2.5:7b", 18432)]


CONTEXT = """
providers:
  small: {{dialect: ollama, urls: [{small}]}}
  same: {{dialect: ollama, urls: [{same}]}}
  large: {{dialect: ollama, urls: [{large}]}}
rules: [{{name: all, use: ["small/a", "same/a", "large/a"]}}]
defaults: {{failover: {{on: [context], attempts: 1}}}}
"""


def test_a_prompt_that_is_too_long_goes_to_the_model_that_can_have_more() -> None:
    small, same = (sized("a", trained_context=512) for _ in range(2))
    with (
        OllamaStandIn([small]) as one,
        OllamaStandIn([same]) as other,
        OllamaStandIn([sized("a", trained_context=32768)]) as last,
        Gateway(CONTEXT.format(small=one.url, same=other.url, large=last.url)) as gateway,
    ):
        answer = gateway.chat("word " * 2000, model="a")
        assert (answer.status_code, answer.headers["x-gateway-target"]) == (200, "large/a")
        assert (len(one.chats), len(other.chats), len(last.chats)) == (1, 0, 1)


def test_the_file_may_say_num_ctx_by_model() -> None:
    text = "providers: {o: {dialect: ollama, urls: 'http://o.test', num_ctx: {'a*': 8192, '*': none}}}\nrules: [{name: all, use: o/m}]"
    provider = load_rules(text, {}, profiles=PROFILES).file.providers["o"]
    made = [target_of("o", provider, name, "http://o.test", Defaults()) for name in ("abc:7b", "b")]
    assert [(one.num_ctx, one.context_memory) for one in made] == [(8192, None), (None, None)]
