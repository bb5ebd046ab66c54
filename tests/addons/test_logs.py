"""The log: one line per call in either form, nothing a caller sends can break or forge it, and no secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from loguru import logger

from addons.logs import redactor, set_up_logging
from addons.settings import SettingsError
from tests.addons.doors import Door, logging_restored
from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn, ResetBeforeHeaders

ODD_SECRET = "k\"e'y\\with +%41&=/é"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    with logging_restored():
        yield io.StringIO()


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(reply=["Hi", " there"]) as server:
        yield server


ONCE = "  failover: {attempts: 1}"


def calls(log: str) -> list[str]:
    return [row for row in log.splitlines() if " req_" in row or '"request_id"' in row]


def make_calls(gateway: Gateway, ollama: OllamaStandIn) -> list[str]:
    """Calls of many kinds; gives their request ids in order."""
    answers = [gateway.chat(), gateway.chat(stream=True), gateway.chat(temperature=9)]
    ollama.plan(ResetBeforeHeaders())
    answers.append(gateway.chat())
    ids = [answer.headers["x-request-id"] for answer in answers]
    with Door(gateway.port) as door:
        lines = ("GET /v1/models", "GET /nothing", "HEAD /health")
        ids.extend(door.ask(line).headers["x-request-id"] for line in lines)
    gateway.until(lambda: all(one in gateway.log.getvalue() for one in ids), "the lines of all calls")
    return ids


def test_each_call_has_exactly_one_line_of_text(ollama: OllamaStandIn) -> None:
    with Gateway(quick_rules(ollama=ollama.url, more=ONCE)) as gateway:
        ids = make_calls(gateway, ollama)
        rows = calls(gateway.log.getvalue())
    assert [next(one for one in ids if one in row) for row in rows] == ids
    whole, streamed, bad, failed, listed, missing, headed = (row.split(maxsplit=2)[1:] for row in rows)
    for level, text in (whole, streamed):
        assert level == "INFO"
        assert text.startswith("200 POST /v1/chat/completions qwen2.5:7b: test → ollama/qwen2.5:7b ")
        assert " tokens first 0." in text
        assert text.endswith(ids[0] if text is whole[1] else ids[1])
    assert bad[0] == "INFO"
    assert bad[1].endswith(f"anonymous {ids[2]} - 'temperature' must be between 0 and 2, but it is 9.")
    assert failed[0] == "WARNING"
    assert failed[1].startswith("502 POST /v1/chat/completions qwen2.5:7b: test → ollama/qwen2.5:7b (failed)")
    assert "No target could answer: ollama/qwen2.5:7b" in failed[1]
    assert listed[1].startswith("200 GET /v1/models total 0.")
    assert missing[1].endswith("- Invalid URL (GET /nothing)")
    assert headed[1].startswith("200 HEAD /health total ")


def test_each_call_has_exactly_one_line_of_json(ollama: OllamaStandIn) -> None:
    with Gateway(quick_rules(ollama=ollama.url, more=ONCE), log_form="json") as gateway:
        ids = make_calls(gateway, ollama)
        log = gateway.log.getvalue()
    records = [json.loads(row) for row in log.splitlines()]
    assert all({"time", "level", "message"} <= set(record) for record in records)
    rows = [record for record in records if "request_id" in record]
    assert [row["request_id"] for row in rows] == ids
    first = rows[0]
    expected = {
        "client": "anonymous", "method": "POST", "path": "/v1/chat/completions", "model": "qwen2.5:7b", "rule": "test",
        "target": "ollama/qwen2.5:7b", "attempts": 1, "status": 200, "finish_reason": "stop", "level": "info",
    }  # fmt: skip
    assert expected.items() <= first.items()
    assert first["completion_tokens"] > 0
    assert first["prompt_tokens"] > 0
    assert 0 < first["first_token"] <= first["total"] < 10
    assert "fault" not in first
    assert rows[3]["failed"] == [rows[3]["fault"].removeprefix("No target could answer: ").removesuffix(".")]
    assert (rows[3]["level"], rows[3]["target"]) == ("warning", None)
    assert rows[4]["model"] is None


NASTY = "a\n12:00:00.000 INFO 200 POST /forged\r\x1b[2J\x00\x07\x7f\x85\x9b\u2028\u2029\u202e\u2066b"


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_a_caller_sends_breaks_a_line_or_steers_a_terminal(form: str, ollama: OllamaStandIn) -> None:
    with Gateway(quick_rules(ollama=ollama.url), log_form=form) as gateway, Door(gateway.port) as door:
        ids = [gateway.chat(model=NASTY).headers["x-request-id"]]
        for path in (
            NASTY.replace("\n", "").replace("\r", "").replace(" ", ""),
            "/v1/models/%0a%1b%85",
            b"/\xff\x1b\xc2\x9b",
        ):
            line = b"GET /" + (path if isinstance(path, bytes) else path.encode())
            ids.append(door.ask(line).headers["x-request-id"])
        gateway.until(lambda: all(one in gateway.log.getvalue() for one in ids), "the lines of all calls")
        log = gateway.log.getvalue()
    assert len(calls(log)) == len(ids)
    assert "Traceback" not in log
    for row in log.split("\n"):
        assert row.isprintable(), repr(row)
        assert not row.startswith("12:00:00.000")
    if form == "json":
        row = next(json.loads(row) for row in log.splitlines() if ids[0] in row)
        assert row["model"] == NASTY


def test_records_of_pythons_logging_come_through_in_one_line(out: io.StringIO) -> None:
    set_up_logging(level="debug", form="", secrets=["hush-hush"], out=out)
    logging.getLogger("mitmproxy.proxy.server").info("hello\nworld %s\x1b", "hush-hush")
    logging.getLogger("some.library").warning("careful")
    logging.getLogger("mitmproxy").log(logging.INFO + 1, "an alert")
    rows = [row.split(maxsplit=2)[1:] for row in out.getvalue().splitlines()]
    assert rows == [["DEBUG", "hello world ***?"], ["WARNING", "careful"], ["INFO", "an alert"]]


def test_what_mitmproxy_says_of_every_connection_is_not_shown_at_info(out: io.StringIO) -> None:
    set_up_logging(level="INFO", form="", secrets=[], out=out)
    logging.getLogger("mitmproxy.proxy.server").info("client connect")
    assert out.getvalue() == ""


def test_records_of_pythons_logging_are_clean_for_every_handler(out: io.StringIO) -> None:
    set_up_logging(level="INFO", form="", secrets=[ODD_SECRET], out=io.StringIO())
    logging.getLogger().addHandler(logging.StreamHandler(out))  # as mitmweb's list of events
    try:
        raise ValueError(ODD_SECRET)
    except ValueError:
        logging.getLogger("mitmproxy").exception("failed with %r", ODD_SECRET)
    assert "ValueError: ***" in out.getvalue()
    assert "with +" not in out.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_is_masked_however_it_is_spelled(form: str, out: io.StringIO) -> None:
    set_up_logging(level="INFO", form=form, secrets=[ODD_SECRET, "abc"], out=out)
    logger.info("plain {} quoted {!r}", ODD_SECRET, ODD_SECRET)
    logger.bind(fields={"of": [ODD_SECRET]}, other=ODD_SECRET.encode(), number=1).info("bound")
    logger.info("in JSON {}", json.dumps({"key": ODD_SECRET}))
    try:
        raise RuntimeError(f"key={ODD_SECRET}")
    except RuntimeError:
        logger.exception("failed")
    logger.info("url {}", "k%22e%27y%5Cwith%20%2B%2541%26%3D%2F%C3%A9")
    log = out.getvalue()
    assert "with" not in log.replace("Traceback", "")
    assert log.count("***") >= (6 if form == "json" else 5), "text does not show what is bound"
    if form == "json":
        rows = [json.loads(row) for row in log.splitlines()]
        assert rows[1]["number"] == 1
        assert "RuntimeError" in rows[3]["exception"]


@pytest.mark.parametrize(
    "text", ["Bearer abc.def", "bearer   xyz", "?api_key=abc", "&api-key=abc%20d", "sk-abcdefgh12345678"]
)
def test_what_looks_like_a_key_is_masked_even_where_nobody_knows_it(text: str) -> None:
    clean = redactor([])
    assert "abc" not in clean(text).replace("***", "")
    assert "***" in clean(text)


@pytest.mark.parametrize("text", ["Bearer ***", "a task-force", "sk-short", "the bear", "key"])
def test_what_is_no_key_stays(text: str) -> None:
    assert redactor(["abc"])(text) == text


def test_json_holds_what_json_cannot(out: io.StringIO) -> None:
    set_up_logging(level="INFO", form="json", secrets=[], out=out)
    logger.bind(half="\ud800", big=2**70, odd={1}).info("x")
    assert json.loads(out.getvalue())["half"] == "\ud800"


@pytest.mark.parametrize(("level", "form", "words"), [
    ("loud", "", "LOG_LEVEL is 'loud'; it must be one of TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ("INFO", "xml", "LOG_FORMAT is 'xml'; it must be text or json"),
])  # fmt: skip
def test_an_unknown_level_or_form_is_refused(level: str, form: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        set_up_logging(level=level, form=form, secrets=[])
    assert str(caught.value) == words


def test_secrets_of_any_number_and_likeness_are_all_found_the_longest_first() -> None:
    alike = [f"{'eyJ' * 300}{number:04}" for number in range(1000)]
    nested = ["abcd", "abcdef", "abcdxx", "abcdyy", "abcdzz", "abcdef123", "ab$d(", "ab$d(1"]
    clean = redactor([*alike, *nested])
    for secret in (*alike, *nested):
        assert clean(f"a {secret} b") == "a *** b"
    assert clean("abcdef123, abcdef, abcdq; ab$d(1 abc") == "***, ***, ***q; *** abc"
