"""The table of fields says what becomes of each; the mappers do it, and the README shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from wire.check_chat import check_chat
from wire.dialects import DIALECTS, Facets
from wire.errors import Untranslatable
from wire.fields import FIELDS, Fate, Field, lost, markdown_table
from wire.legacy import answers_functions
from wire.openai import Json, is_neutral

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"

TOOLS: Json = {
    "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]
}
SAMPLES: dict[str, tuple[Any, Json]] = {
    "model": ("other", {}),
    "messages": ([{"role": "user", "content": "Bye"}], {}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {"stream": True}),
    "max_completion_tokens": (7, {}),
    "max_tokens": (7, {}),
    "temperature": (0.5, {}),
    "top_p": (0.5, {}),
    "frequency_penalty": (0.5, {}),
    "presence_penalty": (0.5, {}),
    "stop": (["END"], {}),
    "seed": (7, {}),
    "n": (2, {}),
    "logprobs": (True, {}),
    "top_logprobs": (3, {"logprobs": True}),
    "response_format": ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, {}),
    "tools": (TOOLS["tools"], {}),
    "tool_choice": ({"type": "function", "function": {"name": "g"}}, TOOLS),
    "parallel_tool_calls": (False, TOOLS),
    "functions": ([{"name": "f"}], {}),
    "function_call": ({"name": "f"}, {"functions": [{"name": "f"}]}),
    "reasoning_effort": ("low", {}),
    "reasoning": ({"effort": "low"}, {}),
    "thinking": ({"type": "disabled"}, {}),
    "verbosity": ("low", {}),
    "top_k": (5, {}),
    "min_p": (0.1, {}),
    "typical_p": (0.1, {}),
    "repeat_penalty": (1.1, {}),
    "repeat_last_n": (64, {}),
    "prediction": ({"type": "content", "content": "x"}, {}),
    "store": (True, {}),
    "metadata": ({"a": "b"}, {}),
    "service_tier": ("flex", {}),
    "user": ("ann", {}),
    "safety_identifier": ("ann", {}),
    "prompt_cache_key": ("k", {}),
    "prompt_cache_options": ({"ttl": "1h"}, {}),
    "prompt_cache_retention": ("24h", {}),
    "logit_bias": ({"1": 2}, {}),
    "modalities": (["text", "audio"], {}),
    "audio": ({"voice": "ash", "format": "wav"}, {}),
    "web_search_options": ({}, {}),
    "moderation": ({"model": "m"}, {}),
}
"""Field -> a value that asks for something, and what a request with it has besides."""
COLUMNS: dict[str, tuple[str, Facets, Callable[[Field], Fate]]] = {
    "ollama": ("ollama", Facets(capabilities=frozenset({"completion", "tools", "thinking"})), lambda row: row.ollama),
    "deepseek": ("openai", Facets(profile="deepseek"), lambda row: row.deepseek),
}
ROWS = [pytest.param(row, name, id=f"{row.name} at {name}") for row in FIELDS.values() for name in COLUMNS]


def _effect(body: Json, column: str) -> tuple[Any, tuple[str, ...]]:
    """All that a request does to an upstream and to the answer, and what is dropped of it."""
    dialect, facets, _ = COLUMNS[column]
    request = check_chat({"model": "chat", "messages": [{"role": "user", "content": "Hi"}]} | body)
    chat = DIALECTS[dialect].operations["chat"]
    translated = chat.translate(request, f"upstream-{request.model}", facets)
    reader = type(chat.read(lambda: "made", "application/json", facets, request)).__name__
    answer = (request.stream, request.include_usage, answers_functions(request))
    return (orjson.loads(translated.body), reader, chat.one_by_one(request, facets), answer), translated.dropped


@pytest.mark.parametrize(("row", "column"), ROWS)
def test_the_mappers_do_what_the_row_says(row: Field, column: str) -> None:
    value, besides = SAMPLES[row.name]
    fate = COLUMNS[column][2](row)
    without, dropped_without = _effect(besides, column)
    assert row.name not in dropped_without
    if fate is Fate.REFUSED:
        with pytest.raises(Untranslatable) as caught:
            _effect(besides | {row.name: value}, column)
        assert caught.value.param == row.name
        assert caught.value.message.startswith(f"'{row.name}' {row.words}. ")
        return
    done, dropped = _effect(besides | {row.name: value}, column)
    assert (row.name in dropped) == (fate is Fate.DROPPED)
    assert (done == without) == (fate is Fate.DROPPED)


@pytest.mark.parametrize(("row", "column"), ROWS)
def test_null_is_never_named_nor_refused(row: Field, column: str) -> None:
    if row.name in ("model", "messages"):
        return
    value, besides = SAMPLES[row.name]
    assert not is_neutral(row.name, value)
    assert row.name not in _effect(besides | {row.name: None}, column)[1]


def test_every_row_has_a_sample() -> None:
    assert list(SAMPLES) == list(FIELDS)


def test_fields_without_a_row_are_dropped_where_nothing_else_is_said() -> None:
    asked = {"model": "m", "store": True, "user": None, "brand_new": 1, "metadata": {}}
    assert lost(asked, lambda row: row.ollama) == ("store", "brand_new")
    assert lost(asked, lambda row: row.deepseek, unknown=Fate.CARRIED) == ("store",)


def test_the_readme_shows_the_table() -> None:
    text = README.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == markdown_table()
