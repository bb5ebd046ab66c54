"""Fetches the images that a message names by URL, for models that take no URLs.

A caller chooses where we connect to, so everything here is bounded and checked: which addresses (rules/addresses.py),
how many images, how large, how slow, how often redirected. The traps: a name may lead elsewhere the second time it is
looked up, so it is looked up once per hop and the connection goes to the very address that was checked; a redirect is a
new URL, checked like the first; a server may send one byte a second, or a million chunks of one byte at once, each of
which takes longer to read than to send; a small file may unpack into a huge one, so no encoding is taken; and a URL may
carry a signature, so no more of it than the host is ever logged.

No proxy of the environment is asked, and nothing of the caller's is sent along: no cookie, no key, no referrer.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from socket import SOCK_STREAM
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import h11
from cachetools import TLRUCache

from addons.tls import upstream_tls
from rules.addresses import is_opened, is_public, parsed
from rules.schema import Images
from wire.images import ENOUGH, image_type

MOST_IMAGES = 16
"""Of one call."""
MOST_ADDRESSES = 4
"""Of one name that are tried."""
AT_ONCE = 32
"""Over all calls; more wait, and their time runs meanwhile."""
CONNECT = 4.0
"""Seconds for one address."""
LONGEST_URL = 16384
MAX_HEAD = 64 * 1024
"""Bytes of a response's headers."""
PIECE = 256 * 1024
MOST_SCRAPS = 1000
"""Pieces (chunks, interim answers) of one answer, beside one for each SMALLEST_PIECE bytes of the image."""
SMALLEST_PIECE = 256
AT_A_TIME = 100
"""Pieces that are read before others get their turn; together they take some ms."""
LOW_PORTS = frozenset({80, 443})
"""Of the ports below 1024 those that speak HTTP; the others are mail, shells and files."""
KEPT = 64 * 1024 * 1024
"""Bytes of images that are remembered: a conversation names its images anew with every turn."""
KEPT_FOR = 60.0
"""Seconds, where the server does not say for how long its image holds."""
LONGEST_KEPT = 300.0

type Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) -> its addresses; raises OSError where there are none."""


class Unfetchable(Exception):
    """An image that cannot be had; says why, for the caller, after a colon."""


class Place(NamedTuple):
    """A URL taken apart, ready to be asked for."""

    tls: bool
    host: str
    port: int
    target: str
    """Path and query, as they are sent."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Moved(NamedTuple):
    """The answer is a redirect."""

    location: str


class Image(NamedTuple):
    url: str
    """A data URL."""
    holds: float
    """Seconds."""


