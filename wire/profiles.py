"""Facts about families of OpenAI-compatible servers, as rows. A quirk is a field here, never an `if` on a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from wire.fields import FIELDS, Fate, Field


class Schemas(Enum):
    """How a server is told the JSON Schema that an answer must fit."""

    NAMED = "as OpenAI has it: response_format json_schema"
    BESIDE = "json_object, with the schema beside it; it holds to it"
    IN_WORDS = "json_object, and the schema as a message"


@dataclass(frozen=True, slots=True)
class Profile:
    """How a server differs from OpenAI's own. The defaults change nothing."""

    developer_role: bool = True
    """Takes the role `developer`; else it becomes `system`."""
    max_tokens: str | None = None
    """The one name it reads for the limit, where it silently ignores the other."""
    json_schema: Schemas = Schemas.NAMED
    usage_in_streams: bool = True
    """Tells the usage in a stream, if asked. Else who wants a whole answer gets one that came whole: that has it."""
    thinking_by_default: bool = False
    """Thinks unless told otherwise; then refuses a forced tool_choice, and wants reasoning back on tool-call turns."""
    null_content: bool = True
    """Takes an assistant message whose content is null; else it becomes an empty string."""
    nulls: bool = True
    """Takes null for what is not said; else such keys are left out, of the request and of assistant messages."""
    text_parts: bool = True
    """Reads text of the user's that comes in parts; else such a message becomes one string."""
    functions_only: bool = False
    """Takes tools of type function only, and a tool_choice that is a word or a function."""
    strict_tools: bool = True
    """Takes `strict` on a function; else the function goes without it."""
    bare_functions: bool = True
    """Takes a function without `parameters`; else it gets some that say that there are none."""
    fate: Callable[[Field], Fate] | None = None
    """Its column in the table of fields; None: it takes whatever comes."""
    drops: frozenset[str] = frozenset()
    """Request fields that it is not sent under their own name."""
    efforts: Mapping[str, str] = MappingProxyType({})
    """OpenAI's efforts of reasoning that it does not document -> its own."""
    text_only: bool = False
    """Takes text only, and of users' messages also images."""
    blind: frozenset[str] = frozenset()
    """Its models that see no images."""
    max_url: int | None = None
    """Characters of an image's URL that is no data URL."""
    failing_finish: frozenset[str] = frozenset()
    """finish_reasons that mean a failure of the server's, not an end of the answer."""
    first_path: str = "/v1"
    """Where its API begins, if the configured URL has no path of its own."""
    prefill_message: Mapping[str, Any] = MappingProxyType({})
    """What the last assistant message says besides, so that the server goes on from it. With it, it promises to."""
    prefill_path: str | None = None
    """Where its API is that can do so, in place of `/v1`."""
    lacks: frozenset[str] = frozenset()
    """Operations (ModelRequest.operation) that it has no endpoint for."""
    completions_path: str | None = None
    """Where its API has /completions, in place of `/v1`."""
    patience: float | None = None
    """Seconds that a call may wait for its first token while the server shows signs of life; None: as any other."""

    @property
    def takes_all_messages(self) -> bool:
        """Messages go as they came."""
        strict = self.text_only or self.functions_only or self.thinking_by_default
        return self.developer_role and self.null_content and self.nulls and self.text_parts and not strict


def _deepseek(row: Field) -> Fate:
    return row.deepseek


_MEDIA = frozenset({"transcription", "translation", "speech", "images", "image edits", "image variations"})

PROFILES: dict[str, Profile] = {
    "compat": Profile(),
    # openai_api section 6.2, measured 2026-11.
    "deepseek": Profile(
        developer_role=False,
        max_tokens="max_tokens",
        json_schema=Schemas.IN_WORDS,
        thinking_by_default=True,
        null_content=False,
        functions_only=True,
        strict_tools=False,  # on its beta path only, and then for all tools
        fate=_deepseek,
        drops=frozenset(row.name for row in FIELDS.values() if _deepseek(row) in (Fate.DROPPED, Fate.REFUSED))
        | {"n", "parallel_tool_calls", "verbosity", "reasoning"},
        efforts=MappingProxyType({"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}),
        text_only=True,
        blind=frozenset({"deepseek-v4-pro"}),
        max_url=8192,
        failing_finish=frozenset({"insufficient_system_resource"}),
        first_path="",
        prefill_message=MappingProxyType({"prefix": True}),  # openai_api section 6.2
        prefill_path="/beta",
        lacks=_MEDIA | {"embeddings"},  # openai_api section 6.1
        completions_path="/beta",
        patience=300.0,  # it queues calls under load and says so with keep-alive comments: openai_api section 6
    ),
    # The server of the package llama-cpp-python, 0.3.36, measured 2026-11. What it does not know it mostly ignores.
    "llama_cpp_python": Profile(
        developer_role=False,
        max_tokens="max_tokens",
        json_schema=Schemas.BESIDE,
        usage_in_streams=False,
        null_content=False,
        nulls=False,
        text_parts=False,  # the chat templates of most models take strings only
        functions_only=True,
        bare_functions=False,
        drops=frozenset({"n", "parallel_tool_calls", "verbosity", "stream_options"}),
        text_only=True,
        lacks=_MEDIA,
    ),
}
