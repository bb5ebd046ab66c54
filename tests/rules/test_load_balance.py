"""Failover, balance and prices in rules.yaml: what is wrong with them is said where it stands."""

from __future__ import annotations

from datetime import date

import pytest

from tests.rules.files import EVERYTHING, OTHER_PEOPLES_WORDS, PROVIDERS, load, refusal

ALL = "rules: [{name: all, use: here/m}]\n"
KINDS = "there is no such kind of failure"
LATER_FAULTS: list[tuple[str, str, list[tuple[int, str, str]]]] = [
    (
        "a mistyped kind in a list stands on its own line",
        ALL + "defaults:\n  failover:\n    on:\n      - connect\n      - timeouts\n",
        [(7, "defaults.failover.on[1]", KINDS + " (did you mean 'timeout'?)")],
    ),
    (
        "a mistyped kind alone",
        ALL + "defaults: {failover: {on: conect}}\n",
        [(3, "defaults.failover.on[0]", KINDS + " (did you mean 'connect'?)")],
    ),
    (
        "a mistyped kind that has a weight",
        ALL + "defaults:\n  breaker:\n    weights: {timeout: 1,\n      status_5x: 2}\n",
        [(6, "defaults.breaker.weights.status_5x", KINDS + " (did you mean 'status_5xx'?)")],
    ),
    (
        "a kind like no other",
        ALL + "defaults: {breaker: {weights: {zebra: 1}}}\n",
        [(3, "defaults.breaker.weights.zebra", KINDS + "; there are blank, connect, ")],
    ),
    (
        "weights that are no mapping, or not numbers",
        ALL + "defaults:\n  breaker: {weights: [1]}\n  failover: {attempts: 11}\n  admission: {parallel: 0}\n",
        [
            (4, "defaults.breaker.weights", "must be a mapping of names"),
            (5, "defaults.failover.attempts", "11 is not a whole number from 1 to 10"),
            (6, "defaults.admission.parallel", "0 is not a whole number, 1 or more"),
        ],
    ),
    (
        "a weight below zero",
        ALL + "defaults:\n  breaker: {weights: {timeout: -1}}\n",
        [(4, "defaults.breaker.weights.timeout", "-1 is not a number, 0 or more")],
    ),
    (
        "unknown keys of the new nouns",
        ALL + "defaults:\n  failover: {attempt: 1}\n  breaker: {zebra: 1}\n  admission: {size: 1}\n",
        [
            (4, "defaults.failover.attempt", "unknown key (did you mean 'attempts'?)"),
            (5, "defaults.breaker.zebra", "unknown key; known here: failures, cool_down, wait, weights"),
            (6, "defaults.admission.size", "unknown key; known here: parallel, queue, wait"),
        ],
    ),
    (
        "statuses that never come",
        ALL + "defaults:\n  failover: {on: [status_400, status_401]}\n",
        [
            (4, "defaults.failover.on[0]", "a 400 is the caller's own fault and never routed around"),
            (4, "defaults.failover.on[1]", "a 401 is a refused key: write key"),
        ],
    ),
    (
        "a status that is a number",
        ALL + "defaults:\n  failover: {on: [connect, 503]}\n",
        [(4, "defaults.failover.on[1]", "a status is written status_503")],
    ),
    (
        "a strategy that there is not",
        "models:\n  chat:\n    targets: here/m\n    strategy: random\n    mid_stream: restart\n",
        [
            (5, "models.chat.strategy", "must be one of 'in_order', 'round_robin'"),
            (6, "models.chat.mid_stream", "must be one of 'continue' or 'error'"),
        ],
    ),
    (
        "a rule that restarts",
        "rules:\n  - name: all\n    use: here/m\n    mid_stream: restart\n",
        [(5, "rules[0].mid_stream", "must be one of 'continue' or 'error'")],
    ),
    (
        "weighted without weights",
        "models:\n  chat:\n    targets: here/m\n    strategy: weighted\n",
        [(5, "models.chat.strategy", "needs `weights`, one number for each target")],
    ),
    (
        "weights with nothing in them count as none",
        "models:\n  chat: {targets: here/m, strategy: weighted, weights: }\n",
        [(3, "models.chat.strategy", "needs `weights`")],
    ),
    (
        "a list of weights with nothing in it",
        "models:\n  chat: {targets: here/m, strategy: weighted, weights: []}\n",
        [(3, "models.chat.weights", "needs at least one entry")],
    ),
    (
        "weights of the wrong length",
        "models:\n  chat:\n    targets: [here/m, there/m]\n    strategy: weighted\n    weights: [1, 2, 3]\n",
        [(6, "models.chat.weights", "needs one number for each target, 2 and not 3")],
    ),
    (
        "one target and two weights",
        "models:\n  chat: {targets: here/m, strategy: weighted, weights: [1, 2]}\n",
        [(3, "models.chat.weights", "needs one number for each target, 1 and not 2")],
    ),
    (
        "weights that nothing looks at",
        "models:\n  a: {targets: here/m, weights: [1]}\n  b: {targets: here/m, strategy: fastest, weights: [1]}\n",
        [
            (3, "models.a.weights", "only the strategy weighted goes by weights"),
            (4, "models.b.weights", "only the strategy weighted goes by weights"),
        ],
    ),
    (
        "weights that are no numbers are not counted besides",
        "models:\n  a: {targets: [here/m, there/m], strategy: weighted, weights: 5}\n",
        [(3, "models.a.weights", "must be a list")],
    ),
    (
        "a weight of nothing",
        "models:\n  chat:\n    targets: [here/m, there/m]\n    strategy: weighted\n    weights: [0, 1]\n",
        [(6, "models.chat.weights[0]", "0 is not a number above 0 and at most 1000000")],
    ),
    (
        "cheapest, and nobody knows what some targets cost",
        "models:\n  chat:\n    targets:\n      - here/m\n      - there/m\n      - there/n\n    strategy: cheapest\n"
        "prices: [{model: there/n, from: 2026-11-15, input: 1, output: 1}]\n",
        [(6, "models.chat.targets[1]", "the strategy cheapest needs a price for 'there/m'; write it under prices")],
    ),
    (
        "cheapest for any name needs a price for any name",
        "models:\n  chat: {targets: 'there/{model}', strategy: cheapest}\n"
        "prices: [{model: there/n, from: 2026-11-15, input: 1, output: 1}]\n",
        [(3, "models.chat.targets", "the strategy cheapest needs a price for 'there/{model}'")],
    ),
    (
        "cheapest among targets that do not exist",
        "models:\n  chat: {targets: [their/m, there/], strategy: cheapest}\n",
        [
            (3, "models.chat.targets[0]", "there is no provider 'their' (did you mean 'there'?)"),
            (3, "models.chat.targets[1]", "names no model"),
        ],
    ),
    (
        "prices that cannot be read hide whether they would do",
        "models: {chat: {targets: there/m, strategy: cheapest}}\n"
        "prices:\n  - {model: '${NOWHERE}', from: 2026-11-15, input: 1, output: 1}\n"
        "  - {model: '${NOWHERE}', from: 2026-11-15, input: 1, output: 1}\n",
        [(4, "prices[0].model", "NOWHERE is not set"), (5, "prices[1].model", "NOWHERE is not set")],
    ),
    (
        "a price for a provider that does not exist",
        ALL + "prices:\n  - {model: their/m, from: 2026-11-15, input: 1, output: 1}\n"
        "  - {model: m, from: 2026-11-15, input: 1, output: 1}\n",
        [
            (4, "prices[0].model", "there is no provider 'their' (did you mean 'there'?)"),
            (5, "prices[1].model", "a target is written provider/model"),
        ],
    ),
    (
        "a price for every provider at once",
        ALL + "prices: [{model: '*/*', from: 2026-11-15, input: 1, output: 1}]\n",
        [(3, "prices[0].model", "there is no provider '*'")],
    ),
    (
        "a price for a name that is still to be filled in",
        ALL + "prices: [{model: 'there/{model}', from: 2026-11-15, input: 1, output: 1}]\n",
        [(3, "prices[0].model", "write provider/* for all of them")],
    ),
    (
        "two prices for one model and day, the one a date and the other a text",
        ALL + "prices:\n  - {model: there/m, from: 2026-11-15, input: 1, output: 1}\n"
        "  - {model: there/n, from: 2026-11-15, input: 1, output: 1}\n"
        "  - {model: there/m, from: 2026-11-16, input: 1, output: 1}\n"
        "  - {model: there/m, from: '2026-11-15', input: 2, output: 2}\n",
        [(7, "prices[3]", "prices[0] is for the same model and from the same day")],
    ),
    (
        "days that are none",
        ALL + "prices:\n  - {model: there/m, from: soon, input: 1, output: 1}\n"
        "  - {model: there/m, from: 2026-11-15 10:00:00, input: 1, output: 1}\n"
        "  - {model: there/m, from: 2026-11-31, input: 1, output: 1}\n"
        "  - {model: there/m, from: 2026, input: 1, output: 1}\n"
        "  - {model: there/m, input: 1, output: 1}\n",
        [
            (4, "prices[0].from", "a date is year-month-day, such as 2026-11-15"),
            (5, "prices[1].from", "a date is year-month-day"),
            (6, "prices[2].from", "'2026-11-31' cannot be read: there is no such day"),
            (7, "prices[3].from", "a date is year-month-day"),
            (8, "prices[4].from", "is missing"),
        ],
    ),
    (
        "keys of a price in other words",
        ALL + "prices:\n  - {model: there/m, from: 2026-11-15, input: -1, output: 1, since: 1}\n  - there/m\n",
        [
            (4, "prices[0].input", "-1 is not a number, 0 or more"),
            (4, "prices[0].since", "unknown key (did you mean 'from'?)"),
            (5, "prices[1]", "must be a mapping of model, from, input, cached_input, output"),
        ],
    ),
    ("prices that are no list", ALL + "prices: {there/m: 1}\n", [(3, "prices", "must be a list")]),
]