@dataclass(slots=True)
class _Room:
    """What the images of one call may still have, together."""

    left: int

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unfetchable("the images of this request are too large together")


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host as the machine finds them. Odd ways to write one (2130706433, 0x7f.1) come out plain."""
    rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Fetcher:
    """Fetches images and remembers them for a while."""

    def __init__(
        self,
        *,
        resolve: Resolve = resolve,
        make_tls: Callable[[], ssl.SSLContext] = upstream_tls,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve
        self._make_tls = make_tls
        self._tls: ssl.SSLContext | None = None
        self._kept: TLRUCache[str, Image] = TLRUCache(
            KEPT, lambda _url, image, now: now + image.holds, timer=clock, getsizeof=lambda image: len(image.url)
        )
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[Image]] = set()

    async def fetch(self, urls: Iterable[str], policy: Images, most: int) -> tuple[dict[str, str], dict[str, str]]:
        """(URL -> data URL, URL -> why there is none), within `policy.wait` seconds. `most`: bytes of all together."""
        fetched: dict[str, str] = {}
        unfetched: dict[str, str] = {}
        room = _Room(most)
        under_way: dict[asyncio.Task[Image], str] = {}
        for number, url in enumerate(dict.fromkeys(urls)):
            image = self._kept.get(url)
            if not policy.fetch:
                unfetched[url] = "this gateway fetches no images."
            elif number >= MOST_IMAGES:
                unfetched[url] = f"no more than {MOST_IMAGES} images are fetched for one request."
            elif image is not None and room.left >= len(image.url):
                room.take(len(image.url))
                fetched[url] = image.url
            else:
                task = asyncio.create_task(self._fetch(url, policy, room), name="fetch an image")
                under_way[task] = url
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        try:
            if under_way:
                await asyncio.wait(under_way, timeout=policy.wait)
        finally:
            for task in under_way:
                task.cancel()
            ends = await asyncio.gather(*under_way, return_exceptions=True)
        for url, end in zip(under_way.values(), ends, strict=True):
            match end:
                case Image():
                    fetched[url] = end.url
                    if end.holds > 0 and len(end.url) <= KEPT:
                        self._kept[url] = end
                case Unfetchable():
                    unfetched[url] = f"{end}."
                case asyncio.CancelledError():
                    unfetched[url] = f"it did not come within {policy.wait:g} seconds."
                case _:
                    raise end
        return fetched, unfetched

    def stop(self) -> None:
        """Gives up what is under way."""
        for task in [*self._under_way]:
            task.cancel()

    async def _fetch(self, url: str, policy: Images, room: _Room) -> Image:
        async with self._places:
            for _ in range(policy.redirects + 1):
                place = take_apart(url)
                match await self._ask(place, await self._addresses(place, policy), policy, room):
                    case Moved(location):
                        url = _redirected(url, location)
                        if place.tls and not url.lower().startswith("https:"):
                            raise Unfetchable("it is redirected from https to something less safe")
                    case Image() as image:
                        return image
        raise Unfetchable(f"it is redirected more than {policy.redirects} times")

    async def _addresses(self, place: Place, policy: Images) -> list[str]:
        """Those that may be asked; looked up this once."""
        try:
            found = await self._resolve(place.host, place.port)
        except (OSError, UnicodeError):
            raise Unfetchable("its host cannot be found") from None
        known = [address for text in found if (address := parsed(text)) is not None]
        opened = [address for address in known if is_opened(place.host, address, policy.allow)]
        usual = place.port in LOW_PORTS or place.port >= 1024
        public = [address for address in known if usual and is_public(address)]
        if not opened and not public:
            raise Unfetchable(
                f"its port {place.port} is not one of the web's"
                if any(map(is_public, known))
                else "its host is not a public one; the gateway's operator may open it (defaults.images.allow)"
            )
        return [str(address) for address in known if address in opened or address in public][:MOST_ADDRESSES]

    async def _ask(self, place: Place, addresses: list[str], policy: Images, room: _Room) -> Image | Moved:
        reader, writer = await self._connect(place, addresses)
        try:
            answer = _Answer(reader)
            writer.write(answer.request(place))
            status, headers = await answer.head()
            if status in (301, 302, 303, 307, 308) and b"location" in headers:
                return Moved(headers[b"location"].decode("latin-1"))
            if status != 200:
                raise Unfetchable(f"its server answered with status {status}")
            if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
                raise Unfetchable("its server sent it compressed although it was asked not to")
            body = await answer.body(int(headers.get(b"content-length", b"0")), policy, room)
        except h11.ProtocolError:
            raise Unfetchable("its server broke off, or did not answer in HTTP") from None
        except OSError:
            raise Unfetchable("its server broke the connection") from None
        finally:
            writer.transport.abort()
        head = f"data:{type_of(body)};base64,".encode()
        text = await asyncio.to_thread(base64.b64encode, body)
        return Image((head + text).decode(), holds_for(headers.get(b"cache-control", b"")))

    async def _connect(self, place: Place, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if place.tls and self._tls is None:
            self._tls = await asyncio.to_thread(self._make_tls)
        why = "its server could not be reached"
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT):
                    return await asyncio.open_connection(
                        address,
                        place.port,
                        limit=PIECE,
                        ssl=self._tls if place.tls else None,
                        server_hostname=place.host if place.tls else None,
                    )
            except ssl.SSLError:
                why = "its server could not be reached securely: its certificate or its TLS is not acceptable"
            except OSError:  # a TimeoutError is one too
                pass
        raise Unfetchable(why)


class _Answer:
    """One request and its answer on a connection."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._pieces = 0
        self._size = 0

    def request(self, place: Place) -> bytes:
        headers = [
            ("host", place.authority),
            ("user-agent", "unigate"),
            ("accept", "image/png, image/jpeg, image/webp"),
            ("accept-encoding", "identity"),
            ("connection", "close"),
        ]
        head = self._http.send(h11.Request(method="GET", target=place.target, headers=headers))
        end = self._http.send(h11.EndOfMessage())
        return (head or b"") + (end or b"")

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        while not isinstance(event := await self._next(), h11.Response):
            pass  # an early hint, or a word that the answer will come
        return event.status_code, dict(event.headers)

    async def body(self, length: int, policy: Images, room: _Room) -> bytearray:
        """As far as it can be an image that a model takes."""
        too_large = Unfetchable(f"it is larger than {policy.bytes.human_readable()}")
        if length > policy.bytes:
            raise too_large
        read = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            before = len(read)
            read += event.data
            room.take(len(event.data))
            if len(read) > policy.bytes:
                raise too_large
            if before < ENOUGH <= len(read):
                type_of(read)
        return read

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(PIECE))
        assert not isinstance(event, type)  # there is no second request, so nothing is ever paused
        self._pieces += 1
        if isinstance(event, h11.Data):
            self._size += len(event.data)
        if self._pieces > MOST_SCRAPS + self._size // SMALLEST_PIECE:
            raise Unfetchable("its server sends it in too many small pieces")
        if not self._pieces % AT_A_TIME:
            await asyncio.sleep(0)
        return event


