"""What the tests of the failover layer share: a gateway with two targets and a raw server, and answers taken apart."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

import addons.inventory
from addons.layer import GatewayLayer
from rules.conditions import Seen
from rules.health import CLOSED
from tests.certificates import own_certificate
from tests.gateway import Gateway, patient
from tests.standins import (
    DeepSeekStandIn,
    EmptyDeltas,
    HoldAfter,
    KeepAliveOnly,
    OllamaStandIn,
    RawServer,
    Silence,
    SilenceAfterHeaders,
    until,
)
from tests.standins.raw import Flood, Wait

UPSTREAM_KEY = "sk-ds-test"
CALLER_KEY = "sk-caller"
OLLAMA, DEEPSEEK, RAW = "ollama/qwen2.5:7b", "deepseek/deepseek-flash", "raw/any"
SAID = {OLLAMA: "Hello from the llama here", DEEPSEEK: "Greetings from the deep sea", RAW: "raw words"}
PATH = "/v1/chat/completions"
GARBAGE = b"\x17\x03\x03\x00\x20" + bytes(32)
"""A record that no key of the connection made."""


def pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


@contextmanager
def unanswered(*, looked_at: bool = True) -> Iterator[str]:
    """The address of a server that takes no connection: its queue is full, and further ones hang.

    Where it is not to be `looked_at`, the gateway's own looks at it fail at once: at its end it waits for a look.
    """

    def look(client: httpx.Client, url: str, headers: dict[str, str], asked: bytes | None) -> tuple[int, bytes]:
        if url.startswith(hole):
            raise httpx.ConnectTimeout("it does not take the connection")
        return fetched(client, url, headers, asked)

    fetched = addons.inventory._fetch
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        hole = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not looked_at:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(addons.inventory, "_fetch", look)
        yield hole


def rules(
    ollama: str,
    deepseek: str,
    raw: str,
    hole: str,
    *,
    timeouts: str | None = None,
    failover: str = "attempts: 1, mid_stream: error, backoff: 10ms",
    patience: str = "300ms",
    more: str = "",
) -> str:
    """The model's name chooses the order: `qwen2.5:7b` asks Ollama first, `deep` DeepSeek, `raw` the raw server, `hole` one that
    never takes the connection."""
    return f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {UPSTREAM_KEY}, patience: {patience}}}
  raw: {{dialect: openai, urls: [{raw}], key: {UPSTREAM_KEY}}}
  hole: {{dialect: openai, urls: [{hole}], key: {UPSTREAM_KEY}}}
rules:
  - {{name: deep-first, when: {{model: deep}}, use: [{DEEPSEEK}, {OLLAMA}]}}
  - {{name: raw-first, when: {{model: raw}}, use: [{RAW}, {DEEPSEEK}]}}
  - {{name: hole-first, when: {{model: hole}}, use: [hole/any, {DEEPSEEK}]}}
  - {{name: raw-only, when: {{model: lonely}}, use: [{RAW}]}}
  - {{name: ollama-first, use: [{OLLAMA}, {DEEPSEEK}]}}
defaults:
  timeouts: {{{timeouts or patient()}}}
  breaker: {{failures: 1000000}}
  admission: {{parallel: 64}}
  failover: {{{failover}}}
  refresh: 200ms
  {more}
"""


FIRST = {"qwen2.5:7b": OLLAMA, "deep": DEEPSEEK, "raw": RAW, "lonely": RAW}
"""The caller's model -> the target that is asked first."""
SECOND = {"qwen2.5:7b": DEEPSEEK, "deep": OLLAMA, "raw": DEEPSEEK}


SOON = 0.4
"""Seconds after which a server that is silent on purpose is given up; what is not on purpose has patient()."""


def _is_silent(plan: object) -> bool:
    """Whether what a server is to do next is to keep its caller waiting until that one gives up."""
    match plan:
        case Silence() | SilenceAfterHeaders() | HoldAfter() | KeepAliveOnly() | EmptyDeltas() | Wait() | Flood():
            return plan.seconds >= 5
        case _:
            return False


@dataclass
class World:
    """Servers, and a gateway in front of them."""

    ollama: OllamaStandIn
    deepseek: DeepSeekStandIn
    raw: RawServer
    gateway: Gateway

    def standin(self, target: str) -> OllamaStandIn | DeepSeekStandIn:
        return self.ollama if target == OLLAMA else self.deepseek

    @property
    def standins(self) -> tuple[OllamaStandIn | DeepSeekStandIn, ...]:
        return self.ollama, self.deepseek

    def ask(self, model: str = "qwen2.5:7b", stream: bool = False, **more: object) -> Answer:
        """One call on a connection of its own, read to its end, as patient as its servers' plans need it."""
        with closing(self.connect()) as connection, self.hurry():
            return ask_on(connection, model, stream, **more)

    def hurry(self) -> AbstractContextManager[None]:
        """Calls that begin meanwhile wait only briefly where a server is to fall silent, and patiently elsewhere."""
        plans = [plan for standin in self.standins for plan in (standin.always, *standin._plans)]
        steps = [step for script in self.raw.scripts for step in script]
        return self.gateway.hurried(SOON) if any(map(_is_silent, [*plans, *steps])) else nullcontext()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=15)

    def reset(self) -> None:
        """Back to servers that answer as always."""
        for standin in self.standins:
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
        rest_no_more(self.gateway)
        self.gateway.until(lambda: all(state.seen[name].models is not None for name in ("ollama",)), "Ollama is back")


