"""A rules file, compiled: what it remembers, what it keeps secret, and that nothing of that shows."""

from __future__ import annotations

import yaml

from rules.conditions import Facts
from rules.decide import decide
from rules.load import load_rules
from rules.schema import RulesFile
from rules.snapshot import LONGEST_REMEMBERED, REMEMBERED, compile_rules
from tests.rules.decisions import FAR, PROVIDERS, SECRET, TWO, made, names


def test_the_same_call_meets_the_same_pools_and_another_model_does_not() -> None:
    rules = made([{"name": "all", "use": ["far/{model}", "two/t"]}], two=TWO)
    first, again, other = (decide(rules, Facts(model)) for model in ("a", "a", "b"))
    assert first.pools is again.pools
    assert names(first) == ["far/a", "two/t", "two/t"]
    assert names(other) == ["far/b", "two/t", "two/t"]


def test_a_rule_and_a_virtual_model_of_one_name_are_not_confused() -> None:
    rules = made([{"name": "models.chat", "use": "far/rule"}], {"chat": {"targets": "far/model"}})
    for _ in range(2):
        assert [names(decide(rules, Facts(model))) for model in ("chat", "other")] == [["far/model"], ["far/rule"]]


def test_what_is_remembered_has_bounds() -> None:
    rules = made([{"name": "all", "use": "far/{model}"}])
    for number in range(REMEMBERED + 10):
        assert names(decide(rules, Facts(f"m{number}"))) == [f"far/m{number}"]
    assert len(rules.remembered) == REMEMBERED
    for length in (LONGEST_REMEMBERED, LONGEST_REMEMBERED + 1):
        model = "x" * length
        assert names(decide(rules, Facts(model))) == [f"far/{model}"]
        assert (decide(rules, Facts(model)).pools is decide(rules, Facts(model)).pools) is (
            length == LONGEST_REMEMBERED
        )


def test_no_key_shows_in_anything_that_is_printed() -> None:
    file = {
        "providers": PROVIDERS,
        "rules": [{"name": "all", "use": ["far/f", "keyless/k"]}],
        "proxy": {"auth": {"tokens": [f"{SECRET}-token"]}},
    }
    rules = load_rules(yaml.safe_dump(file, sort_keys=False), {}, profiles={"compat"})
    decision = decide(rules, Facts("m"))
    (target,) = decision.targets
    assert target.key == SECRET
    shown = [target, decision, rules, rules.file, rules.keys, rules.defaults, rules.file.providers, rules.file.proxy]
    for thing in (*shown, [target], {"t": target}, decision.skipped):
        assert SECRET not in f"{thing!r} {thing}"
    assert repr(target) == "Target(far/f)"


def test_secrets_are_all_keys_without_the_space_around_them() -> None:
    file = {
        "providers": {**PROVIDERS, "spaced": {**FAR, "key": f" {SECRET}-2 "}, "blank": {**FAR, "key": " "}},
        "rules": [{"name": "all", "use": "far/f"}],
        "proxy": {"auth": {"tokens": ["one, two", " three"]}},
    }
    rules = load_rules(yaml.safe_dump(file, sort_keys=False), {}, profiles={"compat"})
    assert rules.secrets == ("one", "two", "three", SECRET, f"{SECRET}-2")


def test_keys_are_asked_for_as_the_file_says() -> None:
    for auth, required in (({}, False), ({"tokens": ["a"]}, True), ({"tokens": ["a"], "enabled": False}, False)):
        file = RulesFile.model_validate({"providers": PROVIDERS, "proxy": {"auth": auth}})
        assert compile_rules(file).keys.required is required


def test_the_defaults_of_the_file_are_at_hand() -> None:
    rules = made([{"name": "all", "use": "far/f"}])
    assert rules.defaults is rules.file.defaults
