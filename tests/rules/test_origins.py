"""Which origins the file may list, and which pages they mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.origins import origin, origins_of


def allowed(page: str, *written: str) -> str | None:
    return origins_of(map(origin, written)).answer_to(page)


@pytest.mark.parametrize(
    ("written", "page"),
    [
        ("https://app.example", "https://app.example"),
        (" HTTPS://App.Example ", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("https://app.example:0080", "https://app.example:80"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://my_box", "http://my_box"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[0:0::1]:5173", "http://[::1]:5173"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://Obsidian.md", "app://Obsidian.md"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b-c.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("http://localhost:*", "http://localhost"),
        ("http://localhost:*", "http://localhost:1"),
        ("http://localhost:*", "http://localhost:65535"),
        ("http://[::1]:*", "http://[::1]:5173"),
        ("http://*:3000", "http://some.host:3000"),
        ("https://*", "https://any.host"),
        ("https://*:*", "https://any.host:8443"),
        ("vscode-webview://*", "vscode-webview://0a1b2c"),
    ],
)
def test_a_page_is_answered_with_its_own_origin(written: str, page: str) -> None:
    assert allowed(page, written) == page
    assert allowed(page, "https://other.example", written, "http://*.other.example") == page


@pytest.mark.parametrize(
    ("written", "page"),
    [
        ("https://app.example", "http://app.example"),
        ("https://app.example", "https://app.example:8443"),
        ("https://app.example", "https://app.example.evil.example"),
        ("https://app.example", "https://evilapp.example"),
        ("https://app.example", "https://www.app.example"),
        ("https://app.example", "https://app-example"),
        ("https://app.example", "https://app.example/"),
        ("https://app.example", "null"),
        ("https://app.example", ""),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://a.exampleXcom"),
        ("https://*.example.com", "https://a..example.com"),
        ("https://*.example.com", "https://a.example.com.evil.example"),
        ("https://*.example.com", "https://evil.example/.example.com"),
        ("https://*.example.com", "https://evil.example:1.example.com"),
        ("https://*.example.com", "https://evil.example\n.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "http://a.example.com"),
        ("http://localhost:*", "http://localhost:"),
        ("http://localhost:*", "http://localhost:3000.evil.example"),
        ("http://localhost:*", "https://localhost:3000"),
        ("https://*", "https://"),
        ("https://*", "http://any.host"),
        ("https://*", "https://any.host:8443"),
    ],
)
def test_a_page_of_any_other_origin_is_told_nothing(written: str, page: str) -> None:
    assert allowed(page, written) is None
    assert allowed(page, written, "https://one-more.example") is None


def test_a_star_alone_is_every_page_also_one_without_an_origin_of_its_own() -> None:
    assert allowed("https://any.example", "*") == "*"
    assert allowed("null", " * ", "https://app.example") == "*"


def test_no_origin_at_all_allows_no_page() -> None:
    assert allowed("https://any.example") is None


HOST = r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?"


@given(st.from_regex(rf"\A({HOST}\.){{0,3}}{HOST}\Z"), st.from_regex(rf"\A({HOST}\.){{0,3}}{HOST}\Z"))
def test_a_star_means_whole_labels_and_at_least_one(page: str, known: str) -> None:
    assert (allowed(f"https://{page}", f"https://*.{known}") is not None) == page.endswith(f".{known}")


NEED_A_HOST = "an origin is a scheme and a host, and a port where there is one, such as https://app.example"
STARS = "a * stands for whole labels where the host begins, as in https://*.example.com, or for any port"


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("app.example", f"{NEED_A_HOST}; this has no https:// or http://"),
        ("localhost:3000", f"{NEED_A_HOST}; this has no https:// or http://"),
        ("", f"{NEED_A_HOST}; this has no https:// or http://"),
        ("https://", NEED_A_HOST),
        ("https://:3000", NEED_A_HOST),
        ("://app.example", NEED_A_HOST),
        ("ht tp://app.example", NEED_A_HOST),
        ("https://app example", NEED_A_HOST),
        ("https://-app.example", NEED_A_HOST),
        ("https://app..example", NEED_A_HOST),
        ("https://*.", NEED_A_HOST),
        ("https://[::1]x", NEED_A_HOST),
        ("https://a:1:2", NEED_A_HOST),
        ("https://app.example/", "an origin ends with the host or the port: leave out the slash and what follows it"),
        ("https://app.example/v1", "an origin ends with the host or the port: leave out the slash and what follows it"),
        ("https://app.example?a", "an origin ends with the host or the port: leave out the slash and what follows it"),
        ("https://user:secret@app.example", "an origin holds no user name and no password"),
        ("https://bücher.example", "the host is written in ASCII, as browsers send it, such as https://xn--bcher-kva.example"),
        ("https://app.*.example", STARS),
        ("https://app*.example", STARS),
        ("https://*app.example", STARS),
        ("https://**.example", STARS),
        ("http://192.168.1.*", STARS),
        ("http://192.168.1", "the host is neither a name nor an address"),
        ("http://192.168.1.300", "the host is neither a name nor an address"),
        ("http://*.1.2.3.4", "the host is neither a name nor an address"),
        ("http://[::1", NEED_A_HOST),
        ("http://[::g]", "the host is neither a name nor an address"),
        ("http://localhost:", "a port is a number from 1 to 65535, or * for any"),
        ("http://localhost:0", "a port is a number from 1 to 65535, or * for any"),
        ("http://localhost:65536", "a port is a number from 1 to 65535, or * for any"),
        ("http://localhost:1234567890", "a port is a number from 1 to 65535, or * for any"),
        ("http://localhost:30*", "a port is a number from 1 to 65535, or * for any"),
        ("http://localhost:²", "a port is a number from 1 to 65535, or * for any"),
        (
            "null",
            "every page from a file or in a sandbox says null, whoever wrote it; serve the page from an address, such "
            "as http://localhost:3000",
        ),
    ],
)  # fmt: skip
def test_what_no_pages_origin_could_be_is_refused_in_words_that_fit(written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        origin(written)
