"""A user of the OpenAI SDK beyond chat: responses, embeddings, completions.

    python -m tests.sdk.program_endpoints BASE_URL KEY [SCENARIO ...]

Works with the 1.x and the 3.x SDK, so SDK objects are `Any` here. Nothing is judged: test_endpoints.py does that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import openai
import pydantic

from tests.sdk.scenarios import FUNCTION, MODELS, WEATHER, play

TOOL = {"type": "function", **FUNCTION, "strict": True}
THIRTY = " ".join(f"word{number}" for number in range(30))
EMBEDDER = "nomic-embed-text"


class Said(pydantic.BaseModel):
    """What a model is asked to answer with, as a class."""

    said: str


def failure(call: Callable[[], Any]) -> dict[str, Any]:
    """The exception that a call raises, as an `except` clause sees it."""
    try:
        call()
    except openai.APIError as error:
        seen = {name: getattr(error, name, None) for name in ("status_code", "message", "type", "code", "param")}
        return {"class": type(error).__name__, **seen}
    return {"class": None}


# Responses


def response(reply: Any) -> dict[str, Any]:
    """A response, read attribute by attribute as programs do."""
    return {
        "class": type(reply).__name__,
        "object": reply.object,
        "id": reply.id,
        "model": reply.model,
        "status": reply.status,
        "text": reply.output_text,
        "items": [item.type for item in reply.output],
        "ids": [item.id for item in reply.output],
        "calls": [called(item) for item in reply.output if item.type == "function_call"],
        "thoughts": [part.text for item in reply.output if item.type == "reasoning" for part in item.content or []],
        "incomplete": reply.incomplete_details.reason if reply.incomplete_details is not None else None,
        "error": reply.error.code if reply.error is not None else None,
        "usage": reply.usage.model_dump() if reply.usage is not None else None,
        "instructions": reply.instructions,
        "previous": reply.previous_response_id,
        "metadata": reply.metadata,
    }


def called(item: Any) -> dict[str, Any]:
    return {"call_id": item.call_id, "name": item.name, "arguments": item.arguments, "status": item.status}


def streamed(events: Iterable[Any]) -> dict[str, Any]:
    """A stream of events, read to its end."""
    seen = list(events)
    types = [event.type for event in seen]
    last = getattr(seen[-1], "response", None)
    return {
        "types": [one for at, one in enumerate(types) if at == 0 or one != types[at - 1]],
        "numbers": [event.sequence_number for event in seen],
        "text": "".join(event.delta for event in seen if event.type == "response.output_text.delta"),
        "pieces": types.count("response.output_text.delta"),
        "thoughts": "".join(event.delta for event in seen if event.type == "response.reasoning_text.delta"),
        "arguments": "".join(event.delta for event in seen if event.type == "response.function_call_arguments.delta"),
        "last": response(last) if last is not None else None,
    }


def respond(client: Any, target: str) -> Any:
    return response(client.responses.create(model=MODELS[target], input="hello there", metadata={"app": "notes"}))


def respond_streamed(client: Any, target: str) -> Any:
    return streamed(client.responses.create(model=MODELS[target], input="hello there", stream=True))


def respond_helper(client: Any, target: str) -> Any:
    with client.responses.stream(model=MODELS[target], input="hello there") as stream:
        events = streamed(stream)
        return {**events, "last": response(stream.get_final_response())}


def respond_conversation(client: Any, target: str) -> Any:
    turns = [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "hello"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and again"}]},
    ]
    return response(client.responses.create(model=MODELS[target], input=turns, instructions="Be brief."))


def respond_parsed(client: Any, target: str) -> Any:
    reply = client.responses.parse(model=MODELS[target], input="hello there", text_format=Said)
    with client.responses.stream(model=MODELS[target], input="hello there", text_format=Said) as stream:
        for _ in stream:
            pass
        flowed = stream.get_final_response()
    return [{"class": type(one.output_parsed).__name__, "said": one.output_parsed.said} for one in (reply, flowed)]


def respond_tools(client: Any, target: str) -> Any:
    """The calls go back as programs send them: whole items, plain dicts, or by the id of the response."""
    asked = [{"role": "user", "content": "look twice at the weather"}]
    first = client.responses.create(model=MODELS[target], input=asked, tools=[TOOL])
    calls = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": WEATHER} for call in calls]
    dumped = [item.model_dump(exclude_none=True) for item in first.output]
    ways: dict[str, dict[str, Any]] = {
        "items": {"input": [*asked, *first.output, *results]},
        "dumped": {"input": [*asked, *dumped, *results]},
        "by id": {"input": results, "previous_response_id": first.id},
    }
    seconds = {
        way: response(client.responses.create(model=MODELS[target], tools=[TOOL], **more)) for way, more in ways.items()
    }
    return {"first": response(first), "second": seconds}


def respond_tools_streamed(client: Any, target: str) -> Any:
    with client.responses.stream(model=MODELS[target], input="how is the weather", tools=[TOOL]) as stream:
        events = streamed(stream)
        final = stream.get_final_response()
    parsed = [item.parsed_arguments for item in final.output if item.type == "function_call"]
    return {**events, "last": response(final), "parsed": parsed}


def respond_limited(client: Any, target: str) -> Any:
    create = partial(client.responses.create, model=MODELS[target], input=THIRTY, max_output_tokens=16)
    return {"whole": response(create()), "streamed": streamed(create(stream=True))}


def respond_cut(client: Any, target: str) -> Any:
    """The upstream's connection breaks after some words."""
    create = partial(client.responses.create, model=f"cut-{target}", input="hello there")
    return {"streamed": streamed(create(stream=True)), "whole": failure(create)}


