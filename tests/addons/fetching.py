"""What the tests of fetched images share.

Servers are real, on loopback. The resolver is ours: `images.test` leads to loopback, which the policy opens for that
one address, so what is refused is refused by the same checks as on the internet.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop

from addons.fetch import Fetcher, Resolve, resolve
from rules.schema import Images
from tests.standins import RawServer
from tests.standins.raw import Expect, Script, Send, head

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 100
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + b"w" * 100
MiB = 2**20
OPEN: dict[str, Any] = {"allow": ["127.0.0.1"]}
"""A policy for which one address of this machine is as good as a public one."""


def data_url(body: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"


class Names:
    """A resolver: name -> its addresses, one list after the other where several are given, the last for good."""

    def __init__(self, **names: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self._names: dict[str, list[list[str]]] = {
            name.replace("_", "."): [[given] if isinstance(given, str) else [*given] for given in turns]
            for name, turns in names.items()
        }
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        turns = self._names.get(host)
        if turns is None:
            return await resolve(host, port) if host[0].isdigit() or ":" in host else []
        return turns.pop(0) if len(turns) > 1 else turns[0]


HERE = {"images_test": [["127.0.0.1"]]}


def fetch(
    *urls: str,
    policy: Mapping[str, Any] | None = None,
    names: Resolve | None = None,
    most: int = 64 * MiB,
    fetcher: Fetcher | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """In the loop that the gateway uses."""
    used = fetcher or Fetcher(resolve=names or Names(**HERE))
    return uvloop.run(used.fetch(urls, Images.model_validate({**OPEN, **(policy or {})}), most))


def why(url: str, **more: Any) -> str:
    """The words for the one image that could not be had."""
    fetched, unfetched = fetch(url, **more)
    assert fetched == {}
    assert list(unfetched) == [url]
    assert unfetched[url].endswith(".")
    return unfetched[url].removesuffix(".")


@contextmanager
def serving(*scripts: Script) -> Iterator[tuple[RawServer, str]]:
    """A server and its address under the name that the resolver knows."""
    with RawServer(*scripts) as server:
        yield server, f"http://images.test:{server.port}"


def sends(body: bytes, kind: str = "image/png", **headers: str) -> Script:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [Expect(), Send(head("200 OK", {"Content-Type": kind, "Content-Length": str(len(body)), **named}) + body)]


def moves(location: str, status: str = "302 Found") -> Script:
    return [Expect(), Send(head(status, {"Location": location, "Content-Length": "0"}))]
