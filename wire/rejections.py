"""What upstreams say when they refuse or fail, read into the faults of errors.py.

The trap: everybody has another form for it, some wrap the form of another server into their own, and a few say with
status 500 what is the caller's to mend. What an upstream says of itself stays inside; only what it says of the request
is passed on.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from wire.errors import (
    BadRequest,
    CallForbidden,
    ContextTooLong,
    CreditUsedUp,
    Fault,
    Garbled,
    KeyRefused,
    ModelMissing,
    Overloaded,
    RateLimited,
    TimedOut,
    TooLargeThere,
    Untranslatable,
    UpstreamFault,
)
from wire.plain_words import plain_words

_NO_CONTEXT = re.compile(
    r"exceed(s|_)\S*.{0,20}context|context (length|size|window)|maximum context length|input length exceeds",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model.{0,200}(not found|does not exist|not exist)|no such model|invalid model name|supported API model names",
    re.IGNORECASE,
)
_NOT_ABLE = re.compile(
    r"does not support (tools|thinking|insert|chat|generate|multimodal)|image input is not supported", re.IGNORECASE
)
_GO_MAP = re.compile(r"map\[code:(\d{3}) message:(.*?)(?: n_ctx:\d+ n_prompt_tokens:\d+)? type:\w+\]", re.DOTALL)
"""An error object of Ollama's runner as Go prints it, in the midst of a text."""
_TOO_LONG = re.compile(rb'"(?:code|type)"\s*:\s*"(?:context_length_exceeded|exceed_context_size_error)"')
"""Says the same where the words say something else: Groq's only ask for less."""
_TOO_MANY = re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")
_FLAGGED = re.compile(r"moderation|flagged|content.{0,10}(policy|filter)|safety", re.IGNORECASE)
"""A 403 that is about the prompt and not about our key: OpenRouter answers so."""
_MAX_TEXT = 600
_MAX_MAP = 4000
"""Characters in which a Go map is looked for."""


def error_text(body: bytes) -> tuple[str, int | None]:
    """What an upstream's error body says, unwrapped, and the status it names inside (or None).

    Known shapes: `{"error": "text"}` (Ollama), `{"error": {"message": ...}}` (OpenAI), the same in an array (Gemini),
    `{"error": "{json}"}` (Ollama handing on its runner's error), `{"message": ...}`, `{"detail": "text"}` (FastAPI, and
    so vLLM and llama-cpp-python), `{"detail": [{"loc": [...], "msg": ...}]}` (the same, of a body that does not fit),
    plain text. HTML says nothing: it is a proxy's page.
    """
    status: int | None = None
    value: Any = body.decode("utf-8", "replace").strip()
    for _ in range(8):  # Ollama's /v1 layer wraps once more than its native one
        match value:
            case {"error": inner} | [{"error": inner}] | {"detail": inner}:
                value = inner
            case {"n_prompt_tokens": int(sent), "n_ctx": int(size)}:  # some versions of llama.cpp say them only here
                status = 400
                value = f"request ({sent} tokens) exceeds the available context size ({size} tokens)"
            case [{"msg": str()}, *_]:
                value = _misfits(value)
            case {"message": inner, "code": int(number)}:
                status = number
                value = inner
            case {"message": inner}:
                value = inner
            case str() as text if text[:1] in ("{", '"'):
                try:
                    value = orjson.loads(text)
                except orjson.JSONDecodeError:
                    break
            case _:
                break
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # what orjson reads may nest deeper than what it writes
        text = ""
    if text.lstrip()[:1] == "<":
        text = ""
    printed = _GO_MAP.search(text[:_MAX_MAP]) if "map[code:" in text else None
    if printed is not None:
        status, text = int(printed[1]), printed[2]
    return text[:_MAX_TEXT], status


def _misfits(found: list[Any]) -> str:
    """What pydantic says of a request that does not fit, at each place but once, with places in OpenAI's spelling."""
    said: dict[str, str] = {}
    for one in found:
        match one:
            case {"msg": str(words), "loc": ["body", *steps]} if steps:
                place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
                said.setdefault(place, f"'{place}': {words}")
            case {"msg": str(words)}:
                said.setdefault("", words)
            case _:
                pass
    return "; ".join([*said.values()][:_MAX_MISFITS])


_MAX_MISFITS = 3
"""Where a value may have several forms there is a misfit for each of them."""