def respond_continued(client: Any) -> Any:
    """A stream that breaks after some words is gone on with by another server."""
    with client.responses.stream(model="mended", input="hello there") as stream:
        events = streamed(stream)
        return {**events, "last": response(stream.get_final_response())}


def respond_kept(client: Any) -> Any:
    """A response that was kept can be read, gone on from, and deleted."""
    first = client.responses.create(model=MODELS["local"], input="hello there")
    second = client.responses.create(model=MODELS["local"], input="and again", previous_response_id=first.id)
    found = client.responses.retrieve(first.id)
    asked = client.responses.input_items.list(first.id).data
    client.responses.delete(first.id)
    unkept = client.responses.create(model=MODELS["local"], input="hello there", store=False)
    return {
        "first": response(first),
        "second": response(second),
        "found": response(found),
        "asked": [[part.text for part in item.content] for item in asked],
        "after": failure(lambda: client.responses.retrieve(first.id)),
        "unkept": failure(lambda: client.responses.retrieve(unkept.id)),
    }


def respond_refused(client: Any) -> Any:
    create = partial(client.responses.create, model=MODELS["local"], input="hello there")
    unmatched = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
    return {
        "hosted tool": failure(lambda: create(tools=[{"type": "web_search"}])),
        "unknown id": failure(lambda: create(previous_response_id="resp_none")),
        "unmatched": failure(lambda: create(input=unmatched)),
        "background": failure(lambda: create(background=True)),
        "model": failure(lambda: create(model="gpt-nothing")),
        "streamed": failure(lambda: create(model="gpt-nothing", stream=True)),
    }


def respond_asynchronously(base_url: str, key: str) -> Any:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            create: Any = client.responses.create
            replies = await asyncio.gather(*(create(model=MODELS["local"], input=f"number {at}") for at in range(10)))
            events = [event async for event in await create(model=MODELS["remote"], input="hello there", stream=True)]
            return {"texts": [reply.output_text for reply in replies], "streamed": streamed(events)}

    return asyncio.run(run())


# Embeddings


def embed(client: Any) -> Any:
    texts = ["hello there", "rain and wind", "hello there"]
    packed = client.embeddings.create(model=EMBEDDER, input=texts)
    plain = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    one = client.embeddings.create(model=EMBEDDER, input="hello there")
    return {
        "class": type(packed).__name__,
        "object": packed.object,
        "model": packed.model,
        "indices": [row.index for row in packed.data],
        "packed": [row.embedding for row in packed.data],
        "plain": [row.embedding for row in plain.data],
        "one": [row.embedding for row in one.data],
        "usage": packed.usage.model_dump(),
    }


def embed_many(client: Any) -> Any:
    """More texts than a server is asked for at once."""
    texts = [f"text {number}" for number in range(300)]
    many = client.embeddings.create(model=EMBEDDER, input=texts)
    last = client.embeddings.create(model=EMBEDDER, input=texts[-1])
    return {
        "indices": [row.index for row in many.data],
        "same": many.data[-1].embedding == last.data[0].embedding,
        "different": len({tuple(row.embedding) for row in many.data}),
    }


def embed_refused(client: Any) -> Any:
    create = client.embeddings.create
    return {
        "empty": failure(lambda: create(model=EMBEDDER, input=[])),
        "chat model": failure(lambda: create(model=MODELS["local"], input="hello")),
        "unknown": failure(lambda: create(model="gpt-nothing", input="hello")),
    }


# Completions


def complete(client: Any) -> Any:
    create = partial(client.completions.create, model=MODELS["local"], max_tokens=50)
    whole = create(prompt="hello there")
    chunks = list(create(prompt="hello there", stream=True, stream_options={"include_usage": True}))
    several = create(prompt=["hello there", "and again"], n=2)
    return {
        "class": type(whole).__name__,
        "object": whole.object,
        "id": whole.id,
        "model": whole.model,
        "text": whole.choices[0].text,
        "reason": whole.choices[0].finish_reason,
        "usage": whole.usage.model_dump(exclude_none=True),
        "objects": sorted({chunk.object for chunk in chunks}),
        "streamed": "".join(choice.text for chunk in chunks for choice in chunk.choices),
        "pieces": sum(1 for chunk in chunks for choice in chunk.choices if choice.text),
        "reasons": [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason],
        "streamed usage": [chunk.usage.model_dump(exclude_none=True) for chunk in chunks if chunk.usage is not None],
        "several": [(choice.index, choice.text) for choice in several.choices],
        "echoed": create(prompt="hello there", echo=True).choices[0].text,
        "short": create(prompt="hello there", max_tokens=1).choices[0].finish_reason,
        "refused": failure(lambda: create(model="gpt-nothing", prompt="hello")),
    }


ON_EACH = (
    *(respond, respond_streamed, respond_helper, respond_conversation, respond_parsed, respond_tools),
    *(respond_tools_streamed, respond_limited, respond_cut),
)
ON_ONE = (respond_continued, respond_kept, respond_refused, embed, embed_many, embed_refused, complete)


def main() -> None:
    base_url, key, *names = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    scenarios: dict[str, Callable[[], Any]] = {
        **{f"{each.__name__} {target}": partial(each, client, target) for each in ON_EACH for target in MODELS},
        **{one.__name__: partial(one, client) for one in ON_ONE},
        respond_asynchronously.__name__: partial(respond_asynchronously, base_url, key),
    }
    play(scenarios, names)


if __name__ == "__main__":
    main()
