"""What comes from the environment: how it gets into the file, and what is said of it where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rules.load import RulesError, load_rules
from rules.reader import secrets_named
from wire.profiles import PROFILES

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "rules.yaml").read_text(encoding="utf-8")
SMALLEST = 'providers: {here: {dialect: ollama, urls: "http://127.0.0.1:1"}}\nrules: [{name: all, use: here/m}]\n'
CASES: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests" / "cases" / "rules" / "variables.yaml").read_text(encoding="utf-8")
)


def read(written: str, environment: Mapping[str, str] | None = None) -> str:
    """What a text of the file becomes."""
    text = f"{SMALLEST}clients:\n  a:\n    tags:\n      t: {written}\n"
    rules = load_rules(text, environment or {}, profiles=PROFILES)
    return rules.file.clients["a"].tags["t"]


def said(text: str, environment: Mapping[str, str]) -> list[str]:
    """What is said of each fault, without its line."""
    try:
        load_rules(text, environment, profiles=PROFILES)
    except RulesError as error:
        return [str(fault).partition(": ")[2] for fault in error.faults]
    return []


@pytest.mark.parametrize("case", CASES, ids=[case["it"] for case in CASES])
def test_a_wrong_value_from_the_environment_is_said_with_its_variable(case: dict[str, Any]) -> None:
    text = SMALLEST + case["more"] if "more" in case else SHIPPED
    assert said(text, case.get("environment", {})) == case["says"]
    assert "hunter22" not in str(case["says"])


def test_a_variable_becomes_its_value() -> None:
    assert read('"a-${NAME}-${NAME}"', {"NAME": "b"}) == "a-b-b"


def test_a_variable_that_is_set_to_nothing_is_set() -> None:
    assert read('"${NAME}"', {"NAME": ""}) == ""


@pytest.mark.parametrize("environment", [{}, {"NAME": ""}])
def test_a_default_takes_the_place_of_an_unset_and_of_an_empty_variable(environment: dict[str, str]) -> None:
    assert read('"${NAME:-::1}"', environment) == "::1"


def test_a_default_may_be_empty() -> None:
    assert read('"${NAME:-}"') == ""


def test_a_value_from_the_environment_is_not_opened_again() -> None:
    environment = {"NAME": "${OTHER}", "OTHER": "x"}
    assert read('"${NAME}"', environment) == "${OTHER}"


def test_a_value_from_the_environment_is_never_read_as_yaml() -> None:
    environment = {"NAME": "a\nport: 1"}
    assert read("${NAME}", environment) == "a\nport: 1"


@pytest.mark.parametrize(("environment", "found"), [
    ({"secrets:proxy-token": "file", "proxy-token": "own", "PROXY_TOKEN": "upper"}, "file"),
    ({"proxy-token": "own", "PROXY_TOKEN": "upper"}, "own"),
    ({"PROXY_TOKEN": "upper"}, "upper"),
    ({"secrets:proxy-token": "", "proxy-token": "", "PROXY_TOKEN": "upper"}, "upper"),
    ({"secrets:proxy-token": "${OTHER}", "OTHER": "x"}, "${OTHER}"),
])  # fmt: skip
def test_a_secret_is_a_file_before_it_is_a_variable(environment: dict[str, str], found: str) -> None:
    assert read('"${secrets:proxy-token}"', environment) == found


@pytest.mark.parametrize(("environment", "where"), [
    ({"secrets:a-b": ""}, "the file /run/secrets/a-b"),
    ({"secrets:a-b": "", "A_B": "", "SECRETS_DIR": "/mine"}, "the file /mine/a-b"),
    ({"A_B": ""}, "the variable A_B"),
])  # fmt: skip
def test_a_secret_that_is_there_and_empty_is_a_fault(environment: dict[str, str], where: str) -> None:
    with pytest.raises(RulesError) as caught:
        read('"${secrets:a-b}"', environment)
    (fault,) = caught.value.faults
    assert fault.message == f"the secret a-b is empty: {where} holds nothing; ${{secrets:a-b:-}} makes it optional"


@pytest.mark.parametrize("environment", [{}, {"secrets:a-b": ""}, {"A_B": ""}])
def test_a_secret_may_have_a_default(environment: dict[str, str]) -> None:
    assert read('"${secrets:a-b:-c:d}"', environment) == "c:d"


def test_a_variable_may_be_called_secrets() -> None:
    assert read('"${secrets}${secrets:-x}"', {"secrets": "s"}) == "ss"


def test_only_the_secrets_that_a_text_names_well_are_looked_for() -> None:
    text = "${secrets:a} ${secrets:b-c.d:-x} ${secrets:../e} ${secrets:} ${secrets:f g} ${secrets} ${g} ${secrets:h"
    assert secrets_named(text) == {"a", "b-c.d", "h"}


def test_keys_are_not_filled_in() -> None:
    (fault,) = said(SMALLEST + '"${NAME}": 1\n', {"NAME": "proxy"})
    assert fault.startswith("${NAME}: unknown key")


def test_a_dollar_alone_is_a_dollar() -> None:
    assert read("$HOST", {"HOST": "x"}) == "$HOST"
