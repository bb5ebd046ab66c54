"""A user of the OpenAI SDK: runs scenarios against a gateway and prints what the SDK showed, one JSON line for each.

    python -m tests.sdk.program BASE_URL KEY [SCENARIO ...]

Works with the 1.x and the 3.x SDK, so SDK objects are `Any` here. Nothing is judged: test_sdk.py says what should have
been shown.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import openai
import pydantic

from tests.sdk.scenarios import FUNCTION, MODELS, WEATHER, play

THINKING = {"local": "deepseek-r1:7b", "remote": "deepseek-flash"}
TOOL = {"type": "function", "function": FUNCTION}
STRICT_TOOL = {"type": "function", "function": {**FUNCTION, "strict": True}}

type Scenario = Callable[[Caller], Any]


class Said(pydantic.BaseModel):
    """What a model is asked to answer with, as a class."""

    said: str


class Caller:
    """The clients of one user."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self.key = key
        self.client = self.another()

    def another(self, **options: Any) -> Any:
        """A client. Nothing is tried twice unless asked for, so that no failure hides behind a retry."""
        return openai.OpenAI(**{"base_url": self.base_url, "api_key": self.key, "max_retries": 0, **options})

    def asynchronous(self) -> Any:
        return openai.AsyncOpenAI(base_url=self.base_url, api_key=self.key, max_retries=0)

    def chat(self, model: str, text: str = "hello there", **more: Any) -> Any:
        return self.client.chat.completions.create(**{"model": model, "messages": user(text), **more})


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# What the SDK's objects say


def whole(reply: Any) -> dict[str, Any]:
    """A whole reply, read attribute by attribute as programs do."""
    choice = reply.choices[0]
    message = choice.message
    return {
        "class": type(reply).__name__,
        "object": reply.object,
        "id": reply.id,
        "created": reply.created,
        "model": reply.model,
        "choices": len(reply.choices),
        "index": choice.index,
        "role": message.role,
        "text": message.content,
        "refusal": message.refusal,
        "reasoning": (message.model_extra or {}).get("reasoning_content"),
        "calls": [called(call) for call in message.tool_calls or []],
        "reason": choice.finish_reason,
        "usage": reply.usage.model_dump(exclude_none=True) if reply.usage is not None else None,
    }


def called(call: Any) -> dict[str, Any]:
    return {"id": call.id, "type": call.type, "name": call.function.name, "arguments": call.function.arguments}


def streamed(chunks: Iterable[Any]) -> dict[str, Any]:
    """A stream, read to its end."""
    chunks = list(chunks)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    deltas = [choice.delta for choice in choices]
    thoughts = [(delta.model_extra or {}).get("reasoning_content") for delta in deltas]
    return {
        "classes": sorted({type(chunk).__name__ for chunk in chunks}),
        "objects": sorted({chunk.object for chunk in chunks}),
        "ids": sorted({chunk.id for chunk in chunks}),
        "models": sorted({chunk.model for chunk in chunks}),
        "choices": [len(chunk.choices) for chunk in chunks],
        "roles": [delta.role for delta in deltas if delta.role is not None],
        "text": "".join(delta.content or "" for delta in deltas),
        "pieces": sum(1 for delta in deltas if delta.content),
        "reasoning": "".join(thought or "" for thought in thoughts),
        "order": "".join("r" if thought else "t" for delta, thought in zip(deltas, thoughts, strict=True) if thought or delta.content),
        "calls": joined_calls(deltas),
        "reasons": [choice.finish_reason for choice in choices if choice.finish_reason is not None],
        "usages": [chunk.usage.model_dump(exclude_none=True) if chunk.usage is not None else None for chunk in chunks],
    }  # fmt: skip


