"""The names that a file spells out for callers: listed where they are answered, and no pattern among them."""

from __future__ import annotations

import pytest

from rules.conditions import Facts, Seen
from rules.load import load_rules
from rules.names import is_answered, is_meant, spelled
from rules.snapshot import Rules

TEXT = """
clients:
  app: {key: app-key-0123, models: ["gpt-4o*", gpt-4o-mini, "o[13]"]}
  all: {key: all-key-0123}
providers:
  here: {dialect: ollama, urls: ["http://127.0.0.1:11434"]}
  far: {dialect: openai, urls: ["https://far.test"], key: sk-far}
  keyless: {dialect: openai, urls: ["https://keyless.test"], key: ""}
models:
  chat: {targets: [far/m], aliases: [gpt-4, "gpt-3*"]}
  shut: {targets: [keyless/m], aliases: [shut-too]}
rules:
  - {name: of-app, when: {model: [special, "s?"], client: app}, use: far/m}
  - {name: named, when: {model: [gpt-4o, "gpt-*"]}, use: far/m}
  - {name: nowhere, when: {model: lost}, use: keyless/m}
"""
REST = "  - {name: rest, when: {prompt_chars: '< 500'}, use: far/rest}\n"


def rules(text: str = TEXT) -> Rules:
    return load_rules(text, {}, profiles={"compat"})


@pytest.mark.parametrize(("client", "own"), [("app", ["gpt-4o-mini"]), ("all", []), ("anonymous", []), ("key-1", [])])
def test_names_are_those_of_aliases_of_rules_and_of_the_client_itself(client: str, own: list[str]) -> None:
    assert list(spelled(rules().file, client)) == ["gpt-4", "shut-too", "special", "gpt-4o", "lost", *own]


@pytest.mark.parametrize(("name", "client", "answered", "meant"), [
    ("gpt-4", "all", True, True), ("gpt-35", "all", True, True), ("chat", "all", True, True),
    ("shut-too", "all", True, True),
    ("gpt-4o", "all", True, True), ("gpt-5", "all", True, True),
    ("special", "app", True, True), ("special", "all", False, False), ("lost", "all", False, False),
    ("nonsense", "all", False, False),
])  # fmt: skip
def test_a_name_is_answered_where_a_call_of_that_client_would_be(
    name: str, client: str, answered: bool, meant: bool
) -> None:
    facts = Facts(name, client=client, servers={"here": Seen(frozenset({"m:latest"}), True)})
    assert (is_answered(rules(), facts), is_meant(rules(), facts)) == (answered, meant)


def test_what_only_a_rule_for_the_rest_takes_is_answered_and_not_meant() -> None:
    facts = Facts("nonsense", client="all")
    assert is_answered(rules(TEXT + REST), facts)
    assert not is_meant(rules(TEXT + REST), facts)
