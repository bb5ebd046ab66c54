"""rules.yaml becomes Rules, or a list of all its faults; a value that may be a secret is in none of them."""

from __future__ import annotations

import copy
import json
import re
import time
import traceback
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.access import Client, Denied
from rules.conditions import Facts, Seen, model_name
from rules.decide import decide
from rules.load import RulesError, load_rules
from rules.reader import FileFault
from rules.schema import Defaults, RulesFile
from rules.snapshot import Rules
from wire.profiles import PROFILES

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "rules.yaml").read_text(encoding="utf-8")
CASES = ROOT / "tests" / "cases" / "rules"
FAULTS: list[dict[str, Any]] = yaml.safe_load((CASES / "faults.yaml").read_text(encoding="utf-8"))
ROUTES: list[dict[str, Any]] = yaml.safe_load((CASES / "shipped_routes.yaml").read_text(encoding="utf-8"))

PROVIDERS = """\
providers: {here: {dialect: ollama, urls: "http://127.0.0.1:11434"}, there: {dialect: openai, urls: "https://there.test"}}
"""
SMALLEST = PROVIDERS + "rules: [{name: all, use: here/m}]\n"
EVERYTHING = """\
proxy:
  host: 127.0.0.1
  port: "8080"
  endpoints: [/v1/chat/completions, /v1/models]
  auth: {enabled: "true", method: bearer, tokens: ["one,two", "three"]}
  cors: {enabled: "true", origins: ["https://app.test"]}
clients:
  notebook:
    key: five
    keys: [six, "sha256:0000000000000000000000000000000000000000000000000000000000000007"]
    models: ["gpt-*", chat]
    endpoints: [/v1/chat/completions]
    tags: {team: red}
    expires: "2026-12-31"
    disabled: "false"
    limits: [100/minute, 5 USD/day]
limits:
  overall: [1000/minute]
  each_client: [8 parallel]
  models: {"gpt-*": [200000 tokens/hour]}
  store: memory
  if_away: closed
providers:
  ollama:
    dialect: ollama
    urls: ["http://127.0.0.1:11434", "http://127.0.0.2:11434"]
    num_ctx: {"qwen2.5:*": "8192", "*": auto}
    context_memory: 1GiB
    keep_alive: 5m
    parallel: "2"
  far:
    dialect: openai
    profile: deepseek
    urls: "https://far.test"
    key: "four"
    patience: 5m
    window: "65536"
models:
  chat:
    capability: generation
    targets: [ollama/m, far/m]
    aliases: ["gpt-*"]
    strategy: weighted
    weights: ["2", "0.5"]
    mid_stream: error
  cheap: {targets: [ollama/m, far/m, far/n], strategy: cheapest}
rules:
  - name: one
    when:
      model: [a, b]
      prompt_chars: "> 500"
      available: ollama/m
      stream: "true"
      has: [tools, images]
      client: key-*
      header: {x-team: red, accept: "*"}
    use: [ollama/m, "far/{model}", chat]
    mid_stream: continue
  - {name: two, use: chat}
defaults:
  timeouts: {connect: 5s, first_token: 60s, idle: 30s, total: 30m, keep_alive: 15s}
  limits: {body: 32MiB, headers: 64KiB}
  refresh: 5s
  failover:
    attempts: "3"
    "on": [connect, timeout, status_429, status_5xx]
    mid_stream: error
    backoff: 100ms
    wait: 10s
    repair: "true"
  breaker: {failures: "2.5", cool_down: 20s, weights: {timeout: "0.5", status_500: "0"}}
  admission: {parallel: "8", queue: "20", wait: 3s}
  images: {fetch: "true", bytes: 10MiB, wait: 5s, redirects: "1", allow: [images.test, 10.1.0.0/16]}
  drain: 7s
prices:
  - {model: far/m, from: "2026-11-15", input: "0.15", cached_input: "0.003", output: "0.60"}
  - {model: far/*, from: "2026-11-15", input: "1", output: "2"}
  - model: ollama/*
    from: "2026-11-15"
    request: "0.01"
    hour: "0.2"
    peak: {utc: ["mon-fri 01:00-04:00"], times: "2", but: ["2026-12-25"]}
ledger: {url: "sqlite:///l.sqlite", compare_to: far/m, content: 1KiB, keep: 30d, size: 10MiB}
"""
"""A file with every key of the schema, all its values texts, so that each can come from the environment.

`on` has quotes for PyYAML's own loaders, which take the bare word for `true`; ours needs none.
"""