def rest_no_more(gateway: Gateway) -> None:
    """Closes every breaker: what failed in one test must not be passed over in the next."""
    for node in [*gateway.state.nodes._nodes.values()]:
        node.breaker = node.server.breaker = CLOSED
    gateway.state.refusing.clear()


@contextmanager
def world(**settings: str) -> Iterator[World]:
    with (
        OllamaStandIn(reply=pieces(SAID[OLLAMA])) as ollama,
        DeepSeekStandIn(UPSTREAM_KEY, reply=pieces(SAID[DEEPSEEK]), thinking=False) as deepseek,
        RawServer() as raw,
        unanswered(looked_at=False) as hole,
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
        self.resets: set[int] = set()
        """Streams that ended so."""

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
                    case h2.events.StreamEnded():
                        self.ended.add(event.stream_id)
                    case h2.events.StreamReset():
                        self.ended.add(event.stream_id)
                        self.resets.add(event.stream_id)
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
    """Between one test and the next: servers that answer as always, a clean log, and at the end no call under way and
    no place taken."""
    shared.reset()
    with clean_log(shared.gateway):
        yield
        shared.gateway.until(lambda: not shared.gateway.state.in_flight(), "no call is under way")
        idle_nodes(shared.gateway)


# ---------------------------------------------------------------------------------------------------------
# Faults: what the tests of the whole fault matrix share


TEXT = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo"
"""What every server says: no word comes twice, so that a gap, a repetition and an early end can all be seen."""


class Stale(Mapping[str, Seen]):
    """What the gateway believes of its servers: all are there. What it knows may be a few seconds old."""

    def __init__(self, names: Iterable[str], models: Iterable[str]) -> None:
        self._seen = dict.fromkeys(names, Seen(frozenset(models), reached=True))

    def __getitem__(self, name: str) -> Seen:
        return self._seen[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)


@contextmanager
def refusing() -> Iterator[str]:
    """The address of nobody: connections are refused, and the port stays so."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


class _Handshake(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        context: ssl.SSLContext = self.server.context  # type: ignore[attr-defined]
        heard: list[bytes] = self.server.heard  # type: ignore[attr-defined]
        self.request.settimeout(2)
        with suppress(OSError), context.wrap_socket(self.request, server_side=True) as connection:
            if data := connection.recv(65536):
                heard.append(data)


@contextmanager
def untrusted() -> Iterator[tuple[str, list[bytes]]]:
    """The https address of a server whose certificate nobody trusts, and what it was told."""
    with tempfile.TemporaryDirectory() as folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own_certificate(Path(folder), "127.0.0.1"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handshake) as server:
        server.daemon_threads = True
        server.context, server.heard = context, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}", server.heard  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def line_of(target: str, document: object) -> bytes:
    """One document as a line of the target's stream."""
    text = json.dumps(document).encode()
    return text + b"\n" if target == OLLAMA else b"data: " + text + b"\n\n"


def saying(target: str, text: str = "", **more: object) -> bytes:
    """One piece of an answer in the target's stream; `more` stands beside the text."""
    if target == OLLAMA:
        return line_of(target, {"message": {"role": "assistant", "content": text, **more}, "done": False})
    delta = ({"content": text} if text else {}) | more
    return line_of(target, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def ending(target: str, reason: str = "stop") -> list[bytes]:
    """The end of an answer in the target's stream."""
    if target == OLLAMA:
        done = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}
        return [line_of(target, {**done, "prompt_eval_count": 7, "eval_count": 5})]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [line_of(target, last), b"data: [DONE]\n\n"]


def error_line(target: str, message: str = "it broke") -> bytes:
    """The error object of the target's stream."""
    return line_of(target, {"error": message if target == OLLAMA else {"message": message, "type": "server_error"}})


def bad_line(target: str) -> bytes:
    """A line of the target's stream that holds no JSON."""
    return b'{"message": {"content": "oh\n' if target == OLLAMA else b'data: {"choices": [{"del\n\n'


def idle_nodes(gateway: Gateway) -> None:
    """Fails unless every target has given all its places back, and nobody waits for one."""
    state = gateway.state
    gateway.until(
        lambda: not any(row["in_flight"] or row["waiting"] for row in state.nodes.rows()), "all places are free"
    )
