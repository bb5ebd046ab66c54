"""What upstreams say when they refuse or fail: unwrapped, and a fault of its kind."""

from __future__ import annotations

import math
import random

import orjson
import pytest

from wire import errors
from wire.errors import Fault
from wire.rejections import error_text, in_stream_error, rejection

OVERFLOW = "request (9 tokens) exceeds the available context size (8 tokens), try increasing it"
WRAPPED = orjson.dumps({"error": {"code": 400, "message": OVERFLOW, "type": "exceed_context_size_error"}}).decode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"error":"model is required"}', ("model is required", None), id="Ollama's plain text"),
        pytest.param(
            b'{"error":{"message":"no","type":"x","param":null,"code":null}}', ("no", None), id="OpenAI's object"
        ),
        pytest.param(b'{"error":{"message":"no","code":"bad"}}', ("no", None), id="A code that is a word is no status"),
        pytest.param(b'{"error":{"message":"no","code":429}}', ("no", 429), id="A code that is a number is a status"),
        pytest.param(orjson.dumps({"error": WRAPPED}), (OVERFLOW, 400), id="Ollama handing on its runner's error"),
        pytest.param(
            b'{"error":"llama-server chat error: map[code:400 message:request (9 tokens) exceeds the available context '
            b'size (8 tokens), try increasing it n_ctx:8 n_prompt_tokens:9 type:exceed_context_size_error]"}',
            (OVERFLOW, 400),
            id="Ollama's runner printed as a Go map",
        ),
        pytest.param(
            b'{"error":"x map[code:500 message:output type: [bad] type:server_error]"}',
            ("output type: [bad]", 500),
            id="A Go map with signs of its own in the message",
        ),
        pytest.param(b'{"error":"map[code:none]"}', ("map[code:none]", None), id="Something like a Go map"),
        pytest.param(
            orjson.dumps({"error": {"message": WRAPPED}}), (OVERFLOW, 400), id="Ollama's /v1 wrapping it once more"
        ),
        pytest.param(
            b'{"error":"llama-server chat error: map[code:500 message:bad type:server_error]"}',
            ("bad", 500),
            id="A Go map",
        ),
        pytest.param(b'{"message":"no"}', ("no", None), id="A flat message"),
        pytest.param(
            b'{"problem":[{"msg":"no"}]}', ('{"problem":[{"msg":"no"}]}', None), id="An unknown object is quoted whole"
        ),
        pytest.param(b"404 page not found", ("404 page not found", None), id="Plain text"),
        pytest.param(b' "quoted" ', ("quoted", None), id="A JSON string"),
        pytest.param(b'"tiny" does not think', ('"tiny" does not think', None), id="Text that only begins like JSON"),
        pytest.param(b"{not JSON", ("{not JSON", None), id="Text that only begins like an object"),
        pytest.param(b"<html><body>Bad Gateway</body></html>", ("", None), id="A proxy's page says nothing"),
        pytest.param(b"", ("", None), id="Nothing"),
        pytest.param(b"\xff\xfe\x00", ("\ufffd\ufffd\x00", None), id="Bytes that are no text"),
        pytest.param(b"x" * 5000, ("x" * 600, None), id="A long text is cut"),
    ],
)
def test_an_error_body_is_unwrapped(body: bytes, expected: tuple[str, int | None]) -> None:
    assert error_text(body) == expected


def test_an_error_that_nests_more_deeply_than_json_can_be_written_says_nothing() -> None:
    assert error_text(b'{"error":{"message":' + b"[" * 400 + b"]" * 400 + b"}}") == ("", None)


def test_an_error_amid_a_stream_that_nests_more_deeply_is_the_servers() -> None:
    value: list[object] = []
    for _ in range(400):
        value = [value]
    assert type(in_stream_error({"message": value})) is errors.UpstreamFault


def test_an_error_wrapped_too_often_is_quoted_as_it_is() -> None:
    assert error_text(b'{"error":' * 20 + b'"no"' + b"}" * 20) == ('{"error":' * 13 + '"no"' + "}" * 13, None)


