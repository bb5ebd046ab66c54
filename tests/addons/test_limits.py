"""Limits at a running gateway: how many of many calls are let in, what a refused one is told, and what is given back."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from rules.access import client_name
from rules.estimates import Estimates
from rules.quota import NANOS, Charge, Standing
from tests.addons.calls import clean_log, pieces
from tests.addons.crowd import as_new, room_for_all
from tests.gateway import Gateway
from tests.standins import CutAfter, DeepSeekStandIn, HoldAfter, OllamaStandIn, Pace, Status

PATH = "/v1/chat/completions"
SAID = "Hello from the llama here"
CLIENTS = {
    "burst": "[50/minute]",
    "tight": "[2/minute]",
    "slow": "[2/10 minutes]",
    "logged": "[2/10 minutes]",
    "tiny": "[20 tokens/hour, 100/hour]",
    "learner": "[500 tokens/minute]",
    "crowd": "[300 tokens/minute]",
    "rich": "[1 USD/day, 100000 tokens/day, 1000/day]",
    "poor": "[0.0003 USD/day, 100/day]",
    "broke": "[0.0003 USD/day]",
    "saver": "[0.002 USD/day]",
    "family": "[0.002 USD/day]",
    "thrifty": "[120 tokens/hour]",
    "few": "[2 parallel]",
    "leaver": "[2 parallel, 100000 tokens/hour, 100/hour]",
    "many": "[100000 tokens/hour]",
    "free": "[], endpoints: [/v1, /gateway/status]",
    "plain": "",
    "looker": "[1 USD/day, 9000 tokens/day, 7/day, 2 parallel], endpoints: [/v1, /gateway/status]",
    "both": "[100/hour, 60 tokens/minute, 5 parallel]",
}


@dataclass
class Place:
    """A gateway that many clients call, each with limits of its own."""

    gateway: Gateway
    ollama: OllamaStandIn
    deepseek: DeepSeekStandIn

    def ask(self, client: str, *, model: str = "m", text: str = "hi", stream: bool = False, **more: Any) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **more}
        with self.gateway.client(f"sk-{client}-key") as http:
            return Reply(http.post(PATH, json=body))

    def burst(self, client: str, count: int, **more: Any) -> list[Reply]:
        """Calls beside each other, every second one streamed."""

        async def one(http: httpx.AsyncClient, number: int) -> Reply:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": number % 2 == 1, **more}
            return Reply(await http.post(PATH, json=body))

        async def all_of_them() -> list[Reply]:
            headers = {"authorization": f"Bearer sk-{client}-key"}
            limits = httpx.Limits(max_connections=count)
            async with httpx.AsyncClient(
                base_url=self.gateway.url, headers=headers, timeout=30, trust_env=False, limits=limits
            ) as http:
                return await asyncio.gather(*(one(http, number) for number in range(count)))

        return asyncio.run(all_of_them())

    def look(self, client: str, model: str = "m") -> dict[str, Standing]:
        """Where the limits of a client stand: as they are written -> standing."""

        async def standings() -> dict[str, Standing]:
            state = self.gateway.state
            charges = state.rules.limits.of(state.rules.keys.named(client), model)
            assert state.limiter.counts is not None
            return {one.limit.written: at for one, at in zip(charges, state.limiter.counts.look(charges), strict=True)}

        return self.gateway.run(standings())

    def used(self, client: str) -> list[int]:
        """Of the client's own limits, in the order of the file."""
        return [standing.used for standing in self.look(client).values()][1:]

    def status(self, client: str, query: str = "") -> dict[str, Any]:
        with self.gateway.client(f"sk-{client}-key") as http:
            reply = http.get(f"/gateway/status{query}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def charges(self, client: str) -> tuple[Charge, ...]:
        return self.gateway.state.rules.limits.of(self.gateway.state.rules.keys.named(client), "m")


@dataclass
class Reply:
    """What a caller got."""

    http: httpx.Response

    @property
    def status(self) -> int:
        return self.http.status_code

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.json()["error"]
        return found

    @property
    def headers(self) -> dict[str, str]:
        """Those that tell of limits, without their common beginning."""
        begin = "x-ratelimit-"
        return {name[len(begin) :]: text for name, text in self.http.headers.items() if name.startswith(begin)}

    @property
    def tokens(self) -> int:
        return int(self.http.json()["usage"]["total_tokens"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    clients = "\n".join(
        f"  {name}: {{key: sk-{name}-key{f', limits: {limits}' if limits else ''}}}" for name, limits in CLIENTS.items()
    )
    with (
        OllamaStandIn(["m", "scarce-m", "fresh-m", "vision-m", "embed-m"], reply=pieces(SAID)) as ollama,
        DeepSeekStandIn(key="sk-ds-test", reply=pieces(SAID)) as deepseek,
        Gateway(f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama.url}], parallel: 1000}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek.url}], key: sk-ds-test, parallel: 1000}}
