"""What /metrics says: every call counted once and under the right names, and never too many series."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from addons import __version__
from addons.account import Account
from addons.exposition import SEEN, exposition
from addons.state import State
from addons.telemetry import CLIENTS, OF_ATTEMPTS, OF_CALLS, OUTCOMES, PROVIDERS, REMEMBERED, TARGETS, Row
from rules.load import load_rules
from rules.prices import Tokens
from tests.addons.accounts import TOKENS, account, tried
from tests.gateway import ROOT, Gateway
from tests.standins import DeepSeekStandIn, OllamaStandIn, ResetBeforeHeaders
from wire.profiles import PROFILES

LOCAL, REMOTE = "ollama/qwen2.5:7b", "deepseek/deepseek-flash"
RULES = """
providers:
  ollama: {dialect: ollama, urls: ["${OLLAMA_URL:-http://127.0.0.1:9}"]}
  deepseek: {dialect: openai, profile: deepseek, urls: ["${DEEPSEEK_URL:-http://127.0.0.1:9}"], key: sk-ds-test}
rules:
  - {name: local, use: ["ollama/{model}", deepseek/deepseek-flash]}
defaults:
  timeouts: {connect: 20s, first_token: 20s, idle: 20s, total: 40s}
  refresh: 200ms
"""
MOST_SERIES = 2000

type Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def state(rules: str = RULES) -> State:
    return State(load_rules(rules, {}, profiles=PROFILES))


def openmetrics_in(text: str) -> list[Metric]:
    return [*openmetrics.text_string_to_metric_families(text)]  # type: ignore[no-untyped-call]


def series(text: str) -> Series:
    """(name, labels) -> value; no series stands there twice."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def of(state: State) -> Series:
    return series(exposition(state, "")[0].decode())


