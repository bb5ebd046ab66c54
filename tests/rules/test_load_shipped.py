"""The rules.yaml that is shipped: what it says, what the environment makes of it, and where it sends calls."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rules.access import Client, Denied
from rules.conditions import Facts, Seen, model_name
from rules.decide import decide
from rules.schema import Defaults
from tests.rules.files import ROOT, ROUTES, load

SHIPPED = (ROOT / "rules.yaml").read_text(encoding="utf-8")


def test_the_shipped_file_loads_with_an_empty_environment() -> None:
    rules = load(SHIPPED)
    assert (rules.file.proxy.host, rules.file.proxy.port) == ("127.0.0.1", 8080)
    assert not rules.keys.required
    assert rules.secrets == ()
    assert rules.file.providers["ollama"].urls == ("http://127.0.0.1:11434",)
    assert rules.file.providers["deepseek"].urls == ("https://api.deepseek.com",)
    timeouts = rules.defaults.timeouts
    assert (timeouts.connect, timeouts.first_token, timeouts.idle, timeouts.total) == (5, 60, 30, 1800)
    assert (rules.defaults.limits.body, rules.defaults.limits.headers) == (32 * 2**20, 64 * 2**10)


def test_the_defaults_that_the_shipped_file_spells_out_are_the_defaults() -> None:
    assert load(SHIPPED).defaults == Defaults()
    assert set(yaml.safe_load(SHIPPED)["defaults"]) >= {"timeouts", "limits", "failover", "breaker", "admission"}


def test_the_shipped_file_honours_the_environment() -> None:
    environment = {
        "HOST": "0.0.0.0",
        "PORT": "9000",
        "API_KEYS": "alpha-key, beta-key",
        "OLLAMA_URL": "http://box.test:1234",
        "DEEPSEEK_URL": "https://proxy.test/v9/chat/completions",
        "DEEPSEEK_API_KEY": "sk-deep",
    }
    rules = load(SHIPPED, environment)
    assert (rules.file.proxy.host, rules.file.proxy.port) == ("0.0.0.0", 9000)
    assert isinstance(rules.keys.identify("alpha-key", 0), Client)
    assert isinstance(rules.keys.identify("beta-key", 0), Client)
    assert isinstance(rules.keys.identify("alpha-key, beta-key", 0), Denied)
    assert rules.secrets == ("alpha-key", "beta-key", "sk-deep")
    facts = Facts("qwen2.5", servers={"ollama": Seen(frozenset({"qwen2.5:latest"}), True)})
    local, remote = decide(rules, facts).targets
    assert (local.host, local.port, local.tls, local.path, local.key) == ("box.test", 1234, False, "", "")
    assert (remote.host, remote.port, remote.tls) == ("proxy.test", 443, True)
    assert (remote.path, remote.profile, remote.key) == ("/v9/chat/completions", "deepseek", "sk-deep")


def test_the_shipped_file_names_only_variables_that_the_example_environment_explains() -> None:
    explained = set(re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\$\{([A-Z_]+)", "\n".join(line for line in SHIPPED.splitlines() if line[:1] != "#")))
    assert named == {
        *("HOST", "PORT", "API_KEYS", "CORS_ORIGINS", "OLLAMA_URL", "DEEPSEEK_URL", "DEEPSEEK_API_KEY"),
        *("RATE_LIMIT_REQUESTS", "RATE_LIMIT_WINDOW", "REDIS_URL", "LEDGER_URL"),
    }
    assert named <= explained


@pytest.mark.parametrize("case", ROUTES, ids=[case["it"] for case in ROUTES])
def test_the_shipped_file_routes_as_planned(case: dict[str, Any]) -> None:
    rules = load(SHIPPED, {"DEEPSEEK_API_KEY": "sk-deep"} if case.get("key", True) else {})
    match case.get("ollama", "never"):
        case "never":
            seen = Seen()
        case "away":
            seen = Seen(None, reached=True)
        case models:
            seen = Seen(frozenset(map(model_name, models)), reached=True)
    facts = Facts(case["model"], prompt_chars=case.get("prompt_chars", 5), servers={"ollama": seen, "deepseek": Seen()})
    decision = decide(rules, facts)
    assert decision.rule == case["rule"]
    assert [target.name for target in decision.targets] == case["targets"]
    # Nothing that the rule names is lost in silence.
    named = {
        entry.replace("{model}", case["model"])
        for entry in next(r.use for r in rules.file.rules if r.name == case["rule"])
    }
    assert {target.name for target in decision.targets} | {skip.target for skip in decision.skipped} == named