@pytest.mark.parametrize(
    ("status", "text", "fault_class", "kind"),
    [
        (400, "nonsense", errors.BadRequest, None),
        (400, "", errors.BadRequest, None),
        (413, "body too large", errors.TooLargeThere, "unsupported"),
        (413, "<html>nginx</html>", errors.TooLargeThere, "unsupported"),
        (422, "nonsense", errors.BadRequest, None),
        (400, OVERFLOW, errors.ContextTooLong, "context"),
        (413, OVERFLOW, errors.ContextTooLong, "context"),
        (400, "This model's maximum context length is 8192 tokens.", errors.ContextTooLong, "context"),
        (400, "the input length exceeds the context length", errors.ContextTooLong, "context"),
        (400, "Model Not Exist", errors.ModelMissing, "model_missing"),
        (400, "The supported API model names are a or b, but you passed c.", errors.ModelMissing, "model_missing"),
        (400, "invalid model name", errors.ModelMissing, "model_missing"),
        (404, "model 'x' not found", errors.ModelMissing, "model_missing"),
        (404, 'model "x" not found, try pulling it first', errors.ModelMissing, "model_missing"),
        (404, "404 page not found", errors.UpstreamFault, "status_404"),
        (401, "wrong key", errors.KeyRefused, "key"),
        (402, "Insufficient Balance", errors.CreditUsedUp, "key"),
        (403, "", errors.CallForbidden, "key"),
        (403, "Your input was flagged by our moderation.", errors.BadRequest, None),
        (408, "", errors.TimedOut, "status_408"),
        (504, "", errors.TimedOut, "status_504"),
        (429, "slow down", errors.RateLimited, "status_429"),
        (503, "busy", errors.Overloaded, "status_503"),
        (500, "boom", errors.UpstreamFault, "status_500"),
        (501, "This server does not support embeddings.", errors.Untranslatable, "unsupported"),
        (529, "overloaded", errors.UpstreamFault, "status_529"),
        (400, "registry.local/tiny does not support tools", errors.Untranslatable, "unsupported"),
        (500, "image input is not supported", errors.Untranslatable, "unsupported"),
        (301, "", errors.Garbled, "status_301"),
        (405, "405 method not allowed", errors.Garbled, "status_405"),
        (101, "", errors.Garbled, "malformed"),
        (204, "", errors.Garbled, "malformed"),
    ],
)
def test_a_bad_status_is_a_fault_of_its_kind(
    status: int, text: str, fault_class: type[Fault], kind: str | None
) -> None:
    fault = rejection(status, orjson.dumps({"error": text}))
    assert type(fault) is fault_class
    assert fault.kind == kind
    assert fault.message


def test_too_long_a_prompt_is_told_in_openais_words_where_the_numbers_are_known() -> None:
    assert rejection(400, orjson.dumps({"error": OVERFLOW})).message == (
        "This model's maximum context length is 8 tokens. However, your messages resulted in 9 tokens. "
        "Please reduce the length of the messages."
    )
    prose = "the prompt is longer than the context length currently available to the model"
    assert rejection(400, orjson.dumps({"error": prose})).message == prose


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503, 504, 302])
def test_what_an_upstream_says_of_itself_stays_inside(status: int) -> None:
    fault = rejection(status, b'{"error":"secret host db-7 at /opt/models"}')
    assert "secret" not in fault.message


