"""The cost law: whoever adds up what a call cost comes to the same number, to the last digit.

Each case is asked for streamed and whole. What the call came to is compared with what stands here, written down by
hand from what the servers say and from the prices; then with the ledger, the metrics and the report.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from addons.account import Account, Tried
from addons.cli import app
from rules.prices import NONE_COUNTED, Tokens
from tests.addons.ledgers import read
from tests.addons.money import (
    DEEP,
    FREE,
    LOCAL,
    MIGHT,
    PRICES,
    TEXTS,
    TOOLS,
    VECTORS,
    Attempt,
    World,
    chat,
    check,
    guessed,
    leave_after,
    ok,
    on_paper,
    refused,
)
from tests.standins import (
    CutAfter,
    GarbageBody,
    HoldAfter,
    Plan,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Silence,
    SilenceAfterHeaders,
    Status,
)
from tests.standins.raw import Expect, Send, whole


@dataclass(frozen=True)
class Case:
    expected: Sequence[Attempt]
    path: str = "/chat/completions"
    body: dict[str, Any] = field(default_factory=dict)
    ollama: Sequence[Plan] = ()
    deepseek: Sequence[Plan] = ()
    texts: Sequence[Plan] = ()
    status: int = 200
    streamed: Sequence[Attempt] | None = None
    """Where a stream goes another way: once its caller has the beginning, it is gone on with."""
    parrot: bool = False
    thinks: bool = False
    compared: Tokens | None = None
    """Of the answer as one call elsewhere would have had it; None: those of the attempts that did not fail."""
    streamed_compared: Tokens | None = None
    any_order: bool = False


CASES = {
    "text of a local model": Case([ok(LOCAL, 5, 5)], body=chat("any")),
    "text, and a prompt of which the server had a part in its cache": Case(
        [ok(DEEP, 5, 5, cached=2)], body=chat("deep")
    ),
    "reasoning is a part of what was said": Case(
        [ok(DEEP, 5, 10, cached=2, reasoning=5)], body=chat("deep"), thinks=True
    ),
    "a tool call": Case([ok(DEEP, 5, 10, cached=2)], body=chat("deep", tools=TOOLS), parrot=True),
    "a tool call of a local model": Case([ok(LOCAL, 5, 10)], body=chat("any", tools=TOOLS), parrot=True),
    "two choices are two attempts": Case(
        [ok(DEEP, 5, 5, cached=2), ok(DEEP, 5, 5, cached=2)],
        body=chat("deep", n=2),
        compared=Tokens(5, 2, 10),
    ),
    "two choices of a local model": Case(
        [ok(LOCAL, 5, 5), ok(LOCAL, 5, 5)], body=chat("any", n=2), compared=Tokens(5, 0, 10)
    ),
    "one of two choices is given by another target": Case(
        [refused(LOCAL, "status_500"), ok(DEEP, 5, 5, cached=2), ok(LOCAL, 5, 5)],
        body=chat("any", n=2),
        ollama=[Status(500)],
        any_order=True,
        compared=Tokens(5, 2, 10),
    ),
    "a completion": Case([ok(TEXTS, 4, 5)], "/completions", {"model": "texts", "prompt": "once upon a time"}),
    "completions of two prompts": Case(
        [ok(TEXTS, 6, 10)], "/completions", {"model": "texts", "prompt": ["once upon a time", "and then"]}
    ),
    "a response": Case([ok(DEEP, 5, 5, cached=2)], "/responses", {"model": "deep", "input": "hello there"}),
    "a model without a price": Case([ok(FREE, 4, 5)], "/completions", {"model": "free", "prompt": "once upon a time"}),
    "refused at once, and answered by the next": Case(
        [refused(LOCAL, "status_500"), ok(DEEP, 5, 5, cached=2)], body=chat("any"), ollama=[Status(500)]
    ),
    "at work, and gone before the first word": Case(
        [guessed(DEEP, "reset", 0), ok(LOCAL, 5, 5)], body=chat("deep-first"), deepseek=[ResetAfterHeaders()]
    ),
    "at work, and silent": Case(
        [guessed(DEEP, "first_token", 0), ok(LOCAL, 5, 5)],
        body=chat("deep-first"),
        deepseek=[SilenceAfterHeaders(2)],
    ),
    "asked, and nothing heard of it": Case(
        [guessed(DEEP, "first_token", 0), ok(LOCAL, 5, 5)], body=chat("deep-first"), deepseek=[Silence(2)]
    ),
    "asked, and reset": Case(
        [refused(DEEP, "reset"), ok(LOCAL, 5, 5)], body=chat("deep-first"), deepseek=[ResetBeforeHeaders()]
    ),
    "not an answer at all": Case(
        [guessed(LOCAL, "malformed", 0), ok(DEEP, 5, 5, cached=2)], body=chat("any"), ollama=[GarbageBody()]
    ),
    "cut in the middle": Case(
        [guessed(LOCAL, "reset", 4), ok(DEEP, 5, 5, cached=2)],  # 18 characters, in three pieces
        body=chat("any"),
        ollama=[CutAfter(3)],
        # The prompt has grown by the beginning of the answer: for the caller three of its tokens are the answer's.
        streamed=[guessed(LOCAL, "reset", 4), ok(DEEP, 11, 2, cached=5, continues=True)],
        streamed_compared=Tokens(8, 5, 5),
    ),
    "cut for good": Case(
        [guessed(DEEP, "reset", 3)],
        body=chat("deep"),
        deepseek=[CutAfter(3)],
        status=502,  # 14 characters
    ),
    "cut when all but the end was said": Case([ok(DEEP, 5, 5, cached=2)], body=chat("deep"), deepseek=[CutAfter(-1)]),
    "an error in place of the answer": Case(
        [refused(DEEP, "refused")], body=chat("deep"), deepseek=[Status(400)], status=400
    ),
    "nobody is there": Case(
        [refused(LOCAL, "status_503"), refused(DEEP, "status_503")],
        body=chat("any"),
        ollama=[Status(503)],
        deepseek=[Status(503)],
        status=503,
    ),
    "not even asked": Case([], body={"model": "any", "messages": []}, status=400),
}


def ask(world: World, case: Case, *, stream: bool) -> tuple[int, Account]:
    world.ollama.plan(*case.ollama)
    world.deepseek.plan(*case.deepseek)
    world.texts.plan(*case.texts)
    world.deepseek.thinking = case.thinks
    if case.parrot:
        world.ollama.reply = world.deepseek.reply = None
    return world.ask(case.path, {**case.body, "stream": stream})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_costs_what_was_written_down_by_hand(world: World, name: str, stream: bool) -> None:
    case = CASES[name]
    status, account = ask(world, case, stream=stream)
    assert account.status == case.status
    assert status in (case.status, 200 if stream else case.status)
    other_way = stream and case.streamed is not None
    check(account, case.streamed if other_way and case.streamed else case.expected, any_order=case.any_order)
    useful = [one.tokens for one in account.tried if one.outcome == "ok"]
    compared = case.streamed_compared if other_way else case.compared
    if not account.operation or account.unpriced:
        assert account.compared is None  # what is of unknown cost saved an unknown sum
    else:
        assert account.compared == (on_paper(MIGHT, compared or sum(useful, Tokens())) if useful else 0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.streamed is None])
def test_a_stream_costs_what_the_whole_answer_costs(world: World, name: str) -> None:
    whole, streamed = (ask(world, CASES[name], stream=stream)[1] for stream in (False, True))
    assert (whole.streamed, streamed.streamed) == (False, bool(streamed.operation))
    whole_attempts, streamed_attempts = (
        Counter((one.target, one.outcome, one.tokens, one.cost) for one in account.tried)
        for account in (whole, streamed)
    )
    if not any(one.estimated for one in (*whole.tried, *streamed.tried)):
        assert whole_attempts == streamed_attempts
        assert (whole.cost, whole.failed_cost, whole.compared) == (
            streamed.cost,
            streamed.failed_cost,
            streamed.compared,
        )
    assert (whole.status, whole.error, whole.finish_reason) == (streamed.status, streamed.error, streamed.finish_reason)
    for account in (whole, streamed):  # of parts that are asked at once, any may be the last to end
        answered = [one.target for one in account.tried if one.outcome == "ok"]
        last = {*answered} if CASES[name].any_order else {*answered[-1:]}
        assert account.target in last if last else account.target is None


@pytest.mark.parametrize(("model", "expected"), [("vectors", ok(VECTORS, 5, 0)), ("texts", ok(TEXTS, 2, 0))])
def test_vectors_cost_what_was_read(world: World, model: str, expected: Attempt) -> None:
    status, account = world.ask("/embeddings", {"model": model, "input": ["one two", "three"]})
    assert status == 200
    check(account, [expected])
    assert account.compared is None  # no model for text could have made them


# -- whoever adds up


def settled(world: World) -> list[Account]:
    """All calls so far, once the ledger has written them."""
    ledger = world.gateway.state.ledger
    assert ledger is not None
    world.gateway.until(lambda: ledger.written == len(world.accounts), "the ledger has written all calls")
    assert ledger.lost == 0
    return world.accounts


def one_of_each(world: World) -> list[Account]:
    """At least: a call that was answered, one that was gone on with, one in parts, one that failed, one refused,
    one left alone, and of sound one that costs its text and one of which nobody knows what it costs.
    """
    ask(world, CASES["text, and a prompt of which the server had a part in its cache"], stream=False)
    ask(world, CASES["cut in the middle"], stream=True)
    ask(world, CASES["two choices are two attempts"], stream=True)
    ask(world, CASES["cut for good"], stream=False)
    ask(world, CASES["a model without a price"], stream=False)
    ask(world, CASES["not even asked"], stream=False)
    ask(world, CASES["asked, and nothing heard of it"], stream=False)
    world.raw.scripts = [[Expect(), Send(whole(b"ID3 sound", "audio/mpeg"))]]
    for model in ("reads", "says"):
        world.ask("/audio/speech", {"model": model, "input": "hello there", "voice": "alloy"})
    world.ollama.plan(HoldAfter(3))
    leave_after(world, chat("any"), 3)
    return settled(world)


def test_the_ledger_has_what_each_call_and_each_attempt_came_to(world: World) -> None:
    accounts = {account.request_id: account for account in one_of_each(world)}
    calls, attempts = read(f"sqlite:///{world.folder / 'ledger.sqlite'}")
    assert {call["request_id"] for call in calls} == accounts.keys()
    for call in calls:
        account = accounts[call["request_id"]]
        rows = [row for row in attempts if row["call_id"] == call["id"]]
        assert [_row(row) for row in rows] == [_of(one) for one in account.tried]
        assert _tokens(call) == account.tokens == sum((_tokens(row) for row in rows), Tokens())
        assert call["cost"] == account.cost == sum(row["cost"] or 0 for row in rows)
        assert call["failed_cost"] == account.failed_cost
        assert call["failed_cost"] == sum(row["cost"] or 0 for row in rows if row["outcome"] not in ("ok", "left"))
        assert bool(call["unpriced"]) == account.unpriced == any(row["cost"] is None for row in rows)
        assert call["compared"] == account.compared
        assert (call["status"], call["target"]) == (account.status, account.target)


def _tokens(row: dict[str, Any]) -> Tokens:
    return Tokens(*(row[f"{name}_tokens"] for name in ("prompt", "cached", "completion", "reasoning")))


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["target"], row["outcome"], _tokens(row), bool(row["estimated"]), row["cost"], bool(row["continues"]))


def _of(one: Tried) -> tuple[Any, ...]:
    return (one.target, one.outcome, one.tokens, one.estimated, one.cost, one.continues)


def test_the_metrics_have_what_all_calls_came_to(world: World) -> None:
    accounts = one_of_each(world)
    with world.gateway.client() as client:
        text = client.get("/metrics").text
    cost, tokens, compared = Counter[str](), Counter[tuple[str, str]](), 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "unigate_cost_usd_total":
                cost[sample.labels["target"]] += round(sample.value * 10**9)
            elif sample.name == "unigate_tokens_total":
                tokens[sample.labels["target"], sample.labels["type"]] += int(sample.value)
            elif sample.name == "unigate_compared_cost_usd_total":
                compared += sample.value
    attempts = [one for account in accounts for one in account.tried]
    for target in PRICES:
        mine = [one for one in attempts if one.target == target]
        assert cost[target] == sum(one.cost or 0 for one in mine)
        for kind, field_ in (("input", "prompt"), ("cached_input", "cached"), ("output", "completion")):
            assert tokens[target, kind] == sum(getattr(one.tokens, field_) for one in mine)
        assert tokens[target, "reasoning"] == sum(one.tokens.reasoning for one in mine)
    assert sum(cost.values()) == sum(account.cost for account in accounts)
    assert round(compared * 10**9) == sum(account.compared or 0 for account in accounts)


def report(world: World, by: str) -> Any:
    rules = str(world.folder / "rules.yaml")
    done = CliRunner().invoke(app, ["report", "--json", "--since", "1d", "--by", by, "--rules", rules])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_report_has_what_each_target_took(world: World) -> None:
    accounts = one_of_each(world)
    told = report(world, "target")
    attempts = [one for account in accounts for one in account.tried]
    assert {group["target"] for group in told["groups"]} == {one.target for one in attempts}
    for group in told["groups"]:
        mine = [one for one in attempts if one.target == group["target"]]
        assert group["attempts"] == len(mine)
        assert group["failed_attempts"] == sum(one.failed for one in mine)
        assert group["left"] == sum(one.outcome == "left" for one in mine)
        assert _tokens(group) == sum((one.tokens for one in mine), NONE_COUNTED)
        assert group["cost_nanos"] == sum(one.cost or 0 for one in mine)
        assert group["failed_cost_nanos"] == sum(one.cost or 0 for one in mine if one.failed)
        assert group["estimated_attempts"] == sum(one.estimated for one in mine)
        assert group["unpriced_attempts"] == sum(one.cost is None for one in mine)
    for name in ("cost_nanos", "failed_cost_nanos", "prompt_tokens", "completion_tokens"):
        assert told["total"][name] == sum(group[name] for group in told["groups"])
    _compare(told["total"], accounts)


@pytest.mark.parametrize("by", ["client", "model", "rule", "endpoint"])
def test_the_report_has_what_all_calls_came_to(world: World, by: str) -> None:
    accounts = one_of_each(world)
    told = report(world, by)
    groups: dict[str | None, list[Account]] = {}
    for account in accounts:
        groups.setdefault(getattr(account, by), []).append(account)
    assert len(told["groups"]) == len(groups)
    _compare(told["total"], accounts)
    for group in told["groups"]:
        _compare(group, groups[group[by]])


def _compare(told: dict[str, Any], accounts: Sequence[Account]) -> None:
    tokens = sum((account.tokens for account in accounts), NONE_COUNTED)
    assert _tokens(told) == tokens
    assert told["calls"] == len(accounts)
    assert told["cost_nanos"] == sum(account.cost for account in accounts)
    assert Decimal(told["cost_usd"]) * 10**9 == told["cost_nanos"]
    assert told["failed_cost_nanos"] == sum(account.failed_cost for account in accounts)
    assert told["refused"] == sum(not account.tried and account.status in range(400, 499) for account in accounts)
    assert (
        told["errors"] == sum(account.status >= 400 and account.status != 499 for account in accounts) - told["refused"]
    )
    assert told["unanswered"] == sum(account.target is None for account in accounts)
    assert told["unpriced_calls"] == sum(account.unpriced for account in accounts)
    assert told["estimated_calls"] == sum(account.estimated for account in accounts)
    known = [account.compared for account in accounts if account.compared is not None]
    assert told["compared_nanos"] == (sum(known) if known else None)
