"""Everything that can go wrong with a call, as OpenAI would say it, and of what kind it is.

                                    kind
    Fault                       500 -               server_error
    |- BadRequest               400 -               invalid_request_error: the caller must change the call
    |  |- Untranslatable            unsupported     this target cannot carry or do it, another one might
    |  `- ContextTooLong            context         context_length_exceeded; another target may have a larger window
    |- Unauthorized             401 -               invalid_api_key
    |  `- KeyMissing                -               no key at all: code null, as OpenAI has it
    |- Forbidden                403 -               a web page that is not of this machine, while no keys are set
    |- NotFound                 404 -               no such URL
    |  `- ModelNotFound             -               model_not_found
    |- MethodNotAllowed         405 -
    |- TooLarge                 413 -               the body
    |- HeadersTooLarge          431 -
    |- ClientGone               499 -               nobody is left to answer (logs only)
    |- NoRoute                  503 -               the rules name no target that can be used now
    |- ShuttingDown             503 -
    `- UpstreamFault            502 stream_error    the target failed: another one may do better
       |                            status_NNN      ... its error answer, where no class below says more
       |                            resources       ... its finish_reason said that it ran out of them
       |                            blank           ... nothing but blanks where JSON was asked for
       |- ConnectFailed             connect         refused, unreachable
       |  `- TlsFailed              tls             no trust, or no TLS at all
       |- TimedOut              504 first_token     or idle, connect, total; status_408 and status_504 are the target's
       |- Cut                       cut             a clean end before the answer's; reset where it was not clean
       |- Garbled                   malformed       sent what its protocol does not allow
       |- Overloaded            503 status_503
       |  `- Resting                resting         not asked: it failed too often just now
       |- RateLimited           429 status_429
       |  `- Busy                   busy            not asked: all places at it are taken, and so is the queue
       |- KeyRefused                key             our key, our credit: never shown as the caller's own 401
       |  `- CallForbidden          key             a 403: maybe about this one model only
       |- NotContinued              not_continued   neither went on with a begun answer nor repeated it
       `- ModelMissing          404 model_missing   the target has no such model

A class exists only where somebody behaves differently because of it. The kind is what a rules file calls the failure;
without one (-) it is the caller's own fault or ours, and no other target could do better. An error that an upstream
sends inside a stream is a stream_error whatever its class. Faults become bytes here and nowhere else.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import orjson

DONE = b"data: [DONE]\n\n"


class Fault(Exception):
    """One reason why a call, or one attempt at it, failed. `message` is read by the caller: no internals in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    kind: str | None = None
    """What a rules file calls this failure. None: the caller's own fault or ours, never routed around."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None, kind: str | None = None
    ) -> None:
        """`kind` says it more exactly than the class does."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds, where the target named them."""
        if kind is not None:
            self.kind = kind


class BadRequest(Fault):
    status = 400
    type = "invalid_request_error"


class Untranslatable(BadRequest):
    code = "unsupported_value"
    kind = "unsupported"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"
    kind = "context"


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
    kind = "stream_error"


class ConnectFailed(UpstreamFault):
    code = "upstream_unreachable"
    kind = "connect"


class TlsFailed(ConnectFailed):
    kind = "tls"


class TimedOut(UpstreamFault):
    status = 504
    code = "upstream_timeout"
    kind = "first_token"


class Cut(UpstreamFault):
    code = "upstream_cut"
    kind = "cut"


class Garbled(UpstreamFault):
    code = "upstream_garbled"
    kind = "malformed"


class Overloaded(UpstreamFault):
    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"
    kind = "status_503"


class Resting(Overloaded):
    kind = "resting"


class RateLimited(UpstreamFault):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    kind = "status_429"


class Busy(RateLimited):
    kind = "busy"


class KeyRefused(UpstreamFault):
    code = "upstream_key_refused"
    kind = "key"


class NotContinued(UpstreamFault):
    kind = "not_continued"


class CallForbidden(KeyRefused):
    """A 403: about our account, or only about this model."""


class ModelMissing(UpstreamFault):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    kind = "model_missing"


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
_FLAGGED = re.compile(r"moderation|flagged|content.{0,10}(policy|filter)|safety", re.IGNORECASE)
"""A 403 that is about the prompt and not about our key: OpenRouter answers so."""
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


def rejection(status: int, body: bytes, retry_after: str | None = None, now: float | None = None) -> Fault:
    """The fault behind an upstream's error answer (ollama_api section 5, openai_api sections 4 and 6.4).

    `retry_after` is the header as it came; `now`, in Unix time, is needed to read it where it is a date.
    """
    text, inner = error_text(body)
    if status == 500 and inner is not None and 400 <= inner < 500:
        status = inner  # Ollama wraps its runner's 400 into a 500 of its own
    wait = _seconds(retry_after, now)
    kind = f"status_{status}"
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
        case 503:
            return Overloaded("is overloaded (503)", retry_after=wait)
        case _ if status >= 500:
            return UpstreamFault(f"had an internal error ({status})", retry_after=wait, kind=kind)
        case _:
            # A 204 is no kind of failure that a rules file would name: it is an answer without sense.
            kind = kind if status >= 300 else "malformed"
            return Garbled(f"answered with an unexpected status ({status})", kind=kind)


def in_stream_error(value: Any) -> Fault:
    """The fault behind an error object inside a stream (status 200 went out long ago)."""
    text, status = error_text(orjson.dumps({"error": value}))
    if status is None and _NO_CONTEXT.search(text):
        status = 400
    fault = rejection(status or 500, orjson.dumps({"error": text}))
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