def joined_calls(deltas: Iterable[Any]) -> list[dict[str, Any]]:
    """Tool calls put together as the SDK's documentation does it: by index, every fragment's strings joined."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for fragment in delta.tool_calls or []:
            call = calls.setdefault(fragment.index, {"id": "", "type": "", "name": "", "arguments": ""})
            call["id"] += fragment.id or ""
            call["type"] += fragment.type or ""
            call["name"] += fragment.function.name or ""
            call["arguments"] += fragment.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


def failure(call: Callable[[], Any]) -> dict[str, Any]:
    """The exception that a call raises, as an `except` clause sees it."""
    try:
        call()
    except openai.OpenAIError as error:
        return told(error)
    return {"class": None}


def told(error: Any) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return {
        "class": type(error).__name__,
        "words": str(error),
        "message": error.body.get("message") if isinstance(error.body, dict) else None,
        "body": sorted(error.body) if isinstance(error.body, dict) else None,
        "status": getattr(error, "status_code", None),
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": getattr(error, "request_id", None),
        "header": response.headers.get("x-request-id") if response is not None else None,
    }


# Chats


def chat_whole(caller: Caller, target: str) -> Any:
    return whole(caller.chat(MODELS[target]))


def chat_streamed(caller: Caller, target: str) -> Any:
    return streamed(caller.chat(MODELS[target], stream=True))


def chat_streamed_with_usage(caller: Caller, target: str) -> Any:
    return streamed(caller.chat(MODELS[target], stream=True, stream_options={"include_usage": True}))


def system_and_developer(caller: Caller, target: str) -> Any:
    told_before = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}]
    return whole(caller.chat(MODELS[target], messages=[*told_before, *user("who are you")]))


def parts(caller: Caller, target: str) -> Any:
    content = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    return whole(caller.chat(MODELS[target], messages=[{"role": "user", "content": content}]))


def conversation(caller: Caller, target: str) -> Any:
    first = caller.chat(MODELS[target]).choices[0].message
    return whole(caller.chat(MODELS[target], messages=[*user("hello there"), first, *user("and again")]))


def thinking_whole(caller: Caller, target: str) -> Any:
    return whole(caller.chat(THINKING[target]))


def thinking_streamed(caller: Caller, target: str) -> Any:
    return streamed(caller.chat(THINKING[target], stream=True))


def settings(caller: Caller, target: str) -> Any:
    """What frameworks send along by habit."""
    raw = caller.client.chat.completions.with_raw_response.create(
        model=MODELS[target],
        messages=user("hello there"),
        n=1,
        seed=7,
        temperature=0.2,
        top_p=0.9,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias={},
        user="somebody",
        store=False,
        metadata={"app": "notes"},
        parallel_tool_calls=True,
        service_tier="auto",
        stop=None,
        tool_choice=None,
    )
    return {**whole(raw.parse()), "dropped": raw.headers.get("x-gateway-dropped", "")}


def limited(caller: Caller, target: str) -> Any:
    """A limit that leaves two words, and five thoughts before them where the model thinks."""
    limit = {"local": 2, "remote": 7}[target]
    model = MODELS[target]
    return {
        "old": whole(caller.chat(model, max_tokens=limit)),
        "new": whole(caller.chat(model, max_completion_tokens=limit)),
        "streamed": streamed(caller.chat(model, max_completion_tokens=limit, stream=True)),
    }


def stopped(caller: Caller, target: str) -> Any:
    return {
        "one": whole(caller.chat(MODELS[target], "one two three", stop="two")),
        "many": whole(caller.chat(MODELS[target], "one two three", stop=["four", "three"])),
    }


# Formats


def schema_format(caller: Caller, target: str) -> Any:
    schema = {"name": "said", "schema": Said.model_json_schema(), "strict": True}
    return whole(caller.chat(MODELS[target], response_format={"type": "json_schema", "json_schema": schema}))


def parsed_format(caller: Caller, target: str) -> Any:
    reply = caller.client.chat.completions.parse(
        model=MODELS[target], messages=user("hello there"), response_format=Said
    )
    found = reply.choices[0].message.parsed
    return {"class": type(found).__name__, "said": found.said}


# Tools


def tools_whole(caller: Caller, target: str) -> Any:
    """The assistant's message goes back in each of the ways in which programs send it."""
    asked = user("how is the weather")
    first = caller.chat(MODELS[target], messages=asked, tools=[TOOL])
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": WEATHER} for call in message.tool_calls]
    ways = {
        "dumped": message.model_dump(),
        "object": message,
        "without nulls": message.model_dump(exclude_none=True),
        "as documented": {
            "role": "assistant",
            "content": message.content,
            "tool_calls": [call.model_dump() for call in message.tool_calls],
        },
    }
    seconds = {
        way: whole(caller.chat(MODELS[target], messages=[*asked, turn, *results], tools=[TOOL]))
        for way, turn in ways.items()
    }
    return {"first": whole(first), "second": seconds}


