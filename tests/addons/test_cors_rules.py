"""What rules files say of web pages: each has a gateway of its own here."""

from __future__ import annotations

import pytest

from tests.addons.calls import PATH
from tests.addons.pages import CORS, KEY, OTHER, PAGE, SDK, ask_first, chat, said_to_browsers
from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn


def test_a_star_lets_every_page_read_and_says_so() -> None:
    more = CORS.format(key=KEY, origins="'*'")
    with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url, more=more)) as gateway:
        asked, answer, streamed = ask_first(gateway, PATH, "null"), chat(gateway, OTHER), chat(gateway, stream=True)
    assert (asked.status_code, answer.status_code, streamed.status_code) == (204, 200, 200)
    for one in (asked, answer, streamed):
        assert one.headers["access-control-allow-origin"] == "*"
    assert "vary" not in answer.headers
    assert asked.headers["access-control-allow-headers"] == SDK.replace(",", ", ")


def test_a_header_that_a_rule_looks_at_may_be_sent() -> None:
    text = f"""
proxy: {{cors: {{origins: {PAGE}}}}}
providers: {{ollama: {{dialect: ollama, urls: [http://127.0.0.1:9]}}}}
rules:
  - {{name: team, when: {{header: {{X-Team: red}}}}, use: "ollama/{{model}}"}}
  - {{name: rest, use: "ollama/{{model}}"}}
"""
    with Gateway(text) as gateway:
        asked = ask_first(gateway, PATH, access_control_request_headers="x-team,x-other")
    assert asked.headers["access-control-allow-headers"] == "x-team"


@pytest.mark.parametrize(
    "cors", ["", "cors: {enabled: false}", f"cors: {{enabled: false, origins: [{PAGE}]}}", "cors: {origins: ['']}"]
)
def test_where_nothing_is_allowed_browsers_are_told_nothing(cors: str) -> None:
    proxy = f"proxy:\n  auth: {{tokens: [{KEY}]}}\n  {cors}"
    with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url, more=proxy)) as gateway:
        asked, answer = ask_first(gateway, PATH), chat(gateway)
        with gateway.client(KEY) as client:
            options = client.options(PATH, headers={"origin": PAGE, "access-control-request-method": "POST"})
    assert (asked.status_code, options.status_code, answer.status_code) == (401, 405, 200)
    for one in (asked, answer, options):
        assert said_to_browsers(one.headers) == []
        assert "vary" not in one.headers
