"""Facts about families of OpenAI-compatible servers, as rows. A quirk is a field here, never an `if` on a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """How a server differs from OpenAI's own. The defaults change nothing."""

    developer_role: bool = True
    """Takes the role `developer`; else it becomes `system`."""
    max_tokens: str | None = None
    """The one name it reads for the limit, where it silently ignores the other."""
    json_schema: bool = True
    """Takes response_format json_schema; else it becomes json_object with the schema in words."""
    thinking_by_default: bool = False
    """Thinks unless told otherwise; then refuses a forced tool_choice, and wants reasoning back on tool-call turns."""
    null_content: bool = True
    """Takes an assistant message whose content is null; else it becomes an empty string."""
    functions_only: bool = False
    """Takes tools of type function only."""
    strict_tools: bool = True
    """Takes `strict` on a function; else the function goes without it."""
    drops: frozenset[str] = frozenset()
    """Request fields it does not document: stripped, and named to the caller."""
    failing_finish: frozenset[str] = field(default=frozenset())
    """finish_reasons that mean a failure of the server's, not an end of the answer."""
    first_path: str = "/v1"
    """Where its API begins, if the configured URL has no path of its own."""
    prefill_message: Mapping[str, Any] = MappingProxyType({})
    """What the last assistant message says besides, so that the server goes on from it. With it, it promises to."""
    prefill_path: str | None = None
    """Where its API is that can do so, in place of `/v1`."""
    patience: float | None = None
    """Seconds that a call may wait for its first token while the server shows signs of life; None: as any other."""


PROFILES: dict[str, Profile] = {
    "compat": Profile(),
    # openai_api section 6.2, measured 2026-11.
    "deepseek": Profile(
        developer_role=False,
        max_tokens="max_tokens",
        json_schema=False,
        thinking_by_default=True,
        null_content=False,
        functions_only=True,
        strict_tools=False,  # on its beta path only, and then for all tools
        drops=frozenset(
            {
                "n",
                "seed",
                "logit_bias",
                "parallel_tool_calls",
                "store",
                "metadata",
                "service_tier",
                "verbosity",
                "prediction",
                "modalities",
                "user",
            }
        ),
        failing_finish=frozenset({"insufficient_system_resource"}),
        first_path="",
        prefill_message=MappingProxyType({"prefix": True}),  # openai_api section 6.2
        prefill_path="/beta",
        patience=300.0,  # it queues calls under load and says so with keep-alive comments: openai_api section 6
    ),
}