OTHER_PEOPLES_WORDS = (
    *("pydantic", "instance of", "tuple", "dictionary", "alue error", "Traceback", "nput should", "tring should"),
    *("valid integer", "valid number", "valid string", "valid boolean", "unable to", "than or equal", "finite"),
)


def load(text: str, environment: dict[str, str] | None = None) -> Rules:
    return load_rules(text, environment or {}, profiles=PROFILES)


def told_in_foreign_words(text: str) -> list[str]:
    """What other people's code would say, of what is said of a file; nothing of one that is taken. Raises what is not ours."""
    try:
        load(text)
    except RulesError as error:
        return [word for word in OTHER_PEOPLES_WORDS if word in str(error)]
    return []


def refusal(text: str, environment: dict[str, str] | None = None) -> RulesError:
    with pytest.raises(RulesError) as caught:
        load(text, environment)
    return caught.value


def text_of(case: dict[str, Any]) -> str:
    if "file" in case:
        return str(case["file"])
    return f"{PROVIDERS}{case['top']}" if "top" in case else f"{SMALLEST}{case['more']}"


@pytest.mark.parametrize("case", FAULTS, ids=[case["it"] for case in FAULTS])
def test_a_file_that_cannot_be_used_says_exactly_what_is_wrong_and_where(case: dict[str, Any]) -> None:
    error = refusal(text_of(case), case.get("environment"))
    found = [(fault.line, fault.where) for fault in error.faults]
    assert found == [(line, where) for line, where, _ in case["faults"]], str(error)
    for fault, (_, _, message) in zip(error.faults, case["faults"], strict=True):
        assert message in fault.message
        assert "\n" not in str(fault)
        assert not [word for word in OTHER_PEOPLES_WORDS if word in str(fault)]


def test_the_cases_have_names_of_their_own() -> None:
    for cases in (FAULTS, ROUTES):
        names = [case["it"] for case in cases]
        assert len(set(names)) == len(names)


def test_the_error_lists_its_faults_below_the_name_of_the_file() -> None:
    text = PROVIDERS + "rules: [{name: a b, use: here/m}]\nextra: 1\n"
    with pytest.raises(RulesError) as caught:
        load_rules(text, {}, name="mine.yaml", profiles=PROFILES)
    first, second, third = str(caught.value).splitlines()
    assert first == "mine.yaml has 2 faults:"
    assert second.startswith("  line 2: rules[0].name: ")
    assert third.startswith("  line 3: extra: unknown key")


def test_the_error_counts_one_fault_as_one() -> None:
    assert str(refusal("")).startswith("rules.yaml has 1 fault:\n  the file: it is empty")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FileFault(3, "a.b", "is missing"), "line 3: a.b: is missing"),
        (FileFault(3, "", "is odd"), "line 3: is odd"),
        (FileFault(0, "a", "is missing"), "the file: a: is missing"),
        (FileFault(0, "", "is empty"), "the file: is empty"),
        (FileFault(3, "a", "is odd", ("B",)), "line 3: a (from B): is odd"),
        (FileFault(3, "a", "is odd", ("B", "C")), "line 3: a (from B and C): is odd"),
    ],
)
def test_a_fault_says_its_place_as_far_as_it_has_one(fault: FileFault, said: str) -> None:
    assert str(fault) == said


# --- failover, balance and prices: [the text after PROVIDERS, on line 2 and further, and the faults in it]

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
        [(7, "prices[3]", "price 1 is for the same model and from the same day")],
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
            (6, "prices[2].from", "this value cannot be read"),
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


