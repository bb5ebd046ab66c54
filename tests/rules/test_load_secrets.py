"""A value of rules.yaml or of the environment that may be a secret is in no fault and in no rules that are shown."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.schema import RulesFile
from tests.rules.files import EVERY_VALUE, EVERYTHING, PLACES, SMALLEST, load, refusal

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


@pytest.mark.parametrize("key", ["$NAME-0123", "a$NAME", "$", "$a$b", "$$NAME", "${NAME}", "pass$word", "$2y$10$abc"])
def test_a_key_may_hold_a_dollar_where_it_is_no_variable_without_its_braces(key: str) -> None:
    text = json.dumps({**copy.deepcopy(EVERY_VALUE), "clients": {"notebook": {"key": "${KEY}"}}})
    assert key in load(text, {"KEY": key}).secrets


@pytest.mark.parametrize("written", ["$HUNTER22", "hünter22-0123456789", "good-key-0123456789,$HUNTER22"])
@pytest.mark.parametrize("path", [("providers", "far", "key"), ("proxy", "auth", "tokens", 0), ("clients", "notebook", "key")])  # fmt: skip
def test_a_key_that_is_refused_is_not_repeated(path: tuple[str | int, ...], written: str) -> None:
    assert "unter22" not in told(refusal(with_text(written, path))).lower()
