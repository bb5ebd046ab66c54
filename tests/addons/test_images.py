"""Images by URL on their way through the gateway: fetched for models that take no URLs, and for no others."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from addons.fetch import Fetcher
from tests.addons.fetching import HERE, PNG, Names, moves, sends, serving
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn, ModelCard, OllamaStandIn, RawServer
from tests.standins.raw import Expect, Wait

PLAIN = base64.b64encode(PNG).decode()
SEES, BLIND = "llava:7b", "qwen2.5:7b"
CLOUD = "deepseek/deepseek-flash"


def rules(ollama: str, deepseek: str, images: str) -> str:
    return f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: sk-ds-test}}
rules:
  - {{name: cloud, when: {{model: cloud}}, use: [{CLOUD}]}}
  - {{name: both, when: {{model: both}}, use: [ollama/{SEES}, {CLOUD}]}}
  - {{name: blind, when: {{model: blind}}, use: [ollama/{BLIND}, {CLOUD}]}}
  - {{name: local, use: ["ollama/{{model}}"]}}
defaults:
  refresh: 200ms
  images: {{{images}}}
"""


class World:
    def __init__(self, ollama: OllamaStandIn, deepseek: DeepSeekStandIn, gateway: Gateway) -> None:
        self.ollama, self.deepseek, self.gateway = ollama, deepseek, gateway

    def ask(self, *urls: str, model: str = SEES, patience: float = 15, **more: Any) -> httpx.Response:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [{"type": "text", "text": "what is it?"}, *parts]
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        with self.gateway.client() as client:
            return client.post("/v1/chat/completions", json=body, timeout=patience)

    def image_at_deepseek(self) -> Any:
        (seen,) = self.deepseek.chats
        assert seen.json is not None
        return seen.json["messages"][0]["content"][1]["image_url"]["url"]

    def images(self) -> list[Any]:
        """What the local model was sent."""
        return [seen.json["messages"][-1].get("images") for seen in self.ollama.chats if seen.json]


@contextmanager
def world(images: str = "allow: [127.0.0.1], wait: 2s", *, real_names: bool = False) -> Iterator[World]:
    with (
        OllamaStandIn([ModelCard.guess(SEES), ModelCard.guess(BLIND)]) as ollama,
        DeepSeekStandIn("sk-ds-test", thinking=False) as deepseek,
        Gateway(rules(ollama.url, deepseek.url, images)) as gateway,
    ):
        if not real_names:
            gateway.state.fetcher = Fetcher(resolve=Names(**HERE))
        yield World(ollama, deepseek, gateway)


