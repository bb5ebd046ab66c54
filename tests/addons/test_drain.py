"""The end: calls under way may finish, those that cannot are told so, and the process ends well."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.addons.calls import clean_log, pieces, raw_request, unanswered
from tests.addons.crowd import Caller, ask, beside, rows, waiting
from tests.addons.doors import StockTool
from tests.gateway import Gateway, GatewayProcess
from tests.standins import HoldAfter, OllamaStandIn, Plan, Silence, Status, until

SAID = "Hello from the llama here"
STOPPED = {
    "message": "The gateway was stopped before the answer was complete. Try again.",
    "type": "service_unavailable_error", "param": None, "code": "shutting_down",
}  # fmt: skip
CONNECTED = re.compile("ollama: connected")


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["m"], reply=pieces(SAID)) as server:
        yield server


def rules(ollama: OllamaStandIn, hole: str = "", *, drain: str = "5s", parallel: int = 20) -> str:
    never = f"hole: {{dialect: openai, urls: [{hole}], key: sk-ds-test}}" if hole else ""
    way = "- {name: hole, when: {model: hole}, use: [hole/m]}" if hole else ""
    return f"""
providers:
  ollama: {{dialect: ollama, urls: [{ollama.url}], parallel: {parallel}}}
  {never}
rules:
  {way}
  - {{name: all, use: [ollama/m]}}
defaults:
  timeouts: {{connect: 20s, first_token: 20s, idle: 20s, total: 40s, keep_alive: 20s}}
  failover: {{backoff: 10s}}
  breaker: {{failures: 1000}}
  drain: {drain}
  refresh: 200ms
