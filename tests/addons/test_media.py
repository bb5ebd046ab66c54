"""Audio and images through the gateway: passed on whole, held nowhere, and cut so that everybody sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from mitmproxy.http import HTTPFlow

from addons.spool import IN_MEMORY
from tests.addons.calls import Http2, clean_log
from tests.gateway import Gateway, GatewayProcess, patient
from tests.standins import CutAfter, ModelCard, OllamaStandIn
from tests.standins.media import (
    PICTURE,
    SOUND,
    AnswerAt,
    CutAt,
    HushAt,
    MediaStandIn,
    RefuseAt,
    Reply,
    ResetAt,
    Slowly,
    StallAt,
)
from tests.wire.forms import CONTENT_TYPE, WAV, body, part, recording

BIG = 25 * 1000 * 1000
EAR = ModelCard("hears:latest", ("completion", "audio"))


def rules(*urls: str, ollama: str = "", more: str = "", timeouts: str | None = None) -> str:
    """Every call goes to these servers in turn; to `hear`s a local model first."""
    providers = [f"  m{n}: {{dialect: openai, urls: [{url}], key: sk-up-{n}}}" for n, url in enumerate(urls)]
    use = [f'"m{n}/served-{n}"' for n in range(len(urls))]
    if ollama:
        providers.append(f"  ollama: {{dialect: ollama, urls: [{ollama}]}}")
    local = f"  - {{name: local, when: {{model: local*}}, use: [ollama/hears, {', '.join(use)}]}}\n" if ollama else ""
    return (
        "providers:\n" + "\n".join(providers) + f"\nrules:\n{local}  - {{name: all, use: [{', '.join(use)}]}}\n"
        f"defaults:\n  timeouts: {{{timeouts or patient()}}}\n  breaker: {{failures: 1000}}\n"
        f"  failover: {{attempts: 1, backoff: 10ms}}\n{more}"
    )


@contextmanager
def two_servers(**options: str) -> Iterator[tuple[Gateway, MediaStandIn, MediaStandIn]]:
    with (
        MediaStandIn() as one,
        MediaStandIn() as two,
        Gateway(rules(one.url, two.url, **options)) as gateway,
        clean_log(gateway),
    ):
        yield gateway, one, two


def sdk(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-caller", max_retries=0, timeout=20)


def post(gateway: Gateway, path: str, **options: Any) -> httpx.Response:
    with gateway.client() as client:
        return client.post(path, **options)


def in_a_hurry(gateway: Gateway, plan: object) -> AbstractContextManager[None]:
    """Where a server is to fall silent, that is noticed soon."""
    return gateway.hurried(0.5) if isinstance(plan, (HushAt, StallAt)) else nullcontext()


def send_form(gateway: Gateway, raw: bytes, path: str = "/v1/audio/transcriptions") -> httpx.Response:
    return post(gateway, path, content=raw, headers={"content-type": CONTENT_TYPE})


def big_form(size: int = BIG) -> tuple[bytes, str]:
    """A form with a file of that size, and the file's digest."""
    sound = WAV[:44] + os.urandom(size - 44)
    return recording(sound), hashlib.sha256(sound).hexdigest()


def asked_of(ollama: OllamaStandIn) -> Any:
    """The last chat that it was asked for."""
    return ollama.chats[-1].json


