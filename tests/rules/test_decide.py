"""Facts in, a Decision out: the rule, the targets in order, and what was skipped and why."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.conditions import Facts, Seen
from rules.decide import Decision, Skipped, decide, without
from rules.schema import RulesFile
from rules.snapshot import compile_rules
from rules.targets import Pool
from tests.rules.decisions import (
    AWAY,
    BARE,
    ELSEWHERE,
    FAR,
    HERE,
    NEVER,
    NO_KEY,
    NO_MODEL,
    NOT_NEEDED,
    PROVIDERS,
    TWO,
    UNREACHABLE,
    WITH_M,
    chosen,
    made,
    names,
    pools,
    skips,
)

# --- which rule


def test_the_first_rule_that_holds_wins() -> None:
    rules = made(
        [
            {"name": "one", "when": {"model": "x*"}, "use": "far/one"},
            {"name": "two", "when": {"model": "*y"}, "use": "far/two"},
            {"name": "three", "use": "far/three"},
        ]
    )
    assert [decide(rules, Facts(model)).rule for model in ("xy", "ay", "a")] == ["one", "two", "three"]


def test_nothing_is_decided_where_no_rule_holds() -> None:
    rules = made([{"name": "one", "when": {"model": "x"}, "use": "far/one"}])
    assert decide(rules, Facts("y")) == Decision(rule=None, pools=(), skipped=())


def test_a_rule_that_holds_is_not_passed_by_because_its_targets_cannot_be_asked() -> None:
    rules = made(
        [{"name": "one", "when": {"model": "x"}, "use": "keyless/one"}, {"name": "two", "use": "far/two"}],
    )
    decision = decide(rules, Facts("x"))
    assert (decision.rule, names(decision), skips(decision)) == ("one", [], [("keyless/one", NO_KEY)])


# --- which targets

ORDERS = [
    # what is known of `here`, use, targets, skipped
    (WITH_M, ["here/m"], ["here/m"], []),
    (WITH_M, ["here/M:LATEST"], ["here/M:LATEST"], []),
    (WITH_M, ["here/m", "far/f"], ["here/m", "far/f"], []),
    (WITH_M, ["far/f", "here/m"], ["far/f", "here/m"], []),
    (WITH_M, ["here/n", "far/f"], ["far/f"], [("here/n", NO_MODEL)]),
    (WITH_M, ["here/m:7b", "here/m"], ["here/m"], [("here/m:7b", NO_MODEL)]),
    (AWAY, ["here/m", "far/f"], ["far/f"], [("here/m", UNREACHABLE)]),
    (NEVER, ["here/m", "far/f"], ["far/f"], [("here/m", UNREACHABLE)]),
    (WITH_M, ["keyless/k", "here/m"], ["here/m"], [("keyless/k", NO_KEY)]),
    (WITH_M, ["keyless/k"], [], [("keyless/k", NO_KEY)]),
    (WITH_M, ["open/o"], ["open/o"], []),
    # Nothing else is there: what was skipped is asked after all, in the order of the rule.
    (AWAY, ["here/m"], ["here/m"], []),
    (NEVER, ["here/b", "here/a"], ["here/b", "here/a"], []),
    (BARE, ["here/b", "keyless/k", "here/a"], ["here/b", "here/a"], [("keyless/k", NO_KEY)]),
    # The sandbox.
    (WITH_M, ["box/echo", "here/m"], ["here/m"], [("box/echo", NOT_NEEDED)]),
    (NEVER, ["far/f", "box/echo"], ["far/f"], [("box/echo", NOT_NEEDED)]),
    (NEVER, ["here/m", "box/echo"], ["box/echo"], [("here/m", UNREACHABLE)]),
    (NEVER, ["keyless/k", "box/echo"], ["box/echo"], [("keyless/k", NO_KEY)]),
    (NEVER, ["keyless/k", "here/m", "box/echo"], ["box/echo"], [("keyless/k", NO_KEY), ("here/m", UNREACHABLE)]),
    (AWAY, ["here/m", "box/echo"], ["here/m"], [("box/echo", ELSEWHERE)]),
    (BARE, ["here/m", "box/echo"], ["box/echo"], [("here/m", NO_MODEL)]),
    (AWAY, ["keyless/k", "box/echo"], [], [("keyless/k", NO_KEY), ("box/echo", ELSEWHERE)]),
    (AWAY, ["keyless/k", "here/m", "box/echo"], ["here/m"], [("keyless/k", NO_KEY), ("box/echo", ELSEWHERE)]),
    # Named alone it stands in for nothing: it is what the rule wants.
    (NEVER, ["box/echo"], ["box/echo"], []),
    (AWAY, ["box/echo", "box/other"], ["box/echo", "box/other"], []),
    (WITH_M, ["box/echo"], ["box/echo"], []),
]


@pytest.mark.parametrize(("seen", "use", "targets", "skipped"), ORDERS)
def test_targets_are_asked_in_order_and_the_others_skipped_for_a_reason(
    seen: Seen, use: list[str], targets: list[str], skipped: list[tuple[str, str]]
) -> None:
    decision = chosen(use, seen)
    assert (names(decision), skips(decision)) == (targets, skipped)


def test_any_real_server_that_was_seen_keeps_the_sandbox_away() -> None:
    rules = made([{"name": "all", "use": ["keyless/k", "box/echo"]}])
    for provider in ("here", "open", "far"):
        assert names(decide(rules, Facts("m", servers={provider: AWAY}))) == []
    assert names(decide(rules, Facts("m", servers={"here": NEVER, "open": NEVER}))) == ["box/echo"]


def test_a_server_that_nobody_asked_about_counts_as_not_reachable() -> None:
    rules = made([{"name": "all", "use": ["here/m", "far/f"]}])
    assert skips(decide(rules, Facts("m"))) == [("here/m", UNREACHABLE)]


def test_a_key_of_spaces_is_no_key() -> None:
    assert skips(chosen("spaced/m", spaced={**FAR, "key": "  "})) == [("spaced/m", NO_KEY)]


def test_a_local_server_may_want_a_key_too() -> None:
    decision = chosen("locked/m", WITH_M, locked={**HERE, "key": ""})
    assert (names(decision), skips(decision)) == ([], [("locked/m", NO_KEY)])


@given(
    use=st.lists(
        st.sampled_from(["here/m", "here/n", "far/f", "far/{model}", "keyless/k", "open/o", "box/echo"]), min_size=1
    ),
    seen=st.sampled_from([NEVER, AWAY, BARE, WITH_M]),
)
def test_every_target_of_a_rule_is_asked_or_skipped_and_never_both(use: list[str], seen: Seen) -> None:
    file = RulesFile.model_validate({"providers": PROVIDERS, "rules": [{"name": "all", "use": use}]})
    decision = decide(compile_rules(file), Facts("m", servers={"here": seen}))
    asked, skipped = names(decision), [skip.target for skip in decision.skipped]
    assert sorted(asked + skipped) == sorted({entry.replace("{model}", "m") for entry in use})


# --- targets


def test_a_target_is_named_once_however_often_a_rule_says_it() -> None:
    assert names(chosen(["far/f", "far/g", "far/f", "far/{model}", "far/m"])) == ["far/f", "far/g", "far/m"]


def test_several_urls_of_a_server_without_the_model_are_all_skipped() -> None:
    urls = ["http://a.test", "http://b.test"]
    decision = chosen(["many/m", "far/f"], many={**HERE, "urls": urls})
    assert (names(decision), skips(decision)) == (["far/f"], [("many/m", UNREACHABLE)] * 2)


# --- virtual models


def test_a_virtual_model_is_decided_before_the_rules() -> None:
    rules = made([{"name": "all", "use": "open/o"}], {"chat": {"targets": ["here/m", "far/{model}"]}})
    decision = decide(rules, Facts("chat", servers={"here": WITH_M}))
    assert (decision.rule, names(decision)) == ("models.chat", ["here/m", "far/chat"])
    assert decide(rules, Facts("chatter")).rule == "all"


@pytest.mark.parametrize(
    ("virtual", "aliases", "meant", "other"),
    [
        ("chat", [], ["chat", "CHAT", "Chat"], ["chat:latest", "chats", ""]),
        ("chat", ["gpt-*"], ["chat", "gpt-4", "GPT-4o"], ["xgpt-4"]),
        ("chat", ["o[13]", "a?"], ["o1", "o3", "ab"], ["o2", "a", "abc"]),
        ("a*", [], ["a*", "A*"], ["a", "ab"]),
        ("[x]", [], ["[x]", "[X]"], ["x"]),
        ("what?", [], ["what?"], ["whats"]),
        ("a[!b]*?]", [], ["a[!b]*?]"], ["ac", "a"]),
        ("ns/chat", [], ["ns/chat"], ["chat"]),
    ],
)
def test_a_virtual_model_is_meant_by_its_name_and_its_aliases(
    virtual: str, aliases: list[str], meant: list[str], other: list[str]
) -> None:
    rules = made([], {virtual: {"targets": "far/f", "aliases": aliases}})
    assert [name for name in meant if decide(rules, Facts(name)).rule != f"models.{virtual}"] == []
    assert [name for name in other if decide(rules, Facts(name)).rule is not None] == []


def test_the_first_of_two_virtual_models_with_one_alias_is_meant() -> None:
    models = {"b": {"targets": "far/1", "aliases": "gpt-*"}, "a": {"targets": "far/2", "aliases": "gpt-4"}}
    file = RulesFile.model_validate({"providers": PROVIDERS, "models": models})
    assert decide(compile_rules(file), Facts("gpt-4")).rule == "models.b"


def test_a_rule_may_name_virtual_models_among_its_targets() -> None:
    rules = made(
        [{"name": "all", "use": ["open/o", "chat", "far/f"]}], {"chat": {"targets": ["far/{model}", "open/o", "far/g"]}}
    )
    assert names(decide(rules, Facts("x"))) == ["open/o", "far/x", "far/g", "far/f"]


def test_a_virtual_model_does_not_hide_the_target_that_has_its_name() -> None:
    rules = made([{"name": "all", "use": "far/f"}], {"far/f": {"targets": "open/o"}})
    assert names(decide(rules, Facts("anything"))) == ["far/f"]
    assert names(decide(rules, Facts("far/f"))) == ["open/o"]


# --- pools


def pooled(use: list[str] | str, model: dict[str, Any] | None = None, seen: Seen = WITH_M) -> Decision:
    """What becomes of a call for `m` where provider `two` has two servers and `chat` is this virtual model."""
    rules = made([{"name": "all", "use": use}], {"chat": model} if model else None, two=TWO)
    return decide(rules, Facts("m", servers={"here": seen}))


def test_each_target_of_a_rule_is_a_pool_of_its_servers() -> None:
    assert pools(pooled(["far/f", "two/{model}"])) == [
        ("least_busy", "far/f", ["far.test/f"], ()),
        ("least_busy", "two/m", ["one.test/m", "two.test/m"], ()),
    ]


def test_each_target_of_a_virtual_model_in_order_is_a_pool_too() -> None:
    assert pools(pooled(["far/f", "chat"], {"targets": ["two/t", "far/{model}"]})) == [
        ("least_busy", "far/f", ["far.test/f"], ()),
        ("least_busy", "two/t", ["one.test/t", "two.test/t"], ()),
        ("least_busy", "far/m", ["far.test/m"], ()),
    ]


@pytest.mark.parametrize("strategy", ["round_robin", "least_busy", "fastest", "cheapest"])
def test_a_virtual_model_with_a_strategy_is_one_pool_of_all_its_servers(strategy: str) -> None:
    model = {"targets": ["far/f", "here/m", "far/{model}"], "strategy": strategy}
    assert pools(pooled(["chat", "open/o"], model)) == [
        (strategy, "chat", ["far.test/f", "127.0.0.1/m", "far.test/m"], ()),
        ("least_busy", "open/o", ["open.test/o"], ()),
    ]


def test_the_servers_of_a_weighted_target_carry_its_weight() -> None:
    model = {"targets": ["two/t", "far/f"], "strategy": "weighted", "weights": [3, 0.5]}
    assert pools(pooled("chat", model)) == [
        ("weighted", "chat", ["one.test/t", "two.test/t", "far.test/f"], (3, 3, 0.5))
    ]


def test_weights_stay_with_their_targets_where_others_are_skipped() -> None:
    model = {"targets": ["here/n", "far/f", "keyless/k", "two/t"], "strategy": "weighted", "weights": [1, 2, 3, 4]}
    decision = pooled("chat", model)
    assert pools(decision) == [("weighted", "chat", ["far.test/f", "one.test/t", "two.test/t"], (2, 4, 4))]
    assert skips(decision) == [("here/n", NO_MODEL), ("keyless/k", NO_KEY)]


def test_a_pool_that_becomes_empty_vanishes() -> None:
    model = {"targets": ["keyless/k", "here/n"], "strategy": "fastest"}
    assert pools(pooled(["here/n", "chat", "far/f"], model)) == [("least_busy", "far/f", ["far.test/f"], ())]


def test_a_target_stands_in_the_first_pool_that_names_it() -> None:
    model = {"targets": ["far/f", "two/t", "far/f"], "strategy": "weighted", "weights": [1, 2, 4]}
    assert pools(pooled(["far/f", "chat", "two/t"], model)) == [
        ("least_busy", "far/f", ["far.test/f"], ()),
        ("weighted", "chat", ["one.test/t", "two.test/t"], (2, 2)),
    ]


def test_a_pool_of_which_all_is_asked_stays_as_it_is_beside_one_that_changes() -> None:
    decision = pooled(["two/t", "keyless/k", "far/f"])
    again = pooled(["two/t", "far/f"])
    assert decision.pools == again.pools


def test_the_targets_of_a_decision_are_those_of_its_pools() -> None:
    decision = pooled(["two/t", "far/f"])
    assert decision.targets == (*decision.pools[0].targets, *decision.pools[1].targets)
    assert Decision("r").targets == ()


# --- several servers of one provider

BOTH = {"dialect": "ollama", "urls": ["http://one.test", "http://two.test"]}
HAS_M, HAS_N = frozenset({"m:latest"}), frozenset({"n:latest"})


@pytest.mark.parametrize(
    ("nodes", "asked", "skipped", "because"),
    [
        ({}, ["one.test/m", "two.test/m"], [], "what all have together counts where nothing else is known"),
        ({"http://one.test": HAS_M, "http://two.test": HAS_M}, ["one.test/m", "two.test/m"], [], "both have it"),
        ({"http://one.test": HAS_N, "http://two.test": HAS_M}, ["two.test/m"], [], "only the second one has it"),
        ({"http://one.test": HAS_M, "http://two.test": None}, ["one.test/m"], [], "the second one is away"),
        ({"http://two.test": HAS_N}, ["one.test/m"], [], "of the first one nothing else is known"),
        (
            {"http://one.test": HAS_N, "http://two.test": None},
            ["far.test/f"],
            [("both/m", NO_MODEL), ("both/m", UNREACHABLE)],
            "neither can be asked",
        ),
    ],
)
def test_a_server_is_skipped_for_what_is_known_of_itself(
    nodes: dict[str, frozenset[str] | None], asked: list[str], skipped: list[tuple[str, str]], because: str
) -> None:
    rules = made([{"name": "all", "use": ["both/m", "far/f"]}], both=BOTH)
    decision = decide(rules, Facts("m", servers={"both": Seen(HAS_M, True, nodes)}))
    found = [server for _, _, servers, _ in pools(decision) for server in servers]
    assert (found[: len(asked)], skips(decision)) == (asked, skipped), because
    assert found[len(asked) :] == ([] if asked == ["far.test/f"] else ["far.test/f"])


def test_servers_without_the_model_are_all_asked_after_all_where_nothing_else_is_left() -> None:
    rules = made([{"name": "all", "use": "both/m"}], both=BOTH)
    seen = Seen(HAS_N, True, {"http://one.test": HAS_N, "http://two.test": None})
    decision = decide(rules, Facts("m", servers={"both": seen}))
    assert (pools(decision), skips(decision)) == ([("least_busy", "both/m", ["one.test/m", "two.test/m"], ())], [])


# --- the middle of a stream


@pytest.mark.parametrize(
    ("usual", "of_rule", "of_model", "by_rule", "by_model"),
    [
        (None, None, None, "continue", "continue"),
        ("error", None, None, "error", "error"),
        ("error", "continue", None, "continue", "error"),
        ("error", None, "continue", "continue", "continue"),
        (None, "error", None, "error", "continue"),
        ("continue", None, "error", "error", "error"),
    ],
)
def test_what_becomes_of_a_broken_stream_is_the_rules_to_say_then_the_models_then_the_files(
    usual: str | None, of_rule: str | None, of_model: str | None, by_rule: str, by_model: str
) -> None:
    def said(mid_stream: str | None) -> dict[str, str]:
        return {"mid_stream": mid_stream} if mid_stream else {}

    rules = made(
        [{"name": "all", "use": "chat", **said(of_rule)}],
        {"chat": {"targets": "far/f", **said(of_model)}},
        {"failover": said(usual)},
    )
    assert (decide(rules, Facts("x")).mid_stream, decide(rules, Facts("chat")).mid_stream) == (by_rule, by_model)


def test_a_server_that_seemed_away_is_asked_where_all_others_fail() -> None:
    rules = made([{"name": "all", "use": ["here/m", "far/x"]}])
    away = decide(rules, Facts("m", servers={"here": AWAY}))
    assert (names(away), [pool.name for pool in away.last]) == (["far/x"], ["here/m"])
    lacking = decide(rules, Facts("m", servers={"here": Seen(frozenset({"other:latest"}), reached=True)}))
    assert (names(lacking), lacking.last) == (["far/x"], ())
    alone = decide(rules, Facts("m", servers={"here": WITH_M}))
    assert (names(alone), alone.last) == (["here/m", "far/x"], ())


def test_a_skipped_server_is_not_skipped_for_ever() -> None:
    rules = made([{"name": "all", "use": ["here/m", "far/f"]}])
    asked = [names(decide(rules, Facts("m", servers={"here": seen}))) for seen in (WITH_M, AWAY, WITH_M)]
    assert asked == [["here/m", "far/f"], ["far/f"], ["here/m", "far/f"]]


# --- verdicts


def test_a_decision_without_some_targets_says_why_they_are_not_asked() -> None:
    rules = made(
        [{"name": "all", "use": ["v", "far/f"]}],
        models={"v": {"targets": ["here/m", "far/g", "far/h"], "strategy": "weighted", "weights": [1, 2, 3]}},
    )
    decision = decide(rules, Facts("m", servers={"here": WITH_M}))
    left = without(decision, lambda target: target.model in ("g", "f"), "it rains")
    assert [(pool.strategy, [target.name for target in pool.targets], pool.weights) for pool in left.pools] == [
        ("weighted", ["here/m", "far/h"], (1, 3))
    ]
    assert left.skipped == (Skipped("far/g", "it rains"), Skipped("far/f", "it rains"))
    assert (left.rule, left.mid_stream) == (decision.rule, decision.mid_stream)
    away = decide(rules, Facts("m", servers={"here": AWAY}))
    assert [target.name for pool in without(away, lambda _: False, "").last for target in pool.targets] == [
        target.name for pool in away.last for target in pool.targets
    ]


def test_a_decision_changes_neither_rules_nor_facts() -> None:
    rules = made([{"name": "all", "use": ["here/m", "far/f"]}])
    servers = {"here": WITH_M}
    before = copy.deepcopy((rules.file, servers))
    assert decide(rules, Facts("m", servers=servers)) == decide(rules, Facts("m", servers=servers))
    assert (rules.file, servers) == before


@pytest.mark.parametrize(
    ("value", "name"), [(Decision("r"), "rule"), (Skipped("a/b", "why"), "why"), (Pool("fastest", ()), "strategy")]
)
def test_verdicts_do_not_change(value: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "other")
