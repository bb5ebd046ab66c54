"""What the gateway itself adds to a call, in one process, without a socket: it checks, decides, translates and reads.

The other measures go through a machine's network and scheduler, and their absolute figures mean little. These are pure
functions over made-up calls, so they can have limits of their own: the best of many rounds is what the code costs, all
else is the machine.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import process_time

import orjson

from rules.conditions import Facts, Seen
from rules.decide import decide
from rules.load import load_rules
from wire.answer import Opening
from wire.check import parse_body
from wire.dialects import DIALECTS, Facets
from wire.openai import Json
from wire.profiles import PROFILES
from wire.surfaces import CHAT

ROUNDS = 30
TOKENS = 2000
"""Chunks of a streamed answer."""
RULES = """
providers:
  ollama: {dialect: ollama, urls: ["http://127.0.0.1:11434"]}
  deepseek: {dialect: openai, profile: deepseek, urls: ["https://api.deepseek.com"], key: sk-none}
rules:
  - {name: remote, when: {model: ["deepseek*", "*reasoner*"]}, use: [deepseek/deepseek-flash]}
  - {name: long, when: {prompt_chars: "> 5000000"}, use: [deepseek/deepseek-flash]}
  - {name: local, when: {available: "ollama/{model}"}, use: ["ollama/{model}", deepseek/deepseek-flash]}
"""
DIALECT = {
    "ollama": ("ollama", Facets(num_ctx=8192, capabilities=frozenset({"completion", "tools", "vision"}))),
    "deepseek": ("openai", Facets(profile="deepseek")),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and its limit."""

    key: str
    label: str
    value: float
    unit: str
    limit: float
    at_most: bool = True
    """False: `limit` is the least that it may be."""

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def line(self) -> str:
        goal = f"{'<' if self.at_most else '>'} {self.limit:,.0f} {self.unit}"
        return f"{self.label:58} {self.value:>12,.2f} {self.unit:8} {goal:20} {'met' if self.met else 'MISSED'}"


def figures(rounds: int = ROUNDS) -> list[Figure]:
    """All of them; some seconds."""
    history, prompt = long_history(), long_prompt()
    found = []
    for name in DIALECT:
        seconds = best(lambda name=name: put(history, name), rounds)  # type: ignore[misc]  # bound now
        found.append(
            Figure(f"history_{name}", f"200 messages and 20 tools, checked and put for {name}", 1e3 * seconds, "ms", 3)
        )
    for name in DIALECT:
        seconds = best(lambda name=name: put(prompt, name), rounds)  # type: ignore[misc]
        found.append(
            Figure(f"prompt_{name}", f"a prompt of 1 MB, read, decided and put for {name}", 1e3 * seconds, "ms", 15)
        )
    for name, lines in (("ollama", ollama_lines()), ("deepseek", deepseek_lines())):
        seconds = best(lambda name=name, lines=lines: pass_on(lines, name), rounds)  # type: ignore[misc]
        found.append(
            Figure(
                f"stream_{name}",
                f"tokens of {name} passed on, one by one",
                len(lines) / seconds,
                "/s",
                LEAST[name],
                at_most=False,
            )
        )
    return found


LEAST = {"ollama": 50_000.0, "deepseek": 50_000.0}
"""Chunks per second on one core."""


def best(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the CPU in the quickest round: what else runs on the machine counts as little as it can."""
    taken = []
    for _ in range(rounds):
        begun = process_time()
        run()
        taken.append(process_time() - begun)
    return min(taken)


_RULES = load_rules(RULES, {}, profiles=PROFILES)
_SEEN = {"ollama": Seen(frozenset({"m:latest"}), reached=True)}


def put(body: bytes, name: str) -> bytes:
    """A call's way from its bytes to those of the upstream."""
    dialect, facets = DIALECT[name]
    request = CHAT.check(parse_body(body))
    decision = decide(_RULES, Facts(request.model, prompt_chars=request.prompt_chars, servers=_SEEN))
    assert decision.rule == "local"
    operation = DIALECTS[dialect].operations[request.operation]
    return operation.translate(request, "m", facets).body


def pass_on(lines: list[bytes], name: str) -> int:
    """A stream's way from the upstream's bytes to the caller's, a write per token."""
    dialect, facets = DIALECT[name]
    request = CHAT.check({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    reply = DIALECTS[dialect].operations[request.operation].read(lambda: "call_1", "text/event-stream", facets, request)
    answer = CHAT.streamed(Opening("id", 1, "m", request))
    written = 0
    for line in lines:
        written += len(answer.write(reply.feed(line)))
    assert answer.done
    return written


# -- what is called for

_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city's name.", "minLength": 1},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "places": {
            "type": "array",
            "items": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}},
        },
    },
    "required": ["city"],
    "additionalProperties": False,
}


def long_history() -> bytes:
    """200 messages: turns of a question, a call, its result and an answer; 20 tools."""
    messages: list[Json] = []
    for number in range(50):
        arguments = json.dumps({"city": f"Town {number}", "days": number % 7 + 1, "unit": "celsius"})
        call = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": f"weather_{number % 20}", "arguments": arguments},
        }
        messages += [
            {"role": "user", "content": [{"type": "text", "text": f"And how is the weather in town {number}? " * 4}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {
                "role": "tool",
                "tool_call_id": f"call_{number}",
                "content": json.dumps({"sky": "clear", "temperature": number}) * 4,
            },
            {"role": "assistant", "content": "It is clear, with a light wind from the west. " * 4},
        ]
    tools = [
        {
            "type": "function",
            "function": {"name": f"weather_{number}", "description": "Tells the weather.", "parameters": _SCHEMA},
        }
        for number in range(20)
    ]
    return orjson.dumps({"model": "m", "messages": messages, "tools": tools, "temperature": 0.5, "stream": True})


def long_prompt() -> bytes:
    text = "The quick brown fox jumps over the lazy dog. " * (1024 * 1024 // 45)
    return orjson.dumps(
        {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]}
    )


def ollama_lines() -> list[bytes]:
    head: Json = {"model": "m", "created_at": "2026-11-20T10:00:00.123456Z"}
    lines = [
        head | {"message": {"role": "assistant", "content": f" token{number}"}, "done": False}
        for number in range(TOKENS)
    ]
    last = head | {
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": TOKENS,
    }
    return [orjson.dumps(line) + b"\n" for line in [*lines, last]]


def deepseek_lines() -> list[bytes]:
    head: Json = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "fp"}

    def chunk(delta: Json, reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: " + orjson.dumps(head | {"choices": [choice], "usage": None}) + b"\n\n"

    chunks = [chunk({"content": f" token{number}"}, None) for number in range(TOKENS)]
    return [chunk({"role": "assistant", "content": ""}, None), *chunks, chunk({}, "stop"), b"data: [DONE]\n\n"]


def as_json(found: list[Figure]) -> str:
    return json.dumps({figure.key: asdict(figure) | {"met": figure.met} for figure in found}, indent=2)
