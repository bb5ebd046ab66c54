"""What the addons share, as far as it can be seen without a call."""

from __future__ import annotations

from tests.gateway import Gateway


def test_the_sandbox_alone_makes_nothing_healthy() -> None:
    with (
        Gateway("providers: {box: {dialect: sandbox}}\nrules: [{name: all, use: [box/echo]}]") as gateway,
        gateway.client() as client,
    ):
        answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "models": [], "breakers": {}})
