"""Which limits a call falls under, what it takes of them, and what it is told of where they stand."""

from __future__ import annotations

import math

import pytest

from rules.access import Client
from rules.limits import (
    REMEMBERED,
    Estimate,
    Limits,
    charges_of,
    go_duration,
    limit_headers,
    limits_of,
    refusal,
    spoken,
    used_of,
)
from rules.load import load_rules
from rules.quota import NANOS, Charge, Standing, parse_limit, parse_limits
from rules.terms import Quotas

EVERYBODY = Client("a")
SMALL = Estimate(tokens=300, certain=200, usd=5000, certain_usd=2000)


def limits(**quotas: object) -> Limits:
    return limits_of(Quotas.model_validate(quotas))


def keys(found: Limits, client: Client = EVERYBODY, model: str = "qwen") -> list[str]:
    return [charge.key for charge in found.of(client, model)]


def test_without_limits_a_call_falls_under_none() -> None:
    assert keys(limits()) == []


def test_a_call_falls_under_the_limits_of_all_of_its_client_and_of_its_model() -> None:
    found = limits(overall="100/minute", each_client=["10/minute", "2 parallel"], models={"qw*": ["5/minute"]})
    assert keys(found) == ["all/100/minute", "client/a/10/minute", "client/a/2 parallel", "model/qw*/5/minute"]
    assert [(charge.scope, charge.shared) for charge in found.of(EVERYBODY, "qwen")] == [
        ("for all clients together", True),
        ("in client a", False),
        ("in client a", False),
        ("for all calls to `qw*` together", True),
    ]


def test_each_client_has_counts_of_its_own() -> None:
    found = limits(each_client="10/minute")
    assert keys(found, Client("b")) == ["client/b/10/minute"]


def test_a_clients_own_limits_take_the_place_of_those_of_each() -> None:
    found = limits(each_client="10/minute")
    assert keys(found, Client("b", limits=parse_limits(["3/hour"]))) == ["client/b/3/hour"]
    assert keys(found, Client("c", limits=())) == []


def test_a_model_is_known_by_the_name_that_is_asked_for() -> None:
    found = limits(models={"gpt-*": "5/minute", "GPT-4": "1/minute", "none": []})
    assert keys(found, model="gpt-4") == ["model/gpt-*/5/minute", "model/GPT-4/1/minute"]
    assert keys(found, model="gpt-5") == ["model/gpt-*/5/minute"]
    assert keys(found, model="none") == []


def test_a_limit_that_is_written_twice_counts_a_call_once() -> None:
    assert keys(limits(overall=["5/minute", "5/minute"])) == ["all/5/minute"]


@pytest.mark.parametrize("model", ["llama3", "LLAMA3", "llama3:latest", "Llama3:Latest"])
@pytest.mark.parametrize("pattern", ["llama3", "llama3:latest"])
def test_the_tag_that_a_name_has_anyway_leads_past_no_limit(pattern: str, model: str) -> None:
    found = limits(models={pattern: "1/minute"})
    assert keys(found, model=model) == [f"model/{pattern}/1/minute"]
    assert keys(found, model="llama3:70b") == []


def test_so_many_clients_and_models_are_remembered_and_no_more() -> None:
    found = limits(overall="5/minute", models={"special": "1/minute"})
    for number in range(REMEMBERED + 10):
        keys(found, model=f"m{number}")
    assert len(found.remembered) == REMEMBERED
    assert keys(found, model="special") == ["all/5/minute", "model/special/1/minute"]
    assert found.of(EVERYBODY, "special") is found.of(Client("a"), "special")


def test_no_long_name_is_remembered_and_no_name_where_models_have_no_limits() -> None:
    found = limits(overall="5/minute", models={"m*": "1/minute"})
    assert keys(found, model="m" * 1000) == ["all/5/minute", "model/m*/1/minute"]
    assert len(found.remembered) == 0
    found = limits(overall="5/minute")
    assert keys(found, model="m" * 1000) == keys(found, model="n") == ["all/5/minute"]
    assert len(found.remembered) == 1


