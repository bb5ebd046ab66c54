"""What an Ollama server says of a model, and the window that follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from wire.models import SMALLEST, ModelFacts, read_show

GiB = 2**30


def show(architecture: str = "llama", parameters: Any = "", **info: Any) -> dict[str, Any]:
    """A reply to /api/show; two underscores stand for a dot in a key."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in info.items()}
    return {
        "capabilities": ["completion", "tools"],
        "parameters": parameters,
        "model_info": {"general.architecture": architecture, **named},
    }


LLAMA_8B = show(
    block_count=32,
    context_length=131072,
    embedding_length=4096,
    attention__head_count=32,
    attention__head_count_kv=8,
    attention__key_length=128,
    attention__value_length=128,
)
QWEN_7B = show(
    "qwen2",
    block_count=28,
    context_length=32768,
    embedding_length=3584,
    attention__head_count=28,
    attention__head_count_kv=4,
)


def facts(reply: Any) -> ModelFacts:
    read = read_show(reply)
    assert read is not None
    return read


def test_a_models_abilities_limit_and_size_are_read() -> None:
    assert facts(LLAMA_8B) == ModelFacts(
        frozenset({"completion", "tools"}), context_length=131072, token_bytes=32 * 8 * (128 + 128) * 2
    )


def test_a_head_is_as_wide_as_the_model_divided_by_its_heads_where_it_does_not_say() -> None:
    assert facts(QWEN_7B).token_bytes == 28 * 4 * (128 + 128) * 2


@pytest.mark.parametrize(
    ("heads", "kept", "expected"),
    [
        (8, [2, 0, 0, 4], 6 * (16 + 16) * 2),  # layers without attention keep nothing
        (8, None, 4 * 8 * (16 + 16) * 2),
        (8, [], 4 * 8 * (16 + 16) * 2),  # not `verbose`
        ([8, 8, 4, 4], None, 24 * (21 + 21) * 2),
        ([8, 8, 4, 4], [1, 1, 1, 1], 4 * (21 + 21) * 2),
        (8, [1, "x"], 4 * 8 * (16 + 16) * 2),
        (None, 8, None),
        ([], 8, None),
        ([True], 8, None),
        (0, 8, None),
    ],
)
def test_layers_may_differ(heads: Any, kept: Any, expected: int | None) -> None:
    info = {"attention__head_count": heads, "attention__head_count_kv": kept}
    read = facts(show(block_count=4, context_length=9, embedding_length=128, **info))
    assert read.token_bytes == expected


@pytest.mark.parametrize(
    ("key", "value", "width", "expected"),
    [
        (576, 512, None, 2 * 1088 * 2),
        (576, None, None, None),
        (None, 512, 64, 2 * (32 + 512) * 2),
        (None, None, 1, None),
        (-1, 2.5, 64, 2 * (32 + 32) * 2),
    ],
)
def test_keys_and_values_may_differ(key: Any, value: Any, width: Any, expected: int | None) -> None:
    info = {"attention__key_length": key, "attention__value_length": value, "embedding_length": width}
    read = facts(show(block_count=1, attention__head_count=2, **info))
    assert read.token_bytes == expected


@pytest.mark.parametrize("info", [{}, {"block_count": 4}, {"attention__head_count": 4}, {"block_count": 10**30}])
def test_of_a_model_that_does_not_say_enough_the_size_is_not_known(info: dict[str, Any]) -> None:
    assert facts(show(embedding_length=64, **info)).token_bytes is None


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["completion", "vision", 5], frozenset({"completion", "vision"})),
        ([], None),
        (None, None),
        ("completion", None),
    ],
)
def test_abilities_that_a_server_does_not_name_are_not_known(given: Any, read: frozenset[str] | None) -> None:
    assert facts({"capabilities": given}).capabilities == read


@pytest.mark.parametrize("reply", [None, [], "llama", 4])
def test_a_reply_that_is_no_object_says_nothing(reply: Any) -> None:
    assert read_show(reply) is None


@pytest.mark.parametrize("info", [None, [], {}, {"general.architecture": 5}, {"llama.context_length": 5}])
def test_a_reply_without_the_models_own_keys_leaves_all_unknown(info: Any) -> None:
    assert facts({"model_info": info}) == ModelFacts()


# -- the window


@pytest.mark.parametrize(
    ("reply", "memory", "window"),
    [
        (LLAMA_8B, 2 * GiB, 16384),
        (LLAMA_8B, 20 * GiB, 131072),
        (LLAMA_8B, 1, SMALLEST),  # never less than Ollama's own default
        (QWEN_7B, 2 * GiB, 32768),  # its own limit
        (QWEN_7B, GiB, 18432),  # 18724 would fit; a multiple of 1024
    ],
)
def test_a_window_is_as_large_as_the_model_and_the_memory_allow(reply: Any, memory: int, window: int) -> None:
    assert facts(reply).window_within(memory) == window


@pytest.mark.parametrize(
    ("limit", "window"), [(512, 512), (1500, 1500), (2048, 2048), (4096, 4096), (5000, 4096), (8191, 7168)]
)
def test_a_small_model_has_all_that_it_was_trained_for(limit: int, window: int) -> None:
    assert ModelFacts(context_length=limit, token_bytes=1).window_within(GiB) == window


@pytest.mark.parametrize("known", [ModelFacts(), ModelFacts(context_length=9), ModelFacts(token_bytes=9)])
def test_nothing_is_chosen_for_a_model_of_which_too_little_is_known(known: ModelFacts) -> None:
    assert known.window_within(GiB) is None


@pytest.mark.parametrize("parameters", ["num_ctx                        16384\nstop \"x\"", "stop \"num_ctx 9\"\nnum_ctx 16384"])  # fmt: skip
def test_what_the_modelfile_chooses_stands(parameters: str) -> None:
    read = facts({**LLAMA_8B, "parameters": parameters})
    assert read.num_ctx == 16384
    assert read.window_within(GiB) is None


@pytest.mark.parametrize("parameters", [None, 4, "", "stop \"num_ctx 9\"", "num_ctx many"])  # fmt: skip
def test_other_parameters_choose_no_window(parameters: Any) -> None:
    assert facts({**LLAMA_8B, "parameters": parameters}).num_ctx is None