NOW = 1_795_219_200.0
"""Saturday, 21 November 2026, midnight GMT."""


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        pytest.param(None, None, id="No header"),
        pytest.param("", None, id="An empty one"),
        pytest.param("12", 12.0, id="Seconds"),
        pytest.param("0.5", 0.5, id="Parts of a second"),
        pytest.param("-3", 0.0, id="Less than nothing is nothing"),
        pytest.param("soon", None, id="A word"),
        pytest.param("inf", None, id="For ever"),
        pytest.param("nan", None, id="No number"),
        pytest.param("1e999", None, id="A number without end"),
        pytest.param("Sat, 21 Nov 2026 00:01:30 GMT", 90.0, id="A date"),
        pytest.param("Fri, 20 Nov 2026 23:59:59 GMT", 0.0, id="A date that is over"),
        pytest.param("Saturday, 21-Nov-26 00:00:07 GMT", 7.0, id="A date of RFC 850"),
        pytest.param("Sat Nov 21 00:00:08 2026", 8.0, id="A date as C has it, which means GMT too"),
        pytest.param("Sat, 21 Nov 2026 01:00:09 +0100", 9.0, id="A date elsewhere"),
        pytest.param("Sat, 21 Nov 2026 00:00:10 -0000", 10.0, id="A date of no known place means GMT"),
        pytest.param("Sat, 31 Feb 2026 00:00:00 GMT", None, id="A day that there is not"),
        pytest.param("Sat, 21 Nov " + "9" * 30 + " 00:00:00 GMT", None, id="A year that no calendar reaches"),
        pytest.param("Sat, 21 Nov 2026 00:00:00 +9999", None, id="A zone that no clock has"),
        pytest.param("Sat, 21 Nov", None, id="Half a date"),
    ],
)
def test_a_retry_after_is_a_wait_in_seconds(retry_after: str | None, seconds: float | None) -> None:
    assert rejection(429, b"", retry_after, now=NOW).retry_after == seconds


def test_whatever_stands_in_a_retry_after_it_is_a_wait_or_none() -> None:
    chance = random.Random(20261121)
    pieces = [
        "Sat",
        ",",
        " ",
        "21",
        "Nov",
        "2026",
        "00:00:00",
        "GMT",
        "-0000",
        "+99",
        ":",
        "-",
        "1",
        "(",
        ")",
        "\x00",
        "9" * 9,
    ]
    for _ in range(5000):
        text = "".join(chance.choices(pieces, k=chance.randint(0, 9)))
        wait = rejection(503, b"", text, now=NOW).retry_after
        assert wait is None or (wait >= 0 and math.isfinite(wait))


def test_without_a_clock_a_date_says_nothing() -> None:
    assert rejection(429, b"", "Sat, 21 Nov 2026 00:01:30 GMT").retry_after is None
    assert rejection(429, b"", "90").retry_after == 90.0


@pytest.mark.parametrize(
    ("value", "fault_class", "kind"),
    [
        ("boom", errors.UpstreamFault, "stream_error"),
        (None, errors.UpstreamFault, "stream_error"),
        ({"message": "slow", "code": 429}, errors.RateLimited, "stream_error"),
        ({"message": "full", "code": 503}, errors.Overloaded, "stream_error"),
        ({"message": "late", "code": 504}, errors.TimedOut, "stream_error"),
        ({"message": "odd", "code": 302}, errors.Garbled, "stream_error"),
        ({"message": "who?", "code": 401}, errors.KeyRefused, "stream_error"),
        ({"message": "model 'x' not found", "code": 404}, errors.ModelMissing, "model_missing"),
        ({"message": "bad schema", "code": 400}, errors.BadRequest, None),
        ({"message": "m does not support tools", "code": 400}, errors.Untranslatable, "unsupported"),
        (WRAPPED, errors.ContextTooLong, "context"),
        (OVERFLOW, errors.ContextTooLong, "context"),
    ],
)
def test_an_error_amid_a_stream_has_its_own_status_or_is_the_servers(
    value: object, fault_class: type[Fault], kind: str | None
) -> None:
    fault = in_stream_error(value)
    assert type(fault) is fault_class
    assert fault.kind == kind


def test_what_a_server_says_of_itself_is_kept_for_the_log() -> None:
    fault = rejection(500, b'{"error": {"message": "CUDA out\\n of memory"}}')
    assert (fault.message, fault.detail) == ("had an internal error (500)", "CUDA out of memory")
    assert 190 < len(rejection(503, b'{"error": "' + b"overload " * 500 + b'"}').detail) <= 200
    assert rejection(400, b'{"error": "yours"}').detail == ""
