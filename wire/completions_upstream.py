"""Completions at Ollama (/api/generate) and at OpenAI-compatible servers (/completions).

A completion goes on with a text; it does not answer it. So Ollama is asked `raw`: without it the prompt would become
the turn of a user in the model's chat template, and a model for chats would answer `Once upon a` with a question. To a
base model it makes no difference, for its template is the bare prompt. Only a `suffix` needs the template, for that is
where a model for code has its marks for the middle. It also makes an answer that broke off easy to go on with: the text
so far is simply the end of the prompt. Facts: ollama_api sections 4 and 8, openai_api sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wire.compat import comes_as_stream
from wire.compat_reply import CompatReply
from wire.completions import CompletionRequest
from wire.completions_logprobs import chat_entries
from wire.errors import Untranslatable
from wire.fields import Fate, Field, lost
from wire.ollama_reply import OllamaReply
from wire.openai import Json, Reading, Translated, encoded
from wire.profiles import Profile


def to_ollama_generate(
    request: CompletionRequest,
    model: str,
    *,
    num_ctx: int | None,
    keep_alive: str | None,
    capabilities: frozenset[str] | None,
) -> Translated:
    """The /api/generate body for one prompt; raises Untranslatable where dropping would change the meaning.

    The prompt's own probabilities are not to be had: `echo` with `logprobs` gives those of the text behind it, and
    `echo.logprobs` is named as dropped.
    """
    asked = request.body
    options = {name: asked[name] for name in _OPTIONS if asked.get(name) is not None}
    options |= {name: asked[name] for name in _OWN_OPTIONS if type(asked.get(name)) in (int, float)}
    known = _CARRIED | options.keys()
    dropped = [*lost({name: value for name, value in asked.items() if name not in known}, _fate)]
    if request.echo and request.logprobs is not None:
        dropped.append("echo.logprobs")
    _check_capabilities(request, model, capabilities)
    if request.max_tokens == 0:
        raise Untranslatable("'max_tokens' is 0, but a local model says one token at least.", param="max_tokens")
    options["num_predict"] = request.max_tokens
    stop = asked.get("stop") or []
    # An empty stop string ends the answer at once here, and means nothing at OpenAI.
    stops = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    if stops:
        options["stop"] = stops
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    body: Json = {
        "model": model,
        "prompt": _text(request),
        "stream": True,
        "think": False,
        "truncate": False,
        "options": options,
    }
    if asked.get("suffix"):
        body["suffix"] = asked["suffix"]
    else:
        body["raw"] = True
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return Translated(encoded(body), tuple(dropped))


_OPTIONS = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
"""Options under OpenAI's own names: their types are checked."""
_OWN_OPTIONS = ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")
"""Options of Ollama's own that callers of local models send."""
_CARRIED = frozenset(
    {
        *("model", "prompt", "suffix", "max_tokens", "stop", "stream", "stream_options"),
        *("n", "best_of", "echo", "logprobs"),
    }
)


def _fate(row: Field) -> Fate:
    """What a chat carries otherwise (tools, formats) is lost here."""
    return row.ollama if row.ollama is Fate.REFUSED else Fate.DROPPED


def _check_capabilities(request: CompletionRequest, model: str, capabilities: frozenset[str] | None) -> None:
    """Refuses what the model cannot do. None, and no capability at all, say that nothing is known."""
    if not capabilities:
        return
    if "completion" not in capabilities:
        raise Untranslatable(f"The local model '{model}' does not write text.", param="model")
    if request.body.get("suffix") and "insert" not in capabilities:
        raise Untranslatable(f"'suffix': the local model '{model}' cannot fill in a middle.", param="suffix")


def _text(request: CompletionRequest) -> str:
    """The prompt, and what of the answer was said already. Nothing at all would only load the model."""
    prompt = request.prompts[0]
    if not isinstance(prompt, str):
        raise Untranslatable(
            "'prompt' holds tokens, and only the model that they are meant for can read them. Send text.",
            param="prompt",
        )
    text = prompt if request.prefill is None else prompt + request.prefill.text
    if not text:
        raise Untranslatable("'prompt' is empty, and a local model needs a text to go on with.", param="prompt")
    return text


