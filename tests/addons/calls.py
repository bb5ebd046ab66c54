"""What the tests of the failover layer share: a gateway with two targets and a raw server, and answers taken apart."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events

from addons.layer import GatewayLayer
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn, OllamaStandIn, RawServer, until

UPSTREAM_KEY = "sk-ds-test"
CALLER_KEY = "sk-caller"
OLLAMA, DEEPSEEK, RAW = "ollama/qwen2.5:7b", "deepseek/deepseek-flash", "raw/any"
SAID = {OLLAMA: "Hello from the llama here", DEEPSEEK: "Greetings from the deep sea", RAW: "raw words"}
PATH = "/v1/chat/completions"


def pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


@contextmanager
def unanswered() -> Iterator[str]:
    """The address of a server that takes no connection: its queue is full, and further ones hang."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def rules(
    ollama: str,
    deepseek: str,
    raw: str,
    hole: str,
    *,
    timeouts: str = "connect: 400ms, first_token: 300ms, idle: 300ms, total: 4s, keep_alive: 10s",
    more: str = "",
) -> str:
    """The model's name chooses the order: `qwen2.5:7b` asks Ollama first, `deep` DeepSeek, `raw` the raw server, `hole` one that
    never takes the connection."""
    return f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {UPSTREAM_KEY}}}
  raw: {{dialect: openai, urls: [{raw}], key: {UPSTREAM_KEY}}}
  hole: {{dialect: openai, urls: [{hole}], key: {UPSTREAM_KEY}}}
rules:
  - {{name: deep-first, when: {{model: deep}}, use: [{DEEPSEEK}, {OLLAMA}]}}
  - {{name: raw-first, when: {{model: raw}}, use: [{RAW}, {DEEPSEEK}]}}
  - {{name: hole-first, when: {{model: hole}}, use: [hole/any, {DEEPSEEK}]}}
  - {{name: raw-only, when: {{model: lonely}}, use: [{RAW}]}}
  - {{name: ollama-first, use: [{OLLAMA}, {DEEPSEEK}]}}
defaults:
  timeouts: {{{timeouts}}}
  refresh: 200ms
  {more}
"""


FIRST = {"qwen2.5:7b": OLLAMA, "deep": DEEPSEEK, "raw": RAW, "lonely": RAW}
"""The caller's model -> the target that is asked first."""
SECOND = {"qwen2.5:7b": DEEPSEEK, "deep": OLLAMA, "raw": DEEPSEEK}


@dataclass
class World:
    """Servers, and a gateway in front of them."""

    ollama: OllamaStandIn
    deepseek: DeepSeekStandIn
    raw: RawServer
    gateway: Gateway

    def standin(self, target: str) -> OllamaStandIn | DeepSeekStandIn:
        return self.ollama if target == OLLAMA else self.deepseek

    def ask(self, model: str = "qwen2.5:7b", stream: bool = False, **more: object) -> Answer:
        """One call on a connection of its own, read to its end."""
        connection = self.connect()
        try:
            return ask_on(connection, model, stream, **more)
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=15)

    def reset(self) -> None:
        """Back to servers that answer as always."""
        for standin in (self.ollama, self.deepseek):
            standin.start()
            standin.release()
            standin._plans.clear()
            standin.seen.clear()
            # The one that may stay is the inventory's; what a former test left would count as this one's.
            until(lambda server=standin: server.open_connections <= 1, 2.0)  # type: ignore[misc]
            standin.always, standin.pace, standin.aborted = None, 0.0, 0
        self.raw.scripts = [[]]
        self.raw.seen.clear()
        state = self.gateway.state
        self.gateway.until(lambda: all(state.seen[name].models is not None for name in ("ollama",)), "Ollama is back")


@contextmanager
def world(**settings: str) -> Iterator[World]:
    with (
        OllamaStandIn(reply=pieces(SAID[OLLAMA])) as ollama,
        DeepSeekStandIn(UPSTREAM_KEY, reply=pieces(SAID[DEEPSEEK]), thinking=False) as deepseek,
        RawServer() as raw,
        unanswered() as hole,
        Gateway(rules(ollama.url, deepseek.url, raw.url, hole, **settings)) as gateway,
    ):
        yield World(ollama, deepseek, raw, gateway)


@contextmanager
def clean_log(gateway: Gateway) -> Iterator[None]:
    """Fails where the gateway crashed, or wrote a key into its log, in the meantime."""
    before = len(gateway.log.getvalue())
    yield
    log = gateway.log.getvalue()[before:]
    for word in ("crashed", "Traceback", "failed in", UPSTREAM_KEY, CALLER_KEY):
        assert word not in log, log


