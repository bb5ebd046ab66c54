"""A user of the OpenAI Agents SDK, as its documentation begins: agents with tools, over the Responses API.

    python -m tests.sdk.program_agents BASE_URL [SCENARIO ...]

The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY, as the SDK reads them itself; BASE_URL is for its
traces alone, which it would otherwise send to OpenAI. Nothing is judged: test_agents.py does that.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import agents
import openai
import pydantic
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor

from tests.sdk.scenarios import MODELS, WEATHER, play


class Said(pydantic.BaseModel):
    """What an agent answers with, as a class."""

    said: str


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: Its name.
    """
    return f"{WEATHER} in {city}"


WEATHER_TOOL = agents.function_tool(get_weather)


def agent(model: Any = None, **more: Any) -> Any:
    return agents.Agent(**{"name": "assistant", "instructions": "Be brief.", "model": model, **more})


def result(run: Any) -> dict[str, Any]:
    """What a run came to."""
    usage = run.context_wrapper.usage
    output = run.final_output
    return {
        "output": output.model_dump() if isinstance(output, pydantic.BaseModel) else output,
        "class": type(output).__name__,
        "agent": run.last_agent.name,
        "items": [item.type for item in run.new_items],
        "requests": usage.requests,
        "tokens": [usage.input_tokens, usage.output_tokens, usage.total_tokens],
    }


async def run(what: Any, text: str = "how is the weather", **more: Any) -> dict[str, Any]:
    return result(await agents.Runner.run(what, text, max_turns=4, **more))


async def run_streamed(what: Any, text: str = "how is the weather") -> dict[str, Any]:
    streamed = agents.Runner.run_streamed(what, text, max_turns=4)
    raw, items = [], []
    async for event in streamed.stream_events():
        if event.type == "raw_response_event":
            raw.append(event.data)
        elif event.type == "run_item_stream_event":
            items.append(event.name)
    deltas = [event.delta for event in raw if event.type == "response.output_text.delta"]
    return {**result(streamed), "pieces": len(deltas), "text": "".join(deltas), "told": items}


async def default_model() -> Any:
    return await run(agent(tools=[WEATHER_TOOL]))


async def tool_loop(model: str) -> Any:
    return await run(agent(model, tools=[WEATHER_TOOL]))


async def tool_loop_streamed(model: str) -> Any:
    return await run_streamed(agent(model, tools=[WEATHER_TOOL]))


async def tool_loop_by_id(model: str) -> Any:
    """Only what is new is sent; the gateway remembers the rest."""
    return await run(agent(model, tools=[WEATHER_TOOL]), auto_previous_response_id=True)


async def chat_tool_loop(model: str) -> Any:
    """The same over chat completions, which the SDK offers for servers without the Responses API."""
    client = openai.AsyncOpenAI()
    chat = agents.OpenAIChatCompletionsModel(model=model, openai_client=client)
    able = agent(chat, tools=[WEATHER_TOOL])
    return {"whole": await run(able), "streamed": await run_streamed(able)}


async def typed(model: str) -> Any:
    return await run(agent(model, output_type=Said), "hello there")


async def handed_over(model: str) -> Any:
    return await run(agent(model, name="front desk", handoffs=[agent(model, name="expert")]), "hello there")


async def remembered(model: str) -> Any:
    session = agents.SQLiteSession("conversation")
    first = await run(agent(model), "hello there", session=session)
    second = await run(agent(model), "and again", session=session)
    return {"first": first, "second": second, "kept": len(await session.get_items())}


async def refused() -> Any:
    try:
        await run(agent("gpt-nothing"))
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code}
    return {"class": None}


async def traced(said: list[str]) -> Any:
    """Where the traces of all these runs went."""
    agents.flush_traces()
    return {
        "delivered": sum(1 for words in said if words.startswith("Exported")),
        "troubles": [words for words in said if "racing" in words],
    }


class Heard(logging.Handler):
    """Keeps what the SDK logs."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


ON_EACH = (tool_loop, tool_loop_streamed, tool_loop_by_id, chat_tool_loop, typed, handed_over, remembered)


def main() -> None:
    base_url, *names = sys.argv[1:]
    heard = Heard()
    logger = logging.getLogger("openai.agents")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(heard)
    exporter = BackendSpanExporter(endpoint=f"{base_url}/traces/ingest", max_retries=0)
    agents.set_trace_processors([BatchTraceProcessor(exporter)])
    scenarios: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "default_model": default_model,
        **{f"{each.__name__} {place}": partial(each, model) for each in ON_EACH for place, model in MODELS.items()},
        "refused": refused,
        "traced": partial(traced, heard.said),
    }
    with asyncio.Runner() as loop:  # one for all of them: the SDK keeps its connections, which belong to a loop
        play({name: partial(_played, loop, scenario) for name, scenario in scenarios.items()}, names)


def _played(loop: asyncio.Runner, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return loop.run(scenario())


if __name__ == "__main__":
    main()