def value(found: Series, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def total(found: Series, name: str, **labels: str) -> float:
    """The sum of all series of a metric that have these labels."""
    return sum(amount for (of, has), amount in found.items() if of == name and has >= set(labels.items()))


def counted(*accounts: Account, rules: str = RULES) -> Series:
    made = state(rules)
    for one in accounts:
        made.metrics.count(one)
    return of(made)


# -- what a call comes to


def test_a_call_is_counted_by_client_rule_target_and_status() -> None:
    found = counted(account(tried()), account(tried()), account(tried(outcome="connect")))
    labels = {"client": "notebook", "rule": "local"}
    assert value(found, "unigate_calls_total", **labels, target=LOCAL, status="200") == 2
    assert value(found, "unigate_calls_total", **labels, target="none", status="502") == 1


def test_a_call_that_never_came_to_a_rule_or_a_target_is_counted_too() -> None:
    found = counted(account(operation="", rule=None, status=400, error="invalid_request_error"))
    labels = {"client": "notebook", "rule": "none", "target": "none", "status": "400"}
    assert value(found, "unigate_calls_total", **labels) == 1
    of_caller = {"gen_ai_operation_name": "none", "error_type": "_OTHER"}
    assert value(found, "gen_ai_server_request_duration_seconds_count", **of_caller) == 1


def test_each_attempt_is_counted_by_target_and_outcome() -> None:
    found = counted(account(tried(outcome="status_503"), tried(outcome="status_503"), tried(REMOTE)))
    assert value(found, "unigate_attempts_total", target=REMOTE, outcome="ok") == 1
    assert value(found, "unigate_attempts_total", target="ollama/other", outcome="status_503") == 2
    assert total(found, "unigate_calls_total") == 1


def test_tokens_are_counted_by_target_and_type_and_a_part_does_not_count_twice() -> None:
    found = counted(account(tried(tokens=TOKENS)), account(tried(tokens=TOKENS), tried(REMOTE, tokens=Tokens(7))))
    by_type = {"input": 200, "cached_input": 40, "output": 100, "reasoning": 20}
    for kind, amount in by_type.items():
        assert value(found, "unigate_tokens_total", target=LOCAL, type=kind) == amount
    assert value(found, "unigate_tokens_total", target=REMOTE, type="input") == 7
    assert value(found, "unigate_tokens_total", target=REMOTE, type="reasoning") is None
    usage = {"gen_ai_request_model": "qwen2.5:7b", "gen_ai_provider_name": "ollama", "gen_ai_operation_name": "chat"}
    assert value(found, "gen_ai_client_token_usage_sum", **usage, gen_ai_token_type="input") == 200
    assert value(found, "gen_ai_client_token_usage_count", **usage, gen_ai_token_type="output") == 2


def test_money_is_added_in_whole_numbers_and_shown_in_dollars() -> None:
    tenth = 100_000_000  # ten times 0.1 is not 1.0, if it is added as floats
    found = counted(*[account(tried(REMOTE, cost=tenth), compared=3 * tenth) for _ in range(10)])
    assert value(found, "unigate_cost_usd_total", client="notebook", target=REMOTE) == 1.0
    assert value(found, "unigate_compared_cost_usd_total", client="notebook") == 3.0


def test_a_call_whose_cost_is_not_known_is_counted_as_such() -> None:
    found = counted(account(tried(REMOTE, cost=None)), account(tried(REMOTE, cost=5)))
    assert value(found, "unigate_unpriced_calls_total", target=REMOTE) == 1
    assert value(found, "unigate_cost_usd_total", client="notebook", target=REMOTE) == 5e-9


def test_times_fall_into_the_buckets_that_the_conventions_advise() -> None:
    attempt = tried(REMOTE, first_token=0.03, took=2.0)
    found = counted(account(attempt, total=2.5, first_token=0.5), account(attempt, total=100.0))
    labels = {"gen_ai_operation_name": "chat", "error_type": ""}
    name = "gen_ai_server_request_duration_seconds"
    assert value(found, f"{name}_bucket", **labels, le="2.56") == 1
    assert value(found, f"{name}_bucket", **labels, le="81.92") == 1
    assert value(found, f"{name}_bucket", **labels, le="+Inf") == value(found, f"{name}_count", **labels) == 2
    assert value(found, f"{name}_sum", **labels) == 102.5
    first = "gen_ai_server_time_to_first_token_seconds"
    assert value(found, f"{first}_bucket", gen_ai_operation_name="chat", le="0.5") == 1  # an end belongs to its bucket
    assert value(found, f"{first}_bucket", gen_ai_operation_name="chat", le="0.25") == 0
    target = {
        "gen_ai_request_model": "deepseek-flash",
        "gen_ai_provider_name": "deepseek",
        "gen_ai_operation_name": "chat",
    }
    chunk = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert [value(found, f"{chunk}_bucket", **target, le=le) for le in ("0.02", "0.04")] == [0, 2]
    assert value(found, "gen_ai_client_operation_duration_seconds_count", **target, error_type="") == 2


def test_the_first_content_of_what_is_no_stream_is_not_measured_as_one() -> None:
    found = counted(account(tried(first_token=0.2), operation="embeddings", first_token=0.2))
    assert not [name for name, _ in found if "first" in name]
    assert total(found, "gen_ai_client_operation_duration_seconds_count", gen_ai_operation_name="embeddings") == 1


def test_the_older_completions_have_the_name_that_the_conventions_give_them() -> None:
    found = counted(account(tried(), operation="completions"))
    assert total(found, "gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="text_completion") == 1


# -- names


def test_a_model_that_a_caller_made_up_is_no_label_until_it_has_answered() -> None:
    made = state()
    for number in range(50):
        made.metrics.count(account(tried(f"ollama/nonsense-{number}", outcome="model_missing"), model="nonsense"))
    assert b"nonsense" not in exposition(made, "")[0]
    assert value(of(made), "unigate_attempts_total", target="ollama/other", outcome="model_missing") == 50
    made.metrics.count(account(tried("ollama/nonsense-1")))
    assert value(of(made), "unigate_attempts_total", target="ollama/nonsense-1", outcome="ok") == 1


def test_a_target_of_the_rules_has_its_label_from_the_start() -> None:
    found = counted(*[account(tried(f"ollama/m{n}")) for n in range(100)], account(tried(REMOTE, outcome="connect")))
    assert value(found, "unigate_attempts_total", target=REMOTE, outcome="connect") == 1
    assert value(found, "unigate_attempts_total", target="ollama/other", outcome="ok") == 100 - (TARGETS - 1)


@pytest.mark.parametrize(
    "name", ['quo"te', "new\nline", "back\\slash", 'all\\n"\n\\', "größe 模型 🦙", "tab\tand\rreturn"]
)
def test_a_name_with_odd_characters_comes_through_both_formats_unchanged(name: str) -> None:
    made = state()
    made.metrics.count(account(tried(f"ollama/{name}"), client=name, rule=name))
    labels = {"client": name, "rule": name, "target": f"ollama/{name}", "status": "200"}
    assert value(of(made), "unigate_calls_total", **labels) == 1
    text = exposition(made, "application/openmetrics-text")[0].decode()
    found = [sample for family in openmetrics_in(text) for sample in family.samples if sample.labels == labels]
    assert [sample.value for sample in found] == [1]


def test_half_a_character_and_a_name_without_end_do_not_break_the_text() -> None:
    made = state()
    made.metrics.count(account(tried("ollama/\ud83d" + "x" * 10_000), client="\udc00"))
    found = of(made)
    assert max(len(text) for _, labels in found for _, text in labels) == 100
    assert total(found, "unigate_calls_total", client="?") == 1


# -- never too many series


def crowd(clients: int) -> str:
    rows = "\n".join(f"  client-{number}: {{key: key-of-client-{number}}}" for number in range(clients))
    providers = "\n".join(f"  p{n}: {{dialect: openai, urls: ['http://127.0.0.1:9'], key: k{n}}}" for n in range(30))
    used = ", ".join(f"p{n}/m{n}" for n in range(30))
    return f"clients:\n{rows}\nproviders:\n{providers}\nrules:\n  - {{name: all, use: [{used}, 'p0/{{model}}']}}\n"


@pytest.fixture(scope="module")
def crowded() -> tuple[State, list[Account]]:
    """A thousand clients, hundreds of targets, every operation, status and failure: all that can be, at once."""
    chance = random.Random(7)
    made = state(crowd(1000))
    outcomes = ["ok", "left", *(f"kind_{number}" for number in range(40))]
    operations = ["chat", "completions", "embeddings", "speech", "transcription", "translation", "images", ""]
    accounts = []
    for number in range(30_000):
        attempts = [
            tried(
                f"p{chance.randrange(30)}/m{chance.randrange(400)}", outcome=chance.choice(outcomes), cost=chance.randrange(1000),
                tokens=Tokens(chance.randrange(1000), chance.randrange(10), chance.randrange(1000), chance.randrange(10)),
                first_token=chance.random(), took=chance.random(),
            )
            for _ in range(chance.choice([0, 1, 1, 2]))
        ]  # fmt: skip
        accounts.append(
            account(
                *attempts, client=f"client-{number % 1000}", model=f"made-up-{number}", compared=chance.randrange(1000),
                operation=chance.choice(operations), status=chance.choice([200, 400, 401, 404, 422, 429, 499, 500, 502, 503, 504]),
                rule=f"rule {chance.randrange(100)}", first_token=chance.random(), unpriced=chance.random() < 0.1,
            )
        )  # fmt: skip
        made.metrics.count(accounts[-1])
        made.metrics.decided(chance.choice(["admitted", "requests", "tokens", "usd", "parallel"]))
    for status in (400, 401, 403, 404, 405, 413, 431, 503):
        made.metrics.refused(status)
    return made, accounts


def test_there_are_never_more_than_two_thousand_series(crowded: tuple[State, list[Account]]) -> None:
    found = of(crowded[0])
    assert 1000 < len(found) < MOST_SERIES
    assert not any("made-up" in text for _, labels in found for _, text in labels)
    clients = {text for _, labels in found for name, text in labels if name == "client"}
    assert len(clients) == CLIENTS + 1
    assert {f"client-{number}" for number in range(CLIENTS)} < clients  # in the order of the file


def test_the_table_itself_allows_no_more_than_two_thousand_series() -> None:
    rows: list[Row[Any]] = [*OF_CALLS, *OF_ATTEMPTS]
    of_targets = sum("target" in seen.labels for seen in SEEN) * (TARGETS + PROVIDERS + 1)
    single, of_process, statuses, decisions = len(SEEN), 6, 20, 8
    assert sum(row.most_series for row in rows) + of_targets + single + of_process + statuses + decisions < MOST_SERIES


def test_what_has_no_series_of_its_own_is_counted_all_the_same(crowded: tuple[State, list[Account]]) -> None:
    """Law: whatever the labels, every total is that of the accounts, to the last token and NANO."""
    made, accounts = crowded
    found = of(made)
    attempts = [one for call in accounts for one in call.tried]
    assert total(found, "unigate_calls_total") == len(accounts)
    assert total(found, "unigate_attempts_total") == len(attempts)
    assert total(found, "unigate_unpriced_calls_total") == sum(call.unpriced for call in accounts)
    assert total(found, "gen_ai_server_request_duration_seconds_count") == len(accounts)
    assert total(found, "gen_ai_client_operation_duration_seconds_count") == len(attempts)
    sums = {
        "input": sum(one.tokens.prompt for one in attempts), "cached_input": sum(one.tokens.cached for one in attempts),
        "output": sum(one.tokens.completion for one in attempts), "reasoning": sum(one.tokens.reasoning for one in attempts),
    }  # fmt: skip
    assert {kind: total(found, "unigate_tokens_total", type=kind) for kind in sums} == sums
    for kind in ("input", "output"):
        assert total(found, "gen_ai_client_token_usage_sum", gen_ai_token_type=kind) == sums[kind]
    nanos = {sets.row.name: sum(cell.total for cell in sets.cells.values()) for sets in made.metrics.sets}
    assert nanos["unigate_cost_usd_total"] == sum(call.cost for call in accounts)
    assert nanos["unigate_compared_cost_usd_total"] == sum(call.compared or 0 for call in accounts)
    by_status = Counter(str(call.status) for call in accounts)
    shown = {status: total(found, "unigate_calls_total", status=status) for status in by_status}
    assert all(shown[status] <= count for status, count in by_status.items())
    assert sum(shown.values()) + total(found, "unigate_calls_total", status="other") == len(accounts)


def test_a_client_without_a_label_keeps_the_other_labels_as_long_as_there_is_room() -> None:
    made = state(crowd(1000))
    for number in range(1000):
        made.metrics.count(account(tried("p1/m1"), client=f"client-{number}"))
    labels = {"rule": "local", "target": "p1/m1", "status": "200"}
    assert value(of(made), "unigate_calls_total", client="other", **labels) == 1000 - CLIENTS
    assert value(of(made), "unigate_calls_total", client="client-3", **labels) == 1


def test_neither_failures_nor_sets_of_labels_are_remembered_without_end() -> None:
    made = state()
    for number in range(REMEMBERED + 500):
        made.metrics.count(account(tried(outcome=f"kind-{number}"), status=number))
    kinds = {dict(labels)["outcome"] for name, labels in of(made) if name == "unigate_attempts_total"}
    assert len(kinds) <= OUTCOMES + 1
    assert total(of(made), "unigate_attempts_total") == REMEMBERED + 500
    assert len(made.metrics._of_calls._slots) <= REMEMBERED


# -- the formats


def test_the_text_is_prometheus_own_and_openmetrics_where_that_is_asked_for(
    crowded: tuple[State, list[Account]],
) -> None:
    text, kind = exposition(crowded[0], "")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    asked = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.7,*/*;q=0.1"
    other, other_kind = exposition(crowded[0], asked)
    assert other_kind.startswith("application/openmetrics-text; version=1.0.0")
    assert other.endswith(b"# EOF\n")
    names = {family.name for family in text_string_to_metric_families(text.decode())}
    assert names >= {family.name for family in openmetrics_in(other.decode())} - {"process_cpu_seconds"}


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x.y", "application/openmetrics-text;version=ä", ";;;,", "*/*;q=0"]
)
def test_an_accept_header_that_makes_no_sense_is_no_error(accept: str) -> None:
    assert b"unigate_build_info" in exposition(state(), accept)[0]


def test_the_metrics_keep_to_what_prometheus_own_linter_asks(crowded: tuple[State, list[Account]]) -> None:
    families = [*text_string_to_metric_families(exposition(crowded[0], "")[0].decode())]
    assert len(families) > 20
    for family in families:
        assert family.documentation, family.name
        assert not re.search(r"[A-Z]|^(counter|gauge|histogram)_|_(ms|millis|kb|mb|percent)(_|$)", family.name), (
            family.name
        )
        names = {sample.name for sample in family.samples}
        assert (family.type == "counter") == all(name.endswith("_total") for name in names), family.name
        if family.type != "histogram":
            assert not any(name.endswith(("_count", "_sum", "_bucket")) for name in names), family.name


def test_the_version_is_that_of_the_package() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == package
    assert total(of(state()), "unigate_build_info", version=package) == 1


# -- through the door


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["qwen2.5:7b"]) as server:
        yield server


