"""Images by URL, and what a file must begin with to be an image."""

from __future__ import annotations

from typing import Any

import pytest

from wire.check_chat import check_chat
from wire.dialects import DIALECTS, Facets
from wire.images import image_type, remote_images
from wire.openai import ChatRequest


def request(*contents: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return check_chat({"model": "m", "messages": messages})


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_urls_of_images_are_named_once_and_in_order() -> None:
    text = {"type": "text", "text": "http://not.an/image"}
    asked = request(
        "http://not.an/image",
        [text, image("https://b.test/2"), image("data:image/png;base64,AAAA"), image("HTTP://a.test/1")],
        [image("https://b.test/2"), image("ftp://c.test/3"), image("https://b.test/2?x"), image("httpx://d.test")],
    )
    assert remote_images(asked) == ("https://b.test/2", "HTTP://a.test/1", "https://b.test/2?x")


def test_a_request_without_images_names_none() -> None:
    body = {"model": "m", "messages": [{"role": "assistant", "content": None, "refusal": "no"}]}
    assert remote_images(check_chat(body)) == ()


LONG = "https://b.test/" + "x" * 9000


@pytest.mark.parametrize(
    ("dialect", "facets", "inlined"),
    [
        ("ollama", Facets(), ("https://a.test/1", LONG)),
        ("ollama", Facets(capabilities=frozenset({"completion", "vision"})), ("https://a.test/1", LONG)),
        ("ollama", Facets(capabilities=frozenset({"completion"})), ()),
        ("sandbox", Facets(), ("https://a.test/1", LONG)),
        ("openai", Facets(), ()),
        ("openai", Facets("deepseek"), (LONG,)),
    ],
)
def test_each_kind_of_server_says_which_images_it_wants_itself(
    dialect: str, facets: Facets, inlined: tuple[str, ...]
) -> None:
    asked = request([image("https://a.test/1"), image(LONG)])
    assert DIALECTS[dialect].operations["chat"].inlines(asked, facets) == inlined


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
        (b"\x89PNG\n\x1a\n\0\0\0\rIHDR", None),  # a transfer as text has spoilt it
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"\xff\xd8", None),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"RIFF\x24\0\0\0WEB", None),
        (b"GIF89a", "image/gif"),
        (b"GIF87a", "image/gif"),
        (b"<svg xmlns", None),
        (b"<!DOCTYPE html>", None),
        (b"BM", None),
        (b"", None),
    ],
)
def test_the_first_bytes_say_what_a_file_is(head: bytes, kind: str | None) -> None:
    assert image_type(head) == kind