def check_refused(answer: httpx.Response, words: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith("messages[0].content[1].image_url")
    assert words in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_by_url_reaches_a_local_model_as_bytes(stream: bool) -> None:
    with world() as at, serving(sends(PNG)) as (server, url):
        answer = at.ask(f"{url}/a", f"{url}/b", f"{url}/a", stream=stream)
        assert answer.status_code == 200
        assert at.images() == [[PLAIN, PLAIN, PLAIN]]
        assert server.connections_made == 2


def test_an_image_of_the_responses_api_is_fetched_as_well() -> None:
    with world() as at, serving(sends(PNG)) as (_, url), at.gateway.client() as client:
        content = [{"type": "input_text", "text": "what is it?"}, {"type": "input_image", "image_url": url}]
        body = {"model": SEES, "input": [{"role": "user", "content": content}]}
        assert client.post("/v1/responses", json=body).status_code == 200
        assert at.images() == [[PLAIN]]


def test_a_conversation_that_names_its_image_again_does_not_fetch_it_again() -> None:
    with world() as at, serving(sends(PNG)) as (server, url):
        for _ in range(3):
            assert at.ask(url).status_code == 200
        assert at.images() == [[PLAIN]] * 3
        assert server.connections_made == 1


def test_a_call_in_several_parts_fetches_its_images_once() -> None:
    with world() as at, serving(sends(PNG)) as (server, url):
        answer = at.ask(url, n=3)
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
        assert at.images() == [[PLAIN]] * 3
        assert server.connections_made == 1


def test_nothing_is_fetched_for_a_target_that_takes_urls() -> None:
    with world() as at, serving(sends(PNG)) as (server, url):
        assert at.ask(url, model="cloud").headers["x-gateway-target"] == CLOUD
        assert at.image_at_deepseek() == url
        assert server.connections_made == 0


def test_nothing_is_fetched_for_a_model_that_sees_nothing() -> None:
    with world() as at, serving(sends(PNG)) as (server, url):
        assert at.ask(url, model="blind").headers["x-gateway-target"] == CLOUD
        assert at.ask(url, model=BLIND).status_code == 400
        assert server.connections_made == 0
        assert at.images() == []


def test_an_image_that_cannot_be_had_is_a_400_that_says_why() -> None:
    with world() as at, serving([Expect(), Wait(0)]) as (_, url):
        check_refused(at.ask(url), "its server broke off, or did not answer in HTTP.")
        assert at.images() == []


def test_an_image_that_cannot_be_had_is_left_to_a_target_that_takes_urls() -> None:
    with world() as at, serving([Expect(), Wait(0)]) as (_, url):
        assert at.ask(url, model="both").headers["x-gateway-target"] == CLOUD
        assert at.image_at_deepseek() == url


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
def test_without_leave_nothing_on_this_machine_is_asked(host: str) -> None:
    with world("wait: 2s", real_names=True) as at, RawServer(sends(PNG)) as inner:
        check_refused(at.ask(f"http://{host}:{inner.port}/latest/meta-data/"), "its host is not a public one;")
        assert inner.connections_made == 0
        assert at.images() == []


def test_a_redirect_to_this_machine_is_not_followed() -> None:
    with world() as at, RawServer(sends(PNG)) as inner:
        with serving(moves(f"http://inner.test:{inner.port}/")) as (_, url):
            at.gateway.state.fetcher = Fetcher(resolve=Names(**HERE, inner_test=[["127.0.0.9"]]))
            check_refused(at.ask(url), "its host is not a public one;")
        assert inner.connections_made == 0


def test_the_log_tells_the_host_and_no_more_of_a_url() -> None:
    with world() as at, serving([Expect(), Wait(0)]) as (_, url):
        at.ask(f"{url}/private/path?signature=very-secret#part")
        log = at.gateway.log.getvalue()
        assert "no image from images.test: its server broke off" in log
        for part in ("private", "signature", "very-secret", "part"):
            assert part not in log


def test_calls_without_images_are_answered_while_one_waits_for_its_image() -> None:
    with world("allow: [127.0.0.1], wait: 20s") as at, serving([Expect(), Wait(20)]) as (server, url):

        async def give_up() -> None:
            at.gateway.state.fetcher.stop()

        slow = threading.Thread(target=at.ask, args=(url,))
        slow.start()
        at.gateway.until(lambda: server.connections_made == 1, "the image is asked for")
        for _ in range(5):
            assert at.gateway.chat(model=BLIND).status_code == 200
        assert slow.is_alive()
        at.gateway.run(give_up())
        slow.join()


def test_a_caller_who_leaves_while_its_image_is_fetched_costs_no_model_anything() -> None:
    with world("allow: [127.0.0.1], wait: 500ms") as at, serving([Expect(), Wait(5)]) as (server, url):
        with pytest.raises(httpx.ReadTimeout):
            at.ask(url, model="both", patience=0.2)
        at.gateway.until(lambda: not at.gateway.state.in_flight(), "no call is under way")
        assert server.connections_made == 1
        assert at.ollama.chats == at.deepseek.chats == []
        assert not any(row["in_flight"] or row["waiting"] for row in at.gateway.state.nodes.rows())
        assert "crashed" not in at.gateway.log.getvalue()


def test_the_time_for_images_is_part_of_the_calls_own() -> None:
    with world("allow: [127.0.0.1], wait: 300ms") as at, serving([Expect(), Wait(5)]) as (_, url):
        began = time.monotonic()
        check_refused(at.ask(url), "it did not come within 0.3 seconds.")
        assert 0.3 <= time.monotonic() - began < 3


def test_a_gateway_that_stops_waits_for_no_image() -> None:
    with world("allow: [127.0.0.1], wait: 1m") as at, serving([Expect(), Wait(60)]) as (server, url):
        told: list[httpx.Response] = []
        slow = threading.Thread(target=lambda: told.append(at.ask(url)))
        slow.start()
        at.gateway.until(lambda: server.connections_made == 1, "the image is asked for")
        began = time.monotonic()
        at.gateway.run(asyncio.wait_for(at.gateway.server.stop(drain=0.1), 10))
        assert time.monotonic() - began < 3
        slow.join()
        assert told[0].status_code in (400, 503)
        assert at.images() == []
