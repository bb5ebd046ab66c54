"""The clients of a file: who has which key, until when, and what it may do."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.access import Client, Denied, digest_of
from rules.callers import guessable, idle, repeated, required
from rules.load import RulesError, load_rules
from rules.reader import filled_in
from rules.snapshot import Rules

FILE = "providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: s/echo}]\n"
NOON = 1_796_126_400.0
"""2026-12-01 12:00 UTC."""


def load(text: str, **environment: str) -> Rules:
    return load_rules(FILE + text, environment, profiles=())


def client(text: str) -> Client:
    found = load(f"clients: {{notebook: {text}}}").keys.named("notebook")
    assert found.name == "notebook"
    return found


def sha(key: str) -> str:
    return f"sha256:{digest_of(key).hex()}"


def test_a_client_may_have_keys_of_every_kind_at_once() -> None:
    rules = load(
        f"clients:\n  notebook:\n    key: '${{ONE}}'\n    keys: [two, '{sha('three')}', '${{FOUR_AND_FIVE}}', '${{SIX:-}}']\n",
        ONE="one",
        FOUR_AND_FIVE="four, five",
    )
    for key in ("one", "two", "three", "four", "five"):
        assert rules.keys.identify(key, NOON) == Client("notebook"), key
    for wrong in ("four, five", "six", "", sha("three"), None):
        assert isinstance(rules.keys.identify(wrong, NOON), Denied)


def test_tokens_go_on_as_clients_without_a_name_beside_those_with_one() -> None:
    rules = load("proxy: {auth: {tokens: ['${API_KEYS}']}}\nclients: {notebook: {key: three}}", API_KEYS="one,two")
    names = [
        found.name for key in ("one", "two", "three") if isinstance(found := rules.keys.identify(key, NOON), Client)
    ]
    assert names == ["key-7692c3ad", "key-3fc4ccfe", "notebook"]


@pytest.mark.parametrize(("text", "needed"), [
    ("", False),
    ("clients: {}", False),
    ("proxy: {auth: {tokens: ['${NONE:-}']}}", False),
    ("proxy: {auth: {tokens: [a]}}", True),
    ("proxy: {auth: {enabled: false, tokens: [a]}}", False),
    ("proxy: {auth: {enabled: true, tokens: [a]}}", True),
    ("clients: {notebook: {key: a}}", True),
    ("clients: {notebook: {key: a, disabled: true}}", True),
    ("clients: {notebook: {keys: []}}", True),
    ("clients: {notebook: {key: '${NONE:-}'}}", True),
    ("proxy: {auth: {enabled: true}}\nclients: {notebook: {key: a}}", True),
])  # fmt: skip
def test_keys_are_asked_for_as_soon_as_there_is_a_token_or_a_client(text: str, needed: bool) -> None:
    rules = load(text)
    assert rules.keys.required is required(rules.file) is needed
    assert isinstance(rules.keys.identify(None, NOON), Denied) is needed


def test_a_client_whose_variable_is_not_set_is_nobody_for_now() -> None:
    rules = load("clients: {one: {key: '${ONE:-}'}, two: {keys: ['${ONE:-}', ',']}, three: {key: three}}")
    assert idle(rules.file) == ("one", "two")
    assert isinstance(rules.keys.identify("", NOON), Denied)
    assert isinstance(rules.keys.identify(",", NOON), Denied)


@pytest.mark.parametrize(("text", "short", "twice"), [
    ("proxy: {auth: {tokens: ['${NONE:-}']}}", (), ()),
    ("proxy: {auth: {tokens: ['12345678, 12345678']}}", (), ("proxy.auth.tokens",)),
    ("proxy: {auth: {tokens: ['1234567']}}", ("proxy.auth.tokens",), ()),
    ("clients: {n: {key: abc, keys: ['12345678']}, m: {key: '1234567', keys: ['1234567 ']}}", ("client n", "client m"), ("client m",)),
    (f"clients: {{n: {{key: 'sha256:{digest_of('abc').hex()}', keys: ['sha256:{digest_of('abc').hex().upper()}']}}}}", (), ("client n",)),
])  # fmt: skip
def test_keys_that_are_soon_guessed_or_stand_there_twice_are_known(
    text: str, short: tuple[str, ...], twice: tuple[str, ...]
) -> None:
    file = load(text).file
    assert (guessable(file), repeated(file)) == (short, twice)


@pytest.mark.parametrize(("models", "named", "may"), [
    ("[qwen*]", "qwen2.5:7b", True),
    ("[qwen*]", "QWEN2.5:7b", True),
    ("[qwen*]", "gpt-4o", False),
    ("[qwen*]", "", False),
    ("[qwen*]", "my-qwen", False),
    ("chat", "chat", True),
    ("chat", "chat:latest", False),
    ("chat", "gpt-4o", False),
    ("['[x]', 'a?c']", "[x]", True),
    ("['[x]', 'a?c']", "x", True),
    ("['[x]', 'a?c']", "abc", True),
    ("['[x]', 'a?c']", "ac", False),
    ("['*']", "anything/at all", True),
    ("['${NONE:-}']", "qwen2.5:7b", False),
])  # fmt: skip
def test_what_counts_of_a_model_is_the_name_that_is_asked_for(models: str, named: str, may: bool) -> None:
    permitted = client(f"{{key: a, models: {models}}}").models
    assert permitted is not None
    assert permitted(named) is may


def test_a_client_that_nothing_is_said_of_may_do_everything() -> None:
    assert client("{key: a}") == Client("notebook")


def test_what_is_said_of_a_client_arrives() -> None:
    found = client(
        "{key: a, endpoints: [/v1/models, /chat/completions], tags: {team: red}, limits: [5/minute, 2 parallel]}"
    )
    assert found.endpoints == frozenset({"/models", "/chat/completions"})
    assert found.tags == {"team": "red"}
    assert found.limits is not None
    assert [limit.written for limit in found.limits] == ["5/minute", "2 parallel"]
    assert client("{key: a, limits: []}").limits == ()


@given(st.dates(min_value=date(1970, 1, 2), max_value=date(9998, 12, 31)))
def test_a_client_may_call_on_its_last_day_and_not_on_the_next(last: date) -> None:
    keys = load(f"clients: {{notebook: {{key: a, expires: {last.isoformat()}}}}}").keys
    next_day = datetime.fromisoformat(f"{(last + timedelta(days=1)).isoformat()}T00:00:00+00:00").timestamp()
    assert isinstance(keys.identify("a", next_day - 1), Client)
    assert keys.identify("a", next_day) == Denied(
        given=True, because=f"client 'notebook' could call until {last.isoformat()} (UTC)"
    )


def test_the_last_day_of_all_is_one_too() -> None:
    assert isinstance(load("clients: {n: {key: a, expires: 9999-12-31}}").keys.identify("a", NOON), Client)


def test_a_disabled_client_cannot_call_whatever_its_day() -> None:
    keys = load("clients: {n: {key: a, disabled: true, expires: 2020-01-01}}").keys
    assert keys.identify("a", NOON) == Denied(given=True, because="client 'n' is disabled")


def test_keys_and_digests_are_secrets_in_each_of_their_spellings() -> None:
    digest = digest_of("three").hex()
    rules = load(
        f"proxy: {{auth: {{tokens: [one, '{sha('four')}']}}}}\n"
        f"clients: {{n: {{key: two, keys: ['SHA256:{digest.upper()}', '${{EMPTY:-}}']}}, m: {{keys: []}}}}"
    )
    assert set(rules.secrets) == {"one", "two", digest, digest.upper(), digest_of("four").hex()}
    shown: list[Any] = [rules, rules.file, rules.keys, rules.file.clients]
    for text in (f"{one!r} {one}" for one in shown):
        assert digest not in text.lower()


@pytest.mark.parametrize("name", ["a", "team.red_1-x", "A" * 64, "keyboard", "anonymous2", "my-key-1"])
def test_a_plain_name_is_a_clients_name(name: str) -> None:
    assert load(f"clients: {{{name}: {{key: a}}}}").keys.named(name).name == name


def test_a_path_that_no_endpoint_has_is_a_fault_at_a_client_too() -> None:
    text = f"{FILE}clients: {{n: {{key: a, endpoints: [/v1/chat, /v1/chats, /, 5]}}}}"
    with pytest.raises(RulesError) as caught:
        load_rules(text, {}, profiles=(), endpoints=("/chat/completions", "/models"))
    found = {fault.where: fault.message for fault in caught.value.faults}
    assert set(found) == {f"clients.n.endpoints[{number}]" for number in (1, 2, 3)}
    assert found["clients.n.endpoints[1]"].startswith("there is no such endpoint")
    assert found["clients.n.endpoints[2]"].startswith("'/': this would be every path")


def test_a_text_with_variables_is_filled_in_as_the_file_is() -> None:
    assert filled_in("a-${ONE}-${TWO:-two}-${secrets:t-h}", {"ONE": "1", "T_H": "3"}) == "a-1-two-3"
    assert filled_in("2026-12-01", {}) == "2026-12-01"


def test_a_client_that_nobody_can_be_for_now_may_do_no_more_than_before() -> None:
    text = "clients: {notebook: {key: '${NOTEBOOK_KEY:-}', models: [chat], limits: [1/minute]}}"
    without, with_key = load(text).keys.named("notebook"), load(text, NOTEBOOK_KEY="one").keys.named("notebook")
    for found in (without, with_key):
        assert found.models is not None
        assert (found.models("chat"), found.models("other"), len(found.limits or ())) == (True, False, 1)
