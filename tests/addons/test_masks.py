"""What is left of an address that may hold a key. That a caller's key is taken and hidden at all: test_secrets.py."""

from __future__ import annotations

import time

import pytest
from mitmproxy.http import Headers
from mitmproxy.test.tflow import tflow

from addons.masks import LONGEST, cleaned, hide_keys, misplaced, take_key

KEY = "notebook:K3y-0123456789"


@pytest.mark.parametrize("address", [
    "/v1/chat/completions", "/v1/models/qwen2.5%3A7b", "/v1/models/hf.co/a/b:Q4@main", "/v1/responses/input_tokens",
    "/v1/responses/resp_1?stream=true&starting_after=4", "/v1/responses/resp_1/input_items?include[]=x&limit=20&order=asc",
    "/v1/responses/resp_1?include[]=code_interpreter_call.outputs&include%5B0%5D=reasoning.encrypted_content",
    "/v1/models?api-version=2024-10-21", "/v1/models?beta", "/v1/gr\udcc3\udcb6sse", "/", "", "*", "gateway:8080", "[::1]:8080",
    "https://app.example/page?x=1", "/v1/models?a=&b=%20+&&", "/v1/a?b=c#d", "//v1//models", "/v1/models/codellama:7b",
])  # fmt: skip
def test_an_address_without_a_key_stays_to_the_letter(address: str) -> None:
    assert cleaned(address) == address


@pytest.mark.parametrize(("address", "left"), [
    ("/v1/models?access_token=KEY", "/v1/models?access_token=***"),
    ("/v1/models?a=b&Token=KEY&c=d", "/v1/models?a=b&Token=***&c=d"),
    ("/v1/models?api_key[]=KEY", "/v1/models?api_key[]=***"),
    ("/v1/models?my-token=KEY", "/v1/models?***"),
    ("/v1/models?%74oken=KEY", "/v1/models?***"),
    ("/v1/models?%252574oken=KEY", "/v1/models?***"),
    ("/v1/models?token", "/v1/models?***"),
    ("/v1/models?KEY", "/v1/models?***"),
    ("/v1/models?KEY=token", "/v1/models?***"),
    ("/v1/models?KEY=1", "/v1/models?***"),
    ("/v1/models?q=sk-0123456789", "/v1/models?***"),
    ("/v1/models?q=Bearer%20KEY", "/v1/models?***"),
    ("/v1/models?next=/%3Ftoken%3DKEY", "/v1/models?***"),
    ("/v1/models?a[token]=KEY", "/v1/models?***"),
    ("/v1/models?a=b;token=KEY", "/v1/models?***"),
    ("/v1/models#token=KEY", "/v1/models#token=***"),
    ("/v1/models;token=KEY", "/v1/***"),
    ("/v1/token=KEY/models", "/v1/***/models"),
    ("/v1/models/sk-0123456789", "/v1/models/***"),
    ("/v1/models%3Ftoken%3DKEY", "/v1/***"),
    ("//me:KEY@gateway/v1/models", "//***@gateway/v1/models"),
    ("me:KEY@gateway:80", "***@gateway:80"),
    ("https://me:KEY@gateway/page?token=KEY#KEY", "https://***@gateway/page?token=***"),
    (f"/v1/models?{'a=b&' * LONGEST}token=KEY", "/v1/models?***"),
    (f"/{'a/' * LONGEST}token=KEY", "/***"),
])  # fmt: skip
def test_what_may_be_a_key_is_masked(address: str, left: str) -> None:
    assert cleaned(address.replace("KEY", KEY)) == left