@dataclass
class Answer:
    """An answer as a caller sees it, whole or streamed."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[Any] = field(default_factory=list)
    """The JSON of each event."""
    comments: int = 0
    done: int = 0
    """How many times `[DONE]` was said."""

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def target(self) -> str | None:
        return self.headers.get("x-gateway-target")

    @property
    def text(self) -> str:
        if not self.streamed:
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        deltas = [choice["delta"] for chunk in self.chunks if "choices" in chunk for choice in chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finish(self) -> list[str]:
        """Every finish_reason that was said."""
        if not self.streamed:
            return [choice["finish_reason"] for choice in json.loads(self.body)["choices"]]
        choices = [choice for chunk in self.chunks if "choices" in chunk for choice in chunk["choices"]]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; fails where it is not exactly one."""
        if not self.streamed:
            found = json.loads(self.body)["error"]
        else:
            (found,) = [chunk["error"] for chunk in self.chunks if "error" in chunk]
        assert set(found) == {"message", "type", "param", "code"}
        return dict(found)


def read_answer(status: int, headers: dict[str, str], body: bytes) -> Answer:
    answer = Answer(status, headers, body)
    if answer.streamed:
        assert body.endswith(b"\n\n"), body
        for event in body.decode().removesuffix("\n\n").split("\n\n"):
            if event == "data: [DONE]":
                answer.done += 1
            elif event.startswith(": "):
                answer.comments += 1
            else:
                assert event.startswith("data: {"), event
                assert not answer.done, event
                answer.chunks.append(json.loads(event.removeprefix("data: ")))
    return answer


def payload(model: str, stream: bool, **more: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hello there"}], "stream": stream, **more}
    return json.dumps(body).encode()


def ask_on(connection: http.client.HTTPConnection, model: str, stream: bool, **more: object) -> Answer:
    headers = {"authorization": f"Bearer {CALLER_KEY}", "content-type": "application/json"}
    connection.request("POST", PATH, payload(model, stream, **more), headers)
    response = connection.getresponse()
    named = {name.lower(): value for name, value in response.getheaders()}
    return read_answer(response.status, named, response.read())


def raw_request(model: str = "qwen2.5:7b", stream: bool = False, version: str = "1.1", extra: str = "") -> bytes:
    """A call as bytes, for those who write to sockets."""
    body = payload(model, stream)
    head = (
        f"POST {PATH} HTTP/{version}\r\nHost: gateway\r\nAuthorization: Bearer {CALLER_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


def layers(gateway: Gateway) -> list[GatewayLayer]:
    """The layers of the connections that are open now."""
    assert gateway.server.master is not None
    servers = gateway.server.master.addons.get("proxyserver")
    found = []
    for handler in servers.connections.values():
        layer = handler.layer
        while layer is not None and not isinstance(layer, GatewayLayer):
            layer = getattr(layer, "layer", None) or getattr(layer, "child_layer", None)
        if layer is not None:
            found.append(layer)
    return found


def dial(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), 10)


def read_until(client: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


def read_all(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def trusting() -> ssl.SSLContext:
    """The gateway makes its own certificate, of an authority that nobody knows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Http2:
    """An HTTP/2 caller over TLS."""

    def __init__(self, gateway: Gateway) -> None:
        context = trusting()
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(dial(gateway), server_hostname="api.openai.com")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()

    def ask(
        self,
        model: str = "qwen2.5:7b",
        stream: bool = False,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        named = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "api.openai.com",
            ":path": PATH,
            "authorization": f"Bearer {CALLER_KEY}",
            **(headers or {}),
        }
        self.h2.send_headers(number, list(named.items()))
        self.h2.send_data(number, payload(model, stream) if body is None else body, end_stream=True)
        self.flush()
        self.bodies[number] = b""
        return number

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def read(self, ready: Callable[[], object]) -> None:
        """Reads until `ready()`."""
        while not ready():
            data = self.socket.recv(65536)
            assert data, "the gateway closed the connection"
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        self.heads[event.stream_id] = {str(k): str(v) for k, v in event.headers}
                    case h2.events.DataReceived():
                        self.bodies[event.stream_id] += event.data
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        self.ended.add(event.stream_id)
            self.flush()

    def answer(self, number: int) -> Answer:
        head = self.heads[number]
        return read_answer(int(head[":status"]), head, self.bodies[number])

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@contextmanager
def at_rest(shared: World) -> Iterator[None]:
    """Between one test and the next: servers that answer as always, a clean log, and at the end no call under way."""
    shared.reset()
    with clean_log(shared.gateway):
        yield
        shared.gateway.until(lambda: not shared.gateway.state.in_flight(), "no call is under way")
