"""What a rule can ask, one table per key of `when`."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.conditions import CONDITIONS, Facts, Seen, compile_when, glob, model_name
from rules.schema import When


def holds(when: dict[str, Any], facts: Facts) -> bool:
    return all(condition(facts) for _, condition in compile_when(When.model_validate(when)))


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("qwen2.5", "qwen2.5:latest"),
        ("qwen2.5:latest", "qwen2.5:latest"),
        ("Qwen2.5:7B", "qwen2.5:7b"),
        ("qwen2.5:7b", "qwen2.5:7b"),
        ("someone/model", "someone/model:latest"),
        ("someone/Model:Tag", "someone/model:tag"),
        ("host:5000/ns/model", "host:5000/ns/model:latest"),
        ("host:5000/ns/model:q4", "host:5000/ns/model:q4"),
        ("hf.co/ns/Model-GGUF:Q4_K_M", "hf.co/ns/model-gguf:q4_k_m"),
        ("", ":latest"),
    ],
)
def test_model_names_are_compared_as_ollama_does(name: str, normal: str) -> None:
    assert model_name(name) == normal


@given(st.text(alphabet="aB:/.-_0"))
def test_a_normal_model_name_stays_as_it_is(name: str) -> None:
    assert model_name(model_name(name)) == model_name(name)


@pytest.mark.parametrize(
    ("patterns", "fitting", "other"),
    [
        (["gpt-4"], ["gpt-4", "GPT-4"], ["gpt-4o", "xgpt-4", "", "gpt-4\n"]),
        (["deepseek*"], ["deepseek", "deepseek-chat", "DeepSeek-R1"], ["my-deepseek", "deepsee"]),
        (["*coder*"], ["coder", "qwen2.5-coder:7b", "a/coder\nb"], ["code", "coder"[:-1]]),
        (["gpt-?"], ["gpt-4", "GPT-5"], ["gpt-", "gpt-4o"]),
        (["o[13]-*"], ["o1-mini", "O3-mini"], ["o2-mini", "o1mini"]),
        (["[!a]x"], ["bx"], ["ax", "Ax", "x"]),
        (["[A-C]1"], ["a1", "B1"], ["d1"]),
        (["a", "b*"], ["A", "bcd"], ["ab", "c"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["a|b"], ["A|B"], ["a", "b"]),
        (["*"], ["", "anything"], []),
        (["[["], ["[["], ["["]),
        (["ÄÖ*"], ["äöü"], ["aou"]),
    ],
)
def test_globs_fit_whole_names_whatever_their_case(patterns: list[str], fitting: list[str], other: list[str]) -> None:
    for ask in (lambda text: holds({"model": patterns}, Facts(text)), glob(tuple(patterns))):
        assert [text for text in fitting if not ask(text)] == []
        assert [text for text in other if ask(text)] == []


def test_a_glob_of_many_stars_does_not_take_for_ever() -> None:
    assert not glob(("*a" * 40 + "b",))("a" * 5000)


def test_one_pattern_needs_no_list() -> None:
    assert holds({"model": "gpt-*"}, Facts("gpt-4"))


@pytest.mark.parametrize(
    ("written", "fitting", "other"),
    [
        ("> 500", [501], [500, 499, 0]),
        (">= 500", [500, 501], [499]),
        ("< 500", [499, 0], [500, 501]),
        ("<= 500", [500, 0], [501]),
        ("== 500", [500], [499, 501]),
        ("500", [500], [499, 501]),
        (500, [500], [499, 501]),
        ("  >500  ", [501], [500]),
        (">  0", [1], [0]),
    ],
)
def test_prompt_chars_are_compared(written: str | int, fitting: list[int], other: list[int]) -> None:
    def ask(number: int) -> bool:
        return holds({"prompt_chars": written}, Facts("m", prompt_chars=number))

    assert [number for number in fitting if not ask(number)] == []
    assert [number for number in other if ask(number)] == []


HAS_QWEN = {"ollama": Seen(frozenset({"qwen2.5:latest", "ns/llama:3b"}), reached=True)}


@pytest.mark.parametrize(
    ("target", "model", "servers", "expected"),
    [
        ("ollama/{model}", "qwen2.5", HAS_QWEN, True),
        ("ollama/{model}", "Qwen2.5:LATEST", HAS_QWEN, True),
        ("ollama/{model}", "qwen2.5:7b", HAS_QWEN, False),
        ("ollama/{model}", "ns/llama:3b", HAS_QWEN, True),
        ("ollama/ns/{model}", "llama:3b", HAS_QWEN, True),
        ("ollama/qwen2.5", "whatever", HAS_QWEN, True),
        ("ollama/llama", "qwen2.5", HAS_QWEN, False),
        ("ollama/{model}", "{model}", HAS_QWEN, False),
        ("other/{model}", "qwen2.5", HAS_QWEN, False),
        ("ollama/{model}", "qwen2.5", {}, False),
        ("ollama/{model}", "qwen2.5", {"ollama": Seen()}, False),
        ("ollama/{model}", "qwen2.5", {"ollama": Seen(None, reached=True)}, False),
        ("ollama/{model}", "qwen2.5", {"ollama": Seen(frozenset(), reached=True)}, False),
        # One of several servers is enough.
        ("ollama/a", "m", {"ollama": Seen(frozenset({"a:latest"}), True, {"http://1": None})}, True),
    ],
)
def test_available_is_what_a_server_has_now(target: str, model: str, servers: dict[str, Seen], expected: bool) -> None:
    assert holds({"available": target}, Facts(model, servers=servers)) is expected


def test_what_is_seen_is_a_value_whatever_is_known_of_single_servers() -> None:
    bare, known = Seen(frozenset({"a"}), True), Seen(frozenset({"a"}), True, {"http://1": frozenset({"a"})})
    assert bare == Seen(frozenset({"a"}), True, {})
    assert bare != known
    assert len({bare, Seen(frozenset({"a"}), True)}) == 1


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("given_", [True, False])
def test_stream_is_asked_either_way(wanted: bool, given_: bool) -> None:
    assert holds({"stream": wanted}, Facts("m", stream=given_)) is (wanted is given_)


@pytest.mark.parametrize(
    ("wanted", "given_", "expected"),
    [
        (["tools"], {"tools"}, True),
        (["tools"], {"tools", "images"}, True),
        (["tools", "images"], {"tools", "images"}, True),
        (["tools", "images"], {"tools"}, False),
        ("images", {"images"}, True),
        ("images", set(), False),
    ],
)
def test_has_wants_all_of_its_features(wanted: str | list[str], given_: set[str], expected: bool) -> None:
    assert holds({"has": wanted}, Facts("m", has=frozenset(given_))) is expected


@pytest.mark.parametrize(
    ("wanted", "client", "expected"),
    [
        ("anonymous", "anonymous", True),
        ("key-*", "key-0123abcd", True),
        (["notebook", "key-*"], "Notebook", True),
        ("key-*", "anonymous", False),
    ],
)
def test_client_is_a_glob_over_names(wanted: str | list[str], client: str, expected: bool) -> None:
    assert holds({"client": wanted}, Facts("m", client=client)) is expected


@pytest.mark.parametrize(
    ("wanted", "headers", "expected"),
    [
        ({"x-team": "red"}, {"x-team": "red"}, True),
        ({"X-Team": "RED"}, {"x-team": "red"}, True),
        ({"x-team": "r*"}, {"x-team": "Red"}, True),
        ({"x-team": "red"}, {"x-team": "redder"}, False),
        ({"x-team": "red"}, {}, False),
        ({"x-team": "?*"}, {"x-team": "any"}, True),
        ({"x-team": "?*"}, {}, False),
        ({"x-team": ""}, {}, True),
        ({"x-team": ""}, {"x-team": "red"}, False),
        ({"x-team": "red", "x-env": "test"}, {"x-team": "red", "x-env": "test"}, True),
        ({"x-team": "red", "x-env": "test"}, {"x-team": "red"}, False),
    ],
)
def test_headers_must_all_fit_their_globs(wanted: dict[str, str], headers: dict[str, str], expected: bool) -> None:
    assert holds({"header": wanted}, Facts("m", headers=headers)) is expected


def test_all_conditions_of_a_rule_must_hold() -> None:
    when = {"model": "gpt-*", "stream": True, "prompt_chars": "> 5"}
    assert holds(when, Facts("gpt-4", stream=True, prompt_chars=6))
    assert not holds(when, Facts("gpt-4", stream=True, prompt_chars=5))
    assert not holds(when, Facts("gpt-4", stream=False, prompt_chars=6))
    assert not holds(when, Facts("llama", stream=True, prompt_chars=6))


def test_no_conditions_hold_for_every_call() -> None:
    assert compile_when(When()) == ()
    assert holds({}, Facts(""))


def test_there_is_a_function_for_every_key_of_when() -> None:
    assert set(CONDITIONS) == set(When.model_fields)


def test_conditions_are_named_and_asked_in_the_order_of_the_table() -> None:
    when = When.model_validate({"available": "o/m", "prompt_chars": 5, "model": "m"})
    assert [name for name, _ in compile_when(when)] == ["model", "prompt_chars", "available"]


def test_facts_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Facts("m").model = "n"  # type: ignore[misc]  # that is what is tested
