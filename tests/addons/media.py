"""What the tests of audio and images share: gateways with media servers behind them, and large forms."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.addons.calls import Http2, clean_log
from tests.gateway import Gateway, patient
from tests.standins import ModelCard, OllamaStandIn
from tests.standins.media import HushAt, MediaStandIn, StallAt
from tests.wire.forms import CONTENT_TYPE, WAV, recording

BIG = 25 * 1000 * 1000
EAR = ModelCard("hears:latest", ("completion", "audio"))
SPEAK = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hello"}).encode()


def rules(*urls: str, ollama: str = "", more: str = "", timeouts: str | None = None) -> str:
    """Every call goes to these servers in turn; where there is an Ollama, calls of `local...` to its model first."""
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


def send_over_http_2(caller: Http2, path: str, kind: str, raw: bytes) -> int:
    """A call, and its answer."""
    number = upload_over_http_2(caller, path, kind, raw)
    caller.read(lambda: number in caller.ended)
    return number


def upload_over_http_2(caller: Http2, path: str, kind: str, raw: bytes) -> int:
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
    return number


def head_of(
    raw: bytes, path: str = "/v1/audio/transcriptions", kind: str = CONTENT_TYPE, version: str = "1.1"
) -> bytes:
    return (
        f"POST {path} HTTP/{version}\r\nhost: x\r\nauthorization: Bearer sk-caller\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    ).encode()


def log_of(gateway: Gateway) -> str:
    return gateway.log.getvalue()
