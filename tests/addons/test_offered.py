"""Compatible servers say which models they have, or say nothing of it; both are there."""

from __future__ import annotations

from tests.gateway import Gateway
from tests.standins import CompatStandIn, Status

RULES = """
providers: {far: {dialect: openai, urls: ["${URL}"]}}
rules: [{name: all, use: ["far/{model}", far/named]}]
"""


def test_a_provider_that_any_name_may_lead_to_shows_what_its_server_lists() -> None:
    with CompatStandIn() as server, Gateway(RULES, {"URL": server.url}) as running:
        running.until(lambda: bool(running.state.offered), "its models are known")
        with running.client() as client:
            rows = [(row["id"], row["owned_by"]) for row in client.get("/v1/models").json()["data"]]
            assert rows == [("any", "far"), ("named", "far")]
            assert client.get("/v1/models/any").json()["id"] == "any"


def test_a_server_without_a_list_of_models_is_connected_all_the_same() -> None:
    with CompatStandIn() as server:
        server.always_at["/v1/models"] = Status(404)
        with Gateway(RULES, {"URL": server.url}) as running:
            running.until(lambda: running.state.health()["far"] == "connected", "it was looked at")
            assert not running.state.offered
