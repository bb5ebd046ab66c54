"""What a request says about calls, in Ollama's terms: it has `tools`, and neither a choice nor a number of calls.

So the choice is emulated. None leaves the tools out, names leave out the others, and a call that must come is a
`format` that nothing but a call fits, with a sentence that says so. The traps: that makes real `tool_calls` of models
with a Go template, and plain text of the others (ollama_api section 8.2), so the reader takes either; and a `format` of
the caller's own leaves the model no way to call at all, so it becomes one of either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wire.custom import as_function
from wire.errors import BadRequest, Untranslatable
from wire.ollama_schema import native_parameters
from wire.openai import Json


@dataclass(frozen=True, slots=True)
class Calls:
    """What a request says about calls."""

    functions: tuple[tuple[int, Json], ...] = ()
    """The tools that may be called, custom ones as functions too, each with its number in the request."""
    forced: bool = False
    """One of them must be called."""
    one: bool = False
    """Of several calls the first counts."""
    custom: frozenset[str] = frozenset()
    """Which of them are custom tools."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(function["function"]["name"] for _, function in self.functions)

    @property
    def words(self) -> str:
        """What a call is that comes as text."""
        names = sorted(self.names)
        which = (
            f'the tool "{names[0]}"' if len(names) == 1 else "one of the tools " + ", ".join(f'"{n}"' for n in names)
        )
        name = f'"{names[0]}"' if len(names) == 1 else "..."
        return f'a call of {which}, as JSON: {{"name": {name}, "arguments": {{...}}}}'


_NO_CALLS = Calls()


def asked_calls(asked: Json) -> Calls:
    """What a checked request says about calls; raises BadRequest where it cannot be."""
    choice = asked.get("tool_choice")
    if choice is None and not asked.get("tools"):
        return _NO_CALLS
    tools = list(enumerate(asked.get("tools") or ()))
    match choice:
        case "none":
            return Calls()
        case None | "auto" | "required":
            forced = choice == "required"
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(entries), **rest}}:
            forced = rest.get("mode") == "required"
            tools = _named(tools, entries)
        case _:
            forced = True
            tools = _named(tools, [choice])
    if not tools and (forced or isinstance(choice, dict)):
        raise BadRequest("'tool_choice' names no tool that is in 'tools'.", param="tool_choice")
    return Calls(
        functions=tuple((number, _function(tool, number)) for number, tool in tools),
        forced=forced,
        one=asked.get("parallel_tool_calls") is False,
        custom=frozenset(tool["custom"]["name"] for _, tool in tools if tool["type"] == "custom"),
    )


def _named(tools: list[tuple[int, Json]], entries: Iterable[Any]) -> list[tuple[int, Json]]:
    """The tools that are among these entries, by kind and name."""
    wanted = {_kind_and_name(entry) for entry in entries}
    return [(number, tool) for number, tool in tools if _kind_and_name(tool) in wanted]


def _kind_and_name(tool: Any) -> tuple[str, str] | None:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return "function", name
        case {"type": "custom", "custom": {"name": str(name)}}:
            return "custom", name
        case _:
            return None


def _function(tool: Json, number: int) -> Json:
    match _kind_and_name(tool):
        case "function", _:
            return tool
        case "custom", _:
            return as_function(tool)
        case _:
            spot = f"tools[{number}].type"
            raise Untranslatable(
                f"'{spot}': this model takes 'function' and 'custom' tools, not '{tool['type']}'.", param=spot
            )


def native_tools(calls: Calls) -> list[Json]:
    """The tools as Ollama reads them; raises BadRequest for a schema that is none."""
    native: list[Json] = []
    for number, tool in calls.functions:
        function = tool["function"]
        where = f"tools[{number}].function.parameters"
        parameters, words = native_parameters(function.get("parameters"), where)
        description = " ".join(filter(None, [function.get("description") or "", words]))
        native.append(
            {
                "type": "function",
                "function": {"name": function["name"], "description": description, "parameters": parameters},
            }
        )
    return native
