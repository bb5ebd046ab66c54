"""Audio and images are held nowhere: not in memory, not in a file, and not for whoever looks at flows."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy.http import HTTPFlow

from addons.spool import IN_MEMORY
from tests.addons.media import (
    EAR,
    SPEAK,
    asked_of,
    big_form,
    head_of,
    log_of,
    post,
    rules,
    send_form,
    spools,
    two_servers,
)
from tests.gateway import Gateway, GatewayProcess
from tests.standins import OllamaStandIn
from tests.standins.media import MediaStandIn, RefuseAt, Reply, ResetAt, StallAt
from tests.wire.forms import CONTENT_TYPE, WAV, recording


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
