"""Faults: what is behind an upstream's error answer, and how a caller is told."""

from __future__ import annotations

import orjson
import pytest

from wire import errors
from wire.errors import Fault, error_text, fault_body, fault_frame, in_stream_error, rejection

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
            orjson.dumps({"error": {"message": WRAPPED}}), (OVERFLOW, 400), id="Ollama's /v1 wrapping it once more"
        ),
        pytest.param(
            b'{"error":"llama-server chat error: map[code:500 message:bad type:server_error]"}',
            ("llama-server chat error: map[code:500 message:bad type:server_error]", None),
            id="A Go map is text",
        ),
        pytest.param(b'{"message":"no"}', ("no", None), id="A flat message"),
        pytest.param(
            b'{"detail":[{"msg":"no"}]}', ('{"detail":[{"msg":"no"}]}', None), id="An unknown object is quoted whole"
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


def test_an_error_wrapped_too_often_is_quoted_as_it_is() -> None:
    assert error_text(b'{"error":' * 20 + b'"no"' + b"}" * 20) == ('{"error":' * 13 + '"no"' + "}" * 13, None)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "nonsense", errors.BadRequest),
        (400, "", errors.BadRequest),
        (413, "body too large", errors.BadRequest),
        (422, "nonsense", errors.BadRequest),
        (400, OVERFLOW, errors.ContextTooLong),
        (413, OVERFLOW, errors.ContextTooLong),
        (400, "This model's maximum context length is 8192 tokens.", errors.ContextTooLong),
        (400, "the input length exceeds the context length", errors.ContextTooLong),
        (400, "Model Not Exist", errors.ModelMissing),
        (400, "The supported API model names are a or b, but you passed c.", errors.ModelMissing),
        (400, "invalid model name", errors.ModelMissing),
        (404, "model 'x' not found", errors.ModelMissing),
        (404, 'model "x" not found, try pulling it first', errors.ModelMissing),
        (404, "404 page not found", errors.UpstreamFault),
        (401, "wrong key", errors.KeyRefused),
        (402, "Insufficient Balance", errors.KeyRefused),
        (403, "", errors.KeyRefused),
        (408, "", errors.TimedOut),
        (504, "", errors.TimedOut),
        (429, "slow down", errors.RateLimited),
        (503, "busy", errors.Overloaded),
        (500, "boom", errors.UpstreamFault),
        (501, "not implemented", errors.UpstreamFault),
        (529, "overloaded", errors.UpstreamFault),
        (301, "", errors.Garbled),
        (405, "405 method not allowed", errors.Garbled),
        (101, "", errors.Garbled),
    ],
)
def test_a_bad_status_is_a_fault_of_its_kind(status: int, text: str, kind: type[Fault]) -> None:
    fault = rejection(status, orjson.dumps({"error": text}))
    assert type(fault) is kind
    assert fault.message


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503, 504, 302])
def test_what_an_upstream_says_of_itself_stays_inside(status: int) -> None:
    fault = rejection(status, b'{"error":"secret host db-7 at /opt/models"}')
    assert "secret" not in fault.message


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, None),
        ("", None),
        ("12", 12.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("Sat, 21 Nov 2026 00:00:00 GMT", None),
    ],
)
def test_a_retry_after_counts_if_it_is_in_seconds(retry_after: str | None, seconds: float | None) -> None:
    assert rejection(429, b"", retry_after).retry_after == seconds


def test_an_error_amid_a_stream_has_its_own_status_or_is_the_servers() -> None:
    assert type(in_stream_error("boom")) is errors.UpstreamFault
    assert type(in_stream_error({"message": "slow", "code": 429})) is errors.RateLimited
    assert type(in_stream_error(WRAPPED)) is errors.ContextTooLong
    assert type(in_stream_error(OVERFLOW)) is errors.ContextTooLong
    assert type(in_stream_error(None)) is errors.UpstreamFault


def test_a_fault_is_openais_object_as_a_body_and_as_the_end_of_a_stream() -> None:
    fault = errors.BadRequest("'n' is “odd”.", param="n")
    spoken = '{"error":{"message":"\'n\' is “odd”.","type":"invalid_request_error","param":"n","code":null}}'.encode()
    assert fault_body(fault) == spoken + b"\n"
    assert fault_frame(fault) == b"data: " + spoken + b"\n\ndata: [DONE]\n\n"


def _tree(kind: type[Fault]) -> list[type[Fault]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


@pytest.mark.parametrize("kind", _tree(Fault), ids=lambda kind: kind.__name__)
def test_every_fault_has_a_status_and_a_code_that_sdks_can_read(kind: type[Fault]) -> None:
    fault = kind("Why.")
    assert 400 <= fault.status < 600
    assert fault.code is None or isinstance(fault.code, str)
    assert fault.retryable == (issubclass(kind, errors.UpstreamFault) or kind is errors.Untranslatable)
    assert str(fault) == "Why."