@pytest.mark.parametrize(("it", "text", "faults"), LATER_FAULTS, ids=[row[0] for row in LATER_FAULTS])
def test_what_is_wrong_with_failover_balance_and_prices_is_said_where_it_stands(
    it: str, text: str, faults: list[tuple[int, str, str]]
) -> None:
    error = refusal(PROVIDERS + text)
    assert [(fault.line, fault.where) for fault in error.faults] == [row[:2] for row in faults], f"{it}: {error}"
    for fault, (_, _, message) in zip(error.faults, faults, strict=True):
        assert message in fault.message, it
        assert not [word for word in OTHER_PEOPLES_WORDS if word in str(fault)]


def test_a_target_from_the_environment_that_has_no_price_is_not_repeated() -> None:
    text = PROVIDERS + "models:\n  chat: {targets: ['there/${NAME}'], strategy: cheapest}\n"
    (fault,) = refusal(text, {"NAME": "hidden"}).faults
    assert str(fault) == (
        "line 3: models.chat.targets[0] (from NAME): the strategy cheapest needs a price for it; write it under prices"
    )


@pytest.mark.parametrize(
    "text",
    [
        "models: {chat: {targets: [here/m, here/n], strategy: cheapest}}\n",
        "models: {chat: {targets: [here/m, there/m], strategy: cheapest}}\nprices: [{model: there/*, from: 2026-11-15, input: 1, output: 1}]\n",
        "models: {chat: {targets: 'there/{model}', strategy: cheapest}}\nprices: [{model: there/*, from: 2026-11-15, input: 1, output: 1}]\n",
        "models: {chat: {targets: there/m, strategy: fastest}}\n",
        "models: {chat: {targets: there/m, strategy: weighted, weights: [1]}}\n",
        ALL + "prices: []\n",
    ],
)
def test_a_strategy_that_has_what_it_goes_by_is_taken(text: str) -> None:
    assert load(PROVIDERS + text).file.providers