def tools_streamed(caller: Caller, target: str) -> Any:
    asked = user("how is the weather")
    first = streamed(caller.chat(MODELS[target], messages=asked, tools=[TOOL], stream=True))
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in first["calls"]
    ]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": WEATHER} for call in calls]
    second = streamed(caller.chat(MODELS[target], messages=[*asked, turn, *results], tools=[TOOL], stream=True))
    return {"first": first, "second": second}


def two_calls(caller: Caller, target: str) -> Any:
    asked = user("look twice at the weather")
    first = caller.chat(MODELS[target], messages=asked, tools=[TOOL])
    message = first.choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{WEATHER} {number}"}
        for number, call in enumerate(message.tool_calls, 1)
    ]
    second = caller.chat(MODELS[target], messages=[*asked, message.model_dump(), *results], tools=[TOOL])
    over_stream = streamed(caller.chat(MODELS[target], messages=asked, tools=[TOOL], stream=True))
    return {"first": whole(first), "second": whole(second), "streamed": over_stream}


def forced_call(caller: Caller, target: str) -> Any:
    named = {"type": "function", "function": {"name": FUNCTION["name"]}}
    return {
        "named": whole(caller.chat(MODELS[target], tools=[TOOL], tool_choice=named)),
        "required": whole(caller.chat(MODELS[target], tools=[TOOL], tool_choice="required")),
    }


def strict_tool(caller: Caller, target: str) -> Any:
    return whole(caller.chat(MODELS[target], tools=[STRICT_TOOL]))


# The helper that reads a stream


def helper(caller: Caller, target: str, text: str, **more: Any) -> Any:
    completions: Any = caller.client.chat.completions
    if not hasattr(completions, "stream"):
        completions = caller.client.beta.chat.completions
    with completions.stream(model=MODELS[target], messages=user(text), **more) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    message = final.choices[0].message
    return {
        **whole(final),
        "events": sorted(set(events)),
        "parsed": message.parsed.said if message.parsed is not None else None,
        "parsed_arguments": [call.function.parsed_arguments for call in message.tool_calls or []],
    }


def helper_text(caller: Caller, target: str) -> Any:
    return helper(caller, target, "hello there", stream_options={"include_usage": True})


def helper_calls(caller: Caller, target: str) -> Any:
    """The helper takes strict tools only."""
    return helper(caller, target, "look twice at the weather", tools=[STRICT_TOOL])


def helper_parsed(caller: Caller, target: str) -> Any:
    return helper(caller, target, "hello there", response_format=Said)


# Models


def models(caller: Caller) -> Any:
    listed = caller.client.models.list()
    rows = [row.model_dump() for row in listed]
    return {
        "class": type(listed).__name__,
        "rows": rows,
        "each": [caller.client.models.retrieve(row["id"]).model_dump() for row in rows],
        "slash": whole(caller.chat("hf.co/acme/tiny:q4")),
        "unknown": failure(lambda: caller.client.models.retrieve("acme/none")),
    }


# Failures


def wrong_key(caller: Caller) -> Any:
    stranger = caller.another(api_key="sk-somebody-elses-key")
    return {
        "chat": failure(lambda: stranger.chat.completions.create(model=MODELS["local"], messages=user("hello"))),
        "models": failure(stranger.models.list),
    }