@pytest.fixture
def gateway(ollama: OllamaStandIn, tmp_path: Path) -> Iterator[Gateway]:
    more = f"""
clients:
  notebook: {{key: sk-notebook-key-1, limits: [3 parallel], endpoints: [/v1, /metrics]}}
  busy: {{key: sk-busy-key-2, limits: [1/minute]}}
prices:
  - {{model: deepseek/deepseek-flash, from: 2020-01-01, input: 1, output: 2}}
ledger: {{url: "sqlite:///{tmp_path / "ledger.sqlite"}"}}
"""
    with (
        DeepSeekStandIn("sk-ds-test") as deepseek,
        Gateway(RULES + more, {"OLLAMA_URL": ollama.url, "DEEPSEEK_URL": deepseek.url}) as running,
    ):
        running.until(lambda: "qwen2.5:7b" in running.state.names.get("ollama", ()), "Ollama's models are known")
        yield running


def scrape(gateway: Gateway, key: str = "sk-notebook-key-1", path: str = "/metrics") -> httpx.Response:
    with gateway.client(key) as client:
        return client.get(path)


def chat(gateway: Gateway, key: str = "sk-notebook-key-1", prompt: str = "hello") -> httpx.Response:
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": prompt}]}
    with gateway.client(key) as client:
        return client.post("/v1/chat/completions", json=body)