# --- hostile files


def nest(depth: int) -> str:
    return "proxy: " + "[" * depth + "]" * depth


def chain(length: int) -> str:
    links = (f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, length))
    return "\n".join(("a0: &a0 [x]", *links))


def explode(levels: int) -> str:
    links = (f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, levels))
    return "\n".join(("a0: &a0 [x]", *links))


DEEP = "it is nested too deeply"
MANY = "it has more than 100,000 values, or has them by aliases that repeat one another"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nest(1000), DEEP),
        ("proxy: " + "{a: " * 1000, DEEP),
        (chain(500), MANY),
        (explode(30), MANY),
        ("a: &a [" + "x, " * 999 + "]\nb: [" + "*a, " * 999 + "]", MANY),
    ],
    ids=["deep", "deep and unclosed", "a chain of aliases", "aliases that multiply", "a wide alias many times"],
)
def test_a_file_without_measure_ends_quickly_in_one_fault(text: str, said: str) -> None:
    start = time.process_time()
    error = refusal(text)
    assert time.process_time() - start < 5
    assert error.faults == (FileFault(0, "", said),)


def test_aliases_may_be_used_as_long_as_they_end() -> None:
    text = SMALLEST + "defaults: {refresh: &time 7s, timeouts: {idle: *time, total: *time}}\n"
    defaults = load(text).defaults
    assert (defaults.refresh, defaults.timeouts.idle, defaults.timeouts.total) == (7.0, 7.0, 7.0)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.sampled_from(" \n\t:-[]{}\"'$&*!|>#?%@,~abcx019."), max_size=60))
def test_any_text_is_taken_or_refused_in_our_own_words(noise: str) -> None:
    for text in (noise, SMALLEST + noise, SMALLEST + "proxy: {port: " + noise):
        assert told_in_foreign_words(text) == []


@settings(max_examples=50, deadline=None)
@given(st.text(), st.integers(min_value=0, max_value=len(EVERYTHING)), st.integers(min_value=0, max_value=20))
def test_any_damage_to_a_file_is_survived_or_refused_in_our_own_words(noise: str, start: int, length: int) -> None:
    assert told_in_foreign_words(EVERYTHING[:start] + noise + EVERYTHING[start + length :]) == []


# --- whatever stands there


ODD: list[Any] = [None, True, -1, 10**30, 1.5, float("nan"), "", "x", "1 2", [], ["x"], [[]], {}, {"x": {}}, {"1": 2}]


def test_whatever_stands_anywhere_is_taken_or_refused_in_our_own_words() -> None:
    nouns = [path for path in branches(EVERY_VALUE) if path not in PLACES]
    oddities: list[Any] = ["x", 5, {"x": {}}]
    changed: list[tuple[Any, Any]] = [([path], odd) for path in nouns for odd in oddities]
    for paths, odd in [*changed, *((PLACES, odd) for odd in ODD)]:
        value = copy.deepcopy(EVERY_VALUE)
        for path in paths:
            put(value, path, odd)
        assert told_in_foreign_words(json.dumps(value)) == [], (paths, odd)


