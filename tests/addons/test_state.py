"""What the addons share, as far as it can be seen without a call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.addons.doors import free_port
from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn() as running:
        yield running


def health(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    with gateway.client() as client:
        answer = client.get("/health")
    return answer.status_code, answer.json()


def test_the_sandbox_alone_makes_nothing_healthy() -> None:
    with Gateway("providers: {box: {dialect: sandbox}}\nrules: [{name: all, use: [box/echo]}]") as gateway:
        assert health(gateway) == (200, {"status": "degraded", "models": [], "breakers": {}})


@pytest.mark.parametrize(("limits", "clients", "if_away", "code", "status"), [
    ("", "", "closed", 200, "healthy"),
    ("", "{a: {key: sk-caller}}", "closed", 200, "healthy"),
    ("each_client: [50/minute]", "", "closed", 503, "unhealthy"),
    ("each_client: [50/minute]", "", "open", 200, "degraded"),
    ("models: {fast: 1 parallel}", "", "closed", 503, "unhealthy"),
    ("", "{a: {key: sk-caller, limits: 1 USD/day}}", "closed", 503, "unhealthy"),
    ("", "{a: {key: sk-caller, limits: 1 USD/day}}", "open", 200, "degraded"),
])  # fmt: skip
def test_a_gateway_that_refuses_calls_because_their_limits_cannot_be_checked_is_not_healthy(
    limits: str, clients: str, if_away: str, code: int, status: str, ollama: OllamaStandIn
) -> None:
    more = f"limits: {{{', '.join(filter(None, (limits, f'store: "redis://127.0.0.1:{free_port()}/0"')))}, "
    more += f"if_away: {if_away}}}\nclients: {clients or '{}'}"
    with Gateway(quick_rules(ollama=ollama.url, more=more)) as gateway:
        gateway.until(lambda: bool(health(gateway)[1]["models"]), "it knows its models")
        said = health(gateway)
        assert (said[0], said[1]["status"], said[1]["limits"]) == (code, status, "away")
        assert (gateway.chat(model="fast").status_code == 503) == (code == 503)


def test_a_ledger_that_cannot_be_written_is_told_of_and_makes_nothing_unhealthy(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    more = f"ledger: {{url: 'sqlite:///{folder}/ledger.sqlite'}}"
    with Gateway(quick_rules(ollama=ollama.url, more=more)) as gateway:
        gateway.until(lambda: health(gateway)[1]["ledger"] == "away", "it is told of")
        gateway.until(lambda: health(gateway)[1]["status"] == "healthy", "Ollama is seen")
        assert gateway.chat().status_code == 200
        folder.mkdir()
        gateway.until(lambda: health(gateway)[1]["ledger"] == "connected", "it is there", 10)
