"""mitmdump and mitmweb with the gateway as their script, and `unigate run --web`: all serve, and show what was said."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy.addons.view import View
from mitmproxy.test.taddons import context
from mitmproxy.test.tflow import tflow

from addons import viewer
from addons.state import State
from rules.load import load_rules
from tests.addons.doors import NO_TLS, ROOT, Door, StockTool, free_port
from tests.gateway import GatewayProcess, quick_rules
from tests.standins import OllamaStandIn
from wire.profiles import PROFILES

MARKER = "unmistakable-words"
TOKEN = re.compile(r"http://127\.0\.0\.1:(\d+)/\?token=(\w+)")
CONNECTED = re.compile("ollama: connected")


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(reply=["So", " it", " is"]) as server:
        yield server


def chat(port: int, text: str = MARKER, *, stream: bool = False) -> str:
    """One call; gives the text of its answer."""
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": text}], "stream": stream}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    answer = httpx.post(url, json=body, trust_env=False, verify=NO_TLS, timeout=10)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-target"] == "ollama/qwen2.5:7b"
    if stream:
        assert answer.text.endswith("data: [DONE]\n\n")
        chunks = [json.loads(row[6:]) for row in answer.text.splitlines() if row.startswith("data: {")]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return str(answer.json()["choices"][0]["message"]["content"])


class Web:
    """mitmweb's API, as its page uses it."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}", "x-xsrftoken": "ab" * 16}
        cookies = {"_mitmproxy_xsrf": "ab" * 16}  # against forged requests: both must be the same
        self.client = httpx.Client(base_url=url, trust_env=False, verify=NO_TLS, headers=headers, cookies=cookies)

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:200]}"
        return answer

    def flows(self) -> list[dict[str, Any]]:
        return list(self.get("/flows").json())

    def post(self, path: str) -> None:
        answer = self.client.post(path)
        assert answer.status_code < 300, answer.text


def check_shown(web: Web) -> None:
    """Two calls of chat(), one whole and one streamed, as the viewer shows them."""
    whole, streamed = web.flows()[-2:]
    for flow in (whole, streamed):
        assert flow["comment"] == "test → ollama/qwen2.5:7b"
        assert flow["response"]["status_code"] == 200
        assert MARKER in web.get(f"/flows/{flow['id']}/request/content.data").text
    assert "So it is" in web.get(f"/flows/{whole['id']}/response/content.data").text
    said = web.get(f"/flows/{streamed['id']}/response/content.data").text
    assert '"content":" it"' in said
    assert said.endswith("data: [DONE]\n\n")


def check_replay_refused(web: Web, ollama: OllamaStandIn) -> None:
    before = len(ollama.chats)
    flow = web.flows()[0]
    web.post(f"/flows/{flow['id']}/replay")
    end = time.monotonic() + 5
    while (web.flows()[0].get("response") or {}).get("status_code") != 400:
        assert time.monotonic() < end, web.flows()[0]
        time.sleep(0.02)
    said = web.get(f"/flows/{flow['id']}/response/content.data").json()
    words = "A call cannot be replayed through the gateway: its key is gone. Send it again."
    assert said["error"] == {"message": words, "type": "invalid_request_error", "param": None, "code": None}
    assert len(ollama.chats) == before