"""


@contextmanager
def stopping(gateway: Gateway, drain: float | None = None) -> Iterator[None]:
    """Stops a gateway while the test goes on; it has stopped at the end."""
    with beside(lambda: gateway.run(gateway.server.stop(drain=drain))):
        gateway.until(lambda: gateway.state.draining, "it is stopping")
        yield


def test_a_caller_who_still_sends_its_request_is_told_so(ollama: OllamaStandIn) -> None:
    with Gateway(rules(ollama)) as gateway, clean_log(gateway), socket.socket() as caller:
        caller.settimeout(5)
        caller.connect(("127.0.0.1", gateway.port))
        caller.sendall(raw_request("m")[:-5])
        gateway.until(lambda: len(gateway.state.in_flight()) == 1, "the call is under way")
        with stopping(gateway, 0.1):
            answer = b""
            while b"shutting_down" not in answer:
                answer += caller.recv(65536) or b"shutting_down: never said"
        assert answer.startswith(b"HTTP/1.1 503 ")


def check_refused(gateway: Gateway) -> None:
    """A new call is told to come again."""
    refused = ask(gateway)
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert refused.error["code"] == "shutting_down"


def check_stopped(caller: Caller, stream: bool) -> None:
    answer = caller.answer()
    if stream:
        assert (answer.status, answer.done) == (200, 1)
        assert answer.text == "Hello from", "what was there has come through"
    else:
        assert (answer.status, int(answer.headers["retry-after"])) == (503, 5)
    assert answer.error == STOPPED


# ---------------------------------------------------------------------------------------------------------
# ProxyServer.stop


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_calls_under_way_finish_and_new_ones_are_told_to_come_again(ollama: OllamaStandIn, stream: bool) -> None:
    with Gateway(rules(ollama)) as gateway, clean_log(gateway):
        ollama.plan(HoldAfter(2))
        with Caller(gateway, stream=stream) as caller:
            assert until(lambda: ollama.holding == 1)
            with stopping(gateway):
                check_refused(gateway)
                ollama.release()
                assert caller.answer().text == SAID
        assert not gateway.server.get_status().running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_that_waits_for_a_place_gets_it_while_there_is_time(ollama: OllamaStandIn, stream: bool) -> None:
    with Gateway(rules(ollama, parallel=1)) as gateway, clean_log(gateway):
        ollama.plan(HoldAfter(2))
        with Caller(gateway) as first:
            assert until(lambda: ollama.holding == 1)
            with Caller(gateway, stream=stream) as second:
                gateway.until(lambda: waiting(gateway, "ollama/m") == 1, "it waits")
                with stopping(gateway):
                    ollama.release()
                    assert first.answer().text == second.answer().text == SAID


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_that_does_not_finish_in_time_is_told_so(ollama: OllamaStandIn, stream: bool) -> None:
    with Gateway(rules(ollama)) as gateway, clean_log(gateway):
        ollama.plan(HoldAfter(2))
        with Caller(gateway, stream=stream) as caller:
            assert until(lambda: ollama.holding == 1)
            if stream:
                caller.read_until(b" from")
            began = time.monotonic()
            with stopping(gateway, 0.3):
                check_stopped(caller, stream)
                assert 0.25 < time.monotonic() - began < 3.0
        assert time.monotonic() - began < 5.0
        assert until(lambda: ollama.aborted == 1, 1.0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("state", ["in the queue", "in a pause", "without a word yet", "while connecting"])
def test_a_call_without_an_answer_is_told_so_too(ollama: OllamaStandIn, state: str, stream: bool) -> None:
    with ExitStack() as stack:
        hole = stack.enter_context(unanswered()) if state == "while connecting" else ""
        gateway = stack.enter_context(Gateway(rules(ollama, hole, parallel=1)))
        stack.enter_context(clean_log(gateway))
        plans: dict[str, Plan] = {
            "in the queue": HoldAfter(0),
            "in a pause": Status(500),
            "without a word yet": Silence(),
        }
        if state in plans:
            ollama.plan(plans[state])
        model = "hole" if state == "while connecting" else "m"
        callers = [stack.enter_context(Caller(gateway, model, stream))]
        gateway.until(lambda: bool(rows(gateway)), "it was sent")
        match state:
            case "in the queue":
                assert until(lambda: ollama.holding == 1)
                callers.append(stack.enter_context(Caller(gateway, "m", stream)))
                gateway.until(lambda: waiting(gateway, "ollama/m") == 1, "it waits")
            case "in a pause":
                assert until(lambda: len(ollama.chats) == 1)
                gateway.until(lambda: rows(gateway)[0]["in_flight"] == 0, "it pauses")
            case "without a word yet":
                assert until(lambda: len(ollama.chats) == 1)
            case _:
                gateway.until(lambda: rows(gateway)[0]["in_flight"] == 1, "it connects")
        began = time.monotonic()
        with stopping(gateway, 0.1):
            answers = [caller.answer() for caller in callers]
            assert time.monotonic() - began < 2.5
        for answer in answers:
            assert (answer.status, int(answer.headers["retry-after"]), answer.error) == (503, 5, STOPPED)
        assert time.monotonic() - began < 6.0, "a look at a server that takes no connection ends by itself"
        assert len(ollama.chats) == (0 if state == "while connecting" else 1)


def test_a_stop_with_nobody_there_takes_no_time(ollama: OllamaStandIn) -> None:
    with Gateway(rules(ollama)) as gateway, clean_log(gateway):
        assert ask(gateway).status == 200
        began = time.monotonic()
        with Caller(gateway) as idle:  # its connection stays open, but no call is under way
            assert idle.answer().status == 200
            with stopping(gateway):
                pass
        assert time.monotonic() - began < 4.0


def test_half_a_request_holds_up_a_stop_only_as_long_as_a_call_may(ollama: OllamaStandIn) -> None:
    with Gateway(rules(ollama)) as gateway, clean_log(gateway), socket.socket() as client:
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(raw_request()[:-10])
        gateway.until(lambda: len(gateway.state.in_flight()) == 1, "it has begun")
        began = time.monotonic()
        with stopping(gateway, 0.2):
            pass
        assert time.monotonic() - began < 4.0


# ---------------------------------------------------------------------------------------------------------
# SIGTERM


class _At:
    """What Caller needs of a gateway."""

    def __init__(self, port: int) -> None:
        self.port = port


def port_of(process: GatewayProcess) -> int:
    return int(process.url.rpartition(":")[2])


def caller_of(port: int, stream: bool) -> Caller:
    return Caller(_At(port), "m", stream)  # type: ignore[arg-type]  # a process has no more to show than its port


def test_a_process_that_is_told_to_end_finishes_its_streams_and_takes_no_new_call(
    tmp_path: Path, ollama: OllamaStandIn
) -> None:
    with GatewayProcess(rules(ollama), tmp_path) as gateway:
        ollama.always = HoldAfter(2)
        with caller_of(port_of(gateway), True) as stream, caller_of(port_of(gateway), False) as whole:
            assert until(lambda: ollama.holding == 2)
            gateway.process.terminate()
            assert until(lambda: "stopping" in gateway.log)
            with caller_of(port_of(gateway), False) as late:
                refused = late.answer()
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                assert refused.error["code"] == "shutting_down"
            ollama.release()
            assert stream.answer().text == whole.answer().text == SAID
        assert gateway.process.wait(5) == 0
    assert "Traceback" not in gateway.log
    assert gateway.log.count(" 200 POST ") == 2


def test_a_process_ends_in_time_and_tells_the_calls_that_are_left(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with GatewayProcess(rules(ollama, drain="400ms", parallel=2), tmp_path) as gateway:
        ollama.always = HoldAfter(2)
        port = port_of(gateway)
        with caller_of(port, True) as stream, caller_of(port, False) as whole:
            assert until(lambda: ollama.holding == 2)
            stream.read_until(b" from")
            with caller_of(port, False) as waits, caller_of(port, True) as waits_too:
                time.sleep(0.1)
                gateway.process.terminate()
                began = time.monotonic()
                check_stopped(stream, True)
                check_stopped(whole, False)
                check_stopped(waits, False)
                check_stopped(waits_too, False)
                assert 0.3 < time.monotonic() - began < 5.0
        assert gateway.process.wait(5) == 0
    assert "Traceback" not in gateway.log
    assert len(ollama.chats) == 2


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with GatewayProcess(rules(ollama, drain="30s"), tmp_path) as gateway:
        ollama.always = HoldAfter(2)
        with caller_of(port_of(gateway), True):
            assert until(lambda: ollama.holding == 1)
            gateway.process.terminate()
            assert until(lambda: "stopping" in gateway.log)
            gateway.process.terminate()
            assert gateway.process.wait(3) != 0


# ---------------------------------------------------------------------------------------------------------
# The stock tools


def check_sound(output: str) -> None:
    """Nothing of ours went wrong. A tool that ends under a caller's connection makes Python itself print one."""
    for words in (
        "crashed",
        "failed in",
        "the layer failed",
        "/addons/layer.py",
        "/addons/drain.py",
        "/addons/stream.py",
    ):
        assert words not in output


def test_mitmdump_tells_the_calls_that_are_left_when_it_ends(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with StockTool("mitmdump", tmp_path, rules(ollama, drain="300ms")) as tool:
        tool.until(CONNECTED)
        ollama.always = HoldAfter(2)
        with caller_of(tool.port, True) as stream, caller_of(tool.port, False) as whole:
            assert until(lambda: ollama.holding == 2)
            stream.read_until(b" from")
            tool.process.terminate()
            check_stopped(stream, True)
            check_stopped(whole, False)
        assert tool.process.wait(8) == 0
    check_sound(tool.output)


def test_mitmdump_lets_a_stream_finish_when_it_ends(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with StockTool("mitmdump", tmp_path, rules(ollama)) as tool:
        tool.until(CONNECTED)
        ollama.always = HoldAfter(2)
        with caller_of(tool.port, True) as stream:
            assert until(lambda: ollama.holding == 1)
            tool.process.terminate()
            time.sleep(0.2)
            ollama.release()
            assert stream.answer().text == SAID
        assert tool.process.wait(8) == 0
    check_sound(tool.output)
