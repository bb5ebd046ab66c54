"""What the clients' programs have in common. It runs in any of their interpreters, so it needs nothing but Python.

A program prints one JSON line for each scenario: what the client showed, or the traceback of what it raised.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather in a city", "parameters": CITY}
WEATHER = "rain and wind"
MODELS = {"local": "qwen2.5:7b", "remote": "deepseek-flash"}
"""An Ollama and DeepSeek behind the gateway."""


def play(scenarios: Mapping[str, Callable[[], Any]], names: Iterable[str] = ()) -> None:
    """Plays the named scenarios, or all of them, in one process: importing a client takes seconds."""
    for name in list(names) or scenarios:
        line: dict[str, Any] = {"scenario": name}
        try:
            line["shown"] = scenarios[name]()
        except Exception:  # the other scenarios shall have their turn
            line["raised"] = traceback.format_exc()
        print(json.dumps(line), flush=True)