@pytest.mark.parametrize(
    ("written", "estimate", "amount", "least", "because"),
    [
        ("5/minute", SMALL, 1, 1, "a request is one"),
        ("5 parallel", SMALL, 1, 1, "and one place"),
        ("1000 tokens/minute", SMALL, 300, 200, "tokens as estimated"),
        ("250 tokens/minute", SMALL, 250, 200, "a long answer is only guessed at: the whole limit will do"),
        ("150 tokens/minute", SMALL, 200, 200, "a prompt is certain: it never fits"),
        ("1000 tokens/minute", SMALL._replace(certain=0), 300, 1, "a prompt of a few letters is not nothing"),
        ("1000 tokens/minute", SMALL._replace(tokens=0, certain=0), 0, 0, "what takes no tokens takes nothing"),
        ("1 USD/day", SMALL, 5000, 2000, "money as estimated"),
        ("1 USD/day", SMALL._replace(usd=2 * NANOS), NANOS, 2000, "and no more than there is"),
        ("1 USD/day", SMALL._replace(certain_usd=2 * NANOS), 2 * NANOS, 2 * NANOS, "but for what is certain"),
        ("1 USD/day", SMALL._replace(usd=1, certain_usd=0), 1, 1, "however little it is"),
        ("1 USD/day", SMALL._replace(usd=0, certain_usd=0), 0, 0, "what costs nothing takes nothing"),
    ],
)
def test_a_call_takes_of_each_limit_what_it_is_estimated_at(
    written: str, estimate: Estimate, amount: int, least: int, because: str
) -> None:
    (charge,) = charges_of(limits(overall=written).of(EVERYBODY, "m"), lambda: estimate)
    limit, everybody = parse_limit(written), "for all clients together"
    assert charge == Charge(f"all/{written}", limit, amount, everybody, True, amount - least), because
    assert charge.least == least


def test_a_call_is_estimated_once_and_only_where_a_limit_asks_for_it() -> None:
    asked: list[int] = []

    def estimate() -> Estimate:
        asked.append(1)
        return SMALL

    charges_of(limits(overall=["5/minute", "5 parallel"]).of(EVERYBODY, "m"), estimate)
    assert not asked
    charges_of(limits(overall=["5/minute", "5 tokens/day", "5 USD/day"]).of(EVERYBODY, "m"), estimate)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("written", "used"), [("5/minute", 1), ("1000 tokens/minute", 123), ("1 USD/day", 456), ("5 parallel", 0)]
)
def test_a_call_that_is_over_has_used_tokens_and_money_and_its_request(written: str, used: int) -> None:
    (charge,) = limits(overall=written).of(EVERYBODY, "m")
    assert used_of(charge, tokens=123, usd=456) == used


def charge(written: str, amount: int = 1) -> Charge:
    return Charge(f"all/{written}", parse_limit(written), amount, "for all clients together", True)


def test_a_refused_call_hears_of_the_limit_that_it_would_have_to_wait_for_the_longest() -> None:
    charges = (charge("9/minute"), charge("90/hour"), charge("5 tokens/minute", 3), charge("7/day"))
    standings = (Standing(9, 20.0, 50.0), Standing(90, 900.0, 3000.0), Standing(4, 3.0, 3.0), Standing(6, 0.0, 1.0))
    assert refusal(charges, standings).charge == charges[1]


def test_what_never_fits_is_the_longest_wait_of_all() -> None:
    charges = (charge("90/hour"), charge("5 tokens/minute", 6))
    assert refusal(charges, (Standing(90, 900.0, 3000.0), Standing(0, math.inf, 0.0))).charge == charges[1]


def test_a_wait_that_is_over_already_is_a_refusal_all_the_same() -> None:
    assert refusal((charge("9/minute"),), (Standing(9, 0.0, 0.0),)).charge.key == "all/9/minute"


