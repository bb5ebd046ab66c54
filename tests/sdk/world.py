"""What the clients' tests share: the gateway with servers of every kind behind it, and how a client's program is run.

A client lives in an interpreter of its own, because no two of them agree on their dependencies. Its program runs once
and prints what the client showed, a JSON line for each scenario; the tests judge that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.gateway import ROOT, Gateway
from tests.standins import CutAfter, DeepSeekStandIn, OllamaStandIn, Pace, Status

KEY = "sk-caller-0123456789"
UPSTREAM_KEY = "sk-upstream-9876543210"
RULES = """
proxy: {{auth: {{tokens: [{key}]}}}}
providers:
  ollama:      {{dialect: ollama, urls: [{ollama}]}}
  deepseek:    {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {upstream_key}}}
  cut-local:   {{dialect: ollama, urls: [{cut_local}]}}
  cut-remote:  {{dialect: openai, profile: deepseek, urls: [{cut_remote}], key: {upstream_key}}}
  busy-local:  {{dialect: ollama, urls: [{busy_local}]}}
  busy-remote: {{dialect: openai, profile: deepseek, urls: [{busy_remote}], key: {upstream_key}}}
  sick-local:  {{dialect: ollama, urls: [{sick_local}]}}
  sick-remote: {{dialect: openai, profile: deepseek, urls: [{sick_remote}], key: {upstream_key}}}
  shaky:       {{dialect: ollama, urls: [{shaky}]}}
  slow:        {{dialect: ollama, urls: [{slow}]}}
  keyless:     {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: ""}}
  agent-local:  {{dialect: ollama, urls: [{agent_local}]}}
  agent-remote: {{dialect: openai, profile: deepseek, urls: [{agent_remote}], key: {upstream_key}}}
models:
  cut-local:  {{targets: cut-local/a}}
  cut-remote: {{targets: cut-remote/deepseek-flash}}
  busy:       {{targets: [busy-local/a, busy-remote/deepseek-flash]}}
  broken:     {{targets: [sick-local/a, sick-remote/deepseek-flash]}}
  mended:     {{targets: [cut-local/a, deepseek/deepseek-flash]}}
  mended-there: {{targets: [cut-remote/deepseek-flash, "ollama/qwen2.5:7b"]}}
  spare:      {{targets: [sick-local/a, deepseek/deepseek-flash]}}
  shaky:      {{targets: shaky/a}}
  slow:       {{targets: slow/a}}
  keyless:    {{targets: keyless/deepseek-flash}}
  agent-local:  {{targets: agent-local/a}}
  agent-remote: {{targets: agent-remote/deepseek-flash}}
rules:
  - {{name: local, when: {{model: ["qwen*", "deepseek-r1*", "hf.co/*", "nomic-*"]}}, use: "ollama/{{model}}"}}
  - {{name: remote, when: {{model: deepseek-flash}}, use: deepseek/deepseek-flash}}
  - {{name: hosted, when: {{model: "gpt-5*"}}, use: "ollama/qwen2.5:7b"}}
defaults:
  timeouts: {{connect: 5s, first_token: 10s, idle: 10s, total: 30s}}
  failover: {{attempts: 1}}
  breaker: {{failures: 1000}}
  admission: {{parallel: 64}}
"""


class World:
    """The gateway, and the servers behind it: two good ones, one for each kind of trouble, and two for planned talks."""

    def __init__(self) -> None:
        self.ollama = OllamaStandIn(["qwen2.5:7b", "deepseek-r1:7b", "hf.co/acme/tiny:q4", "nomic-embed-text"])
        self.deepseek = DeepSeekStandIn(UPSTREAM_KEY)
        self.cut_local, self.busy_local, self.sick_local = (OllamaStandIn(["a"]) for _ in range(3))
        self.cut_remote, self.busy_remote, self.sick_remote = (
            DeepSeekStandIn(UPSTREAM_KEY, thinking=False) for _ in range(3)
        )
        self.shaky, self.slow = OllamaStandIn(["a"]), OllamaStandIn(["a"])
        self.agent_local, self.agent_remote = OllamaStandIn(["a"]), DeepSeekStandIn(UPSTREAM_KEY)
        self.cut_local.always = CutAfter(2)
        self.cut_remote.always = CutAfter(3)  # the first piece has the role alone
        self.busy_local.always = self.busy_remote.always = Status(429)
        self.sick_local.always = self.sick_remote.always = Status(500)
        self.slow.always = Pace(0.1)
        self._stack = ExitStack()
        self.gateway: Gateway

    @property
    def standins(self) -> dict[str, OllamaStandIn | DeepSeekStandIn]:
        return {name: value for name, value in vars(self).items() if isinstance(value, OllamaStandIn | DeepSeekStandIn)}

    def __enter__(self) -> World:
        with ExitStack() as stack:
            urls = {name: stack.enter_context(standin).url for name, standin in self.standins.items()}
            rules = RULES.format(key=KEY, upstream_key=UPSTREAM_KEY, **urls)
            self.gateway = stack.enter_context(Gateway(rules))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Shown:
    """What a client showed, by scenario."""

    lines: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def __getitem__(self, scenario: str) -> Any:
        line = self.lines[scenario]
        assert "shown" in line, f"{scenario} raised:\n{line['raised']}"
        return line["shown"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would lead the children elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY")
        and not name.upper().startswith(("OPENAI_", "LANGSMITH_", "LANGCHAIN_", "NODE_"))
    }
    return {**kept, **more}


def python_of(client: str) -> str:
    """The interpreter that has a client: `openai3` is in this one, `openai1` and `clients` have venvs of their own."""
    if client == "openai3":
        return sys.executable
    name = f"UNIGATE_{client.upper()}_PYTHON"
    if not (python := os.environ.get(name)):
        pytest.fail(f"{name} is not set: run the tests with scripts/test, which makes what they need.")
    return python


def run(command: Sequence[str], *, patience: float = 60.0, **variables: str) -> Shown:
    """Runs a client's program to its end, with these environment variables besides; `patience` is in seconds."""
    program = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        printed, complained = program.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        program.kill()
        printed, complained = program.communicate()
    lines = {line["scenario"]: line for line in map(json.loads, printed.splitlines())}
    assert program.returncode == 0, f"the program ended after {list(lines)}:\n{complained}"
    return Shown(lines)