def no_key(caller: Caller) -> Any:
    without: Any = {"Authorization": openai.Omit()}
    return failure(lambda: caller.chat(MODELS["local"], extra_headers=without))


def unknown_model(caller: Caller) -> Any:
    return {
        "no rule": failure(lambda: caller.chat("gpt-nothing")),
        "no such model": failure(lambda: caller.chat("qwen2.5:999b")),
        "streamed": failure(lambda: caller.chat("qwen2.5:999b", stream=True)),
    }


def unknown_url(caller: Caller) -> Any:
    return {
        "post": failure(lambda: caller.client.post("/nothing", body={}, cast_to=object)),
        "get": failure(lambda: caller.client.get("/nothing", cast_to=object)),
        "moderations": failure(lambda: caller.client.moderations.create(input="hello")),
        "files": failure(lambda: caller.client.files.list()),
        "wrong method": failure(lambda: caller.client.get("/chat/completions", cast_to=object)),
    }


def bad_requests(caller: Caller) -> Any:
    model = MODELS["local"]
    return {
        "role": failure(lambda: caller.chat(model, messages=[{"role": "robot", "content": "hello"}])),
        "no messages": failure(lambda: caller.chat(model, messages=[])),
        "temperature": failure(lambda: caller.chat(model, temperature=9)),
        "too long": failure(lambda: caller.chat(model, "word " * 5000)),
        "streamed": failure(lambda: caller.chat(model, messages=[{"role": "robot", "content": "hello"}], stream=True)),
    }


def cut_in_the_middle(caller: Caller, target: str) -> Any:
    """The upstream's connection breaks after some words."""
    text = ""
    error = None
    try:
        for chunk in caller.chat(f"cut-{target}", stream=True):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    except openai.APIError as raised:
        error = told(raised)
    whole_one = failure(lambda: caller.chat(f"cut-{target}"))
    return {"text": text, "error": error, "whole": whole_one, "next": whole(caller.chat(MODELS[target]))["text"]}


def rate_limited(caller: Caller) -> Any:
    return {
        "whole": failure(lambda: caller.chat("busy")),
        "streamed": failure(lambda: caller.chat("busy", stream=True)),
    }


def all_fail(caller: Caller) -> Any:
    return {
        "whole": failure(lambda: caller.chat("broken")),
        "streamed": failure(lambda: caller.chat("broken", stream=True)),
    }


def failing_over(caller: Caller) -> Any:
    raw = caller.client.chat.completions.with_raw_response.create(model="spare", messages=user("hello there"))
    return {
        **whole(raw.parse()),
        "target": raw.headers.get("x-gateway-target"),
        "streamed": streamed(caller.chat("spare", stream=True)),
    }


def continued(caller: Caller) -> Any:
    """A stream that breaks after some words is gone on with by another server."""
    usage = {"include_usage": True}
    return {way: streamed(caller.chat(way, stream=True, stream_options=usage)) for way in ("mended", "mended-there")}


def failing_twice(caller: Caller) -> Any:
    patient = caller.another(max_retries=2)
    raw = patient.chat.completions.with_raw_response.create(model="shaky", messages=user("hello there"))
    return {**whole(raw.parse()), "retries": raw.retries_taken}


def no_route(caller: Caller) -> Any:
    """Trying again at once would be in vain; how often does the SDK ask?"""
    asked: list[str] = []
    web = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: asked.append(str(request.url))]})
    patient = caller.another(max_retries=2, http_client=web)
    shown = failure(lambda: patient.chat.completions.create(model="keyless", messages=user("hello")))
    return {**shown, "asked": len(asked)}


# The way there


def request_ids(caller: Caller) -> Any:
    raw = caller.client.chat.completions.with_raw_response.create(model=MODELS["local"], messages=user("hello there"))
    flow = caller.client.chat.completions.with_raw_response.create(
        model=MODELS["local"], messages=user("hello there"), stream=True
    )
    text = streamed(flow.parse())["text"]
    return {
        "whole": raw.parse()._request_id,
        "whole header": raw.headers.get("x-request-id"),
        "raw": raw.request_id,
        "streamed header": flow.headers.get("x-request-id"),
        "streamed text": text,
        "models": caller.client.models.list()._request_id,
    }