def test_mitmdump_answers_whole_and_streamed_calls_on_loopback_only(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with StockTool("mitmdump", tmp_path, quick_rules(ollama=ollama.url)) as tool:
        tool.until(CONNECTED)
        assert chat(tool.port) == chat(tool.port, stream=True) == "So it is"
        with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", tool.port), timeout=5):
            pass
        assert tool.stop() == 0
    assert "Traceback" not in tool.output
    assert tool.output.count(" req_") == 2
    assert "/api/tags" not in tool.output, "the inventory's own requests are nobody's business"


def test_mitmweb_answers_and_shows_calls_and_replays_none(tmp_path: Path, ollama: OllamaStandIn) -> None:
    arguments = ("--no-web-open-browser", "--set", f"web_port={free_port()}")
    with StockTool("mitmweb", tmp_path, quick_rules(ollama=ollama.url), *arguments) as tool:
        tool.until(CONNECTED)
        found = tool.until(TOKEN)
        assert chat(tool.port) == chat(tool.port, stream=True) == "So it is"
        web = Web(f"http://127.0.0.1:{found[1]}", found[2])
        check_shown(web)
        check_replay_refused(web, ollama)
        web.client.close()
        assert tool.stop() == 0
    assert "Traceback" not in tool.output


def test_run_with_web_shows_calls_and_replays_none_and_stays_private(tmp_path: Path, ollama: OllamaStandIn) -> None:
    with GatewayProcess(quick_rules(ollama=ollama.url), tmp_path, "--web", "--web-port", str(free_port())) as gateway:
        found = TOKEN.search(gateway.log)
        while found is None:
            time.sleep(0.02)
            found = TOKEN.search(gateway.log)
        port = int(gateway.url.rpartition(":")[2])
        assert chat(port) == chat(port, stream=True) == "So it is"
        web = Web(f"http://127.0.0.1:{found[1]}", found[2])
        check_shown(web)
        check_replay_refused(web, ollama)
        for public in ({"listen_host": "0.0.0.0"}, {"mode": ["reverse:http://127.0.0.1:9@0.0.0.0:0"]}):
            assert web.client.put("/options", json=public).status_code == 400
        options = web.get("/options").json()
        assert options["listen_host"]["value"] == "127.0.0.1"
        assert options["mode"]["value"] == ["reverse:http://127.0.0.1:9"]
        assert chat(port) == "So it is"
        web.client.close()
        gateway.process.terminate()
        assert gateway.process.wait(10) == 0
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize(("more", "variables", "words"), [
    (["--listen-host", "0.0.0.0"], {}, "refusing to listen on '0.0.0.0' without keys"),
    (["--listen-host", "::"], {}, "refusing to listen on '::' without keys"),
    (["--mode", "reverse:http://127.0.0.1:9@0.0.0.0:0"], {}, "refusing to listen on '0.0.0.0' without keys"),
    (["--mode", "regular"], {}, "the mode 'regular' is not served; use reverse:http://127.0.0.1:9"),
    (["--mode", "socks5"], {}, "the mode 'socks5' is not served; use reverse:http://127.0.0.1:9"),
    (["--mode", "reverse:https://example.com"], {}, "the mode 'reverse:https://example.com' is not served"),
    ([], {"HOST": "0.0.0.0"}, "refusing to listen on '0.0.0.0' without keys"),
    ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL is 'loud'; it must be one of"),
], ids=["host", "IPv6", "mode", "forward proxy", "SOCKS", "another scheme", "environment", "level"])  # fmt: skip
def test_a_start_that_would_be_unsafe_is_refused(
    more: list[str], variables: dict[str, str], words: str, tmp_path: Path
) -> None:
    rules = "proxy: {host: '${HOST:-127.0.0.1}'}\nproviders: {s: {dialect: sandbox}}\nrules: [{name: a, use: [s/echo]}]"
    tool = StockTool("mitmdump", tmp_path, rules, *more, **variables)
    if "--mode" in more:  # instead of the mode that StockTool gives, not beside it
        at = tool._command.index("--mode")
        del tool._command[at : at + 2]
    with pytest.raises(AssertionError, match="it ended at once"), tool:
        pass
    assert tool.process.returncode == 2
    assert f"\nunigate: {words}" in f"\n{tool.output}"
    assert "Traceback" not in tool.output


def test_the_port_of_the_rules_is_taken_where_the_tool_names_none(tmp_path: Path) -> None:
    rules = "proxy: {port: '${PORT}'}\nproviders: {s: {dialect: sandbox}}\nrules: [{name: a, use: [s/fast]}]"
    port = free_port()
    tool = StockTool("mitmdump", tmp_path, rules, PORT=str(port))
    at = tool._command.index("--listen-port")
    del tool._command[at : at + 2]
    with tool:
        assert tool.port == port
        with Door(port) as door:
            assert door.ask("GET /health").status == 200


def test_a_script_that_is_loaded_anew_goes_on_serving(tmp_path: Path) -> None:
    rules = "providers: {s: {dialect: sandbox}}\nrules: [{name: a, use: [s/fast]}]"
    script = tmp_path / "gateway.py"
    script.write_text(
        (ROOT / "addons" / "gateway.py").read_text().replace("Path(__file__)", f"Path({str(ROOT / 'addons' / 'x')!r})")
    )
    tool = StockTool("mitmdump", tmp_path, rules)
    tool._command[2] = str(script)
    body = b'{"model": "x", "messages": [{"role": "user", "content": "hi"}]}'
    with tool:
        tool.until(re.compile("Loading script"))
        script.touch()
        tool.until(re.compile("Loading script(?s:.*)Loading script"))
        end = time.monotonic() + 5
        while True:
            with Door(tool.port) as door:
                reply = door.ask("POST /v1/chat/completions", body=body)
            if reply.status == 200:
                break
            assert time.monotonic() < end, reply
            time.sleep(0.05)
    assert "Traceback" not in tool.output


def test_a_viewer_keeps_only_so_many_flows_and_those_that_somebody_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "MAX_FLOWS", 3)
    rules = load_rules("providers: {s: {dialect: sandbox}}\nrules: [{name: a, use: [s/echo]}]", {}, profiles=PROFILES)
    view = View()
    with context(view) as running:
        running.master.addons.add(addon := viewer.Viewer(State(rules)))
        flows = [tflow(resp=True) for _ in range(6)]
        flows[0].marked = ":star:"
        for flow in flows:
            flow.live = False
            view.add([flow])
            addon.response(flow)
    assert [flow.id for flow in view._store.values()] == [flows[0].id, flows[4].id, flows[5].id]
