"""What the tests of web pages share: two pages, and what a browser sends for them."""

from __future__ import annotations

from typing import Any

import httpx

from tests.addons.calls import PATH
from tests.gateway import Gateway

KEY = "sk-caller-of-this-test"
PAGE = "https://app.example"
OTHER = "https://evil.example"
CORS = """
proxy:
  auth: {{tokens: [{key}]}}
  cors: {{origins: [{origins}]}}
"""
SDK = "authorization,content-type,openai-organization,x-stainless-arch,x-stainless-retry-count,x-stainless-timeout"
"""What the browser asks for before a call of the Node SDK."""


def ask_first(gateway: Gateway, path: str, page: str = PAGE, **more: str) -> httpx.Response:
    """What a browser asks before the call itself: without a key."""
    headers = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": SDK}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        return client.options(path, headers=headers)


def chat(gateway: Gateway, page: str | None = PAGE, *, key: str = KEY, **more: Any) -> httpx.Response:
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello there"}], **more}
    with gateway.client(key) as client:
        return client.post(PATH, json=body, headers={"origin": page} if page is not None else {})


def said_to_browsers(headers: httpx.Headers) -> list[str]:
    return [name for name in headers if name.startswith("access-control-")]
