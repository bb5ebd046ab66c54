"""Stand-ins, each test its own, and a client that asks them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from tests.standins import DeepSeekStandIn, OllamaStandIn


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn() as standin:
        yield standin


@pytest.fixture
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(thinking=False) as standin:
        yield standin


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    # An empty TLS context: httpx would read all certificates of the world for each client.
    with httpx.Client(trust_env=False, timeout=5, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as made:
        yield made
