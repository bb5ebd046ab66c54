"""`functions` and `function_call`, which `tools` replaced in 2023: programs of that year still send them.

They become tools before anything else sees the request, and the answer's call becomes a `function_call` again. The
trap: calls had no ids then. They are made of the call's place among the messages, for the same history must be the same
prompt: servers remember what they have read.
"""

from __future__ import annotations

import re
from typing import Any

from wire.answer import StreamedAnswer, WholeAnswer
from wire.check import InvalidType, InvalidValue, MissingParameter, kind_of
from wire.check_tools import check_parameters
from wire.openai import Delta, Json, ModelRequest, Reading


def answers_functions(request: ModelRequest) -> bool:
    """Whether the caller reads a call as a `function_call`."""
    return request.origin is not None and request.origin.get("functions") is not None


def modern(body: Json) -> Json:
    """The same request with tools; raises BadRequest with the old names."""
    new = {name: value for name, value in body.items() if name not in ("functions", "function_call")}
    functions = body.get("functions")
    choice = body.get("function_call")
    tools: list[Json] = []
    if functions is not None:
        if body.get("tools"):
            raise InvalidValue("'functions' and 'tools' exclude each other. Use 'tools'.", param="functions")
        tools = new["tools"] = _tools(functions)
        new["parallel_tool_calls"] = False  # there was one function_call at the most
    if choice is not None:
        new["tool_choice"] = _choice(choice, tools)
    if isinstance(body.get("messages"), list):
        new["messages"] = _messages(body["messages"])
    return new


def old_param(request: ModelRequest, param: str) -> str:
    """What the caller wrote where the modern request has this parameter."""
    if request.origin is None:
        return param
    for new, old in _OLD_NAMES:
        param = new.sub(old, param)
    return param


_OLD_NAMES = (
    (re.compile(r"^tools(\[\d+\])\.function"), r"functions\1"),
    (re.compile(r"^tools(?=\[|$)"), "functions"),
    (re.compile(r"^tool_choice$"), "function_call"),
    (re.compile(r"^(messages\[\d+\])\.tool_calls\[0\]\.function"), r"\1.function_call"),
    (re.compile(r"^(messages\[\d+\])\.tool_call_id$"), r"\1.name"),
)


def _tools(functions: Any) -> list[Json]:
    if not isinstance(functions, list):
        raise InvalidType(f"'functions' must be an array, but it is {kind_of(functions)}.", param="functions")
    for number, function in enumerate(functions):
        where = f"functions[{number}]"
        match function:
            case {"name": str()}:
                check_parameters(function, where)
            case _:
                raise InvalidType(f"'{where}' must be an object with a 'name'.", param=where)
    return [{"type": "function", "function": function} for function in functions]


def _choice(choice: Any, tools: list[Json]) -> Any:
    match choice:
        case "none" | "auto":
            return choice
        case {"name": str(name)} if any(tool["function"]["name"] == name for tool in tools):
            return {"type": "function", "function": {"name": name}}
        case {"name": str(name)}:
            words = f"'function_call' names '{name[:64]}', which is not among 'functions'."
            raise InvalidValue(words, param="function_call")
        case _:
            words = "'function_call' must be 'none', 'auto' or {'name': …}."
            raise InvalidValue(words, param="function_call")


def _messages(messages: list[Any]) -> list[Any]:
    open_calls: dict[str, str] = {}
    return [_message(message, number, open_calls) for number, message in enumerate(messages)]


def _message(message: Any, number: int, open_calls: dict[str, str]) -> Any:
    """One message with a call and its result in today's words. `open_calls`: function -> id of its unanswered call."""
    if not isinstance(message, dict):
        return message  # for check_messages() to refuse
    where = f"messages[{number}]"
    match message:
        case {"role": "assistant", "tool_calls": [_, *_], "function_call": _}:
            # Some servers say a call in both ways, and it is sent back so. Its id is only in the one.
            return {key: value for key, value in message.items() if key != "function_call"}
        case {"role": "assistant", "function_call": {"name": str(name), "arguments": str()} as function}:
            made = open_calls[name] = f"call_{number}"
            call = {"id": made, "type": "function", "function": function}
            return {key: value for key, value in message.items() if key != "function_call"} | {"tool_calls": [call]}
        case {"function_call": given} if given is not None:
            spot = f"{where}.function_call"
            raise InvalidType(
                f"'{spot}' must be an object with 'name' and 'arguments' (a JSON string), of an assistant message.",
                param=spot,
            )
        case {"role": "function"}:
            return _result(message, where, open_calls)
        case _:
            return message


def _result(message: Json, where: str, open_calls: dict[str, str]) -> Json:
    name = message.get("name")
    if not isinstance(name, str):
        raise MissingParameter(f"'{where}.name' is missing: it says which function answers.", param=f"{where}.name")
    made = open_calls.pop(name, None)
    if made is None:
        raise InvalidValue(
            f"'{where}.name' is '{name[:64]}', but no assistant message before it made a 'function_call' of it.",
            param=f"{where}.name",
        )
    content = message.get("content")
    return {"role": "tool", "tool_call_id": made, "content": "" if content is None else content}


class FunctionStream(StreamedAnswer):
    """A streamed answer for a caller who knows `function_call`."""

    def write(self, readings: list[Reading]) -> bytes:
        return super().write([_in_old_words(reading) for reading in readings])


class FunctionWhole(WholeAnswer):
    """A whole answer for a caller who knows `function_call`."""

    def write(self, readings: list[Reading]) -> bytes:
        return super().write([_in_old_words(reading) for reading in readings])


def _in_old_words(reading: Reading) -> Reading:
    """Of several calls only the first can be said."""
    if not isinstance(reading, Delta):
        return reading
    delta = reading.delta
    if "tool_calls" in delta:
        delta = {key: value for key, value in delta.items() if key != "tool_calls"}
        pieces = [call["function"] for call in reading.delta["tool_calls"] if call["index"] == 0 and "function" in call]
        if pieces:
            delta["function_call"] = {key: "".join(piece.get(key, "") for piece in pieces) for key in pieces[0]}
    reason = "function_call" if reading.finish_reason == "tool_calls" else reading.finish_reason
    return reading._replace(delta=delta, finish_reason=reason)
