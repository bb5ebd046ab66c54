"""A rules file that gets or loses a key: what was meant is changed, and not a character besides."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from addons.rules_text import CannotChange, keys_in, with_key, without_keys

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "rules.yaml").read_text(encoding="utf-8")
CASES: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/cases/rules/clients_text.yaml").read_text("utf-8"))
REST = "providers: {s: {dialect: sandbox}}\n"


def changed(case: dict[str, Any], text: str) -> str:
    if "add" in case:
        return with_key(text, case.get("client", "notebook"), case["add"])
    gone = set(case["remove"].split())
    return without_keys(text, case.get("client", "notebook"), lambda key: key in gone)


@pytest.mark.parametrize("case", CASES, ids=[case["it"] for case in CASES])
def test_the_text_becomes_what_a_person_would_have_written(case: dict[str, Any]) -> None:
    assert changed(case, case["before"]) == case["after"]


@pytest.mark.parametrize("case", CASES, ids=[case["it"] for case in CASES])
def test_other_ends_of_lines_stay_as_they_are(case: dict[str, Any]) -> None:
    crlf = case["before"].replace("\n", "\r\n")
    assert changed(case, crlf) == case["after"].replace("\n", "\r\n")


def lines_of(before: str, after: str) -> tuple[list[str], list[str]]:
    """(lines that are gone, lines that are new)"""
    compared = list(difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True)))
    return [line[2:] for line in compared if line[0] == "-"], [line[2:] for line in compared if line[0] == "+"]


def test_the_shipped_file_changes_by_the_lines_of_the_client_and_no_other() -> None:
    once = with_key(SHIPPED, "notebook", "sha256:1")
    assert lines_of(SHIPPED, once) == ([], ["clients:\n", '  notebook: {key: "sha256:1"}\n'])
    twice = with_key(once, "notebook", "sha256:2")
    assert lines_of(SHIPPED, twice)[1][-1] == '  notebook: {key: "sha256:1", keys: ["sha256:2"]}\n'
    other = with_key(twice, "phone", "sha256:3")
    assert lines_of(twice, other) == ([], ['  phone: {key: "sha256:3"}\n'])
    left = without_keys(other, "notebook", lambda key: True)
    assert lines_of(SHIPPED, left) == (
        [],
        ["clients:\n", "  notebook: {}\n", '  phone: {key: "sha256:3"}\n'],
    )
    assert with_key(left, "notebook", "sha256:4").count("sha256:4") == 1


def test_the_first_client_stands_below_the_example_that_is_a_comment() -> None:
    after = with_key(SHIPPED, "notebook", "sha256:1").splitlines()
    place = after.index("clients:")
    assert after[place - 1].startswith("#   notebook:")
    assert after[place - 2] == "# clients:"


def test_a_key_that_is_added_and_removed_again_leaves_the_others() -> None:
    text = f"clients:\n  notebook:\n    keys: # two\n      - a # first\n      - b\n    tags: {{x: y}}\n{REST}"
    back = without_keys(with_key(text, "notebook", "c"), "notebook", lambda key: key == "c")
    assert back == text
    assert keys_in(text, "notebook") == ["a", "b"]
    assert keys_in(text, "nobody") == []


@pytest.mark.parametrize("text", [
    "clients: {one: &row {key: a}, notebook: *row}\n",
    "clients: &all {notebook: {key: a}}\nother: *all\n",
    "clients: {one: {keys: &keys [a]}, notebook: {keys: *keys}}\n",
    "clients: {notebook: [a]}\n",
    "clients: [a]\n",
    "clients: {notebook: {keys: {a: b}}}\n",
])  # fmt: skip
def test_a_text_that_would_say_something_else_besides_is_left_alone(text: str) -> None:
    with pytest.raises(CannotChange):
        with_key(text + REST, "notebook", "c")


def test_a_key_that_two_clients_share_through_an_alias_is_not_taken_from_both() -> None:
    with pytest.raises(CannotChange, match="with an alias perhaps"):
        without_keys(f"clients: {{one: &row {{key: a}}, notebook: *row}}\n{REST}", "notebook", lambda key: True)


def test_a_list_is_no_rules_file() -> None:
    with pytest.raises(CannotChange, match="it is no mapping"):
        with_key("[a]", "notebook", "c")


NAMES = st.sampled_from(["notebook", "phone", "a.b-c", "1", "true", "null"])
TEXTS = st.sampled_from(["k0", "sha256:ab", "${A}", "a: b", "# no comment", "it's", '"', "k0,k1", ""])
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "limits": st.lists(st.sampled_from(["5/minute", "2 parallel"]), max_size=2),
        "key": TEXTS,
        "tags": st.dictionaries(st.sampled_from(["x", "y"]), TEXTS, max_size=2),
        "keys": st.lists(TEXTS, max_size=3),
        "disabled": st.booleans(),
    },
)


@given(
    clients=st.dictionaries(NAMES, ROWS, max_size=3),
    name=NAMES,
    flow=st.sampled_from([True, False, None]),
    indent=st.sampled_from([2, 4]),
    proxy=st.booleans(),
)
def test_any_client_of_any_file_can_get_a_key_and_lose_it_and_only_its_own_lines_change(
    clients: dict[str, Any], name: str, flow: bool | None, indent: int, proxy: bool
) -> None:
    file = {
        **({"proxy": {"port": 1, "auth": {"tokens": ["t"]}}} if proxy else {}),
        "clients": clients,
        "rules": [{"a": "b"}],
    }
    text = yaml.safe_dump(file, default_flow_style=flow, indent=indent, width=1000, sort_keys=False)
    more = with_key(text, name, "sha256:new")
    assert keys_in(more, name) == [*keys_in(text, name), "sha256:new"]
    gone, new = lines_of(text, more)
    assert len(gone) <= 1
    assert len(new) <= 2
    back = without_keys(more, name, lambda key: key == "sha256:new")
    assert keys_in(back, name) == keys_in(text, name)
    assert yaml.safe_load(back).get("rules") == [{"a": "b"}]
    none = without_keys(back, name, lambda key: True)
    assert [key for key in keys_in(none, name) if "${" not in key] == []