def spools() -> int:
    """Files without a name that this process has open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += "(deleted)" in os.readlink(link)
        except FileNotFoundError:
            continue
    return count


# -- the SDK against the gateway


def test_the_sdk_transcribes() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), prompt="Grüße")
        assert heard.text == "Heard well."
        (seen,) = one.seen
        assert seen.path == "/v1/audio/transcriptions"
        assert seen.fields["model"] == [b"served-0"]
        assert seen.fields["prompt"] == ["Grüße".encode()]
        assert seen.digest() == hashlib.sha256(WAV).hexdigest()
        assert seen.headers["authorization"] == "Bearer sk-up-0"
        assert "x-stainless-lang" not in seen.headers
        spoken = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), response_format="vtt")
        assert str(spoken).startswith("WEBVTT")
        with pytest.deprecated_call():
            english = client.audio.translations.create(model="whisper-1", file=("a.wav", WAV))
        assert english.text == "Heard well."
        assert one.seen[-1].path == "/v1/audio/translations"
        stream = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), stream=True)
        assert [event.type for event in stream] == [
            "transcript.text.delta",
            "transcript.text.delta",
            "transcript.text.done",
        ]
        gateway.until(lambda: "14+45 tokens" in gateway.log.getvalue(), "the usage in the log")


def test_the_sdk_speaks() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello", response_format="mp3")
        assert spoken.content == SOUND
        assert spoken.response.headers["content-type"] == "audio/mpeg"
        assert spoken.response.headers["x-gateway-target"] == "m0/served-0"
        assert one.seen[0].json == {
            "input": "Hello",
            "model": "served-0",
            "voice": "alloy",
            "response_format": "mp3",
        }
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="Hello", stream_format="sse"
        ) as events:
            text = events.read()
            assert events.headers["content-type"] == "text/event-stream"
        assert base64.b64encode(SOUND) in text
        assert text.count(b"data: ") == 2


def test_the_sdk_paints() -> None:
    with two_servers() as (gateway, one, _), sdk(gateway) as client:
        painted = client.images.generate(model="gpt-image-1", prompt="A cat", n=2)
        assert painted.data is not None
        assert painted.data[0].b64_json == PICTURE
        assert one.seen[0].json["model"] == "served-0"
        events = [*client.images.generate(model="gpt-image-1", prompt="A cat", stream=True, partial_images=1)]
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        edited = client.images.edit(
            model="gpt-image-1", prompt="A hat", image=[("a.png", b"\x89PNG1"), ("b.png", b"\x89PNG2")]
        )
        assert edited.data is not None
        assert one.seen[-1].path == "/v1/images/edits"
        assert one.seen[-1].fields["image[]"] == [b"\x89PNG1", b"\x89PNG2"]
        with pytest.deprecated_call():
            client.images.create_variation(model="dall-e-2", image=("a.png", b"\x89PNG"))
        assert one.seen[-1].path == "/v1/images/variations"


# -- what comes in


def test_a_form_goes_on_byte_for_byte_but_for_the_models_name() -> None:
    raw = recording(WAV, prompt="model", temperature="0")
    with two_servers() as (gateway, one, _):
        assert send_form(gateway, raw).json()["text"] == "Heard well."
        assert one.seen[0].body == raw.replace(b"whisper-1", b"served-0")
        assert one.seen[0].headers["content-type"] == CONTENT_TYPE


@pytest.mark.parametrize("pause", [0, 0.001])
def test_a_form_may_come_in_any_pieces(pause: float) -> None:
    raw = recording(WAV[:3000])

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(raw), 61):
            time.sleep(pause)
            yield raw[at : at + 61]

    with two_servers() as (gateway, one, _):
        answer = post(gateway, "/v1/audio/transcriptions", content=slowly(), headers={"content-type": CONTENT_TYPE})
        assert answer.status_code == 200
        assert one.seen[0].body == raw.replace(b"whisper-1", b"served-0")


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        (body(part("file", WAV, "a.wav")), "model", "You must provide 'model'"),
        (body(part("model", "m")), "file", "You must provide 'file'"),
        (body(part("model", "m"), part("file", WAV, "a.wav"))[:-6], None, "last boundary is missing"),
        (b"--no such form", None, "malformed at byte"),
        (b"", None, "last boundary is missing"),
        (body(*(part("a", "x") for _ in range(200))), None, "more than 128 parts"),
    ],
)
def test_an_ugly_form_is_refused_in_clear_words(raw: bytes, param: str | None, says: str) -> None:
    with two_servers() as (gateway, one, _):
        answer = send_form(gateway, raw)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == param
        assert not one.seen
        assert send_form(gateway, recording()).status_code == 200  # and the gateway goes on


def test_a_form_without_a_boundary_is_refused_before_it_is_read() -> None:
    with two_servers() as (gateway, _, _):
        answer = post(
            gateway, "/v1/audio/transcriptions", content=b"x", headers={"content-type": "multipart/form-data"}
        )
        assert answer.status_code == 400
        assert "no boundary" in answer.json()["error"]["message"]


def test_a_form_that_breaks_in_the_middle_is_answered_at_once_and_read_past() -> None:
    raw = b"--nothing like it" + bytes(3_000_000)
    before = spools()
    with two_servers() as (gateway, one, _):
        answer = send_form(gateway, raw)
        assert answer.status_code == 400
        assert not one.seen
        gateway.until(lambda: spools() == before, "the form's file is gone")


def test_a_form_sent_as_json_is_refused_with_what_would_be_right() -> None:
    with two_servers() as (gateway, _, _):
        answer = post(gateway, "/v1/audio/transcriptions", json={"model": "whisper-1", "file": "a.wav"})
        assert answer.status_code == 400
        assert "multipart/form-data" in answer.json()["error"]["message"]


def test_a_form_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    raw, _ = big_form(200_000)
    with two_servers(more="  limits: {body: 100KB}\n") as (gateway, one, _):
        for content in (raw, iter([raw[:90_000], raw[90_000:]])):
            answer = post(gateway, "/v1/audio/transcriptions", content=content, headers={"content-type": CONTENT_TYPE})
            assert answer.status_code == 413
        assert not one.seen


def send_over_http_2(caller: Http2, path: str, kind: str, raw: bytes) -> int:
    """A call with a body that is larger than the gateway's window."""
    number: int = caller.h2.get_next_available_stream_id()
    named = {":method": "POST", ":scheme": "https", ":authority": "api.openai.com", ":path": path}
    caller.h2.send_headers(number, [*(named | {"authorization": "Bearer sk-caller", "content-type": kind}).items()])
    caller.bodies[number] = b""
    while raw:
        caller.flush()
        caller.read(lambda: caller.h2.local_flow_control_window(number) > 0)
        size = min(caller.h2.local_flow_control_window(number), caller.h2.max_outbound_frame_size)
        caller.h2.send_data(number, raw[:size], end_stream=len(raw) <= size)
        raw = raw[size:]
    caller.flush()
    caller.read(lambda: number in caller.ended)
    return number


