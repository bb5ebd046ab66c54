"""Rules files for the tests of reading them, and what is said of one that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rules.load import RulesError, load_rules
from rules.snapshot import Rules
from wire.profiles import PROFILES

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "rules"
ROUTES: list[dict[str, Any]] = yaml.safe_load((CASES / "shipped_routes.yaml").read_text(encoding="utf-8"))
PROVIDERS = """\
providers: {here: {dialect: ollama, urls: "http://127.0.0.1:11434"}, there: {dialect: openai, urls: "https://there.test"}}
"""
SMALLEST = PROVIDERS + "rules: [{name: all, use: here/m}]\n"
EVERYTHING = """\
proxy:
  host: 127.0.0.1
  port: "8080"
  endpoints: [/v1/chat/completions, /v1/models]
  auth: {enabled: "true", method: bearer, tokens: ["one,two", "three"]}
  cors: {enabled: "true", origins: ["https://app.test"]}
clients:
  notebook:
    key: five
    keys: [six, "sha256:0000000000000000000000000000000000000000000000000000000000000007"]
    models: ["gpt-*", chat]
    endpoints: [/v1/chat/completions]
    tags: {team: red}
    expires: "2026-12-31"
    disabled: "false"
    limits: [100/minute, 5 USD/day]
limits:
  overall: [1000/minute]
  each_client: [8 parallel]
  models: {"gpt-*": [200000 tokens/hour]}
  store: memory
  if_away: closed
providers:
  ollama:
    dialect: ollama
    urls: ["http://127.0.0.1:11434", "http://127.0.0.2:11434"]
    num_ctx: {"qwen2.5:*": "8192", "*": auto}
    context_memory: 1GiB
    keep_alive: 5m
    parallel: "2"
  far:
    dialect: openai
    profile: deepseek
    urls: "https://far.test"
    key: "four"
    patience: 5m
    window: "65536"
models:
  chat:
    capability: generation
    targets: [ollama/m, far/m]
    aliases: ["gpt-*"]
    strategy: weighted
    weights: ["2", "0.5"]
    mid_stream: error
  cheap: {targets: [ollama/m, far/m, far/n], strategy: cheapest}
rules:
  - name: one
    when:
      model: [a, b]
      prompt_chars: "> 500"
      available: ollama/m
      stream: "true"
      has: [tools, images]
      client: key-*
      header: {x-team: red, accept: "*"}
    use: [ollama/m, "far/{model}", chat]
    mid_stream: continue
  - {name: two, use: chat}
defaults:
  timeouts: {connect: 5s, first_token: 60s, idle: 30s, total: 30m, keep_alive: 15s}
  limits: {body: 32MiB, headers: 64KiB}
  refresh: 5s
  failover:
    attempts: "3"
    "on": [connect, timeout, status_429, status_5xx]
    mid_stream: error
    backoff: 100ms
    wait: 10s
    repair: "true"
  breaker: {failures: "2.5", cool_down: 20s, weights: {timeout: "0.5", status_500: "0"}}
  admission: {parallel: "8", queue: "20", wait: 3s}
  images: {fetch: "true", bytes: 10MiB, wait: 5s, redirects: "1", allow: [images.test, 10.1.0.0/16]}
  drain: 7s
prices:
  - {model: far/m, from: "2026-11-15", input: "0.15", cached_input: "0.003", output: "0.60"}
  - {model: far/*, from: "2026-11-15", input: "1", output: "2"}
  - model: ollama/*
    from: "2026-11-15"
    request: "0.01"
    hour: "0.2"
    peak: {utc: ["mon-fri 01:00-04:00"], times: "2", but: ["2026-12-25"]}
ledger: {url: "sqlite:///l.sqlite", compare_to: far/m, content: 1KiB, keep: 30d, size: 10MiB}
"""
"""A file with every key of the schema, all its values texts, so that each can come from the environment.

`on` has quotes for PyYAML's own loaders, which take the bare word for `true`; ours needs none.
"""
OTHER_PEOPLES_WORDS = (
    *("pydantic", "instance of", "tuple", "dictionary", "alue error", "Traceback", "nput should", "tring should"),
    *("valid integer", "valid number", "valid string", "valid boolean", "unable to", "than or equal", "finite"),
)


def load(text: str, environment: dict[str, str] | None = None) -> Rules:
    return load_rules(text, environment or {}, profiles=PROFILES)


def told_in_foreign_words(text: str) -> list[str]:
    """What other people's code would say, of what is said of a file; nothing of one that is taken. Raises what is not ours."""
    try:
        load(text)
    except RulesError as error:
        return [word for word in OTHER_PEOPLES_WORDS if word in str(error)]
    return []


def refusal(text: str, environment: dict[str, str] | None = None) -> RulesError:
    with pytest.raises(RulesError) as caught:
        load(text, environment)
    return caught.value


def branches(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each value in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from branches(item, (*path, key))


def put(value: Any, path: tuple[str | int, ...], new: Any) -> None:
    """Sets what stands at a place in a value."""
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


def texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each text in a value."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from texts(inner, (*path, key))
        case list():
            for number, inner in enumerate(value):
                yield from texts(inner, (*path, number))
        case str():
            yield path
        case _:
            raise AssertionError(f"{path} is not a text")


EVERY_VALUE = yaml.safe_load(EVERYTHING)
PLACES = list(texts(EVERY_VALUE))
