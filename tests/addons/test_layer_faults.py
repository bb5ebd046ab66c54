"""What the layer does about the worst: bytes that break our own code, servers that hang up late, modes that it does not serve."""

from __future__ import annotations

import socket
import time

import pytest

from addons.stream import GatewayStream
from tests.gateway import Gateway, quick_rules
from tests.standins import DeepSeekStandIn, Lines, OllamaStandIn, RawServer, Status, raw

ONCE = "  failover: {attempts: 1}"
DEEP = "[" * 400 + "]" * 400
DELTA = '{{"choices":[{{"index":0,"delta":{{"content":"Hi","odd":{}}},"finish_reason":null}}]}}'


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_in_the_layer_ends_the_call_with_a_500_and_the_next_one_is_served(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url)) as gateway:
        with monkeypatch.context() as patch:
            patch.setattr(GatewayStream, "_take", lambda self, readings: 1 / 0)
            began = time.monotonic()
            answer = gateway.chat(stream=stream)
            assert time.monotonic() - began < 5
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert answer.headers["x-request-id"] in gateway.log.getvalue()
        assert gateway.chat(stream=stream).status_code == 200
        assert not gateway.state.in_flight()


def test_a_bug_after_the_first_word_ends_the_stream_with_an_error_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    take = GatewayStream._take

    def breaks_later(self: GatewayStream, readings: list[object]) -> object:
        if self.exchange is not None and self.exchange.begun:
            raise ZeroDivisionError
        return take(self, readings)  # type: ignore[arg-type]

    with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url)) as gateway:
        ollama.pace = 0.02
        monkeypatch.setattr(GatewayStream, "_take", breaks_later)
        answer = gateway.chat(stream=True)
    assert answer.status_code == 200
    assert answer.text.count('"error"') == 1
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_json_that_nests_too_deeply_to_be_passed_on_is_the_servers_failure(stream: bool) -> None:
    with DeepSeekStandIn("sk-ds-test") as deepseek, Gateway(quick_rules(deepseek=deepseek.url, more=ONCE)) as gateway:
        deepseek.plan(Status(500, f'{{"error":{{"message":{DEEP}}}}}'.encode()))
        assert gateway.chat(stream=stream).status_code == 502
        deepseek.plan(Lines([f"data: {DELTA.format(DEEP)}\n\n".encode(), b"data: [DONE]\n\n"]))
        assert gateway.chat(stream=stream).status_code == 502
        assert "crashed" not in gateway.log.getvalue()


def test_a_call_that_a_reused_connection_broke_off_late_is_not_sent_a_second_time() -> None:
    reply = b'{"message":{"content":"Hi"},"done":true,"done_reason":"stop"}\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(reply)
    script: list[raw.Step] = [raw.Expect(), raw.Send(head + reply), raw.Expect(), raw.Wait(0.4), raw.Close()]
    with (
        RawServer(script) as server,
        Gateway(quick_rules(ollama=server.url, more=ONCE)) as gateway,
        gateway.client() as client,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json=body).status_code == 502
        assert len([seen for seen in server.seen if seen.path == "/api/chat"]) == 2


def test_nothing_is_dialled_that_no_rule_has_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.3)
        with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url)) as gateway:
            with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
                port = listener.getsockname()[1]
                caller.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\nSSH-2.0-x\r\n".encode())
                with pytest.raises(TimeoutError):
                    listener.accept()
            assert gateway.chat().status_code == 200
