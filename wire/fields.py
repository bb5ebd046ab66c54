"""What becomes of each field of a chat request, per kind of upstream: the table that the mappers and the README share.

The trap: a field that a server does not know is ignored there without a word, and the caller believes that it counts.
So every field of OpenAI's has a row (openai_api section 1.1), and so have those of other servers that callers send. A
server that is compatible without quirks (profile `compat`) needs none: it gets the request as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from wire.errors import Untranslatable
from wire.openai import Json, is_neutral


class Fate(Enum):
    """What becomes of a field, in the README's words."""

    CARRIED = "carried"
    """The server is told, under its own name for it."""
    EMULATED = "emulated"
    """The server has no such thing; the gateway does it, or says it in words."""
    DROPPED = "dropped"
    """Left out, and named to the caller: the answer is as good without it."""
    REFUSED = "refused"
    """400 with `param`, unless another target takes it: without it the answer would be another one."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row."""

    name: str
    ollama: Fate
    deepseek: Fate
    words: str
    """How, or why not; behind "'name' " it is the message of a refusal."""


_C, _E, _D, _R = Fate.CARRIED, Fate.EMULATED, Fate.DROPPED, Fate.REFUSED

FIELDS: Mapping[str, Field] = {
    row.name: row
    for row in (
        Field("model", _C, _C, "the name that the rules give it"),
        Field("messages", _C, _C, "all roles; text, images, files of text, calls and their results"),
        Field("stream", _C, _C, "upstream every answer is a stream; a whole one is put together here"),
        Field("stream_options", _E, _C, "`include_usage`; obfuscation is never added"),
        Field(
            "max_completion_tokens",
            _C,
            _C,
            "`num_predict` at Ollama, `max_tokens` at DeepSeek; counts before `max_tokens`",
        ),
        Field("max_tokens", _C, _C, "`num_predict` at Ollama"),
        Field("temperature", _C, _C, "DeepSeek does not read it while it thinks"),
        Field("top_p", _C, _C, "DeepSeek does not read it while it thinks"),
        Field("frequency_penalty", _C, _C, "DeepSeek does not read it while it thinks"),
        Field("presence_penalty", _C, _C, "DeepSeek does not read it while it thinks"),
        Field("stop", _C, _C, "a string or a list"),
        Field("seed", _C, _D, "DeepSeek has none"),
        Field("n", _E, _E, "one upstream call per choice"),
        Field("logprobs", _C, _C, "left out beside tools at Ollama"),
        Field("top_logprobs", _C, _C, "left out beside tools at Ollama"),
        Field(
            "response_format",
            _C,
            _E,
            "a grammar at Ollama, JSON mode and words at DeepSeek; a strict schema is checked here",
        ),
        Field("tools", _C, _C, "functions; custom tools are emulated by functions with one string"),
        Field(
            "tool_choice",
            _E,
            _C,
            "by a grammar at Ollama, without thinking at DeepSeek; `allowed_tools` filters the tools",
        ),
        Field("parallel_tool_calls", _E, _E, "`false` keeps the first call"),
        Field("functions", _E, _E, "said as `tools`, answered as `function_call`"),
        Field("function_call", _E, _E, "said as `tool_choice`, answered as `function_call`"),
        Field("reasoning_effort", _C, _C, "`think` at Ollama, if the model thinks; `none` switches thinking off"),
        Field("reasoning", _C, _C, "its `effort`, as `reasoning_effort`"),
        Field("thinking", _C, _C, "DeepSeek's own switch; `think` at Ollama"),
        Field("verbosity", _E, _E, "`low` and `high` are said in words"),
        Field("top_k", _C, _D, "Ollama's own option"),
        Field("min_p", _C, _D, "Ollama's own option"),
        Field("typical_p", _C, _D, "Ollama's own option"),
        Field("repeat_penalty", _C, _D, "Ollama's own option"),
        Field("repeat_last_n", _C, _D, "Ollama's own option"),
        Field("prediction", _D, _D, "makes answers faster, not other ones"),
        Field("store", _D, _D, "nothing is kept"),
        Field("metadata", _D, _D, "nothing is kept"),
        Field("service_tier", _D, _D, "OpenAI's own"),
        Field("user", _D, _D, "goes to nobody"),
        Field("safety_identifier", _D, _D, "goes to nobody"),
        Field("prompt_cache_key", _D, _D, "the servers' caches work without it"),
        Field("prompt_cache_options", _D, _D, "the servers' caches work without it"),
        Field("prompt_cache_retention", _D, _D, "the servers' caches work without it"),
        Field("logit_bias", _R, _R, "names tokens by the ids of OpenAI's tokenizer, which mean others here"),
        Field("modalities", _R, _R, 'can only be ["text"]: there is no answer in sound here'),
        Field("audio", _R, _R, "asks for an answer in sound, and there is none here"),
        Field("web_search_options", _R, _R, "asks for a search of the web, which these models cannot do by themselves"),
        Field("moderation", _R, _R, "asks for a check by OpenAI's moderation, which is not to be had here"),
    )
}
"""By name, in the order of the README."""


def lost(asked: Json, fate_of: Callable[[Field], Fate], *, unknown: Fate = Fate.DROPPED) -> tuple[str, ...]:
    """The fields of a request that are dropped; what asks for nothing in particular is not named.

    `fate_of` chooses the column, `unknown` says what becomes of fields without a row. Raises Untranslatable for the
    first field that is refused.
    """
    names: list[str] = []
    for name, value in asked.items():
        row = FIELDS.get(name)
        fate = unknown if row is None else fate_of(row)
        if fate is _C or fate is _E or is_neutral(name, value):
            continue
        if row is not None and fate is _R:
            raise Untranslatable(f"'{name}' {row.words}. Leave it out, or name a model that takes it.", param=name)
        names.append(name)
    return tuple(names)


def markdown_table() -> str:
    """The table as the README has it, without the marks around it."""
    rows = [f"| `{row.name}` | {row.ollama.value} | {row.deepseek.value} | {row.words} |" for row in FIELDS.values()]
    return "\n".join(["| field | Ollama | DeepSeek | how |", "| --- | --- | --- | --- |", *rows])
