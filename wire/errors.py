"""Everything that can go wrong with a call, as OpenAI would say it, and of what kind it is.

                                    kind
    Fault                       500 -               server_error
    |- BadRequest               400 -               invalid_request_error: the caller must change the call
    |  |- Untranslatable            unsupported     this target cannot carry or do it, another one might
    |  |- TooLargeThere         413 unsupported     this target takes no body as large as this one
    |  `- ContextTooLong            context         context_length_exceeded; another target may have a larger window
    |- Unauthorized             401 -               invalid_api_key
    |  `- KeyMissing                -               no key at all: code null, as OpenAI has it
    |- Forbidden                403 -               a web page that is not of this machine, while no keys are set
    |  |- ModelForbidden            -               model_not_found: this client may not name the model
    |  `- EndpointForbidden         -               this client may not call the endpoint
    |- NotFound                 404 -               no such URL
    |  `- ModelNotFound             -               model_not_found
    |- MethodNotAllowed         405 -
    |- TooLarge                 413 -               the body
    |- HeadersTooLarge          431 -
    |- ClientGone               499 -               nobody is left to answer (logs only)
    |- LimitReached             429 -               rate_limit_exceeded: a limit of the rules on requests
    |  `- TokensReached             -               ... on tokens
    |     `- NeverFits              -               more tokens than the limit itself: asking again cannot help
    |- QuotaUsedUp              429 -               insufficient_quota: a budget of the rules
    |- LimitsUnknown            503 -               the store of the limits is away, and the rules want it
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
       |  |- CreditUsedUp       429 key             a 402: our account there has no credit left; insufficient_quota
       |  `- CallForbidden          key             a 403: maybe about this one model only
       |- NotAsAsked                schema          its complete answer is not the JSON that was asked for
       |- NotContinued              not_continued   neither went on with a begun answer nor repeated it
       `- ModelMissing          404 model_missing   the target has no such model

A class exists only where somebody behaves differently because of it. The kind is what a rules file calls the failure;
without one (-) it is the caller's own fault or ours, and no other target could do better. An error that an upstream
sends inside a stream is a stream_error whatever its class. Faults become bytes here and nowhere else. What upstreams
say becomes faults in rejections.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

import orjson

DONE = b"data: [DONE]\n\n"


class Fault(Exception):
    """One reason why a call, or one attempt at it, failed. `message` is read by the caller: no internals in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    final: ClassVar[bool] = False
    """Asking again cannot help, though the status reads as if it could: the SDKs are told."""
    code: str | None = None
    kind: str | None = None
    """What a rules file calls this failure. None: the caller's own fault or ours, never routed around."""

    detail: str = ""
    """What the server itself said, as far as a log may keep it."""
    kept: str | None = None
    """The message as a log may keep it, where it has words of others; None: as it is (see plain_words.py)."""

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


class TooLargeThere(BadRequest):
    status = 413
    code = "request_too_large"
    kind = "unsupported"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"
    kind = "context"


class Unauthorized(Fault):
    status = 401
    type = "invalid_request_error"
    code: str | None = "invalid_api_key"


class KeyMissing(Unauthorized):
    code: str | None = None


class Forbidden(Fault):
    status = 403
    type = "request_forbidden"
    code = "origin_not_allowed"


class ModelForbidden(Forbidden):
    type = "invalid_request_error"
    code = "model_not_found"


class EndpointForbidden(Forbidden):
    code = "endpoint_not_allowed"


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


class LimitReached(Fault):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class TokensReached(LimitReached):
    type = "tokens"


class NeverFits(TokensReached):
    final = True


class QuotaUsedUp(Fault):
    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    final = True


class LimitsUnknown(Fault):
    status = 503
    type = "service_unavailable_error"
    code = "limits_unavailable"


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


class CreditUsedUp(KeyRefused):
    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    final = True


class NotAsAsked(UpstreamFault):
    """A complete answer that is no JSON, or does not fit the caller's schema."""

    kind = "schema"

    answer: str = ""
    """For another try; never shown."""

    @classmethod
    def of(cls, answer: str, message: str) -> NotAsAsked:
        fault = cls(message)
        fault.answer = answer
        return fault


class NotContinued(UpstreamFault):
    kind = "not_continued"


class CallForbidden(KeyRefused):
    """A 403: about our account, or only about this model."""


class ModelMissing(UpstreamFault):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    kind = "model_missing"


def restated(fault: Fault, words: Callable[[str], str]) -> Fault:
    """The same fault in other words: `words` gives those for its parameter, and for any that its message quotes."""
    other = copy(fault)
    other.message = _QUOTED.sub(lambda quoted: f"'{words(quoted[1])}'", fault.message)
    other.param = words(fault.param) if fault.param is not None else None
    return other


_QUOTED = re.compile(r"'([a-z_]+(?:\[\d+\]|\.[a-z_]+)*)'")


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
