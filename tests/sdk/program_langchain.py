"""A user of LangChain: a chat model, its structured output, an agent, embeddings.

    python -m tests.sdk.program_langchain [SCENARIO ...]

The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY, as LangChain reads them itself. Nothing is judged:
test_langchain.py does that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import langchain_openai
import openai
import pydantic
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy

from tests.sdk.scenarios import MODELS, WEATHER, play


class Report(pydantic.BaseModel):
    """The weather in a city."""

    city: str = pydantic.Field(description="The city's name")
    wet: bool


class Said(pydantic.BaseModel):
    """What was said."""

    said: str


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{WEATHER} in {city}"


def model(name: str, **more: Any) -> Any:
    return langchain_openai.ChatOpenAI(model=name, max_retries=0, **more)


def message(said: Any) -> dict[str, Any]:
    return {
        "text": said.text,
        "calls": [{"name": call["name"], "args": call["args"]} for call in said.tool_calls],
        "reason": said.response_metadata.get("finish_reason") or said.response_metadata.get("status"),
        "usage": dict(said.usage_metadata) if said.usage_metadata else None,
    }


def whole(name: str) -> Any:
    return message(model(name).invoke([("system", "Be brief."), ("human", "hello there")]))


def streamed(name: str) -> Any:
    chunks = list(model(name, stream_usage=True).stream("hello there"))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined += chunk
    return {**message(joined), "pieces": sum(1 for chunk in chunks if chunk.text)}


def over_responses(name: str) -> Any:
    chat = model(name, use_responses_api=True)
    return {
        "whole": message(chat.invoke("hello there")),
        "streamed": "".join(chunk.text for chunk in chat.stream("hello there")),
        "called": message(chat.bind_tools([get_weather]).invoke("how is the weather")),
    }


def called(name: str) -> Any:
    bound = model(name).bind_tools([get_weather])
    joined = None
    for chunk in bound.stream("how is the weather"):
        joined = chunk if joined is None else joined + chunk
    return {"whole": message(bound.invoke("how is the weather")), "streamed": message(joined)}


def structured(name: str) -> Any:
    """In each of LangChain's three ways to ask for it."""
    ways = ("json_schema", "function_calling", "json_mode")
    asked = "hello there, answer in json"
    made = [model(name).with_structured_output(Said, method=way).invoke(asked) for way in ways]
    return {way: {"class": type(one).__name__, **one.model_dump()} for way, one in zip(ways, made, strict=True)}


def many_at_once() -> Any:
    async def go(name: str) -> list[str]:
        replies = await model(name).abatch([f"number {number}" for number in range(20)])
        return [reply.text for reply in replies]

    async def all_of_them() -> list[list[str]]:  # in one loop: the connections that LangChain keeps belong to it
        return [await go(name) for name in MODELS.values()]

    return asyncio.run(all_of_them())


def agent(name: str) -> Any:
    """Calls the tool, gets the result, answers."""
    return worked(create_agent(model(name), [get_weather], system_prompt="Be brief."))


def agent_reports(name: str, strategy: Any) -> Any:
    """Calls the tool, gets the result, and answers with an object of the caller's class."""
    return worked(create_agent(model(name), [get_weather], response_format=strategy(Report)))


def worked(made: Any) -> dict[str, Any]:
    state = made.invoke({"messages": [("human", "how is the weather")]}, {"recursion_limit": 8})
    report = state.get("structured_response")
    return {
        "messages": [one.type for one in state["messages"]],
        "called": [call["name"] for one in state["messages"] for call in getattr(one, "tool_calls", None) or []],
        "results": [one.text for one in state["messages"] if one.type == "tool"],
        "text": state["messages"][-1].text,
        "report": {"class": type(report).__name__, **report.model_dump()} if report is not None else None,
    }


def embedded() -> Any:
    """Texts are sent as texts; by default LangChain cuts them up with OpenAI's tokenizer, which it has to download."""
    embeddings = langchain_openai.OpenAIEmbeddings(model="nomic-embed-text", check_embedding_ctx_length=False)
    documents = embeddings.embed_documents(["hello there", "rain and wind"])
    return {"documents": documents, "query": embeddings.embed_query("hello there")}


def refused() -> Any:
    try:
        model("gpt-nothing").invoke("hello there")
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code}
    return {"class": None}


ON_EACH = (whole, streamed, over_responses, called, structured, agent)


def main() -> None:
    scenarios: dict[str, Callable[[], Any]] = {
        **{f"{each.__name__} {place}": partial(each, name) for each in ON_EACH for place, name in MODELS.items()},
        **{
            f"{strategy.__name__} {place}": partial(agent_reports, f"agent-{place}", strategy)
            for strategy in (ToolStrategy, ProviderStrategy)
            for place in MODELS
        },
        "many_at_once": many_at_once,
        "embedded": embedded,
        "refused": refused,
    }
    play(scenarios, sys.argv[1:])


if __name__ == "__main__":
    main()
