"""What users of the official SDKs see where the gateway refuses them, and how often their SDK asks again by itself.

Each SDK runs its program once, in a process of its own; how many requests came of a scenario is what the gateway's log
says. An SDK asks twice more by itself where that may help.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway import ROOT, Gateway
from tests.sdk.world import Shown, python_of, run
from tests.standins import OllamaStandIn

NODE = ROOT / "tests" / "sdk" / "node" / "refusals.cjs"
SDKS = ["openai1", "openai3", *(["node"] if os.environ.get("UNIGATE_NODE_MODULES") != "" else [])]
"""Without Node where scripts/test found none, and said so."""
CLIENTS = {
    "free": "",
    "expired": "expires: 2020-01-01",
    "disabled": "disabled: true",
    "bound": "models: [other, tiny*]",
    "embeds": "endpoints: [/v1/embeddings]",
    "requests": "limits: [1/3s]",
    "tokens": "limits: [6 tokens/3s]",
    "parallel": "limits: [1 parallel]",
    "budget": "limits: [0.015 USD/day]",
}
RULES = """
proxy: {{endpoints: [/v1/chat/completions, /v1/embeddings, /v1/models]}}
clients:
{clients}
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  slow: {{dialect: ollama, urls: [{slow}]}}
rules:
  - {{name: slow, when: {{model: slow}}, use: slow/small}}
  - {{name: all, use: "ollama/{{model}}"}}
