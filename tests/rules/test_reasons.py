"""Why rules do not hold: each condition's words, in the order in which decide() asks, and no secret in any of them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rules import reasons
from rules.conditions import CONDITIONS, Facts, Seen
from rules.decide import decide
from rules.load import load_rules
from rules.reasons import Trial, trials
from rules.snapshot import Rules

HERE = {"here": Seen(frozenset({"m:latest"}), reached=True), "away": Seen(None, reached=True)}
PROVIDERS = {
    "here": {"dialect": "ollama", "urls": ["http://127.0.0.1:11434"]},
    "away": {"dialect": "ollama", "urls": ["http://127.0.0.1:11435"]},
    "box": {"dialect": "sandbox"},
}


def made(*whens: dict[str, Any], models: dict[str, Any] | None = None) -> Rules:
    rules = [{"name": f"r{number}", "when": when, "use": "box/echo"} for number, when in enumerate(whens)]
    file = {"providers": PROVIDERS, "models": models or {}, "rules": rules}
    return load_rules(yaml.safe_dump(file), {}, profiles={"compat"})


FACTS = Facts("m", prompt_chars=7, has=frozenset({"tools"}), client="key-1", headers={"x-team": "a"}, servers=HERE)


@pytest.mark.parametrize(("when", "words"), [
    ({"model": "gpt-*"}, "model: 'm' fits not gpt-*"),
    ({"model": ["gpt-*", "o?"]}, "model: 'm' fits none of gpt-*, o?"),
    ({"stream": True}, "stream: the call is not streamed"),
    ({"has": "images"}, "has: the call has no images"),
    ({"has": ["images", "tools"]}, "has: the call has no images"),
    ({"client": ["team-*"]}, "client: 'key-1' fits not team-*"),
    ({"header": {"X-Team": "hush-1", "X-Other": "hush-2"}}, "header: the call's x-other, x-team is not as the rule wants"),
    ({"prompt_chars": "> 500"}, "prompt_chars: 7 is not > 500"),
    ({"prompt_chars": 5}, "prompt_chars: 7 is not 5"),
    ({"available": "here/{model}2"}, "available: here/m2 is not there: its server has no such model"),
    ({"available": "away/{model}"}, "available: away/m is not there: its server is not reachable"),
])  # fmt: skip
def test_each_condition_says_why_it_does_not_hold(when: dict[str, Any], words: str) -> None:
    assert list(trials(made(when), FACTS)) == [Trial("r0", (words,))]


def test_a_streamed_call_is_told_so() -> None:
    found = trials(made({"stream": False, "has": ["tools", "images"]}), Facts("m", stream=True))
    assert list(found) == [Trial("r0", ("stream: the call is streamed", "has: the call has no tools and no images"))]


def test_the_rules_end_with_the_first_one_that_holds() -> None:
    rules = made({"stream": True, "model": "x"}, {"model": "m"}, {})
    assert list(trials(rules, FACTS)) == [
        Trial("r0", ("model: 'm' fits not x", "stream: the call is not streamed")),
        Trial("r1", ()),
    ]


def test_a_virtual_model_comes_before_all_rules() -> None:
    rules = made({}, models={"chat": {"targets": ["box/echo"], "aliases": ["gpt-*"]}})
    assert list(trials(rules, Facts("gpt-4"))) == []
    assert [trial.rule for trial in trials(rules, Facts("m"))] == ["r0"]


def test_a_server_that_was_never_asked_is_not_reachable() -> None:
    (trial,) = trials(made({"available": "here/m"}), Facts("m"))
    assert trial.failed == ("available: here/m is not there: its server is not reachable",)


def test_a_long_name_is_cut() -> None:
    (trial,) = trials(made({"model": "a", "available": "here/{model}"}), Facts("m" * 1000, servers=HERE))
    assert max(map(len, trial.failed)) < 300


def test_every_condition_has_words_and_a_new_one_is_told_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(reasons._WORDS) == set(CONDITIONS)
    monkeypatch.delitem(reasons._WORDS, "stream")
    assert list(trials(made({"stream": True}), FACTS)) == [Trial("r0", ("stream: True does not hold",))]


WHENS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "x*"]),
        "stream": st.booleans(),
        "has": st.sampled_from([["tools"], ["images"]]),
        "prompt_chars": st.sampled_from(["> 5", "< 5"]),
        "available": st.sampled_from(["here/m", "away/m"]),
    },
)


@given(
    whens=st.lists(WHENS.filter(bool), min_size=1, max_size=4), stream=st.booleans(), model=st.sampled_from(["m", "x1"])
)
def test_the_rule_without_a_reason_is_the_one_that_decides(
    whens: list[dict[str, Any]], stream: bool, model: str
) -> None:
    rules = made(*whens)
    facts = Facts(model, prompt_chars=7, stream=stream, has=frozenset({"tools"}), servers=HERE)
    found = list(trials(rules, facts))
    assert [trial.rule for trial in found if not trial.failed] == [
        name for name in (decide(rules, facts).rule,) if name is not None
    ]
