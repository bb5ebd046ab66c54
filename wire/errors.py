"""Everything that can go wrong with a call, as OpenAI would say it.

    Fault                       500 server_error
    |- BadRequest               400 invalid_request_error: the caller must change the call
    |  |- Untranslatable            ... this target cannot carry or do it, another one might
    |  `- ContextTooLong            ... context_length_exceeded
    |- Unauthorized             401 invalid_api_key
    |  `- KeyMissing                ... no key at all: code null, as OpenAI has it
    |- Forbidden                403 a web page that is not of this machine, while no keys are set
    |- NotFound                 404 no such URL
    |  `- ModelNotFound             ... model_not_found
    |- MethodNotAllowed         405
    |- TooLarge                 413 the body
    |- HeadersTooLarge          431
    |- ClientGone               499 nobody is left to answer (logs only)
    |- NoRoute                  503 the rules name no target that can be used now
    |- ShuttingDown             503
    `- UpstreamFault            502 the target failed: another one may do better
       |- ConnectFailed             ... refused, unreachable, TLS
       |- TimedOut              504 connect, first token, idle or total
       |- Cut                       ... ended before its end
       |- Garbled                   ... sent what its protocol does not allow
       |- Overloaded            503
       |- RateLimited           429
       |- KeyRefused                ... our key, our credit: never shown as the caller's own 401
       `- ModelMissing          404 the target has no such model

A class exists only where somebody behaves differently because of it. Faults become bytes here and nowhere else.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import orjson

DONE = b"data: [DONE]\n\n"


class Fault(Exception):
    """One reason why a call, or one attempt at it, failed. `message` is read by the caller: no internals in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retryable: ClassVar[bool] = False
    """True where the next target may do better."""

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds, where the target named them."""


class BadRequest(Fault):
    status = 400
    type = "invalid_request_error"


class Untranslatable(BadRequest):
    code = "unsupported_value"
    retryable = True


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


class Unauthorized(Fault):
    status = 401
    type = "invalid_request_error"
    code: ClassVar[str | None] = "invalid_api_key"


class KeyMissing(Unauthorized):
    code = None


class Forbidden(Fault):
    status = 403
    type = "request_forbidden"
    code = "origin_not_allowed"


class NotFound(Fault):
    status = 404
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(Fault):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class TooLarge(Fault):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class HeadersTooLarge(Fault):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class ClientGone(Fault):
    status = 499


class NoRoute(Fault):
    status = 503
    type = "service_unavailable_error"
    code = "no_route"


class ShuttingDown(Fault):
    status = 503
    type = "service_unavailable_error"
    code = "shutting_down"


class UpstreamFault(Fault):
    status = 502
    type = "server_error"
    code = "upstream_error"
    retryable = True


class ConnectFailed(UpstreamFault):
    code = "upstream_unreachable"


class TimedOut(UpstreamFault):
    status = 504
    code = "upstream_timeout"


class Cut(UpstreamFault):
    code = "upstream_cut"


class Garbled(UpstreamFault):
    code = "upstream_garbled"


class Overloaded(UpstreamFault):
    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class RateLimited(UpstreamFault):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class KeyRefused(UpstreamFault):
    code = "upstream_key_refused"


class ModelMissing(UpstreamFault):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


def fault_object(fault: Fault) -> dict[str, Any]:
    """The body of every error a client sees: all four keys, `code` a string or null (openai_api section 4)."""
    return {
        "error": {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code},
    }


def fault_body(fault: Fault) -> bytes:
    """The JSON body of an error answer."""
    return orjson.dumps(fault_object(fault), option=orjson.OPT_APPEND_NEWLINE)


def fault_frame(fault: Fault) -> bytes:
    """What a stream says when it must end early: an SSE error frame, then `[DONE]`.

    Every official SDK raises on a frame with an `error` key; a stream that just closes looks complete to some.
    """
    return b"data: " + orjson.dumps(fault_object(fault)) + b"\n\n" + DONE


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
_MAX_TEXT = 600


def error_text(body: bytes) -> tuple[str, int | None]:
    """What an upstream's error body says, unwrapped, and the status it names inside (or None).

    Known shapes: `{"error": "text"}` (Ollama), `{"error": {"message": ...}}` (OpenAI), `{"error": "{json}"}` (Ollama
    handing on its runner's error), `{"message": ...}`, plain text. HTML says nothing: it is a proxy's page.
    """
    status: int | None = None
    value: Any = body.decode("utf-8", "replace").strip()
    for _ in range(8):  # Ollama's /v1 layer wraps once more than its native one
        match value:
            case {"error": inner}:
                value = inner
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
    return text[:_MAX_TEXT], status


def rejection(status: int, body: bytes, retry_after: str | None = None) -> Fault:
    """The fault behind an upstream's error answer (ollama_api section 5, openai_api sections 4 and 6.4)."""
    text, inner = error_text(body)
    if status == 500 and inner is not None and 400 <= inner < 500:
        status = inner  # Ollama wraps its runner's 400 into a 500 of its own
    wait = _seconds(retry_after)
    match status:
        case 400 | 413 | 422 if _NO_CONTEXT.search(text):
            return ContextTooLong(text, param="messages")
        case 400 | 404 if _NO_MODEL.search(text):
            return ModelMissing(text)
        case 400 | 500 if _NOT_ABLE.search(text):
            return Untranslatable(text)
        case 400 | 413 | 422:
            return BadRequest(text or "The model server refused the request without saying why.")
        case 401:
            return KeyRefused("refuses the gateway's key (401)")
        case 402:
            return KeyRefused("says that the gateway's account has no credit (402)")
        case 403:
            return KeyRefused("forbids the gateway's call (403)")
        case 404:
            return UpstreamFault("has no such endpoint (404)")
        case 408 | 504:
            return TimedOut(f"gave up waiting ({status})", retry_after=wait)
        case 429:
            return RateLimited("is rate limiting us (429)", retry_after=wait)
        case 503:
            return Overloaded("is overloaded (503)", retry_after=wait)
        case _ if status >= 500:
            return UpstreamFault(f"had an internal error ({status})", retry_after=wait)
        case _:
            return Garbled(f"answered with an unexpected status ({status})")


def in_stream_error(value: Any) -> Fault:
    """The fault behind an error object inside a stream (status 200 went out long ago)."""
    text, status = error_text(orjson.dumps({"error": value}))
    if status is None and _NO_CONTEXT.search(text):
        status = 400
    return rejection(status or 500, orjson.dumps({"error": text}))


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds; the date form is read where the clock is (not here) and counts as absent."""
    try:
        seconds = float(retry_after or "nan")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
