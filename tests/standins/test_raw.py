"""The raw server: that it plays its scripts."""

from __future__ import annotations

import httpx
import pytest

from tests.standins import RawServer, raw


def test_raw_scripts(client: httpx.Client) -> None:
    scripts = [
        raw.interim(b'{"a":1}'),
        raw.gzipped(b'{"a":1}'),
        raw.until_eof(b'{"a":1}'),
        raw.with_trailers(b'{"a":1}', {"X-Sum": "1"}),
        raw.huge_header(20_000, b'{"a":1}'),
    ]
    for script in scripts:
        with RawServer(script) as server:
            assert client.post(server.url, json={}, headers={"Connection": "close"}).json() == {"a": 1}
            assert [seen.json for seen in server.seen] == [{}]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (raw.closed_at_once(), httpx.TransportError),
        (raw.reset_at_once(), httpx.TransportError),
        (raw.broken_chunking(b"{}"), httpx.RemoteProtocolError),
        (raw.cut_chunk(b"{}"), httpx.RemoteProtocolError),
        (raw.endless_headers(), httpx.RemoteProtocolError),
        ([raw.Expect(), raw.Send(b"HTTP/1.1 200 OK\r\n"), raw.Wait(0.02), raw.Reset()], httpx.ReadError),
        ([raw.Expect(), raw.HalfClose(), raw.Wait(5)], httpx.RemoteProtocolError),
    ],
)
def test_raw_scripts_that_break(client: httpx.Client, script: raw.Script, kind: type[Exception]) -> None:
    with RawServer(script) as server, pytest.raises(kind):
        client.post(server.url, json={})


def test_raw_scripts_by_connection(client: httpx.Client) -> None:
    with RawServer(raw.closed_at_once(), [raw.Expect(), raw.Send(raw.whole(b"{}"))]) as server:
        with pytest.raises(httpx.TransportError):
            client.get(server.url)
        fresh = {"Connection": "close"}  # the server ends each connection, and httpx may not have seen it yet
        assert [client.get(server.url, headers=fresh).json() for _ in range(2)] == [{}, {}]
