"""The caller's key, taken out of a flow before anything else looks at it: mitmweb, saved flows and logs see `***`.

A key is accepted in two places, and people put it in many others: `?access_token=`, `?api_key[]=`, `;api_key=`,
`user:key@host`, a name with percent signs. Such a call is refused, and its key is as good as any. So whatever is named
like a secret, or looks like one, is masked in every address of a request, though nothing is read there.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from mitmproxy.http import HTTPFlow

from addons.exchange import readable
from rules.access import bearer

MASK = "***"
SECRET_HEADERS = frozenset(
    {b"authorization", b"proxy-authorization", b"x-forwarded-authorization", b"authentication", b"cookie"}
    | {b"api-key", b"x-api-key", b"apikey", b"x-goog-api-key", b"ocp-apim-subscription-key", b"x-functions-key"}
    | {b"x-auth-token", b"x-access-token", b"x-api-token", b"x-auth-key", b"x-amz-security-token"}
    # Browsers put the key into a subprotocol's name, for they cannot set headers on a websocket.
    | {b"sec-websocket-protocol"}
)
_OFTEN_THERE = frozenset({b"cookie", b"proxy-authorization", b"x-forwarded-authorization", b"sec-websocket-protocol"})
"""Of these: without anybody having meant a key of ours."""
ADDRESS_HEADERS = frozenset(
    {b"host", b"referer", b"x-forwarded-uri", b"x-original-uri", b"x-original-url", b"x-rewrite-url"}
)
"""Hold an address, or a part of one: maybe the one that another proxy before this one was asked for."""
KEY_PARAMETERS = frozenset({"api_key", "api-key", "key"})
"""The names by which a key in the URL is accepted."""
LONGEST = 8192
"""Characters of a query that is read, and of a path that is masked in parts. Who sends more is not known yet."""
_SHOWN_NAMES = frozenset(
    {"api_key[]", "key[]", "apikey", "x-api-key", "access_token", "token", "authorization", "secret"}
)
"""Of parameters whose values are masked. Any other name may be a key itself."""
_SECRET_NAME = re.compile(r"key|token|secret|auth|pass|pwd|bearer|cred|sig|session|jwt|code", re.IGNORECASE)
_ORDINARY_NAME = re.compile(r"[A-Za-z_.-]{1,32}(?:\[\w*\])?")
_SECRET_IN_TEXT = re.compile(rf"(?:{_SECRET_NAME.pattern})[^=]{{0,40}}=|\bsk-[\w-]{{8}}|\bbearer\W", re.IGNORECASE)
_USER = re.compile(r"(?:(?<=//)|^)[^/?#]*@")
_PLAIN = re.compile(r"[/\w.:-]*")
_LONGEST_FLAG = 8
"""Characters of a parameter without a value that is taken for no key."""


def take_key(flow: HTTPFlow) -> str | None:
    """The caller's key; the flow keeps only a mask of it. A key that is accepted in the URL is taken out of it."""
    request = flow.request
    key: str | None = None
    fields = request.headers.fields
    masked: list[tuple[bytes, bytes]] | None = None
    for place, (name, value) in enumerate(fields):
        lower = name.lower().strip()  # a name with a space is refused, and is kept all the same
        if lower in SECRET_HEADERS:
            mask = b"***"
            if lower == b"authorization":
                key = key or bearer(value.decode("utf-8", "replace"))
                mask = b"Bearer ***"
        elif lower in ADDRESS_HEADERS:
            mask = cleaned(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        else:
            continue
        if mask != value:
            masked = masked or [*fields]
            masked[place] = (name, mask)
    if masked is not None:
        request.headers.fields = tuple(masked)
    if "@" in request.authority:
        request.authority = cleaned(request.authority)
    path = request.path
    if _PLAIN.fullmatch(path) is None or "sk-" in path:
        path, mark, query = path.partition("?")
        if mark and len(query) <= LONGEST:
            key_of_url, query = _without_key(query)
            key = key or key_of_url
        request.path = cleaned(f"{path}?{query}" if query else path)
    return key


def misplaced(flow: HTTPFlow) -> str:
    """Where a caller seems to have put a key that is not read there, as a sentence for a 401; empty where nothing is
    seen. Of a flow in which take_key() has found none."""
    for name, _ in flow.request.headers.fields:
        lower = name.lower().strip()
        if lower == b"authorization":
            return "The Authorization header holds no key after the word Bearer."
        if lower in SECRET_HEADERS and lower not in _OFTEN_THERE:
            return f"The header {lower.decode('latin-1')} is not read."
    return "In the URL no other name than api_key is read." if MASK in flow.request.path else ""


def hide_keys(flow: HTTPFlow) -> None:
    """For when a hook failed: it may be the one that masks the caller's key."""
    try:
        take_key(flow)
    except Exception:
        flow.request.headers.clear()
        flow.request.authority = ""
        flow.request.path = f"/{MASK}"


def cleaned(address: str) -> str:
    """An address, or a part of one, without what may be a key in it. Its work is bounded by its length."""
    if _PLAIN.fullmatch(address) is not None and "sk-" not in address:
        return address
    path, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{_cleaned_path(path)}{mark}{_cleaned_query(query)}"


def _without_key(query: str) -> tuple[str | None, str]:
    """The first key that a query holds by a name that is accepted, and the query without all of them."""
    found, kept = [], []
    for piece in query.split("&"):
        name, _, value = piece.partition("=")
        if unquote_plus(name).lower() in KEY_PARAMETERS:
            found.append(readable(unquote_plus(value, errors="surrogateescape")))
        else:
            kept.append(piece)
    return next(filter(None, found), None), "&".join(kept)


def _cleaned_path(path: str) -> str:
    path = _USER.sub(f"{MASK}@", path)
    if not _SECRET_IN_TEXT.search(_decoded(path)):
        return path
    if len(path) > LONGEST:
        return f"/{MASK}"
    return "/".join(MASK if _SECRET_IN_TEXT.search(_decoded(part)) else part for part in path.split("/"))


def _cleaned_query(query: str) -> str:
    if len(query) > LONGEST:
        return MASK
    return "&".join(map(_cleaned_parameter, query.split("&")))


def _cleaned_parameter(parameter: str) -> str:
    name, mark, value = parameter.partition("=")
    if not mark:
        return parameter if len(parameter) <= _LONGEST_FLAG and not _SECRET_NAME.search(_decoded(parameter)) else MASK
    plain = _decoded(name)
    if (
        _ORDINARY_NAME.fullmatch(plain)
        and not _SECRET_NAME.search(plain)
        and not _SECRET_IN_TEXT.search(_decoded(value))
    ):
        return parameter
    return f"{name}={MASK}" if name.lower() in _SHOWN_NAMES else MASK


def _decoded(text: str) -> str:
    """Without percent signs, also where they were encoded again."""
    for _ in range(3):
        if "%" not in text:
            break
        text = unquote(text)
    return text