def test_http_2_callers_send_forms_too() -> None:
    raw, digest = big_form(700_000)
    with two_servers() as (gateway, one, _), Http2(gateway) as caller:
        number = send_over_http_2(caller, "/v1/audio/transcriptions", CONTENT_TYPE, raw)
        assert caller.heads[number][":status"] == "200"
        assert json.loads(caller.bodies[number])["text"] == "Heard well."
        assert one.seen[0].digest() == digest


# -- memory and files


def peak(process: int) -> int:
    """Bytes of memory that a process has ever had at once."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[0]) * 1024


@pytest.mark.parametrize("local", [False, True], ids=["passed on", "as base64 in a chat"])
def test_a_large_upload_does_not_grow_the_memory_by_its_size(local: bool, tmp_path: Path) -> None:
    raw, digest = big_form()
    small = recording(WAV)
    with MediaStandIn() as one, OllamaStandIn([EAR], reply=["Heard."]) as ollama:
        text = rules(one.url, ollama=ollama.url, more="  refresh: 10m\n")
        if local:
            raw, small = raw.replace(b"whisper-1", b"local-ear"), small.replace(b"whisper-1", b"local-ear")
        with GatewayProcess(text, tmp_path) as gateway:

            def send(form: bytes) -> dict[str, Any]:
                answer = httpx.post(
                    f"{gateway.url}/v1/audio/transcriptions",
                    content=form,
                    headers={"content-type": CONTENT_TYPE},
                    timeout=30,
                )
                assert answer.status_code == 200, answer.text + gateway.log
                said: dict[str, Any] = answer.json()
                return said

            for _ in range(3):
                send(small)
            before = peak(gateway.process.pid)
            assert send(raw)["text"] == ("Heard." if local else "Heard well.")
            assert peak(gateway.process.pid) - before < 4 * 1024 * 1024
        if local:
            (image,) = asked_of(ollama)["messages"][0]["images"]
            assert hashlib.sha256(base64.b64decode(image)).hexdigest() == digest
        else:
            assert one.seen[-1].digest() == digest


def test_a_form_leaves_no_file_behind_however_its_call_ends() -> None:
    raw, _ = big_form(3 * IN_MEMORY)
    before = spools()
    with two_servers() as (gateway, one, two):
        assert send_form(gateway, raw).status_code == 200
        one.plans.append(ResetAt(100_000))
        two.plans.append(RefuseAt(100_000, 500))
        assert send_form(gateway, raw).status_code == 502
        assert send_form(gateway, raw[:-9]).status_code == 400
        with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
            caller.sendall(head_of(raw) + raw[: 2 * IN_MEMORY])
            gateway.until(lambda: spools() == before + 1, "the form lies in a file")
        gateway.until(lambda: spools() == before, "no file is left")
        one.plans.append(StallAt(1000))
        with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
            caller.sendall(head_of(raw) + raw)
            gateway.until(lambda: len(one.seen) == 3, "the form is on its way")
        gateway.until(lambda: spools() == before, "no file is left")


def head_of(
    raw: bytes, path: str = "/v1/audio/transcriptions", kind: str = CONTENT_TYPE, version: str = "1.1"
) -> bytes:
    return (
        f"POST {path} HTTP/{version}\r\nhost: x\r\nauthorization: Bearer sk-caller\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    ).encode()


class Witness:
    """Keeps the flows that it sees, as mitmweb does."""

    def __init__(self, flows: list[HTTPFlow]) -> None:
        self._flows = flows

    def response(self, flow: HTTPFlow) -> None:
        self._flows.append(flow)


async def add_addon(gateway: Gateway, addon: object) -> None:
    assert gateway.server.master is not None
    gateway.server.master.addons.add(addon)


def test_whoever_looks_at_flows_keeps_no_megabytes() -> None:
    raw, _ = big_form(3 * IN_MEMORY)
    with two_servers() as (gateway, _, _):
        gateway.state.keep_bodies = True
        flows: list[HTTPFlow] = []
        gateway.run(add_addon(gateway, Witness(flows)))
        with gateway.client() as client:
            headers = {"content-type": CONTENT_TYPE}
            client.post("/v1/audio/transcriptions", content=raw, headers=headers)
            client.post("/v1/audio/speech", content=SPEAK)
            client.post("/v1/images/generations", json={"model": "gpt-image-1", "prompt": "A cat"})
        gateway.until(lambda: not any(flow.live for flow in flows), "all calls are over")
        heard, spoken, painted = flows
        assert heard.response is not None
        assert heard.request.raw_content == b""
        assert heard.metadata["unigate"]["upload"] == len(raw)
        assert f"form of {len(raw)} bytes: not kept" in heard.comment
        assert b"Heard well." in (heard.response.raw_content or b"")
        for flow in (spoken, painted):
            assert flow.response is not None
            assert flow.response.raw_content == b""
            assert "answer: not kept" in flow.comment
        assert spoken.request.raw_content == SPEAK


def test_an_error_is_kept_for_whoever_looks() -> None:
    with two_servers() as (gateway, one, two):
        gateway.state.keep_bodies = True
        flows: list[HTTPFlow] = []
        gateway.run(add_addon(gateway, Witness(flows)))
        for server in (one, two):
            server.plans.append(Reply(b"{}", status=500))
        assert post(gateway, "/v1/images/generations", json={"model": "i", "prompt": "x"}).status_code == 502
        gateway.until(lambda: bool(flows) and not flows[0].live, "the call is over")
        assert flows[0].response is not None
        assert b"internal error (500)" in (flows[0].response.raw_content or b"")


def test_an_upload_without_room_is_refused_and_the_next_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, _ = big_form(3 * IN_MEMORY)
    with two_servers() as (gateway, one, _):
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", "/no/such/folder")
            answer = send_form(gateway, raw)
        assert answer.status_code == 500
        assert "no room for this upload" in answer.json()["error"]["message"]
        assert "no room for an upload in /no/such/folder: No such file" in log_of(gateway)
        assert not one.seen
        assert send_form(gateway, raw).status_code == 200


# -- a server that fails while it is sent a file


PLANS: dict[str, Any] = {
    "resets the connection": ResetAt(1_000_000),
    "resets it at the first byte": ResetAt(0),
    "is overloaded early": RefuseAt(1000, 503),
    "is overloaded and closes": RefuseAt(300_000, 503, reads_on=False),
    "stops reading": StallAt(500_000),
    "is out of order at the end": Reply(b'{"error":"no"}', status=500),
    "sends an error as an answer": Reply(b'{"error":{"message":"no"}}'),
    "sends half an answer": CutAt(10),
    "sends nothing": Reply(b""),
    "says nothing": HushAt(0, 10),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_the_next_server_gets_the_whole_file(plan: Any) -> None:
    raw, digest = big_form(5_000_000)
    with two_servers() as (gateway, one, two), in_a_hurry(gateway, plan):
        one.plans.append(plan)
        answer = send_form(gateway, raw)
        assert answer.status_code == 200, answer.text
        assert answer.json()["text"] == "Heard well."
        assert answer.headers["x-gateway-target"] == "m1/served-1"
        assert two.seen[0].digest() == digest
        assert two.seen[0].fields["model"] == [b"served-1"]
        gateway.until(lambda: not gateway.state.in_flight(), "no call is under way")


def test_an_early_413_ends_the_sending_and_the_next_server_may_take_more() -> None:
    raw, digest = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(RefuseAt(1000))
        answer = send_form(gateway, raw)
        assert (answer.status_code, answer.headers["x-gateway-target"]) == (200, "m1/served-1")
        assert two.seen[0].digest() == digest
        assert len(one.seen[0].body) == 1000


def test_a_413_of_every_server_is_told_to_the_caller() -> None:
    raw, _ = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(RefuseAt(1000))
        two.plans.append(RefuseAt(1000))
        answer = send_form(gateway, raw)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (
            413,
            "request_too_large",
            "invalid_request_error",
        )
        assert "Maximum content size" in error["message"]


def test_a_server_that_answers_before_it_has_all_is_believed() -> None:
    raw, _ = big_form(8_000_000)
    with two_servers() as (gateway, one, two):
        one.plans.append(AnswerAt(100_000))
        assert send_form(gateway, raw).json() == {"text": "early"}
        connections = one.connections
        assert send_form(gateway, recording()).json()["text"] == "Heard well."
        assert one.connections == connections + 1  # the half-used connection is not used again
        assert not two.seen


def test_a_slow_reader_is_waited_for_as_long_as_it_reads() -> None:
    raw, digest = big_form(4_000_000)
    with two_servers(timeouts=patient(first_token="1s", idle="1s")) as (gateway, one, two):
        one.plans.append(Slowly(0.03))
        began = time.monotonic()
        assert send_form(gateway, raw).json()["text"] == "Heard well."
        assert time.monotonic() - began > 1.5
        assert one.seen[0].digest() == digest
        assert not two.seen


def test_the_whole_time_of_a_call_holds_for_an_upload_too() -> None:
    raw, _ = big_form(4_000_000)
    with two_servers(timeouts=patient(total="700ms")) as (gateway, one, two):
        one.plans.append(StallAt(100_000))
        began = time.monotonic()
        answer = send_form(gateway, raw)
        assert answer.status_code == 504
        assert 0.6 < time.monotonic() - began < 4
        assert not two.seen


def test_a_kept_connection_serves_one_upload_after_the_other() -> None:
    raw, digest = big_form(1_000_000)
    with two_servers() as (gateway, one, _), gateway.client() as client:
        for _ in range(4):
            answer = client.post("/v1/audio/transcriptions", content=raw, headers={"content-type": CONTENT_TYPE})
            assert answer.status_code == 200
        assert [seen.digest() for seen in one.seen] == [digest] * 4
        gets = 2  # the gateway's own looks at the server
        assert one.connections <= 1 + gets


def test_many_uploads_at_once_each_get_their_own_file() -> None:
    forms = [big_form(900_000 + number) for number in range(8)]
    answers: list[int] = []
    with two_servers() as (gateway, one, _):

        def send(raw: bytes) -> None:
            answers.append(send_form(gateway, raw).status_code)

        threads = [threading.Thread(target=send, args=(raw,)) for raw, _ in forms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        assert sorted(seen.digest() for seen in one.seen) == sorted(digest for _, digest in forms)


# -- an answer that breaks off


SPEAK = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hello"}).encode()
CUTS: dict[str, Any] = {
    "closes": CutAt(20_000),
    "resets": CutAt(20_000, reset=True),
    "falls silent": HushAt(20_000, 10),
}


@pytest.mark.parametrize("plan", CUTS.values(), ids=CUTS.keys())
def test_sound_that_breaks_off_breaks_the_callers_connection(plan: Any) -> None:
    with two_servers() as (gateway, one, two), in_a_hurry(gateway, plan):
        one.plans.append(plan)
        with gateway.client() as client, client.stream("POST", "/v1/audio/speech", content=SPEAK) as answer:
            assert answer.status_code == 200
            got: list[bytes] = []
            with pytest.raises(httpx.RemoteProtocolError):
                got.extend(answer.iter_raw())
            assert SOUND.startswith(b"".join(got))
            assert b"".join(got)
        assert not two.seen
        gateway.until(lambda: "502 POST /v1/audio/speech" in log_of(gateway) or "504 POST" in log_of(gateway), "a line")


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def log_of(gateway: Gateway) -> str:
    return gateway.log.getvalue()


def test_sound_that_breaks_off_resets_an_http_2_stream_and_not_its_connection() -> None:
    with two_servers() as (gateway, one, _), Http2(gateway) as caller:
        one.plans.append(CutAt(20_000))
        first = send_over_http_2(caller, "/v1/audio/speech", "application/json", SPEAK)
        assert caller.resets == {first}
        assert SOUND.startswith(caller.bodies[first])
        second = send_over_http_2(caller, "/v1/audio/speech", "application/json", SPEAK)
        assert caller.bodies[second] == SOUND
        assert caller.resets == {first}


def test_sound_that_breaks_off_resets_a_connection_whose_end_would_be_the_answers() -> None:
    with two_servers() as (gateway, one, _):
        one.plans.append(CutAt(20_000))
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
            caller.sendall(head_of(SPEAK, "/v1/audio/speech", "application/json", "1.0") + SPEAK)
            with pytest.raises(ConnectionResetError):
                read_all(caller)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
            caller.sendall(head_of(SPEAK, "/v1/audio/speech", "application/json", "1.0") + SPEAK)
            assert read_all(caller).endswith(SOUND)


def test_sound_that_does_not_begin_is_asked_of_the_next_server() -> None:
    with two_servers() as (gateway, one, _):
        for plan in (CutAt(0), HushAt(0, 5), Reply(b"<html>", "text/html"), Reply(b"", "audio/mpeg"), ResetAt(3)):
            one.plans.append(plan)
            with in_a_hurry(gateway, plan):
                answer = post(gateway, "/v1/audio/speech", content=SPEAK)
            assert (answer.status_code, answer.headers["x-gateway-target"]) == (200, "m1/served-1")
            assert answer.content == SOUND


def test_in_the_sound_there_is_nothing_but_sound() -> None:
    with two_servers(timeouts=patient(keep_alive="20ms")) as (gateway, one, _):
        one.plans.append(HushAt(0, 0.2))
        assert post(gateway, "/v1/audio/speech", content=SPEAK).content == SOUND


@pytest.mark.parametrize(
    ("path", "asked", "begins"),
    [
        ("/v1/audio/speech", {"model": "t", "voice": "v", "input": "x", "stream_format": "sse"}, b"speech.audio.delta"),
        ("/v1/images/generations", {"model": "i", "prompt": "x", "stream": True}, b"partial_image"),
    ],
)
def test_events_that_break_off_end_in_an_error_event(path: str, asked: dict[str, Any], begins: bytes) -> None:
    with two_servers() as (gateway, one, two):
        whole = post(gateway, path, json=asked).content
        one.plans.append(CutAt(len(whole) - 20))
        data = post(gateway, path, json=asked).content
        events = [event for event in data.split(b"\n\n") if event]
        assert begins in events[0]
        assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "upstream_cut"
        assert events[-1] == b"data: [DONE]"
        assert len(events) == 3  # whole events only: the half one is left out
        assert not two.seen


@pytest.mark.parametrize("servers_left", [1, 0])
def test_after_a_comment_only_events_are_passed_on(servers_left: int) -> None:
    with two_servers(timeouts=patient(keep_alive="20ms")) as (gateway, one, two):
        late = Reply(b'{"created":1,"data":[{"b64_json":"' + PICTURE.encode() + b'"}]}', after=0.1)
        one.plans.append(late)
        if not servers_left:
            two.plans.append(late)
        answer = post(gateway, "/v1/images/generations", json={"model": "i", "prompt": "x", "stream": True})
        events = [event for event in answer.content.split(b"\n\n") if event and not event.startswith(b":")]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content.startswith(b": ")
        assert len(two.seen) == 1
        if servers_left:
            assert b"partial_image" in events[0]
        else:
            error = json.loads(events[0].removeprefix(b"data: "))["error"]
            assert (len(events), events[1], error["code"]) == (2, b"data: [DONE]", "upstream_garbled")
            assert "did not answer in events although it was asked to" in error["message"]


def test_a_whole_answer_that_breaks_off_late_is_asked_of_the_next_server() -> None:
    with two_servers() as (gateway, one, _):
        one.plans.append(CutAt(9000))
        answer = post(gateway, "/v1/images/generations", json={"model": "i", "prompt": "x"})
        assert answer.json()["data"][0]["b64_json"] == PICTURE
        assert answer.headers["x-gateway-target"] == "m1/served-1"


def test_a_caller_that_leaves_in_the_middle_of_the_sound_is_let_go() -> None:
    with two_servers() as (gateway, one, two):
        one.plans.append(HushAt(20_000, 10))
        with gateway.client() as client, client.stream("POST", "/v1/audio/speech", content=SPEAK) as answer:
            pieces = answer.iter_raw()  # kept: httpx ends the connection with it
            assert SOUND.startswith(next(pieces))
            assert len(gateway.state.in_flight()) == 1
        gateway.until(lambda: " 499 POST /v1/audio/speech" in log_of(gateway), "the line of a call that was left")
        assert not gateway.state.in_flight()
        assert not two.seen


# -- a local model that hears


@contextmanager
def an_ear(**options: Any) -> Iterator[tuple[Gateway, MediaStandIn, OllamaStandIn]]:
    with (
        MediaStandIn() as cloud,
        OllamaStandIn([EAR], reply=["Heard ", "locally."]) as ollama,
        Gateway(rules(cloud.url, ollama=ollama.url, **options)) as gateway,
        clean_log(gateway),
    ):
        yield gateway, cloud, ollama


def test_a_local_model_transcribes() -> None:
    raw = recording(WAV).replace(b"whisper-1", b"local-ear")
    with an_ear() as (gateway, cloud, ollama):
        answer = send_form(gateway, raw)
        assert answer.json()["text"] == "Heard locally."
        assert answer.json()["usage"]["type"] == "tokens"
        assert answer.headers["x-gateway-target"] == "ollama/hears"
        sent = asked_of(ollama)
        assert sent["model"] == "hears"
        assert base64.b64decode(sent["messages"][0]["images"][0]) == WAV
        assert not cloud.seen


def test_a_local_model_transcribes_as_the_caller_wants_it() -> None:
    with an_ear() as (gateway, _, _), sdk(gateway) as client:
        text = client.audio.transcriptions.create(model="local-ear", file=("a.wav", WAV), response_format="text")
        assert str(text) == "Heard locally.\n"
        full = client.audio.transcriptions.create(
            model="local-ear", file=("a.wav", WAV), response_format="verbose_json", language="en"
        )
        assert (full.text, full.duration, full.language) == ("Heard locally.", 1.0, "en")
        stream = client.audio.transcriptions.create(model="local-ear", file=("a.wav", WAV), stream=True)
        events = [*stream]
        assert [event.type for event in events][-1] == "transcript.text.done"
        assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == "Heard locally."
        with pytest.deprecated_call():
            english = client.audio.translations.create(model="local-ear", file=("a.wav", WAV))
        assert english.text == "Heard locally."


def test_a_streamed_transcript_of_a_local_model_is_a_stream_of_events() -> None:
    raw = recording(WAV, stream="true").replace(b"whisper-1", b"local-ear")
    with an_ear() as (gateway, _, ollama):
        answer = send_form(gateway, raw)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        ollama.plan(CutAfter(1))
        answer = send_form(gateway, raw)
        assert json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"] == "upstream_cut"
        assert answer.text.endswith("data: [DONE]\n\n")


def test_what_a_local_model_cannot_do_the_next_target_does() -> None:
    with an_ear() as (gateway, cloud, ollama):
        asked = len(ollama.chats)
        for form in (recording(WAV, response_format="vtt"), recording(b"OggS" + bytes(100))):
            answer = send_form(gateway, form.replace(b"whisper-1", b"local-ear"))
            assert answer.status_code == 200
            assert answer.headers["x-gateway-target"] == "m0/served-0"
        assert len(cloud.seen) == 2
        assert len(ollama.chats) == asked


def test_a_local_model_cannot_speak() -> None:
    with an_ear() as (gateway, cloud, _):
        spoken = json.loads(SPEAK) | {"model": "local-ear"}
        assert post(gateway, "/v1/audio/speech", json=spoken).content == SOUND
        assert len(cloud.seen) == 1


def test_a_recording_goes_from_a_local_model_to_the_cloud_when_it_fails() -> None:
    raw, digest = big_form(2_000_000)
    with an_ear() as (gateway, cloud, ollama):
        ollama.stop()
        answer = send_form(gateway, raw.replace(b"whisper-1", b"local-ear"))
        assert answer.json()["text"] == "Heard well."
        assert cloud.seen[0].digest() == digest