def test_metrics_need_a_key_where_calls_do_and_whoever_has_none_is_counted(gateway: Gateway) -> None:
    for key in ("sk-wrong", "sk-wrong-too"):
        assert scrape(gateway, key).status_code == 401
    answer = scrape(gateway)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(series(answer.text), "unigate_refused_requests_total", status="401") == 2


def test_calls_limits_the_ledger_and_the_targets_are_all_told_of(gateway: Gateway, ollama: OllamaStandIn) -> None:
    assert chat(gateway).status_code == 200
    ollama.plan(ResetBeforeHeaders(), ResetBeforeHeaders())
    assert chat(gateway).headers["x-gateway-target"] == REMOTE
    assert [chat(gateway, "sk-busy-key-2").status_code for _ in range(2)] == [200, 429]
    ledger = gateway.state.ledger
    assert ledger is not None
    gateway.until(lambda: ledger.written == 4, "four calls stand in the ledger")
    found = series(scrape(gateway).text)
    assert value(found, "unigate_calls_total", client="notebook", rule="local", target=LOCAL, status="200") == 1
    assert value(found, "unigate_calls_total", client="notebook", rule="local", target=REMOTE, status="200") == 1
    assert value(found, "unigate_calls_total", client="busy", rule="local", target="none", status="429") == 1
    assert total(found, "unigate_attempts_total", outcome="ok") == 3
    assert value(found, "unigate_limit_decisions_total", decision="admitted") == 3
    assert value(found, "unigate_limit_decisions_total", decision="requests") == 1
    assert value(found, "unigate_limit_store_up") is None  # limits are counted here
    assert value(found, "unigate_ledger_written_total") == 4
    assert value(found, "unigate_ledger_backlog") == value(found, "unigate_ledger_lost_total") == 0
    assert total(found, "unigate_cost_usd_total", target=REMOTE) > 0
    assert total(found, "unigate_cost_usd_total", target=LOCAL) == 0
    assert value(found, "unigate_breaker_state", target=REMOTE) == 0
    assert value(found, "unigate_target_calls_in_flight", target=REMOTE) == 0
    assert value(found, "unigate_calls_in_flight") == 0
    assert (value(found, "process_resident_memory_bytes") or 0) > 1e6


