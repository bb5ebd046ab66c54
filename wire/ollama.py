"""Ollama's native /api/chat: foreign enough to be built, not patched.

The trap: Ollama is lenient where it should not be. It truncates a long history in silence (so `truncate: false` is
always sent), takes a missing `stream` for true, and answers wrong option types with 500. Facts: ollama_api sections 2
and 8, measured on a running server. Its messages, tools, formats and replies have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from wire.call_text import CallText
from wire.compat import VERBOSITY
from wire.custom import CustomCalls
from wire.errors import BadRequest, Untranslatable
from wire.fields import lost
from wire.first_call import FirstCall
from wire.ollama_format import Format, call_format, call_or_answer, is_like_a_call, native_format
from wire.ollama_messages import add_words, begin_answer, native_messages, unsaid
from wire.ollama_reply import OllamaReply
from wire.ollama_tools import Calls, asked_calls, native_tools
from wire.openai import ChatRequest, Json, Reply, Translated, encoded

_OPTIONS = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
"""Options under OpenAI's own names: their types are checked."""
_OWN_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "top_k": int,
    "min_p": (int, float),
    "typical_p": (int, float),
    "repeat_penalty": (int, float),
    "repeat_last_n": int,
}
"""Options of Ollama's own that callers of local models send."""
_LEVELS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
"""Effort -> `think`."""


def to_ollama(
    request: ChatRequest,
    model: str,
    *,
    num_ctx: int | None,
    keep_alive: str | None,
    capabilities: frozenset[str] | None = None,
) -> Translated:
    """The /api/chat body for a checked request; raises BadRequest where dropping would change the meaning.

    `capabilities` of the model in Ollama's words, None or empty where they are not known. From a last message of the
    assistant's Ollama goes on, if the model's template lets it; some start over.
    """
    asked = request.body
    able = capabilities or None
    if able is not None and "completion" not in able:
        raise Untranslatable("'model': this model does not chat. Name another one for chat completions.", param="model")
    dropped = [*lost(asked, lambda field: field.ollama)]
    calls = asked_calls(asked)
    tools = native_tools(calls)
    if tools and able is not None and "tools" not in able:
        raise Untranslatable("'tools': this model cannot call tools.", param="tools")
    form = _format(asked, calls, dropped)
    messages = native_messages(request, able)
    words = "\n".join(filter(None, [VERBOSITY.get(asked.get("verbosity") or ""), form.words]))
    if words:
        add_words(messages, words)
    if request.prefill is not None:
        begin_answer(messages, request.prefill.text)
    body: Json = {"model": model, "messages": messages, "stream": True, "truncate": False}
    options = _options(request, num_ctx)
    if options:
        body["options"] = options
    if tools:
        body["tools"] = tools
    if form.format is not None:
        body["format"] = form.format
    think = _think(asked, able, dropped)
    if think is not None:
        body["think"] = think
    if asked.get("logprobs"):
        # The jinja path answers 400 to logprobs beside tools.
        _carry(body if not tools else None, ("logprobs", "top_logprobs"), asked, dropped)
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    if any(tool["function"].get("strict") for _, tool in calls.functions) and not form.holds_calls:
        dropped.append("tools.function.strict")
    dropped += unsaid(asked["messages"])
    return Translated(encoded(body), tuple(dropped))


def ollama_reply(request: ChatRequest, make_id: Callable[[], str]) -> Reply:
    """The reader of the reply to to_ollama()'s body; `make_id` gives an id for a tool call that came without one."""
    calls = asked_calls(request.body)
    reply: Reply = OllamaReply(
        make_id,
        call=_call_text(request.body, calls),
        formatted=calls.forced or request.wants_json,
    )
    if calls.one:
        reply = FirstCall(reply)
    return CustomCalls(reply, calls.custom) if calls.custom else reply


def _options(request: ChatRequest, num_ctx: int | None) -> Json:
    asked = request.body
    options = {name: asked[name] for name in _OPTIONS if asked.get(name) is not None}
    for name, kind in _OWN_OPTIONS.items():
        value = asked.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kind):
            words = "an integer" if kind is int else "a number"
            raise BadRequest(f"'{name}' must be {words}.", param=name)
        options[name] = value
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
    if limit is not None:
        options["num_predict"] = limit if request.prefill is None else request.prefill.limit(limit)
    stop = asked.get("stop") or []
    # An empty stop string ends the answer at once here, and means nothing at OpenAI.
    stops = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    if stops:
        options["stop"] = stops
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    return options


def _format(asked: Json, calls: Calls, dropped: list[str]) -> Format:
    wanted = asked.get("response_format") or {"type": "text"}
    functions = [tool for _, tool in calls.functions]
    if calls.forced:
        return Format(call_format(functions), f"Answer with nothing but {calls.words}", holds_calls=True)
    if functions and _is_json(wanted):
        return call_or_answer(wanted, functions, calls.words)
    form = native_format(wanted)
    if form.format is None and wanted.get("type") != "text":
        dropped.append("response_format")
    return form


def _is_json(response_format: Json | None) -> bool:
    return response_format is not None and response_format.get("type") in ("json_object", "json_schema")


def _call_text(asked: Json, calls: Calls) -> CallText | None:
    """What reads a call in the text of the answer, where _format() made one possible."""
    wanted = asked.get("response_format")
    if calls.forced:
        return CallText(calls.names)
    if calls.functions and _is_json(wanted):
        return CallText(calls.names, forced=False, whole=is_like_a_call(wanted))
    return None


def _think(asked: Json, capabilities: frozenset[str] | None, dropped: list[str]) -> bool | str | None:
    """`think` as asked; None where nothing is asked, or it cannot be told: then that is in `dropped`.

    Only false is safe to tell every model: the others answer 400 to anything else, so who may think must be known.
    """
    wanted: bool | str | None = None
    names: list[str] = []
    match asked.get("reasoning_effort"):
        case None:
            pass
        case effort:
            names.append("reasoning_effort")
            wanted = _LEVELS.get(effort) if isinstance(effort, str) else None
    match asked.get("reasoning"):
        case {"enabled": False}:
            return False
        case {"effort": str(effort)}:
            names.append("reasoning")
            wanted = _LEVELS.get(effort)
        case {"enabled": True}:
            names.append("reasoning")
            wanted = wanted if wanted is not None else True
    match asked.get("thinking"):
        case {"type": "disabled"} | False:
            return False
        case {"type": "enabled"} | True:
            names.append("thinking")
            wanted = wanted if wanted is not None else True
    if wanted is False or (wanted is not None and capabilities is not None and "thinking" in capabilities):
        return wanted
    dropped += names
    return None


def _carry(body: Json | None, names: tuple[str, ...], asked: Json, dropped: list[str]) -> None:
    """Copies the fields that say something into the body; without one they are dropped."""
    for name in names:
        if not asked.get(name):
            continue
        if body is None:
            dropped.append(name)
        else:
            body[name] = asked[name]