@pytest.mark.parametrize(
    "piece", ["key", "key=", "&", "%25", "token&", "//", "@", "/key", ";", "sk-", "a@/", "#", "=", "\udcff"]
)
def test_the_work_is_bounded_whatever_somebody_writes(piece: str) -> None:
    text = piece * (65536 // len(piece))
    began = time.process_time()
    for address in (f"/{text}", f"/?{text}", f"/?key={text}", f"//{text}"):
        flow = tflow()
        flow.request.path = address
        take_key(flow)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("path", "key", "left"), [
    ("/v1/models?api_key=KEY", "KEY", "/v1/models"),
    ("/v1/models?a=b%20c&api_key=KEY&d", "KEY", "/v1/models?a=b%20c&d"),
    ("/v1/models?API-Key=one+two&key=KEY", "one two", "/v1/models"),
    ("/v1/models?%61pi%5fkey=%4B%C3%A4", "K\u00e4", "/v1/models"),
    ("/v1/models?api_key=&key=KEY", "KEY", "/v1/models"),
    ("/v1/models?api_key=%FF", "\ufffd", "/v1/models"),
    ("/v1/models?api_key", None, "/v1/models"),
    ("/v1/models?api_key[]=KEY", None, "/v1/models?api_key[]=***"),
    ("/v1/models?%2561pi_key=KEY", None, "/v1/models?***"),
])  # fmt: skip
def test_a_key_is_accepted_by_its_own_names_alone_and_leaves_no_trace(path: str, key: str | None, left: str) -> None:
    flow = tflow()
    flow.request.headers = Headers(((b"host", b"gateway"),))
    flow.request.path = path.replace("KEY", KEY)
    assert take_key(flow) == (KEY if key == "KEY" else key)
    assert flow.request.path == left


def test_headers_that_hold_keys_or_addresses_are_masked_and_the_others_stay() -> None:
    flow = tflow()
    before = ((b"Host", b"me:k@gateway"), (b"X-Api-Key", b"k"), (b"Authorization ", b"Bearer k"), (b"x-a", b"token=k"),
              (b"Referer", b"/a?token=k"), (b"COOKIE", b"k"), (b"x-forwarded-uri", b"/v1/models"))  # fmt: skip
    flow.request.headers = Headers(before)
    flow.request.authority = "me:k@gateway"
    assert take_key(flow) == "k"
    assert flow.request.headers.fields == (
        (b"Host", b"***@gateway"), (b"X-Api-Key", b"***"), (b"Authorization ", b"Bearer ***"), (b"x-a", b"token=k"),
        (b"Referer", b"/a?token=***"), (b"COOKIE", b"***"), (b"x-forwarded-uri", b"/v1/models"),
    )  # fmt: skip
    assert flow.request.authority == "***@gateway"


def test_where_masking_itself_fails_nothing_of_the_request_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_address: str) -> str:
        raise RuntimeError("a bug of ours")

    flow = tflow()
    flow.request.path = f"/v1/models?token={KEY}"
    flow.request.authority = f"me:{KEY}@gateway"
    monkeypatch.setattr("addons.masks.cleaned", broken)
    hide_keys(flow)
    assert KEY not in str(flow.get_state())
    assert (flow.request.path, flow.request.authority, len(flow.request.headers)) == ("/***", "", 0)


@pytest.mark.parametrize(("header", "path", "where"), [
    (b"Authorization", "/v1/models", "The Authorization header holds no key after the word Bearer."),
    (b"X-Api-Key", "/v1/models", "The header x-api-key is not read."),
    (b"api-key", "/v1/models?access_token=x", "The header api-key is not read."),
    (b"Cookie", "/v1/models?access_token=x", "In the URL no other name than api_key is read."),
    (b"x", "/v1/models;api_key=x", "In the URL no other name than api_key is read."),
    (b"Cookie", "/v1/models", ""),
    (b"sec-websocket-protocol", "/v1/models?a=b", ""),
])  # fmt: skip
def test_where_a_key_was_put_that_nobody_reads_there_can_be_told(header: bytes, path: str, where: str) -> None:
    flow = tflow()
    flow.request.headers = Headers(((header, b"Basic eDp5"),))
    flow.request.path = path
    assert take_key(flow) is None
    assert misplaced(flow) == where