@pytest.mark.parametrize("written", ["2026-11-15", "'2026-11-15'", "${DAY}"])
def test_the_day_of_a_price_is_read_in_each_way_to_write_it(written: str) -> None:
    text = PROVIDERS + ALL + f"prices:\n  - {{model: here/m, from: {written}, input: 1, output: 1}}\n"
    (price,) = load(text.replace("${DAY}", '"${DAY}"'), {"DAY": "2026-11-15"}).file.prices
    assert (price.since, price.cached_input) == (date(2026, 11, 15), None)


def test_what_a_file_says_of_failover_arrives() -> None:
    rules = load(EVERYTHING)
    said = rules.defaults.failover
    assert (said.attempts, said.on) == (3, ("connect", "timeout", "status_429", "status_5xx"))
    assert (said.mid_stream, said.backoff, said.wait) == ("error", 0.1, 10)
    assert said.repair
    breaker, admission = rules.defaults.breaker, rules.defaults.admission
    assert (breaker.failures, breaker.cool_down, breaker.weights) == (2.5, 20, {"timeout": 0.5, "status_500": 0})
    assert (admission.parallel, admission.queue, admission.wait, rules.defaults.drain) == (8, 20, 3, 7)
    assert (rules.file.models["chat"].weights, rules.file.models["chat"].mid_stream) == ((2, 0.5), "error")
    images, ollama = rules.defaults.images, rules.file.providers["ollama"]
    assert (images.fetch, images.bytes, images.wait, images.redirects) == (True, 10 * 2**20, 5, 1)
    assert images.allow == ("images.test", "10.1.0.0/16")
    assert (ollama.num_ctx, ollama.context_memory) == ({"qwen2.5:*": 8192, "*": "auto"}, 2**30)
    assert (rules.file.providers["far"].patience, rules.file.providers["far"].window) == (300, 65536)