class GenerateReply(OllamaReply):
    """Reads one /api/generate reply: the lines of /api/chat with the text under another name."""

    __slots__ = ()

    def _read_line(self, line: Json, readings: list[Reading]) -> None:
        message = {"content": line.get("response"), "thinking": line.get("thinking")}
        super()._read_line(line | {"message": message}, readings)


def to_compat_completion(request: CompletionRequest, model: str, profile: Profile) -> Translated:
    """The caller's body with the model's name, OpenAI's default limit and a stream asked for where there can be one."""
    asked = request.body
    dropped = lost(asked, profile.fate, unknown=Fate.CARRIED) if profile.fate is not None else ()
    ours = {*profile.drops, "best_of", "echo", "stream", "stream_options"}
    body = {name: value for name, value in asked.items() if name not in ours and (value is not None or profile.nulls)}
    body |= {"model": model, "prompt": _prompts(request), "max_tokens": request.max_tokens}
    if request.best_of > request.n:
        body["best_of"] = request.best_of
    if echoes(request):
        body["echo"] = True
    body["stream"] = completes_in_stream(request, profile)
    if body["stream"] and profile.usage_in_streams:
        body["stream_options"] = {**(asked.get("stream_options") or {}), "include_usage": True}
    return Translated(encoded(body), dropped)


def completes_in_stream(request: CompletionRequest, profile: Profile) -> bool:
    """Whether a stream is asked for: not where there is none, nor where a whole answer tells more."""
    return comes_as_stream(request, profile) and request.best_of == request.n and not echoes(request)


def _prompts(request: CompletionRequest) -> Any:
    """One prompt for itself: some servers take no list. What of its answer was said already comes behind it."""
    prompts = request.prompts
    if len(prompts) > 1:
        return list(prompts)
    if request.prefill is None:
        return prompts[0]
    if not isinstance(prompts[0], str):
        raise Untranslatable("An answer to a 'prompt' of tokens cannot be continued.", param="prompt")
    return prompts[0] + request.prefill.text


def echoes(request: CompletionRequest) -> bool:
    """Whether the server shall echo, as only it can: the probabilities of the prompt, or the text of its tokens.

    Else the answer puts the prompt before the text, which works everywhere. An echo comes whole, never as a stream: so
    where it ends is plain.
    """
    return (
        request.echo
        and request.prefill is None
        and (request.logprobs is not None or not isinstance(request.prompts[0], str))
    )


class CompletionReply(CompatReply):
    """Reads one /completions reply, a stream or a whole one: a chat's, but for the names of text and logprobs."""

    __slots__ = ("_each", "_prompts")
    _null_logprobs = True

    def __init__(
        self, make_id: Callable[[], str], profile: Profile, content_type: str, request: CompletionRequest
    ) -> None:
        super().__init__(make_id, profile, content_type)
        self._prompts = request.prompts if echoes(request) else ()
        self._each = request.n

    def _read_choice(self, choice: Json, key: str, readings: list[Reading]) -> None:
        text = choice.get("text")
        entries = chat_entries(choice.get("logprobs"))
        logprobs: Json = {"content": entries}
        echoed = self._echoed(choice, text)
        if echoed and isinstance(text, str):
            text = text[len(echoed) :]
            place = _place(entries, len(echoed))
            logprobs = {"content": entries[place:], "prompt": entries[:place]}
        native = {**choice, key: {"content": text}, "logprobs": logprobs if entries else None}
        super()._read_choice(native, key, readings)

    def _echoed(self, choice: Json, text: Any) -> str:
        """What of a text is its prompt: some servers do not echo, and tokens are echoed as a part of the text."""
        index = choice.get("index")
        place = max(0, index) // self._each if isinstance(index, int) else 0
        prompt = self._prompts[place] if place < len(self._prompts) else ""
        return prompt if isinstance(prompt, str) and isinstance(text, str) and text.startswith(prompt) else ""


def _place(entries: list[Json], length: int) -> int:
    """How many tokens make up a text of that length."""
    for place, entry in enumerate(entries):
        if length <= 0:
            return place
        length -= len(entry["token"])
    return len(entries)
