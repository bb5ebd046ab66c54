"""A user of the OpenAI SDK who is refused: keys, models, limits, budgets. Retries are as the SDK has them by itself.

    python -m tests.sdk.program_refusals BASE_URL WHO [SCENARIO ...]

Each client of the gateway that the scenarios call as is named WHO-name, and its key is sk-WHO-name-0123456789. A call
for an unknown model, named like the scenario, stands before each scenario's calls in the gateway's log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import openai

from tests.sdk.scenarios import play

MODEL = "small"
LONG = "hello there " * 400


class Caller:
    def __init__(self, base_url: str, who: str) -> None:
        self.who = who
        self.client = openai.OpenAI(base_url=base_url, api_key=self.key_of("free"))

    def key_of(self, name: str) -> str:
        return f"sk-{self.who}-{name}-0123456789"

    def as_(self, name: str, **options: Any) -> Any:
        return self.client.with_options(api_key=self.key_of(name), **options)

    def begin(self, scenario: str) -> None:
        refused(lambda: self.client.models.retrieve(f"begin-{self.who}-{scenario}"))


def ask(client: Any, text: str = "hello there", **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": [{"role": "user", "content": text}], **more})


def refused(call: Callable[[], Any]) -> dict[str, Any]:
    """The exception that a call raises, as an `except` clause sees it, and how long it took to come."""
    began = time.monotonic()
    try:
        call()
    except openai.APIStatusError as error:
        headers = error.response.headers
        body: Any = error.body
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "message": body["message"],
            "request_id": error.request_id,
            "headers": {name: value for name, value in headers.items() if name.startswith(("x-", "retry-"))},
            "seconds": time.monotonic() - began,
        }
    return {"class": None}


def denied(caller: Caller, name: str, **more: Any) -> Any:
    return refused(lambda: ask(caller.as_(name), **more))


def no_key(caller: Caller) -> Any:
    return denied(caller, "free", extra_headers={"Authorization": openai.Omit()})


def no_endpoint(caller: Caller) -> Any:
    return refused(lambda: caller.client.images.generate(model=MODEL, prompt="hello there"))


def limited(caller: Caller, name: str) -> Any:
    """Once within the limit, twice beyond it, and once more with patience."""
    hasty, patient = caller.as_(name, max_retries=0), caller.as_(name)
    first = ask(hasty.with_raw_response)
    beyond = [refused(lambda: ask(hasty)), refused(lambda: ask(hasty, stream=True))]
    began = time.monotonic()
    again = ask(patient)
    return {
        "first": {name: value for name, value in first.headers.items() if name.startswith("x-ratelimit-")},
        "beyond": beyond,
        "again": {"text": again.choices[0].message.content, "seconds": time.monotonic() - began},
    }


def at_once(caller: Caller) -> Any:
    """One call under way, another one beside it, and one with patience."""
    stream = iter(ask(caller.as_("parallel"), model="slow", stream=True))
    text = next(stream).choices[0].delta.content
    beside = refused(lambda: ask(caller.as_("parallel", max_retries=0)))
    again = ask(caller.as_("parallel", max_retries=9)).choices[0].message.content
    return {"beside": beside, "again": again, "text": text + "".join(c.choices[0].delta.content or "" for c in stream)}


def budget(caller: Caller) -> Any:
    client = caller.as_("budget")
    first = ask(client).choices[0].message.content
    return {
        "first": first,
        "whole": refused(lambda: ask(client)),
        "streamed": refused(lambda: ask(client, stream=True)),
    }


def main() -> None:
    base_url, who, *names = sys.argv[1:]
    caller = Caller(base_url, who)
    scenarios: dict[str, Callable[[], Any]] = {
        "no_key": partial(no_key, caller),
        "wrong_key": partial(denied, caller, "nobody"),
        "expired_key": partial(denied, caller, "expired"),
        "disabled_key": partial(denied, caller, "disabled"),
        "model": partial(denied, caller, "bound"),
        "model_streamed": partial(denied, caller, "bound", stream=True),
        "endpoint": partial(denied, caller, "embeds"),
        "no_endpoint": partial(no_endpoint, caller),
        "requests": partial(limited, caller, "requests"),
        "tokens": partial(limited, caller, "tokens"),
        "at_once": partial(at_once, caller),
        "too_large": partial(denied, caller, "tokens", text=LONG),
        "budget": partial(budget, caller),
    }
    play({name: partial(_after_its_mark, caller, name, run) for name, run in scenarios.items()}, names)


def _after_its_mark(caller: Caller, name: str, run: Callable[[], Any]) -> Any:
    caller.begin(name)
    return run()


if __name__ == "__main__":
    main()
