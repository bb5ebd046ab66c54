"""What a target is, and how the servers and the names of a file become targets."""

from __future__ import annotations

from typing import Any

import pytest

from rules.conditions import Facts
from rules.decide import decide
from rules.targets import Target
from tests.rules.decisions import BOX, HERE, OPEN, SECRET, chosen, made, names


def test_a_target_carries_what_its_provider_says() -> None:
    provider = {**HERE, "urls": "HTTPS://[::1]:8443/Base", "key": f" {SECRET}\n", "num_ctx": 8192, "keep_alive": "5m"}
    (target,) = chosen("full/ns/model:7b", full=provider).targets
    assert (target.name, target.provider, target.model) == ("full/ns/model:7b", "full", "ns/model:7b")
    assert (target.dialect, target.profile, target.key) == ("ollama", "compat", SECRET)
    assert (target.host, target.port, target.tls, target.path) == ("::1", 8443, True, "/Base")
    assert (target.num_ctx, target.keep_alive) == (8192, "5m")


def test_the_sandbox_has_no_address_yet() -> None:
    (target,) = chosen("box/echo").targets
    assert (target.url, target.host, target.key, target.dialect) == ("", "", "", "sandbox")


def test_several_urls_become_several_targets_in_order() -> None:
    urls = ["http://b.test:1", "https://a.test", "http://c.test/v1/chat/completions", "http://b.test:1"]
    decision = chosen(["many/m", "far/f"], many={**OPEN, "urls": urls})
    assert [target.url for target in decision.targets] == [*urls[:3], "https://far.test/v1"]
    assert [(target.host, target.port, target.tls, target.path) for target in decision.targets] == [
        ("b.test", 1, False, ""),
        ("a.test", 443, True, ""),
        ("c.test", 80, False, "/v1/chat/completions"),
        ("far.test", 443, True, "/v1"),
    ]


def test_targets_that_read_alike_when_run_together_are_two() -> None:
    providers: dict[str, Any] = {"1x": {**OPEN, "urls": "http://h:1"}, "x": {**OPEN, "urls": "http://h:11"}}
    decision = decide(made([{"name": "all", "use": ["1x/m", "x/m"]}], **providers), Facts("m"))
    assert names(decision) == ["1x/m", "x/m"]


@pytest.mark.parametrize(
    ("use", "model", "asked"),
    [
        ("far/{model}", "gpt-4", "gpt-4"),
        ("far/{model}", "ns/gpt-4:x", "ns/gpt-4:x"),
        ("far/ns/{model}", "gpt-4", "ns/gpt-4"),
        ("far/{model}-{model}", "a", "a-a"),
        ("far/{model}", "{model}", "{model}"),
        ("far/f", "gpt-4", "f"),
        ("far/{model}", "", ""),
    ],
)
def test_the_name_that_was_asked_for_is_filled_in(use: str, model: str, asked: str) -> None:
    assert [target.model for target in chosen(use, model=model).targets] == [asked]


@pytest.mark.parametrize(
    ("provider", "admission", "parallel"),
    [
        (HERE, {}, 4),
        (OPEN, {}, 64),
        (BOX, {}, 64),
        (HERE, {"parallel": 7}, 7),
        (OPEN, {"parallel": 7}, 7),
        ({**HERE, "parallel": 1}, {}, 1),
        ({**OPEN, "parallel": 9}, {"parallel": 7}, 9),
    ],
)
def test_a_target_takes_as_many_calls_as_its_provider_says_then_the_file_then_its_kind(
    provider: dict[str, Any], admission: dict[str, Any], parallel: int
) -> None:
    rules = made([{"name": "all", "use": "new/m"}], None, {"admission": admission}, new=provider)
    assert [target.parallel for target in decide(rules, Facts("m")).targets] == [parallel]


@pytest.mark.parametrize(
    ("said", "patience", "window"),
    [
        ({}, None, None),
        ({"num_ctx": 8192}, None, None),
        ({"num_ctx": 8192, "window": 4096}, None, 4096),
        ({"window": 65536, "patience": "5m"}, 300, 65536),
    ],
)
def test_a_target_is_as_patient_and_as_wide_as_its_provider_says(
    said: dict[str, Any], patience: float | None, window: int | None
) -> None:
    (target,) = chosen("new/m", new={**OPEN, "dialect": "ollama", **said}).targets
    assert (target.patience, target.window) == (patience, window)


@pytest.mark.parametrize(
    ("said", "model", "num_ctx", "memory"),
    [
        ({}, "m", None, 2 * 2**30),
        ({"context_memory": "1GiB"}, "m", None, 2**30),
        ({"num_ctx": 8192}, "m", 8192, None),
        ({"num_ctx": "none"}, "m", None, None),
        ({"num_ctx": {"qwen2.5:*": 16384, "*": 8192}}, "qwen2.5:7b", 16384, None),
        ({"num_ctx": {"qwen2.5:*": 16384, "*": 8192}}, "QWEN2.5", 16384, None),
        ({"num_ctx": {"qwen2.5:*": 16384, "*": 8192}}, "qwen3", 8192, None),
        ({"num_ctx": {"qwen": 16384}}, "qwen:latest", 16384, None),
        ({"num_ctx": {"qwen": 16384}}, "qwen:7b", None, 2 * 2**30),
        ({"num_ctx": {"a*": 4096, "ab*": 8192}}, "abc", 4096, None),
    ],
)
def test_a_target_has_the_context_of_the_first_pattern_that_fits_its_model(
    said: dict[str, Any], model: str, num_ctx: int | None, memory: int | None
) -> None:
    (target,) = chosen("new/{model}", model=model, new={**OPEN, "dialect": "ollama", **said}).targets
    assert (target.num_ctx, target.context_memory) == (num_ctx, memory)


def test_a_target_is_known_by_its_server_and_its_model_and_never_by_its_key() -> None:
    (target,) = chosen("far/Ns/F").targets
    assert target.node == ("far", "https://far.test/v1")
    assert target.id == ("far", "https://far.test/v1", "Ns/F")
    assert (target.name, target.known_as, target.learned_as) == ("far/Ns/F", "ns/f:latest", "far/Ns/F")


def test_targets_are_values() -> None:
    first, second = (chosen("far/f").targets[0] for _ in range(2))
    assert first == second
    assert isinstance(first, Target)
    assert len({first, second}) == 1
