"""rules.yaml becomes Rules, or a list of all its faults, each in words of ours and with its line."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rules.access import Client, Denied
from rules.load import RulesError, load_rules
from rules.reader import FileFault
from tests.rules.files import CASES, OTHER_PEOPLES_WORDS, PROVIDERS, ROUTES, SMALLEST, load, refusal
from wire.profiles import PROFILES

FAULTS: list[dict[str, Any]] = yaml.safe_load((CASES / "faults.yaml").read_text(encoding="utf-8"))


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
        assert "hunter22" not in str(fault).lower()  # what secrets are called in these cases
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