def rejection(status: int, body: bytes, retry_after: str | None = None, now: float | None = None) -> Fault:
    """The fault behind an upstream's error answer (ollama_api section 5, openai_api sections 4 and 6.4).

    `retry_after` is the header as it came; `now`, in Unix time, is needed to read it where it is a date. What the
    server says of the request is the fault's, `param` and `code` included; what it says of itself is its `detail`.
    """
    text, inner = error_text(body)
    fault = _fault_of(status, text, inner, body, retry_after, now)
    if text and text in fault.message:
        fault.kept = plain_words(text) or "refuses the request, in words of its own"
    elif isinstance(fault, UpstreamFault):
        fault.detail = plain_words(text)
    if type(fault) is BadRequest:
        _take_names(fault, body)
    return fault


def _take_names(fault: BadRequest, body: bytes) -> None:
    """The `param` and `code` of an error object in OpenAI's form. DeepSeek's one code for everything says nothing."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    match value:
        case {"error": {"param": str(param)}} if fault.param is None and _PARAM.fullmatch(param):
            fault.param = param
        case _:
            pass
    match value:
        case {"error": {"code": str(code)}} if _CODE.fullmatch(code) and code != BadRequest.type:
            fault.code = code
        case _:
            pass


_PARAM = re.compile(r"[\w.\[\]-]{1,128}", re.ASCII)
_CODE = re.compile(r"[a-z0-9_]{1,64}")


def _fault_of(
    status: int, text: str, inner: int | None, body: bytes, retry_after: str | None, now: float | None
) -> Fault:
    if status == 500 and inner is not None and 400 <= inner < 500:
        status = inner  # Ollama wraps its runner's 400 into a 500 of its own
    wait = _seconds(retry_after, now)
    kind = f"status_{status}"
    match status:
        case 400 | 413 | 422 if _is_too_long(text, body):
            return ContextTooLong(_too_long(text), param="messages")
        case 400 | 404 if _NO_MODEL.search(text):
            return ModelMissing(text)
        case 400 | 500 if _NOT_ABLE.search(text):
            return Untranslatable(text)
        case 413:
            return TooLargeThere(text or "The model server takes no request as large as this one. Make it smaller.")
        case 400 | 422:
            return BadRequest(text or "The model server refused the request without saying why.")
        case 401:
            return KeyRefused("refuses the gateway's key (401)")
        case 402:
            return CreditUsedUp("says that the gateway's account has no credit (402)")
        case 403 if _FLAGGED.search(text):
            return BadRequest(text)
        case 403:
            return CallForbidden("forbids the gateway's call (403)")
        case 404:
            return UpstreamFault("has no such endpoint (404)", kind=kind)
        case 408 | 504:
            return TimedOut(f"gave up waiting ({status})", retry_after=wait, kind=kind)
        case 429:
            return RateLimited("is rate limiting us (429)", retry_after=wait)
        case 501:  # Ollama, of a model that makes no embeddings
            return Untranslatable(text or "The model server cannot do this.", param="model")
        case 503:
            return Overloaded("is overloaded (503)", retry_after=wait)
        case _ if status >= 500:
            return UpstreamFault(f"had an internal error ({status})", retry_after=wait, kind=kind)
        case _:
            # A 204 is no kind of failure that a rules file would name: it is an answer without sense.
            kind = kind if status >= 300 else "malformed"
            return Garbled(f"answered with an unexpected status ({status})", kind=kind)


def _is_too_long(text: str, body: bytes) -> bool:
    return bool(_NO_CONTEXT.search(text) or _TOO_LONG.search(body))


def _too_long(text: str) -> str:
    """What a server says about too long a prompt, in OpenAI's words where it gives both numbers."""
    found = _TOO_MANY.search(text)
    if found is None:
        return text
    return (
        f"This model's maximum context length is {found[2]} tokens. However, your messages resulted in {found[1]} "
        "tokens. Please reduce the length of the messages."
    )


def in_stream_error(value: Any) -> Fault:
    """The fault behind an error object inside a stream (status 200 went out long ago)."""
    try:
        body = orjson.dumps({"error": value})
    except orjson.JSONEncodeError:  # nested too deeply
        body = b""
    text, status = error_text(body)
    if status is None and _is_too_long(text, body):
        status = 400
    fault = rejection(status or 500, body)
    if isinstance(fault, UpstreamFault) and not isinstance(fault, ModelMissing):
        fault.kind = UpstreamFault.kind
    return fault


def _seconds(retry_after: str | None, now: float | None) -> float | None:
    """`Retry-After` in seconds from now: a number, or a date (RFC 9110 section 10.2.3). Garbage counts as absent."""
    text = retry_after or ""
    try:
        seconds = float(text)
    except ValueError:
        moment = _date(text)
        if moment is None or now is None:
            return None
        seconds = moment - now
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(text: str) -> float | None:
    """An HTTP date in Unix time. All of them mean GMT, also the one form of them that does not say so."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
