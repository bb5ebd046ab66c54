"""What a user of curl sees of the gateway: the very bytes, without an SDK that forgives."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

import pytest

from tests.sdk.world import KEY, World, environment


@dataclass(frozen=True)
class Answer:
    """What curl printed."""

    status: int
    kind: str
    body: bytes


CHAT = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello there"}]}
BEARER = ("-H", f"Authorization: Bearer {KEY}")


def curl(world: World, path: str, *options: str, body: object = None) -> Answer:
    command = ["curl", "-q", "-sS", "--max-time", "20", "-w", "\n%{http_code} %{content_type}", *options]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "--data-binary", "@-"]
    run = subprocess.run(
        [*command, f"{world.gateway.url}{path}"],
        env=environment(),
        input=b"" if body is None else json.dumps(body).encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    printed, _, last = run.stdout.rpartition(b"\n")
    status, _, kind = last.decode().partition(" ")
    return Answer(int(status), kind, printed)


def check_curl_error(answer: Answer, status: int, **fields: str | None) -> None:
    assert (answer.status, answer.kind) == (status, "application/json")
    document = json.loads(answer.body)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert {name: document["error"][name] for name in fields} == fields


def test_curl_gets_a_whole_reply(world: World) -> None:
    answer = curl(world, "/v1/chat/completions", *BEARER, body=CHAT)
    assert (answer.status, answer.kind) == (200, "application/json")
    assert json.loads(answer.body)["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You said: hello there", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
@pytest.mark.parametrize("model", ["qwen2.5:7b", "deepseek-flash"])
def test_curl_gets_a_stream_of_nothing_but_data_lines(world: World, model: str, version: str) -> None:
    body = {**CHAT, "model": model, "stream": True}
    answer = curl(world, "/v1/chat/completions", "-N", version, *BEARER, body=body)
    assert (answer.status, answer.kind) == (200, "text/event-stream; charset=utf-8")
    assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
    events = answer.body.split(b"\n\n")
    assert events.pop() == b""
    assert events.pop() == b"data: [DONE]"
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert all(
        set(chunk) - {"system_fingerprint"} == {"id", "object", "created", "model", "choices"} for chunk in chunks
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [delta["content"] for delta in deltas[1:] if "content" in delta] == ["You", " said:", " hello", " there"]
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "stop")


def test_curl_sees_the_end_of_a_stream_that_was_cut(world: World) -> None:
    answer = curl(world, "/v1/chat/completions", "-N", *BEARER, body={**CHAT, "model": "cut-local", "stream": True})
    *_, last, done, nothing = answer.body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    assert set(json.loads(last.removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}


def test_curl_gets_errors_in_openais_shape(world: World) -> None:
    robot = {**CHAT, "messages": [{"role": "robot", "content": "hello"}]}
    check_curl_error(
        curl(world, "/v1/chat/completions", *BEARER, body=robot), 400, param="messages[0].role", code="invalid_value"
    )
    check_curl_error(curl(world, "/v1/chat/completions", *BEARER, "-d", "{not json"), 400, param=None)
    check_curl_error(curl(world, "/v1/nothing", *BEARER), 404, message="Invalid URL (GET /v1/nothing)", code=None)
    check_curl_error(curl(world, "/v1/chat/completions", *BEARER), 405, type="invalid_request_error")
    check_curl_error(curl(world, "/v1/models"), 401, code=None)


def test_curl_may_give_its_key_in_the_url_and_no_log_shows_it(world: World) -> None:
    path = "/v1/chat/completions?api_key="
    assert curl(world, f"{path}{KEY}", body=CHAT).status == 200
    check_curl_error(curl(world, f"{path}sk-some-other-key-1234", body=CHAT), 401, code="invalid_api_key")
    assert KEY not in world.gateway.log.getvalue()
    assert "sk-some-other-key-1234" not in world.gateway.log.getvalue()


def test_curl_sends_a_large_body_after_asking_whether_it_may(world: World) -> None:
    word = "a" * 2_000_000
    body = {**CHAT, "messages": [{"role": "user", "content": word}]}
    answer = curl(world, "/v1/chat/completions", "-H", "Expect: 100-continue", *BEARER, body=body)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == f"You said: {word}"


def test_curl_sends_a_body_in_chunks(world: World) -> None:
    answer = curl(world, "/v1/chat/completions", "-H", "Transfer-Encoding: chunked", *BEARER, body=CHAT)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "You said: hello there"


def test_curl_finds_a_model_with_a_slash_in_its_name_in_both_spellings(world: World) -> None:
    for path in ("/v1/models/hf.co/acme/tiny:q4", "/v1/models/hf.co%2Facme%2Ftiny:q4"):
        assert json.loads(curl(world, path, *BEARER).body)["id"] == "hf.co/acme/tiny:q4"
