"""What a call's one line says of tokens and money: what the ledger's row says, to the last digit, and never 0 for what
nobody knows the price of."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest
from loguru import logger

from addons.response import came_to, line
from rules.prices import MOST, Tokens
from tests.addons.accounts import TOKENS, account, tried
from tests.addons.ledgers import read
from tests.addons.money import TOOLS, World, chat, leave_after
from tests.gateway import Gateway, quick_rules
from tests.standins import CutAfter, HoldAfter, OllamaStandIn, Status

REMOTE = "deepseek/deepseek-flash"
READ_ALONE = Tokens(prompt=14)
ELSE: dict[str, Any] = {
    "request_id": "req_1", "client": "ci", "method": "POST", "path": "/v1/x", "model": None, "first_token": None,
    "total": 2.0, "attempts": 1, "status": 200,
}  # fmt: skip


@pytest.mark.parametrize(("attempts", "words", "cost", "unpriced"), [
    ([tried(tokens=TOKENS)], "100+50 tokens", 0, None),
    ([tried(REMOTE, tokens=TOKENS, cost=120_000)], "100+50 tokens 0.00012 USD", "0.00012", None),
    ([tried(REMOTE, tokens=READ_ALONE, cost=1)], "14+0 tokens 0.000000001 USD", "1E-9", None),
    ([tried(REMOTE, tokens=TOKENS, cost=2_500_000_000)], "100+50 tokens 2.50 USD", "2.5", None),
    ([tried(REMOTE, tokens=TOKENS, cost=5, estimated=True)], "≈ 100+50 tokens 0.000000005 USD", "5E-9", None),
    ([tried(REMOTE, cost=40_000_000)], "0.04 USD", "0.04", None),
    ([tried("free/any", tokens=TOKENS, cost=None)], "100+50 tokens unpriced", None, True),
    ([tried("free/any", cost=None)], "unpriced", None, True),
    (
        [tried("free/any", tokens=TOKENS, cost=None), tried(REMOTE, tokens=READ_ALONE, cost=31_185)],
        "114+50 tokens ≥ 0.000031185 USD", "0.000031185", True,
    ),
    ([tried(REMOTE, tokens=TOKENS, cost=7, outcome="reset"), tried(tokens=TOKENS)], "200+100 tokens 0.000000007 USD",
     "7E-9", None),
    ([tried(outcome="connect")], "", 0, None),
    ([], "", 0, None),
    ([tried(REMOTE, tokens=TOKENS, cost=999_999_999_999_999)], "100+50 tokens 999999.999999999 USD",
     "999999.999999999", None),
])  # fmt: skip
def test_a_line_has_tokens_and_what_they_cost(
    attempts: Sequence[Any], words: str, cost: str | int | None, unpriced: bool | None
) -> None:
    fields = came_to(account(*attempts))
    assert line({**ELSE, **fields}) == " ".join(filter(None, ["200 POST /v1/x", words, "total 2.0s ci req_1"]))
    said = json.loads(orjson.dumps(fields), parse_float=Decimal)
    assert said["cost_usd"] == (None if cost is None else Decimal(cost))
    assert said.get("unpriced") is unpriced


def test_money_of_any_size_is_a_number() -> None:
    assert json.loads(orjson.dumps(came_to(account(tried(cost=MOST)))))["cost_usd"] == pytest.approx(MOST / 10**9)


def test_what_is_not_there_is_not_said() -> None:
    plain = {"prompt_tokens": 14, "completion_tokens": 0, "cost_usd": 0.0}
    assert came_to(account(tried(tokens=READ_ALONE))) == plain
    parts = {"cached_tokens": 20, "reasoning_tokens": 10, "estimated": True}
    assert came_to(account(tried(tokens=TOKENS, estimated=True))) == {
        **plain, "prompt_tokens": 100, "completion_tokens": 50, **parts,
    }  # fmt: skip
    nothing = {"prompt_tokens": None, "completion_tokens": None}
    assert came_to(account()) == {**nothing, "cost_usd": 0.0}
    assert came_to(None) == {**nothing, "cost_usd": None}


@contextmanager
def lines_of_json() -> Iterator[dict[str, dict[str, Any]]]:
    """request id -> what is bound to its line, as JSON writes it; numbers as they stand there."""
    found: dict[str, dict[str, Any]] = {}

    def keep(message: Any) -> None:
        bound = message.record["extra"]
        if "request_id" in bound:
            found[bound["request_id"]] = json.loads(orjson.dumps(bound), parse_float=Decimal)

    handler = logger.add(keep, level="INFO")
    try:
        yield found
    finally:
        logger.remove(handler)


def test_the_log_has_what_the_ledgers_rows_have(world: World) -> None:
    before = len(world.accounts)
    with lines_of_json() as lines:
        world.ask("/chat/completions", chat("deep"))
        world.ask("/chat/completions", chat("deep", n=2, stream=True))
        world.deepseek.thinking = True
        world.ask("/chat/completions", chat("deep", tools=TOOLS))
        world.deepseek.thinking = False
        world.ollama.plan(CutAfter(3))
        world.ask("/chat/completions", chat("any", stream=True))
        world.deepseek.plan(CutAfter(3))
        world.ask("/chat/completions", chat("deep"))
        world.ask("/completions", {"model": "free", "prompt": "once upon a time"})
        world.ask("/completions", {"model": "texts", "prompt": "once upon a time"})
        world.ask("/embeddings", {"model": "vectors", "input": "one two"})
        world.deepseek.plan(Status(400))
        world.ask("/chat/completions", chat("deep"))
        world.ask("/chat/completions", {"model": "any", "messages": []})
        world.ollama.plan(HoldAfter(3))
        leave_after(world, chat("any"), 3)
        accounts = world.accounts[before:]
        ids = {account.request_id for account in accounts}
        world.gateway.until(lambda: ids <= lines.keys(), "the lines of all calls")
    ledger = world.gateway.state.ledger
    assert ledger is not None
    world.gateway.until(lambda: ledger.written == len(world.accounts), "the ledger has written all calls")
    rows = {row["request_id"]: row for row in read(f"sqlite:///{world.folder / 'ledger.sqlite'}")[0]}
    assert len(ids) == 11
    for one in ids:
        row, said = rows[one], lines[one]
        names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        assert [said.get(name) or 0 for name in names] == [row[name] for name in names]
        known = row["cost"] or not row["unpriced"]
        assert (said["cost_usd"] is not None) == bool(known)
        assert (said["cost_usd"] or 0) * 10**9 == row["cost"]
        for name in ("unpriced", "estimated"):
            assert said.get(name, False) == bool(row[name])
        assert said["streamed"] == bool(row["streamed"])
    assert {said.get("unpriced") for said in lines.values()} == {None, True}
    assert {said.get("estimated") for said in lines.values()} == {None, True}
    assert {"cached_tokens", "reasoning_tokens"} <= {name for said in lines.values() for name in said}


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_line_of_a_call_says_its_cost_and_that_of_another_question_none(form: str) -> None:
    prices = "prices: [{model: ollama/*, from: 2026-01-01, request: 0.0025}]"
    with OllamaStandIn(reply=["Hi", " there"]) as ollama:
        rules = "\n".join((quick_rules(ollama=ollama.url), prices))
        with Gateway(rules, log_form=form) as gateway:
            called = gateway.chat(stream=True).headers["x-request-id"]
            with gateway.client() as client:
                listed = client.get("/v1/models").headers["x-request-id"]
            gateway.until(lambda: listed in gateway.log.getvalue(), "the lines of both")
            rows = io.StringIO(gateway.log.getvalue()).readlines()
    call, other = (next(row for row in rows if one in row) for one in (called, listed))
    if form == "text":
        assert " 5+2 tokens 0.0025 USD first 0." in call
        assert "USD" not in other
        assert "priced" not in other
    else:
        assert '"cost_usd":0.0025,' in call
        assert (json.loads(call)["streamed"], json.loads(other)["streamed"]) == (True, False)
        assert json.loads(other)["cost_usd"] is None