def test_the_headers_tell_of_the_limit_with_the_smallest_part_left_of_each_kind() -> None:
    written = ("100/minute", "10/hour", "1000/day", "1000 tokens/hour", "1 USD/day")
    charges = tuple(map(charge, written))
    used = ((50, 30.0), (6, 3000.5), (7, 9.0), (1200, 0.25), (7, 9.0))
    standings = tuple(Standing(count, 0.0, reset) for count, reset in used)
    assert limit_headers(charges, standings) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "50m1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "250ms",
    }


def test_money_that_all_spend_together_and_calls_at_once_have_no_headers() -> None:
    charges = (charge("1 USD/day"), charge("5 parallel"))
    assert limit_headers(charges, (Standing(1, 0, 1.0), Standing(1, 0, 1.0))) == {}


@pytest.mark.parametrize(
    ("used", "admitted", "left"),
    [
        ((0, 0), False, ("1.00", "1.00")),
        ((NANOS // 4, NANOS // 2), False, ("1.00", "0.75")),
        ((NANOS // 4, 24 * NANOS), False, ("30.00", "6.00")),
        ((2 * NANOS, 2 * NANOS), False, ("1.00", "0.00")),
        ((NANOS // 4, NANOS // 4), True, ("1.00", "0.85")),
    ],
)
def test_a_client_hears_of_its_own_budget_before_what_this_call_may_cost(
    used: tuple[int, int], admitted: bool, left: tuple[str, str]
) -> None:
    charges = [charge(text, NANOS // 10)._replace(shared=False) for text in ("1 USD/day", "30 USD/month")]
    said = limit_headers(charges, [Standing(count, 0, 1.0) for count in used], admitted=admitted)
    assert said == dict(zip(("x-gateway-budget-limit-usd", "x-gateway-budget-remaining-usd"), left, strict=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000001, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (7.66, "7.66s"),
        (18.6421, "18.643s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (60.877, "1m1s"),
        (3599.2, "1h0m0s"),
        (3720.5, "1h2m1s"),
        (86429.998, "24h0m30s"),
        (3600, "1h0m0s"),
        (86400, "24h0m0s"),
        (8.1, "8.1s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.012, "12ms"),
        (7.66, "7.66s"),
        (60, "1m"),
        (60.877, "1m1s"),
        (600, "10m"),
        (3598.5, "59m59s"),
        (3599.2, "1h"),
        (11_000, "3h3m"),
        (86_280, "23h58m"),
        (86429.998, "24h"),
        (30 * 86400, "720h"),
    ],
)
def test_people_are_told_of_no_more_than_two_units(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


# -- as they stand in the file

FILE = """
providers: {ollama: {dialect: ollama, urls: [http://127.0.0.1:11434]}}
rules: [{name: all, use: ["ollama/{model}"]}]
limits: {each_client: ["${RATE_LIMIT_REQUESTS:-}/${RATE_LIMIT_WINDOW:-60}"]}
"""


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({}, None),
        ({"RATE_LIMIT_REQUESTS": ""}, None),
        ({"RATE_LIMIT_WINDOW": "60"}, None),
        ({"RATE_LIMIT_REQUESTS": "100"}, (100, 60)),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": ""}, (100, 60)),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": "10"}, (100, 10)),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": "60s"}, (100, 60)),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": "1m"}, (100, 60)),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": "minute"}, (100, 60)),
        ({"RATE_LIMIT_REQUESTS": "1_000", "RATE_LIMIT_WINDOW": "2 hours"}, (1000, 7200)),
    ],
)
def test_the_usual_variables_limit_the_requests_of_each_client(
    environment: dict[str, str], limit: tuple[int, float] | None
) -> None:
    found = load_rules(FILE, environment, profiles=()).limits.each_client
    assert [(one.kind, one.amount, one.seconds) for one in found] == ([("requests", *limit)] if limit else [])