def test_neither_keys_nor_prompts_nor_what_callers_named_are_in_it(gateway: Gateway) -> None:
    chat(gateway, prompt="the canary sings at midnight")
    text = scrape(gateway).text
    for secret in ("canary", "sk-notebook-key-1", "sk-busy-key-2", "sk-ds-test"):
        assert secret not in text


def test_metrics_are_answered_also_while_the_last_calls_end(gateway: Gateway) -> None:
    gateway.state.draining = True
    assert chat(gateway).status_code == 503
    answer = scrape(gateway)
    assert answer.status_code == 200
    assert value(series(answer.text), "unigate_draining") == 1


def test_openmetrics_comes_with_its_own_content_type(gateway: Gateway) -> None:
    with gateway.client("sk-notebook-key-1") as client:
        answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert [*openmetrics_in(answer.text)]
        assert client.head("/metrics").status_code == 200
        assert client.post("/metrics").status_code == 405


def test_a_call_that_waits_and_one_that_is_answered_can_be_seen(gateway: Gateway, ollama: OllamaStandIn) -> None:
    chat(gateway)  # from then on it has a label
    ollama.pace = 0.3
    try:
        with gateway.client("sk-notebook-key-1") as client:
            body = {"model": "qwen2.5:7b", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == 200
                found = series(scrape(gateway).text)
                assert value(found, "unigate_calls_in_flight") == 1
                assert value(found, "unigate_target_calls_in_flight", target=LOCAL) == 1
                answer.read()
    finally:
        ollama.pace = 0.0


@pytest.mark.parametrize(
    ("if_away", "status", "decision"), [("open", 200, "unchecked"), ("closed", 503, "unavailable")]
)
def test_calls_are_told_of_that_nobody_could_check_because_the_store_of_limits_is_away(
    if_away: str, status: int, decision: str, ollama: OllamaStandIn
) -> None:
    more = f"limits: {{each_client: [100/minute], store: 'redis://127.0.0.1:9/0', if_away: {if_away}}}"
    with Gateway(RULES + more, {"OLLAMA_URL": ollama.url}) as gateway:
        gateway.until(lambda: "ollama" in gateway.state.names, "Ollama was asked")
        assert chat(gateway).status_code == status
        found = series(scrape(gateway).text)
    assert value(found, "unigate_limit_store_up") == 0
    assert value(found, "unigate_limit_decisions_total", decision=decision) == 1
