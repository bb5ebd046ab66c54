"""Requests that are asked in parts: what each part asks, and what the parts' counts come to."""

from __future__ import annotations

import pytest

from wire.check_chat import check_chat
from wire.completions import check_completion, split_completion
from wire.openai import FINISHED, Delta, Json, Reading, Usage, usage_object
from wire.parts import Joined, Part, split_chat

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: Json = {"model": "m", "prompt": "Once"}


def parts(seed: int) -> list[tuple[Part, ...]]:
    return [
        split_chat(check_chat(CHAT | {"n": 3, "seed": seed})),
        split_completion(check_completion(COMPLETION | {"n": 3, "seed": seed})),
    ]


@pytest.mark.parametrize("seed", [0, -1, 7, 2**63 - 3, 2**63 - 2, 2**63 - 1, -(2**63)])
def test_every_part_has_a_seed_of_its_own_that_fits_where_the_callers_did(seed: int) -> None:
    for split in parts(seed):
        seeds = [part.request.body["seed"] for part in split]
        assert seeds[0] == seed
        assert len({*seeds}) == 3
        assert all(-(2**63) <= one < 2**63 for one in seeds)


def test_what_the_parts_cost_is_added_up_in_whatever_it_is_counted() -> None:
    joined = Joined(split_chat(check_chat(CHAT | {"n": 2})))
    costs = {"cost": 0.25, "cost_details": {"upstream": 0.125}}
    said: list[Reading] = [Delta({"content": "A"}, "stop"), Usage(usage_object(5, 2) | costs), FINISHED]
    assert FINISHED not in joined.read(0, said)
    (usage,) = [reading.usage for reading in joined.read(1, said) if isinstance(reading, Usage)]
    assert usage == usage_object(5, 4) | {"cost": 0.5, "cost_details": {"upstream": 0.25}}
