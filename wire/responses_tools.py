"""Tools of /v1/responses in chat's words: flat there, nested here; a namespace's functions carry its name in theirs.

Tools that OpenAI's own servers run (web_search, code_interpreter, mcp and their like) have nobody to run them here:
they are refused by name, for a model that is told of a tool nobody answers for would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter
from wire.openai import Json
from wire.responses_items import MOST_SHOWN, UnsupportedValue

TAKEN = ("function", "custom", "namespace")
SEPARATOR = "__"
"""Between a namespace and a name. Chat's names take letters, digits, `_` and `-`."""


@dataclass(slots=True)
class Tools:
    """A request's tools, in chat's words."""

    chat: list[Json] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Where each stands in the caller's request."""
    full_names: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Chat name of a tool in a namespace -> (namespace, name)."""

    @property
    def flat(self) -> Mapping[tuple[str, str], str]:
        return {full: name for name, full in self.full_names.items()}

    def known(self, kind: str) -> Mapping[str, str]:
        """What a tool_choice may call each tool of that kind -> its chat name; namespaces may be left out there."""
        names = [tool[kind]["name"] for tool in self.chat if tool["type"] == kind]
        short = {self.full_names[name][1]: name for name in reversed(names) if name in self.full_names}
        return short | {name: name for name in names}


def read_tools(given: Any) -> Tools:
    """Raises BadRequest with a `param` in the caller's words."""
    tools = Tools()
    if given is None:
        return tools
    if not isinstance(given, list):
        raise InvalidType("'tools' must be an array.", param="tools")
    full_name_of: dict[str, tuple[str, str] | None] = {}
    for namespace, tool, place in _unfolded(given):
        kind = tool["type"]
        name = _name(tool, place)
        full = None
        if namespace is not None:
            full = (namespace, name)
            name = SEPARATOR.join(full)
            tools.full_names[name] = full
        if full_name_of.setdefault(name, full) != full:
            raise InvalidValue(
                f"'{place}.name': a model would be told of two tools '{name[:MOST_SHOWN]}'. Give one of them another "
                "name.",
                param=f"{place}.name",
            )
        body: Json = {"name": name}
        if tool.get("description") is not None:
            body["description"] = tool["description"]
        if kind == "custom":
            form = _custom_format(tool.get("format"), place)
            if form is not None:
                body["format"] = form
        else:
            parameters = tool.get("parameters")
            if parameters is not None:
                body["parameters"] = parameters
            if tool.get("strict") is not None:
                body["strict"] = tool["strict"]
        tools.chat.append({"type": kind, kind: body})
        tools.places.append(place)
    return tools


def _unfolded(given: list[Any]) -> Iterator[tuple[str | None, Json, str]]:
    """(namespace, tool, place) of every function and custom tool."""
    for number, tool in enumerate(given):
        place = f"tools[{number}]"
        kind = _kind(tool, place, TAKEN)
        if kind != "namespace":
            yield None, tool, place
            continue
        inner = tool.get("tools")
        if not isinstance(inner, list):
            raise InvalidType(f"'{place}.tools' must be an array.", param=f"{place}.tools")
        for at, one in enumerate(inner):
            spot = f"{place}.tools[{at}]"
            _kind(one, spot, TAKEN[:2])
            yield _name(tool, place), one, spot


def _kind(tool: Any, place: str, taken: tuple[str, ...]) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise InvalidType(f"'{place}' must be an object with a 'type'.", param=place)
    if kind not in taken:
        raise UnsupportedValue(
            f"'{place}.type' is '{kind[:MOST_SHOWN]}', a tool that OpenAI's own servers run; nobody runs it here. Use "
            "tools of type 'function' or 'custom', which your program runs.",
            param=f"{place}.type",
        )
    return kind


def _name(tool: Json, place: str) -> str:
    spot = f"{place}.name"
    name = tool.get("name")
    if name is None:
        hint = f" Here it stands beside 'type', not in '{tool['type']}'." if isinstance(tool["type"], str) else ""
        raise MissingParameter(f"'{spot}' is missing.{hint}", param=spot)
    if not isinstance(name, str):
        raise InvalidType(f"'{spot}' must be a string.", param=spot)
    return name


def _custom_format(given: Any, place: str) -> Json | None:
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
        case _:
            raise InvalidValue(
                f"'{place}.format' must be of type 'text', or of type 'grammar' with 'syntax' and 'definition'.",
                param=f"{place}.format",
            )


def read_choice(given: Any, tools: Tools) -> Any:
    """`tool_choice` in chat's words. Of allowed tools the others are taken out of `tools`: every server knows that."""
    match given:
        case None | "auto" | "none" | "required":
            return given
        case {"type": "function" | "custom" as kind}:
            return {"type": kind, kind: {"name": _chosen(given, kind, tools.known(kind), "tool_choice")}}
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": [*allowed]}:
            _keep_only(allowed, tools)
            return mode
        case {"type": "allowed_tools"}:
            raise InvalidValue(
                "'tool_choice' of type 'allowed_tools' must have a 'mode' ('auto' or 'required') and 'tools'.",
                param="tool_choice",
            )
        case {"type": str(kind)}:
            raise UnsupportedValue(
                f"'tool_choice.type' is '{kind[:MOST_SHOWN]}', a tool that nobody runs here. Use 'function', 'custom' "
                "or 'allowed_tools'.",
                param="tool_choice.type",
            )
        case _:
            raise InvalidValue(
                "'tool_choice' must be 'auto', 'none', 'required' or an object with a 'type'.", param="tool_choice"
            )


def _chosen(given: Json, kind: str, known: Mapping[str, str], place: str) -> str:
    name = _name(given, place)
    found = known.get(name)
    if found is None:
        raise InvalidValue(
            f"'{place}.name' is '{name[:MOST_SHOWN]}', but no {kind} tool in 'tools' has that name.",
            param=f"{place}.name",
        )
    return found


def _keep_only(allowed: list[Any], tools: Tools) -> None:
    names: set[tuple[str, str]] = set()
    known = {kind: tools.known(kind) for kind in TAKEN[:2]}
    for number, one in enumerate(allowed):
        place = f"tool_choice.tools[{number}]"
        kind = _kind(one, place, TAKEN[:2])
        names.add((kind, _chosen(one, kind, known[kind], place)))
    kept = [n for n, tool in enumerate(tools.chat) if (tool["type"], tool[tool["type"]]["name"]) in names]
    tools.chat = [tools.chat[n] for n in kept]
    tools.places = [tools.places[n] for n in kept]