def headers(caller: Caller, target: str) -> Any:
    create = caller.client.chat.completions.with_raw_response.create
    replies = [create(model=MODELS[target], messages=user("hello there"), stream=stream) for stream in (False, True)]
    streamed(replies[1].parse())
    return [{name.lower(): value for name, value in reply.headers.items()} for reply in replies]


def paced(caller: Caller) -> Any:
    chunks = caller.chat("slow", stream=True)
    times = [time.monotonic() for chunk in chunks if any(choice.delta.content for choice in chunk.choices)]
    return {"pieces": len(times), "seconds": times[-1] - times[0]}


def left_early(caller: Caller) -> Any:
    texts = []
    for _ in range(3):
        stream = caller.chat(MODELS["local"], "one two three", stream=True)
        first = next(text for chunk in stream for choice in chunk.choices if (text := choice.delta.content))
        stream.close()
        texts += [first, whole(caller.chat(MODELS["local"]))["text"]]
    return texts


def a_hundred(caller: Caller) -> Any:
    one = caller.another()
    replies = [
        one.chat.completions.create(model=MODELS["local"], messages=user(f"number {number}")) for number in range(100)
    ]
    return {
        "texts": [reply.choices[0].message.content for reply in replies],
        "ids": len({reply.id for reply in replies}),
        "request_ids": len({reply._request_id for reply in replies}),
    }


def asynchronous(caller: Caller) -> Any:
    async def run() -> Any:
        async with caller.asynchronous() as client:
            create = client.chat.completions.create

            async def flow(model: str) -> dict[str, Any]:
                chunks = []
                try:
                    async for chunk in await create(model=model, messages=user("hello there"), stream=True):
                        chunks.append(chunk)  # noqa: PERF401  # a comprehension would lose them at an error
                except openai.APIError as error:
                    return {**streamed(chunks), "error": told(error)}
                return streamed(chunks)

            async def refused() -> dict[str, Any]:
                try:
                    await create(model="gpt-nothing", messages=user("hello there"))
                except openai.OpenAIError as error:
                    return told(error)
                return {"class": None}

            many = [create(model=MODELS["local"], messages=user(f"number {number}")) for number in range(20)]
            return {
                "whole": [whole(reply)["text"] for reply in await asyncio.gather(*many)],
                "streamed": await asyncio.gather(flow(MODELS["local"]), flow(MODELS["remote"])),
                "cut": await flow("cut-local"),
                "refused": await refused(),
                "models": [row.id async for row in client.models.list()],
            }

    return asyncio.run(run())


ON_EACH = (
    *(chat_whole, chat_streamed, chat_streamed_with_usage, system_and_developer, parts, conversation),
    *(thinking_whole, thinking_streamed, settings, limited, stopped, schema_format, parsed_format),
    *(tools_whole, tools_streamed, two_calls, strict_tool, helper_text, helper_calls, helper_parsed),
    *(cut_in_the_middle, headers),
)
ON_ONE: tuple[Scenario, ...] = (
    *(models, wrong_key, no_key, unknown_model, unknown_url, bad_requests, rate_limited, all_fail),
    *(failing_over, continued, failing_twice, no_route, request_ids, paced, left_early, a_hundred, asynchronous),
)
SCENARIOS: dict[str, Scenario] = {
    "version": lambda _caller: openai.__version__,
    **{f"{each.__name__} {target}": partial(each, target=target) for each in ON_EACH for target in MODELS},
    "forced_call remote": partial(forced_call, target="remote"),
    **{one.__name__: one for one in ON_ONE},
}


def main() -> None:
    base_url, key, *names = sys.argv[1:]
    caller = Caller(base_url, key)
    play({name: partial(scenario, caller) for name, scenario in SCENARIOS.items()}, names)


if __name__ == "__main__":
    main()