def branches(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each value in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from branches(item, (*path, key))


def put(value: Any, path: tuple[str | int, ...], new: Any) -> None:
    """Sets what stands at a place in a value."""
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


# --- secrets

CANARY = "caNAry0123456789abcdef"
"""As long as a key: what is shorter may be quoted where a number is wanted."""
SHAPES = [
    CANARY,
    f"{CANARY}/",
    f"/{CANARY}",
    f"{CANARY}/{CANARY}",
    f"here/{CANARY}",
    f"5 {CANARY}",
    f"5{CANARY}",
    f"> {CANARY}",
    f"{CANARY},",
    f"http://{CANARY}",
    f"http://{CANARY}:{CANARY}@far.test",
    f"http://far.test:{CANARY}",
    f"http://far.test/?key={CANARY}",
    f"${{{CANARY}",
    f"{CANARY}\n{CANARY}: [",
    f"*{CANARY}*[",
    f"{CANARY}:80",
    f"{CANARY}.test",
    f"localhost:80/{CANARY}",
    f"\x00{CANARY}\ud800",
]


def texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each text in a value."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from texts(inner, (*path, key))
        case list():
            for number, inner in enumerate(value):
                yield from texts(inner, (*path, number))
        case str():
            yield path
        case _:
            raise AssertionError(f"{path} is not a text")


EVERY_VALUE = yaml.safe_load(EVERYTHING)
PLACES = list(texts(EVERY_VALUE))


def with_text(text: str, *paths: tuple[str | int, ...]) -> str:
    """The file with a text at these places, and a fault elsewhere, so that it is refused in any case."""
    value = {**copy.deepcopy(EVERY_VALUE), "extra": 1}
    for path in paths:
        spot = value
        for step in path[:-1]:
            spot = spot[step]
        spot[path[-1]] = text
    return json.dumps(value)  # which is YAML too


def told(error: BaseException) -> str:
    return "".join((str(error), repr(error), *traceback.format_exception(error)))


def test_the_file_with_every_key_is_a_good_one() -> None:
    rules = load(EVERYTHING)
    assert set(rules.secrets) == {"one", "two", "three", "four", "five", "six", f"{7:064x}"}
    assert len(PLACES) == 121


def test_every_key_of_the_schema_stands_in_that_file() -> None:
    written = {str(step) for path in PLACES for step in path}
    nouns, known = [RulesFile], set[str]()
    while nouns:
        fields = nouns.pop().model_fields
        known |= {field.alias or name for name, field in fields.items()}
        nouns += [noun for field in fields.values() for noun in nouns_in(field.annotation)]
    assert known - written == set()


def nouns_in(kind: Any) -> Iterator[Any]:
    """The nouns that a type is made of."""
    if hasattr(kind, "model_fields"):
        yield kind
    for inner in get_args(kind):
        yield from nouns_in(inner)


def test_every_value_may_come_from_the_environment() -> None:
    value = copy.deepcopy(EVERY_VALUE)
    environment = {}
    for number, path in enumerate(PLACES):
        spot = value
        for step in path[:-1]:
            spot = spot[step]
        environment[f"V{number}"] = spot[path[-1]]
        spot[path[-1]] = f"${{V{number}}}"
    assert load(json.dumps(value), environment).file == load(EVERYTHING).file


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_no_fault_repeats_a_value_from_the_environment(path: tuple[str | int, ...]) -> None:
    assert CANARY not in told(refusal(with_text("${SECRET}", path), {"SECRET": CANARY}))


@pytest.mark.parametrize("written", ["${SECRET}", "x${SECRET}", "${SECRET}/m", "${SECRET:-x}", "${SECRET"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_fault_repeats_a_value_from_the_environment_whatever_its_shape(shape: str, written: str) -> None:
    assert CANARY not in told(refusal(with_text(written, *PLACES), {"SECRET": shape}))


@settings(max_examples=30, deadline=None)
@given(secret=st.text(alphabet="QZ~/:@*{}$ \n"), paths=st.lists(st.sampled_from(PLACES), min_size=1))
def test_no_fault_repeats_any_value_from_the_environment(secret: str, paths: list[tuple[str | int, ...]]) -> None:
    error = refusal(with_text("${SECRET}", *paths), {"SECRET": f"QZQ{secret}{'QZ' * 12}"})
    assert "QZ" not in told(error)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_no_fault_repeats_a_value_of_the_file_unless_it_is_a_target(shape: str) -> None:
    places = [path for path in PLACES if not {"targets", "use", "available", "prices", "compare_to"} & set(path)]
    places += [path for path in PLACES if path[0] == "prices" and path[-1] != "model"]
    assert CANARY not in told(refusal(with_text(shape, *places)))


@pytest.mark.parametrize(
    "path",
    [
        ("providers", "far", "key"),
        ("proxy", "auth", "tokens", 0),
        ("clients", "notebook", "key"),
        ("clients", "notebook", "keys", 0),
    ],
    ids=["key", "token", "client", "keys"],
)
def test_no_key_shows_in_rules(path: tuple[str | int, ...]) -> None:
    text = with_text("${SECRET}", path).replace(', "extra": 1', "")
    rules = load(text, {"SECRET": CANARY})
    assert CANARY in rules.secrets
    assert CANARY not in f"{rules!r} {rules} {rules.file!r} {rules.file} {rules.file.model_dump_json()} {rules.keys!r}"


def test_a_secret_between_the_braces_of_a_variable_is_not_repeated() -> None:
    error = refusal(SMALLEST + f"proxy: {{auth: {{tokens: ['${{sk-{CANARY}}}']}}}}")
    assert CANARY not in told(error)


# --- a proxy section as ModelMesh documents it

MODELMESH = """\
proxy:
  host: 0.0.0.0
  port: 8081
  endpoints: [/v1/chat/completions, /v1/embeddings, /v1/models]
  auth:
    enabled: true
    method: bearer
    tokens: ["${secrets:proxy-token}"]
  cors:
    enabled: true
    origins: ["https://app.example"]
"""


def test_every_key_of_a_proxy_section_as_modelmesh_documents_it_is_honoured() -> None:
    rules = load(SMALLEST + MODELMESH, {"secrets:proxy-token": "the-token"})
    proxy = rules.file.proxy
    assert (proxy.host, proxy.port, proxy.auth.method) == ("0.0.0.0", 8081, "bearer")
    assert rules.endpoints == frozenset({"/chat/completions", "/embeddings", "/models"})
    assert rules.keys.required
    assert isinstance(rules.keys.identify("the-token", 0), Client)
    assert isinstance(rules.keys.identify("another-token", 0), Denied)
    assert rules.origins is not None
    assert rules.origins.answer_to("https://app.example") is not None
    assert rules.origins.answer_to("https://other.example") is None


def test_tokens_without_enabled_mean_enabled_and_enabled_without_tokens_is_a_fault() -> None:
    without = MODELMESH.replace("    enabled: true\n    method", "    method")
    assert load(SMALLEST + without, {"secrets:proxy-token": "the-token"}).keys.required
    for text in (
        MODELMESH.replace("proxy-token", "proxy-token:-"),
        MODELMESH.replace('["${secrets:proxy-token}"]', "[]"),
    ):
        (fault,) = refusal(SMALLEST + text).faults
        assert fault.where == "proxy.auth"


@pytest.mark.parametrize("key", ["host", "port", "endpoints", "auth", "cors", "enabled", "method", "tokens", "origins"])
def test_a_key_of_that_section_that_is_mistyped_is_refused(key: str) -> None:
    text = re.sub(rf"\b{key}:", f"{key}s_:", MODELMESH)
    error = refusal(SMALLEST + text, {"secrets:proxy-token": "the-token"})
    assert [fault.where.rpartition(".")[2] for fault in error.faults if "unknown key" in fault.message][:1] == [
        f"{key}s_"
    ]


def test_digits_after_a_zero_are_what_they_look_like() -> None:
    rules = load(SMALLEST + "proxy: {port: 0080}\nclients: {app: {key: 0123456701, tags: {room: 007}}}\n")
    assert rules.file.proxy.port == 80
    assert isinstance(rules.keys.identify("0123456701", 0), Client)
    assert rules.file.clients["app"].tags == {"room": "007"}


def test_a_byte_order_mark_does_not_matter() -> None:
    assert load("\ufeff" + SMALLEST).file.rules[0].name == "all"


def test_models_without_rules_are_enough() -> None:
    assert load(PROVIDERS + "models: {chat: {targets: here/m}}\n").file.rules == ()


def test_every_profile_that_exists_may_be_named() -> None:
    for profile in PROFILES:
        file = f"providers: {{far: {{dialect: openai, profile: {profile}, urls: 'https://far.test'}}}}\nrules: [{{name: a, use: far/m}}]"
        assert load(file).file.providers["far"].profile == profile


# --- the file that is shipped


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
