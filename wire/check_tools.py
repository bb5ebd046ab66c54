"""Checks what a chat request says of tools and of its answer's form: `tools`, `tool_choice`, `response_format`.

The trap: a choice of a tool that is not there is refused by some servers, and taken for no choice by others.
"""

from __future__ import annotations

from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter, kind_of
from wire.openai import Json


def check_tools(name: str, value: Any) -> None:
    """Functions and custom tools are looked at; tools of other types are for servers that know them."""
    if not isinstance(value, list):
        raise InvalidType(f"'{name}' must be an array, but it is {kind_of(value)}.", param=name)
    for number, tool in enumerate(value):
        where = f"{name}[{number}]"
        match tool:
            case {"type": "function", "function": {"name": str()} as function}:
                check_parameters(function, f"{where}.function")
            case {"type": "custom", "custom": {"name": str()} as custom}:
                _check_description(custom, f"{where}.custom")
                _check_format(custom.get("format"), f"{where}.custom.format")
            case {"type": "function" | "custom" as kind}:
                spot = f"{where}.{kind}"
                raise InvalidType(f"'{spot}' must be an object with a 'name'.", param=spot)
            case {"type": str()}:
                pass
            case _:
                raise InvalidType(f"'{where}' must be an object with a 'type'.", param=where)


def check_parameters(function: Json, where: str) -> None:
    """The schema of a function and the words about it, wherever it stands."""
    _check_description(function, where)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        spot = f"{where}.parameters"
        raise InvalidType(f"'{spot}' must be a JSON Schema object.", param=spot)


def _check_description(tool: Json, where: str) -> None:
    description = tool.get("description")
    if not isinstance(description, str | None):
        spot = f"{where}.description"
        raise InvalidType(f"'{spot}' must be a string, but it is {kind_of(description)}.", param=spot)


def _check_format(form: Any, spot: str) -> None:
    match form:
        case None | {"type": "text"}:
            pass
        case {"type": "grammar", "grammar": {"syntax": "lark" | "regex", "definition": str()}}:
            pass
        case _:
            raise InvalidValue(
                f"'{spot}' must be {{'type': 'text'}} or {{'type': 'grammar', 'grammar': {{'syntax': …, 'definition': "
                "…}} with the syntax 'lark' or 'regex'.",
                param=spot,
            )


def check_tool_choice(body: Json) -> None:
    """After check_tools(): a tool that is named must be among them."""
    choice = body.get("tool_choice")
    tools = body.get("tools") or []
    if choice in (None, "none", "auto"):
        return
    if not tools:
        raise InvalidValue("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    known = {(kind, tool[kind]["name"]) for tool in tools if (kind := tool["type"]) in ("function", "custom")}
    match choice:
        case "required":
            pass
        case {"type": "function" | "custom"}:
            _check_named(choice, known, "tool_choice")
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required", "tools": [_, *_] as allowed}}:
            for number, named in enumerate(allowed):
                _check_named(named, known, f"tool_choice.allowed_tools.tools[{number}]")
        case _:
            raise InvalidValue(
                "'tool_choice' must be 'none', 'auto', 'required', {'type': 'function', 'function': {'name': …}}, "
                "{'type': 'custom', 'custom': {'name': …}} or {'type': 'allowed_tools', 'allowed_tools': {'mode': "
                "'auto' or 'required', 'tools': […]}}.",
                param="tool_choice",
            )


def _check_named(given: Any, known: set[tuple[str, str]], where: str) -> None:
    match given:
        case {"type": "function" as kind, "function": {"name": str(name)}}:
            pass
        case {"type": "custom" as kind, "custom": {"name": str(name)}}:
            pass
        case _:
            raise InvalidType(
                f"'{where}' must name a tool, as {{'type': 'function', 'function': {{'name': …}}}}.", param=where
            )
    if (kind, name) not in known:
        raise InvalidValue(f"'{where}' names the tool '{name[:64]}', which is not among 'tools'.", param=where)


def check_response_format(name: str, value: Any) -> None:
    """The form of the answer; a new one is for servers that know it. A strict schema is judged in structured.py."""
    if not isinstance(value, dict):
        raise InvalidType(f"'{name}' must be an object, but it is {kind_of(value)}.", param=name)
    kind = value.get("type")
    if not isinstance(kind, str | None):
        raise InvalidType(f"'{name}.type' must be 'text', 'json_object' or 'json_schema'.", param=f"{name}.type")
    if kind != "json_schema":
        return
    where = f"{name}.json_schema"
    given = value.get("json_schema")
    if not isinstance(given, dict):
        raise MissingParameter(f"'{where}' must be an object with a 'name' and a 'schema'.", param=where)
    if not isinstance(given.get("name"), str | None):
        raise InvalidType(f"'{where}.name' must be a string.", param=f"{where}.name")
    if not isinstance(given.get("schema"), dict | None):
        raise InvalidType(f"'{where}.schema' must be a JSON Schema object.", param=f"{where}.schema")
    if not isinstance(given.get("strict"), bool | None):
        raise InvalidType(f"'{where}.strict' must be true or false.", param=f"{where}.strict")
