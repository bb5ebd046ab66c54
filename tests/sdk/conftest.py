"""The one world that each file of clients' tests runs in, and which of the files can run here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sdk.world import World

collect_ignore = ["test_node.py"] if os.environ.get("UNIGATE_NODE_MODULES") == "" else []
"""Empty where scripts/test found no Node, and said so."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made