rules:
  - {{name: paid, when: {{model: "paid*"}}, use: [deepseek/deepseek-flash]}}
  - {{name: seeing, when: {{model: "vision*"}}, use: [ollama/vision-m]}}
  - {{name: local, when: {{model: "*m"}}, use: ["ollama/{{model}}", deepseek/deepseek-flash]}}
clients:
{clients}
proxy: {{auth: {{tokens: [sk-operator-key]}}}}
limits:
  overall: [100000 parallel]
  each_client: [1000/hour]
  models: {{"scarce*": [3/hour]}}
prices:
  - {{model: deepseek/deepseek-flash, from: 2026-01-01, input: 1, output: 100}}
{room_for_all("backoff: 10ms, attempts: 2")}""") as gateway,
    ):
        yield Place(gateway, ollama, deepseek)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    as_new(shared.ollama, shared.deepseek)
    with clean_log(shared.gateway):
        yield shared
        shared.gateway.until(lambda: not shared.gateway.state.in_flight(), "no call is under way")


streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# -- how many


def test_of_200_calls_at_once_against_50_a_minute_exactly_50_are_let_in(place: Place) -> None:
    replies = place.burst("burst", 200)
    assert Counter(reply.status for reply in replies) == {200: 50, 429: 150}
    assert len(place.ollama.chats) == 50
    assert place.used("burst")[0] == 50
    left = sorted(int(reply.headers["remaining-requests"]) for reply in replies if reply.status == 200)
    assert left == list(range(50))


def test_a_refused_call_hears_in_openais_words_when_to_come_back(place: Place) -> None:
    place.burst("slow", 2)
    reply = place.ask("slow")
    assert reply.status == 429
    wait = place.look("slow")["2/10 minutes"].wait
    assert 590 < wait <= 610
    assert 0 <= int(reply.http.headers["retry-after"]) - wait <= 1.5
    assert "x-should-retry" not in reply.http.headers
    message = reply.error.pop("message")
    assert reply.error == {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    assert message.startswith(
        "Rate limit reached for `m` in client slow on requests per 10 minutes: Limit 2, Used 2, Requested 1. "
        "Please try again in "
    )
    assert re.search(r" in (10m|9m5)", message)
    assert reply.headers == {
        "limit-requests": "2",
        "remaining-requests": "0",
        "reset-requests": reply.headers["reset-requests"],
    }
    assert reply.headers["reset-requests"].startswith(("10m", "9m5"))
    assert place.used("slow") == [2]


def test_after_the_time_that_it_was_told_a_call_is_let_in_again(place: Place) -> None:
    counts = place.gateway.state.limiter.counts
    assert counts is not None
    usual, later = counts.clock, 0.0
    try:
        counts.clock = lambda: usual() + later
        assert [place.ask("tight").status for _ in range(3)] == [200, 200, 429]
        later = place.look("tight")["2/minute"].wait + 0.001
        assert place.ask("tight").status == 200
    finally:
        counts.clock = usual


def test_each_client_has_its_own_limits_and_one_without_has_those_of_each(place: Place) -> None:
    assert place.ask("plain").headers["limit-requests"] == "1000"
    assert [one.key for one in place.charges("free")] == ["all/100000 parallel"]
    assert place.ask("free").headers == {}


def test_a_limit_on_a_model_is_one_of_all_clients_together(place: Place) -> None:
    statuses = [place.ask(client, model="scarce-m").status for client in ("plain", "free", "many")]
    assert statuses == [200, 200, 200]
    reply = place.ask("plain", model="scarce-m")
    assert reply.status == 429
    assert reply.error["message"].startswith(
        "Rate limit reached for `scarce-m` for all calls to `scarce*` together on requests per hour (RPH): "
        "Limit 3, Used 3, Requested 1. Please try again in "
    )
    assert re.search(r" in (1h|59m)", reply.error["message"])
    assert reply.headers["remaining-requests"] == "0"


# -- tokens


@streamed_or_not
def test_a_call_is_settled_with_the_tokens_that_it_really_used(place: Place, stream: bool) -> None:
    before = place.used("many")[0]
    assert place.ask("many", stream=stream).status == 200
    used = place.used("many")[0] - before
    assert used == place.ask("many").tokens


def test_a_prompt_that_alone_is_larger_than_the_limit_is_told_that_it_never_fits(place: Place) -> None:
    reply = place.ask("tiny", text="word " * 200)
    assert (reply.status, reply.error["type"], reply.error["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert reply.http.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.http.headers
    assert "in client tiny on tokens per hour (TPH): Limit 20, Requested " in reply.error["message"]
    assert "must be shorter" in reply.error["message"]
    assert place.used("tiny") == [0, 0], "it has taken nothing"
    assert reply.headers["remaining-tokens"] == "20"
    assert reply.headers["remaining-requests"] == "100"


def test_a_limit_that_is_used_up_refuses_calls_until_there_is_room(place: Place) -> None:
    first = place.ask("both")
    assert (first.status, first.headers["limit-tokens"]) == (200, "60")
    assert first.headers["remaining-requests"] == "99"
    statuses = [place.ask("both").status for _ in range(8)]
    assert statuses == sorted(statuses)
    assert statuses[-1] == 429
    reply = place.ask("both")
    assert (reply.status, reply.error["type"]) == (429, "tokens")
    assert "on tokens per min (TPM): Limit 60, Used " in reply.error["message"]
    assert place.used("both")[0] == 1 + statuses.count(200), "a refused call takes nothing of any limit"
    assert place.used("both")[2] == 0


def test_calls_at_once_pass_a_limit_on_tokens_by_no_more_than_their_estimates_were_wrong(place: Place) -> None:
    """What is used at the end is at most the limit and what the calls that were let in used beyond their estimates."""
    place.ollama.always = Pace(0.01)
    replies = place.burst("crowd", 60)
    served = [reply for reply in replies if reply.status == 200]
    assert {reply.status for reply in replies} == {200, 429}
    used = place.look("crowd")["300 tokens/minute"].used
    each = place.ask("free").tokens
    assert used < 300 + each, "one call at a time may go beyond its estimate"
    assert used == each * len(served)


def test_learned_estimates_let_in_what_fits_and_keep_to_the_limit(place: Place) -> None:
    """With even answers the estimates are exact after some calls: the limit is used up, and not passed."""
    for _ in range(2):
        assert {reply.status for reply in place.burst("free", 20)} == {200}
    each = place.ask("free").tokens
    place.ollama.always = Pace(0.01)
    replies = place.burst("learner", 70)
    served = sum(reply.status == 200 for reply in replies)
    assert served == len(place.ollama.chats) - 41
    used = place.look("learner")["500 tokens/minute"].used
    assert used == each * served
    assert 500 - 2 * each < used <= 500 + each


def test_a_callers_own_bound_makes_its_estimate_smaller(place: Place) -> None:
    held = {}
    for bound in (None, 7):
        place.ollama.plan(HoldAfter(1))
        with ThreadPoolExecutor(1) as pool:
            before = place.used("many")[0]
            more: dict[str, Any] = {"max_tokens": bound} if bound else {}
            call = pool.submit(place.ask, "many", model="fresh-m", **more)
            place.gateway.until(lambda: place.ollama.holding == 1, "the call is held")
            held[bound] = place.used("many")[0] - before
            place.ollama.release()
            assert call.result().status == 200
    assert held[7] < held[None]


@streamed_or_not
def test_several_answers_are_settled_with_the_sum_of_their_parts(place: Place, stream: bool) -> None:
    one = place.ask("many").tokens
    before = place.used("many")[0]
    assert place.ask("many", n=3, stream=stream).status == 200
    assert place.used("many")[0] - before == 3 * one


def test_embeddings_count_their_prompt(place: Place) -> None:
    before = place.used("many")[0]
    with place.gateway.client("sk-many-key") as http:
        reply = http.post("/v1/embeddings", json={"model": "embed-m", "input": ["some words", "and more"]})
    assert reply.status_code == 200
    assert place.used("many")[0] - before == reply.json()["usage"]["total_tokens"] > 0


# -- money


def test_money_is_settled_at_what_the_call_really_cost(place: Place) -> None:
    before = place.used("rich")
    usage = place.ask("rich", model="paid").http.json()["usage"]
    money, tokens, requests = (after - was for after, was in zip(place.used("rich"), before, strict=True))
    assert money == (usage["prompt_tokens"] * 1 + usage["completion_tokens"] * 100) * NANOS // 10**6
    assert (tokens, requests) == (usage["total_tokens"], 1)


def test_a_budget_that_is_used_up_is_said_once_and_not_asked_for_again(place: Place) -> None:
    assert place.ask("poor", model="paid").status == 200
    spent = place.used("poor")[0]
    assert spent > 0.0003 * NANOS
    reply = place.ask("poor", model="paid")
    assert (reply.status, reply.error["type"], reply.error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert reply.http.headers["x-should-retry"] == "false"
    assert int(reply.http.headers["retry-after"]) > 86000
    dollars = f"{spent / NANOS:.9f}".rstrip("0")
    assert reply.error["message"].startswith(
        f"The budget for `paid` in client poor has no room for this call: {dollars} of 0.0003 USD per day are spent"
    )
    assert re.search("There is room again in (24h|23h59m)", reply.error["message"])
    assert reply.headers["remaining-requests"] == "99"
    assert place.ask("poor").status == 200, "a model of ours costs nothing"


@streamed_or_not
def test_an_answer_under_a_budget_tells_what_is_left_of_it_before_its_own_cost(place: Place, stream: bool) -> None:
    for model in ("paid", "m"):
        left = NANOS - place.used("rich")[0]
        head = place.ask("rich", model=model, stream=stream).http.headers
        assert head["x-gateway-budget-limit-usd"] == "1.00"
        assert float(head["x-gateway-budget-remaining-usd"]) == left / NANOS
    assert not [name for name in place.ask("plain", model="paid").http.headers if "budget" in name]


@streamed_or_not
def test_a_used_up_budget_is_not_passed_by_way_of_a_model_that_costs_nothing(place: Place, stream: bool) -> None:
    while place.ask("broke", model="paid").status == 200:
        pass
    before = place.used("broke")
    place.deepseek.seen.clear()
    place.ollama.always = Status(500)
    reply = place.ask("broke", stream=stream)
    assert reply.status >= 500
    assert "deepseek/deepseek-flash: a budget is used up" in reply.http.headers["x-gateway-skipped"]
    assert (place.deepseek.chats, place.used("broke")) == ([], before)


def test_calls_at_once_whose_free_model_fails_pass_no_budget_together(place: Place) -> None:
    assert place.ask("rich", model="paid").status == 200
    place.ollama.always = Status(500)
    before = place.used("rich")[0]
    assert place.ask("rich").status == 200, "it goes on to the paid one"
    one = place.used("rich")[0] - before
    replies = place.burst("family", 30)
    answered = sum(reply.status == 200 for reply in replies)
    assert answered >= 1
    assert {reply.status for reply in replies} <= {200, 502}
    assert answered * one == place.used("family")[0] < 0.002 * NANOS + one


def beside_itself(place: Place, client: str, **more: Any) -> Reply:
    """What the second of two equal calls is told while the first one is under way."""
    place.deepseek.plan(HoldAfter(1))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(place.ask, client, model="paid", **more)
        place.gateway.until(lambda: place.deepseek.holding == 1, "the call is held")
        reply = place.ask(client, model="paid", **more)
        place.deepseek.release()
        assert call.result().status == 200
    return reply


def test_a_budget_that_calls_under_way_may_use_up_is_worth_asking_again(place: Place) -> None:
    reply = beside_itself(place, "saver", max_tokens=15)
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert reply.http.headers["retry-after"] == "1"
    assert "x-should-retry" not in reply.http.headers
    assert "calls that are under way may use up what is left of the budget" in reply.error["message"]


def test_tokens_that_calls_under_way_set_aside_are_not_called_used(place: Place) -> None:
    place.gateway.state.limiter.estimates = Estimates()  # nothing is learned of its answers yet
    reply = beside_itself(place, "thrifty", max_tokens=90)
    assert (reply.status, reply.error["type"], reply.error["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert reply.http.headers["retry-after"] == "1"
    assert "Used 0," in reply.error["message"]
    assert "are set aside for calls that are under way" in reply.error["message"]


# -- calls at once


def test_no_more_calls_at_once_than_the_limit_and_room_for_others_when_they_end(place: Place) -> None:
    place.ollama.plan(HoldAfter(1), HoldAfter(1))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(place.ask, "few", stream=stream) for stream in (False, True)]
        place.gateway.until(lambda: place.ollama.holding == 2, "two calls are held")
        reply = place.ask("few")
        place.ollama.release()
        assert [call.result().status for call in calls] == [200, 200]
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert "2 calls are under way at once, and the limit is 2" in reply.error["message"]
    assert reply.http.headers["retry-after"] == "1"
    assert place.ask("few").status == 200
    assert place.used("few")[0] == 0


@streamed_or_not
def test_a_caller_who_leaves_gives_back_its_place_and_what_was_not_used(place: Place, stream: bool) -> None:
    place.ollama.plan(HoldAfter(2))
    before = place.used("leaver")
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    with place.gateway.client("sk-leaver-key") as http, pytest.raises(httpx.ReadTimeout):
        http.post(PATH, json=body, timeout=0.5)
    place.gateway.until(lambda: not place.gateway.state.in_flight(), "the call is over")
    after = place.used("leaver")
    assert after[0] == 0
    assert after[1] - before[1] < 100, "what was set aside for an answer is there again"
    assert after[2] - before[2] == 1


# -- failures


@streamed_or_not
def test_a_call_that_nobody_answers_keeps_its_request_and_gives_back_the_rest(place: Place, stream: bool) -> None:
    place.ollama.always = place.deepseek.always = Status(500)
    before = place.used("rich")
    assert place.ask("rich", stream=stream).status >= 500
    assert [after - was for after, was in zip(place.used("rich"), before, strict=True)] == [0, 0, 1]


def test_a_call_that_another_target_answers_pays_for_both(place: Place) -> None:
    one = place.ask("many").tokens
    before = place.used("rich")
    place.ollama.plan(CutAfter(3))
    reply = place.ask("rich", stream=True)
    assert reply.http.headers["x-gateway-target"] == "ollama/m"
    assert len(place.deepseek.chats) == 1
    after = place.used("rich")
    assert after[0] > before[0], "the second target costs money"
    assert after[1] - before[1] > one, "and the first one has worked as well"


def test_a_bad_request_takes_nothing(place: Place) -> None:
    before = place.used("many")
    assert place.ask("many", temperature="hot").status == 400
    assert place.used("many") == before


def test_a_request_without_a_model_to_go_to_takes_nothing(place: Place) -> None:
    before = place.used("many")
    assert place.ask("many", model="nowhere").status == 404
    assert place.used("many") == before


def test_an_image_that_cannot_be_fetched_gives_tokens_back(place: Place) -> None:
    before = place.used("many")
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}
    with place.gateway.client("sk-many-key") as http:
        body = {
            "model": "vision-m",
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}],
        }
        reply = http.post(PATH, json=body)
    assert reply.status_code == 400
    assert place.used("many") == before


def test_a_client_can_look_where_its_own_limits_stand(place: Place) -> None:
    place.ask("looker", model="paid")
    rows = place.status("looker")["limits"]
    money, tokens, requests, parallel = (row["used"] for row in rows)
    assert [(row["scope"], row["name"]) for row in rows] == [("client", "looker")] * 4
    assert [row["limit"] for row in rows] == ["1 USD/day", "9000 tokens/day", "7/day", "2 parallel"]
    assert [row["amount"] for row in rows] == [1.0, 9000, 7, 2]
    assert 0 < money < 0.01
    assert (tokens > 0, requests, parallel) == (True, 1, 0)
    assert [0 < row["reset_seconds"] <= 88000 for row in rows] == [True, True, True, False]
    others = place.status("looker", "?client=broke")["limits"]
    assert {row["name"] for row in others} == {"looker"}, "another one's are none of its business"
    assert "limits" not in place.status("free")


def test_an_operator_sees_what_all_share_and_the_limits_of_any_client(place: Place) -> None:
    def shown(query: str = "") -> list[tuple[str, str | None, str]]:
        return [(row["scope"], row["name"], row["limit"]) for row in place.status("operator", query)["limits"]]

    shared = [("all", None, "100000 parallel"), ("model", "scarce*", "3/hour")]
    assert shown()[:2] == shared
    (own,) = shown()[2:]
    assert (own[0], own[1] or "", own[2]) == ("client", client_name("sk-operator-key"), "1000/hour")
    assert shown("?client=tiny") == [*shared, ("client", "tiny", "20 tokens/hour"), ("client", "tiny", "100/hour")]
    assert shown("?client=free") == shared
    with place.gateway.client("sk-operator-key") as http:
        reply = http.get("/gateway/status?client=nobody")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "client")
    assert reply.json()["error"]["message"].startswith("No client is called 'nobody'; there are burst, tight, ")


def test_the_metrics_tell_how_much_is_used_of_what_several_clients_share(place: Place) -> None:
    name = "unigate_limit_used_ratio"
    overall, scarce = '{limit="100000 parallel",name="",scope="all"}', '{limit="3/hour",name="scarce*",scope="model"}'

    def ratios() -> dict[str, float]:
        with place.gateway.client("sk-operator-key") as http:
            found = re.findall(rf"^{name}(\{{.*\}}) (.*)$", http.get("/metrics").text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    used = place.look("plain", "scarce-m")["3/hour"].used
    assert ratios() == {overall: 0.0, scarce: used / 3}
    place.ollama.plan(HoldAfter(1))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(place.ask, "free")
        place.gateway.until(lambda: place.ollama.holding == 1, "the call is held")
        assert ratios() == {overall: 1 / 100_000, scarce: used / 3}
        place.ollama.release()
        assert call.result().status == 200


def test_the_log_of_a_refused_call_names_the_limit(place: Place) -> None:
    place.burst("logged", 3)
    place.gateway.until(
        lambda: "Rate limit reached for `m` in client logged" in place.gateway.log.getvalue(), "the line"
    )
    assert "sk-logged" not in place.gateway.log.getvalue()
