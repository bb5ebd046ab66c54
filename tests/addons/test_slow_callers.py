"""Callers that read slowly: they are not taken for upstreams that fell silent."""

from __future__ import annotations

import json
import socket
import time

from tests.gateway import Gateway, patient, quick_rules
from tests.standins import OllamaStandIn

PIECES = [letter * 65_536 for letter in "abcdefghij" * 16]


def test_a_caller_who_stops_reading_for_longer_than_the_idle_limit_gets_its_whole_answer() -> None:
    body = json.dumps({"model": "qwen2.5:7b", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        OllamaStandIn(reply=PIECES) as ollama,
        Gateway(quick_rules(ollama=ollama.url, timeouts=patient(idle="600ms"))) as gateway,
    ):
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            caller.settimeout(10)
            caller.connect(("127.0.0.1", gateway.port))
            caller.sendall((head + body).encode())
            pieces = [caller.recv(4096)]
            time.sleep(1.6)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            while data := caller.recv(1 << 20):
                pieces.append(data)
        answer = b"".join(pieces)
        assert gateway.log.getvalue().count(" 200 POST ") == 1
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in answer
    text = "".join(
        choice["delta"].get("content") or ""
        for line in answer.split(b"\n\n")
        if line.startswith(b"data: {")
        for choice in json.loads(line[6:])["choices"]
    )
    assert text == "".join(PIECES)