def take_apart(url: str) -> Place:
    """Raises Unfetchable for what is not to be asked for. What is returned is all that is ever used of the URL."""
    if len(url) > LONGEST_URL:
        raise Unfetchable(f"its URL is longer than {LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        raise Unfetchable("its URL is not well-formed") from None
    if scheme not in ("http", "https"):
        raise Unfetchable("only http and https URLs are fetched")
    if parts.username is not None or parts.password is not None:
        raise Unfetchable("its URL holds a user name or a password")
    if port == 0:
        raise Unfetchable("its URL is not well-formed")
    tls = scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return Place(tls, host, port if port is not None else 443 if tls else 80, path + query)


_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


def _host(name: str) -> str:
    """A host name as DNS has it, or an address; raises ValueError for what can be neither."""
    host = (name if name.isascii() else name.encode("idna").decode()).removesuffix(".")
    if ":" in host and "%" not in host:  # an interface's name after the address is for this machine's own network
        return str(IPv6Address(host))
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("not a host")
    return host


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Unfetchable("it is redirected to a URL that is not well-formed") from None


def host_of(url: str) -> str:
    """As much of a URL as may be logged."""
    try:
        return urlsplit(url).hostname or "nowhere"
    except ValueError:
        return "nowhere"


def type_of(body: bytes | bytearray) -> str:
    """The media type of an image that a model takes; raises Unfetchable for anything else."""
    kind = image_type(bytes(body[:ENOUGH]))
    if kind is None:
        raise Unfetchable("it is not a PNG, JPEG or WebP image")
    if kind == "image/gif":
        raise Unfetchable("it is a GIF; send a PNG, JPEG or WebP image")
    return kind


_MAX_AGE = re.compile(rb"(?:^|[\s,])max-age=\"?(\d{1,9})")


def holds_for(cache_control: bytes) -> float:
    """Seconds for which an image may be remembered: a webcam's is another one the next second."""
    said = cache_control.lower()
    if b"no-store" in said or b"no-cache" in said:
        return 0.0
    age = _MAX_AGE.search(said)
    return min(float(age[1]), LONGEST_KEPT) if age is not None else KEPT_FOR