prices: [{{model: "ollama/*", from: 2020-01-01, request: 0.01}}]
"""
SAID = "You said: hello there"


@dataclass(frozen=True)
class Sdk:
    """What one SDK showed, and the statuses of the requests that it made."""

    who: str
    shows: Shown
    statuses: dict[str, list[int]]


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[Gateway, OllamaStandIn]]:
    with OllamaStandIn(["small"]) as ollama, OllamaStandIn(["small"]) as slow:
        slow.pace = 0.5
        lines = [
            f"  {sdk}-{name}: {{key: sk-{sdk}-{name}-0123456789{', ' if more else ''}{more}}}"
            for sdk in SDKS
            for name, more in CLIENTS.items()
        ]
        rules = RULES.format(clients="\n".join(lines), ollama=ollama.url, slow=slow.url)
        with Gateway(rules, log_form="json") as running:
            yield running, ollama


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest, gateway: tuple[Gateway, OllamaStandIn]) -> Sdk:
    running, _ = gateway
    who, url = request.param, f"{running.url}/v1"
    if who == "node":
        modules, program = os.environ.get("UNIGATE_NODE_MODULES"), shutil.which("node")
        if not modules or program is None:
            pytest.fail("UNIGATE_NODE_MODULES is not set: run the tests with scripts/test, which makes what they need.")
        shows = run([program, str(NODE), url, who], NODE_PATH=modules)
    else:
        shows = run([python_of(who), "-m", "tests.sdk.program_refusals", url, who])
    return Sdk(who, shows, statuses(running.log.getvalue(), who))


def statuses(log: str, who: str) -> dict[str, list[int]]:
    """Scenario -> the statuses of its requests, in the order in which they ended."""
    found: dict[str, list[int]] = {}
    scenario = ""
    for fields in map(json.loads, log.splitlines()):
        if begin := re.fullmatch(r"/v1/models/begin-([a-z0-9]+)-(\w+)", fields.get("path", "")):
            scenario = begin[2] if begin[1] == who else ""
            found[scenario] = []
        elif "status" in fields:
            found.setdefault(scenario, []).append(fields["status"])
    return found


def check_error(error: dict[str, Any], name: str, status: int, kind: str, code: str | None, param: str | None) -> None:
    assert (error["class"], error["status"]) == (name, status)
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    assert error["request_id"].startswith("req_")
    assert error["headers"]["x-request-id"] == error["request_id"]


UNKNOWN = ("AuthenticationError", 401, "invalid_request_error", "invalid_api_key", None)
NO_MODEL = ("PermissionDeniedError", 403, "invalid_request_error", "model_not_found", "model")
BOUND = r"Client 'WHO-bound' does not have access to model `small`\. It may name: other, tiny\*\."
REFUSED: dict[str, tuple[tuple[str, int, str, str | None, str | None], str]] = {
    "no_key": (
        ("AuthenticationError", 401, "invalid_request_error", None, None),
        r"You didn't provide an API key\. .*",
    ),
    "wrong_key": (UNKNOWN, r"Incorrect API key provided: \*\*\*\. .*"),
    "expired_key": (UNKNOWN, r"The API key \*\*\* is not accepted: .*WHO-expired.*2020-01-01.*"),
    "disabled_key": (UNKNOWN, r"The API key \*\*\* is not accepted: .*WHO-disabled.*"),
    "model": (NO_MODEL, BOUND),
    "model_streamed": (NO_MODEL, BOUND),
    "endpoint": (
        ("PermissionDeniedError", 403, "request_forbidden", "endpoint_not_allowed", None),
        r"Client 'WHO-embeds' does not have access to this endpoint\. It may call: /v1/embeddings\.",
    ),
    "no_endpoint": (
        ("NotFoundError", 404, "invalid_request_error", None, None),
        r"Invalid URL \(POST /v1/images/generations\)",
    ),
}


@pytest.mark.parametrize("scenario", REFUSED)
def test_who_may_not_call_is_told_so_once(sdk: Sdk, scenario: str) -> None:
    (name, status, kind, code, param), message = REFUSED[scenario]
    error = sdk.shows[scenario]
    check_error(error, name, status, kind, code, param)
    assert re.fullmatch(message.replace("WHO", sdk.who), error["message"])
    assert sdk.statuses[scenario] == [status], "it does not ask again"


RATE = (
    r"Rate limit reached for `small` in client WHO-KIND on KIND per 3 seconds: Limit LIMIT, Used \d+, Requested \d+\. "
)


@pytest.mark.parametrize(("scenario", "limit"), [("requests", 1), ("tokens", 6)])
def test_a_rate_limit_is_waited_for_as_long_as_the_answer_says(sdk: Sdk, scenario: str, limit: int) -> None:
    shown = sdk.shows[scenario]
    for error in shown["beyond"]:
        check_error(error, "RateLimitError", 429, scenario, "rate_limit_exceeded", None)
        words = RATE.replace("WHO", sdk.who).replace("KIND", scenario).replace("LIMIT", str(limit))
        assert re.fullmatch(words + r"Please try again in [\d.]+m?s\.", error["message"])
        headers = error["headers"]
        assert headers["retry-after"] in ("1", "2", "3", "4")
        assert "x-should-retry" not in headers
        assert headers[f"x-ratelimit-limit-{scenario}"] == str(limit)
        assert int(headers[f"x-ratelimit-remaining-{scenario}"]) < limit
        assert re.fullmatch(r"[\d.]+m?s", headers[f"x-ratelimit-reset-{scenario}"])
    assert shown["first"][f"x-ratelimit-limit-{scenario}"] == str(limit)
    assert shown["again"]["text"] == SAID
    assert shown["again"]["seconds"] >= 1, "it waited"
    assert sdk.statuses[scenario] == [200, 429, 429, 429, 200], "the last one asked again, once"


def test_calls_at_once_are_limited_until_one_of_them_is_over(sdk: Sdk) -> None:
    shown = sdk.shows["at_once"]
    check_error(shown["beside"], "RateLimitError", 429, "requests", "rate_limit_exceeded", None)
    assert shown["beside"]["message"].startswith(
        f"Rate limit reached for `small` in client {sdk.who}-parallel: 1 call is under way at once, and the limit is 1."
    )
    assert shown["beside"]["headers"]["retry-after"] == "1"
    assert (shown["text"], shown["again"]) == (SAID, SAID)
    *before, streamed, again = sdk.statuses["at_once"]
    assert (streamed, again) == (200, 200)
    assert before == [429] * len(before)
    assert len(before) >= 2, "the first without patience, and one more"


def test_a_prompt_that_can_never_fit_is_not_sent_again(sdk: Sdk) -> None:
    error = sdk.shows["too_large"]
    check_error(error, "RateLimitError", 429, "tokens", "rate_limit_exceeded", None)
    assert re.match(rf"Request too large for `small` in client {sdk.who}-tokens on tokens ", error["message"])
    assert error["headers"]["x-should-retry"] == "false"
    assert sdk.statuses["too_large"] == [429]


def test_a_budget_that_is_used_up_is_not_asked_again(sdk: Sdk) -> None:
    shown = sdk.shows["budget"]
    assert shown["first"] == SAID
    for error in (shown["whole"], shown["streamed"]):
        check_error(error, "RateLimitError", 429, "insufficient_quota", "insufficient_quota", None)
        assert error["message"].startswith(
            f"The budget for `small` in client {sdk.who}-budget has no room for this call: 0.01 of 0.015 USD per day "
        )
        assert error["headers"]["x-should-retry"] == "false"
        assert error["seconds"] < 5
    assert sdk.statuses["budget"] == [200, 429, 429]


def test_nothing_that_was_refused_went_to_a_model(gateway: tuple[Gateway, OllamaStandIn], sdk: Sdk) -> None:
    running, ollama = gateway
    answered = [
        fields for fields in map(json.loads, running.log.getvalue().splitlines()) if fields.get("rule") == "all"
    ]
    assert len(ollama.chats) == sum(fields["status"] == 200 for fields in answered)
    assert sum(sdk.statuses[name].count(200) for name in sdk.shows.lines) == 7
