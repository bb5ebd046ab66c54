"""What the upstream servers have and whether they are there: asked in the background, so that no call ever waits.

Ollama is asked for its models every few seconds, and once about each of them. A server with a key is asked rarely, for
/health alone. What was
learnt lives in a TTL cache: if asking stops for any reason, old knowledge ends by itself. That a server was reached at
all is never forgotten: the sandbox must not stand in for one that is away.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from cachetools import TTLCache
from loguru import logger

from addons.models import digests
from addons.state import State
from rules.conditions import Seen, model_name
from rules.schema import Provider
from wire.dialects import DIALECTS, Facets
from wire.models import read_show

REMOTE_INTERVAL = 15.0
"""Seconds between two looks at a server that is not asked for models."""
KEY_REFUSED = (401, 402, 403)
NO_LIST = (404, 405, 501)
"""How a compatible server answers that has no list of models."""
LOOKS_AT_ONCE = 4
MOST_OFFERED = 1000
"""Models of one compatible server."""
CLOSER_LOOKS_AT_ONCE = 2
"""Questions about single models, over all servers: a server that has a thousand of them must not be kept busy."""
MAX_LIST = 16 * 1024 * 1024
"""Bytes of a list of models."""
PATIENCE = 3.0
"""Seconds for an answer, from its first byte to its last; a list of models takes milliseconds."""
STEP = 2.0
"""Seconds for each step of a look, connecting included."""
FIRST_LOOK = 1.0
"""Seconds that a start waits for the local servers to say what they have."""


class Sight(Mapping[str, Seen]):
    """provider -> what is known of its server at this moment, for those that were asked."""

    def __init__(
        self,
        models: TTLCache[str, frozenset[str]],
        reached: dict[str, bool],
        nodes: Mapping[str, Mapping[str, frozenset[str] | None]],
    ) -> None:
        self._models = models
        self._reached = reached
        self._nodes = nodes

    def __getitem__(self, provider: str) -> Seen:
        models = self._models.get(provider)
        # Old knowledge ends for the single servers when it ends for all of them.
        return Seen(models, self._reached[provider], self._nodes.get(provider, {}) if models is not None else {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._reached)

    def __len__(self) -> int:
        return len(self._reached)


class Inventory:
    """Refreshes State.seen and State.names. start() and stop() belong to the gateway's own life."""

    def __init__(self, state: State, tls: ssl.SSLContext | None) -> None:
        self.state = state
        self._tls = tls
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        ttl = max(10 * state.rules.defaults.refresh, 8 * REMOTE_INTERVAL)
        size = len(state.rules.file.providers)
        self._names: TTLCache[str, frozenset[str]] = TTLCache(size, ttl, timer=state.clock)
        self._models: TTLCache[str, frozenset[str]] = TTLCache(size, ttl, timer=state.clock)
        self._reached: dict[str, bool] = {}
        self._nodes: dict[str, dict[str, frozenset[str] | None]] = {}
        """provider -> url -> models, as model_name() spells them."""
        state.names, state.seen = self._names, Sight(self._models, self._reached, self._nodes)
        self._stopping = False
        self._client: httpx.Client | None = None
        self._threads = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="inventory")
        self._closer_threads = ThreadPoolExecutor(CLOSER_LOOKS_AT_ONCE, thread_name_prefix="models")
        self._closer_looks: dict[str, asyncio.Task[None]] = {}
        """URL of a server -> the task that asks it about its models."""
        self._status: dict[str, int] = {}
        """URL of a list of models -> how it was answered last; missing where it was not."""
        self._away: set[str] = set()
        """URLs of servers that did not answer the last look."""
        self._accepted: dict[str, bool] = {}
        """URL of a server -> whether it took our key at the last look."""
        self._loaded: dict[str, frozenset[str]] = {}
        state.nodes.loaded, state.nodes.away = self._loaded, self._away

    async def start(self) -> None:
        """Returns when each local server was asked once, so that the first call is routed on facts; waits not long."""
        # Environment proxies are not for servers that the rules file names.
        # Cookies are kept per host, whatever the port: one server's would go to the next one on the same machine.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.Client(timeout=STEP, trust_env=False, verify=self._tls or False, cookies=no_cookies)
        self.state.report_down = self.nudge
        looks: list[asyncio.Event] = []
        for name, provider in self.state.rules.file.providers.items():
            if provider.dialect != "sandbox":
                self._nudges[name] = asyncio.Event()
                looked = asyncio.Event()
                watch = self._watch(name, provider, looked)
                self._tasks[name] = asyncio.create_task(watch, name=f"inventory {name}")
                if provider.dialect == "ollama":
                    looks.append(looked)
        try:
            async with asyncio.timeout(FIRST_LOOK):
                for looked in looks:
                    await looked.wait()
                if self._closer_looks:
                    await asyncio.wait(self._closer_looks.values())
        except TimeoutError:
            pass

    async def stop(self) -> None:
        # A thread cannot be cancelled: looks end by themselves, which does not take long.
        self._stopping = True
        late: set[asyncio.Task[None]] = set()
        for nudge in self._nudges.values():
            nudge.set()
        tasks = [*self._tasks.values(), *self._closer_looks.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._closer_looks.clear()
        if self._client is not None:
            self._client.close()
        self._threads.shutdown(wait=not late)
        self._closer_threads.shutdown(wait=not late)

    def nudge(self, provider: str) -> None:
        """A call found a server away or a model missing: look now, not at the next turn."""
        event = self._nudges.get(provider)
        if event is not None:
            event.set()

    async def _watch(self, name: str, provider: Provider, looked: asyncio.Event) -> None:
        refresh = self.state.rules.defaults.refresh
        nudge = self._nudges[name]
        await self._ask(name, provider)
        looked.set()
        while not self._stopping:
            # A server whose breaker is open is looked at often: it comes back without a caller paying for it.
            often = provider.dialect == "ollama" or self.state.nodes.waits_for(name)
            interval = refresh if often else REMOTE_INTERVAL
            try:
                await asyncio.wait_for(nudge.wait(), interval)
                if self._stopping:
                    return
                nudge.clear()
                # A server that refuses calls is asked often, but not in a busy loop.
                await asyncio.sleep(min(0.2, interval))
            except TimeoutError:
                pass
            await self._ask(name, provider)

    async def _ask(self, name: str, provider: Provider) -> None:
        before = self.state.seen.get(name, Seen())
        first = name not in self._reached
        keyless = provider.key is not None and not provider.key.get_secret_value().strip()
        models: frozenset[str] | None = None
        look = self._ollama_models if provider.dialect == "ollama" else self._answers
        for url, found in zip(
            provider.urls, await asyncio.gather(*(look(url, provider) for url in provider.urls)), strict=True
        ):
            self._note_node(name, url, provider, found)
            if found is not None:
                models = found if models is None else models | found
        if models is not None:
            self._names[name], self._models[name] = models, frozenset(map(model_name, models))
        else:
            self._names.pop(name, None)
            self._models.pop(name, None)
        self._reached[name] = before.reached or models is not None
        refused = models is None and any(
            self._status.get(_models_url(url, provider)) in KEY_REFUSED for url in provider.urls
        )
        if refused and name not in self.state.refusing:
            logger.warning("{}: refuses the gateway's key", name)
        (self.state.refusing.add if refused else self.state.refusing.discard)(name)
        if first and models is None and not refused and provider.dialect != "ollama" and not keyless:
            logger.info("{}: unreachable", name)  # of the local ones the start itself says it
        if (before.models is None) != (models is None) and self._reached[name]:
            logger.info("{}: {}", name, "connected" if models is not None else "away")

    def _note_node(self, name: str, url: str, provider: Provider, found: frozenset[str] | None) -> None:
        """What one look at one server says about it."""
        status = self._status.get(_models_url(url, provider))
        back = url in self._away
        if status is None and not back and len(provider.urls) > 1:
            logger.info("{} at {}: away", name, url)
        elif status is not None and back and len(provider.urls) > 1:
            logger.info("{} at {}: connected", name, url)
        if status is None:
            self._away.add(url)
        else:
            self._away.discard(url)
            accepted = status not in KEY_REFUSED
            refused_before, self._accepted[url] = self._accepted.get(url) is False, accepted
            self.state.nodes.seen_up(name, url, back=back or refused_before, accepted=accepted)
        if len(provider.urls) > 1:
            self._nodes.setdefault(name, {})[url] = frozenset(map(model_name, found)) if found is not None else None

    async def _ollama_models(self, url: str, provider: Provider) -> frozenset[str] | None:
        answer = await self._get(_models_url(url, provider), {})
        match answer:
            case {"models": list(rows)}:
                names = _names_in(rows)
            case {"models": None}:
                rows, names = [], frozenset()
            case _:
                return None
        self._look_closer(url, provider, digests(rows))
        if len(provider.urls) > 1:
            await self._look_at_memory(url, provider)
        return names

    def _look_closer(self, url: str, provider: Provider, listed: dict[str, str]) -> None:
        """Has a server asked about the models that are new, one after the other, and never twice at a time."""
        asking = self._closer_looks.get(url)
        unknown = self.state.models.unknown(url, listed, self.state.clock())
        if unknown and not self._stopping and (asking is None or asking.done()):
            task = asyncio.create_task(self._ask_about(url, provider, unknown), name=f"inventory of {url}")
            self._closer_looks[url] = task

    async def _ask_about(self, url: str, provider: Provider, unknown: list[tuple[str, str]]) -> None:
        show = _models_url(url, provider).removesuffix("/tags") + "/show"
        for name, digest in unknown:
            answer = await self._get(show, {}, {"model": name}, self._closer_threads)
            if show not in self._status or self._stopping:
                return  # it says nothing at all; asked again at the next look
            self.state.models.learnt(url, name, digest, read_show(answer), self.state.clock())

    async def _look_at_memory(self, url: str, provider: Provider) -> None:
        """Which models a server has loaded: among several, the one that has it answers at once."""
        match await self._get(_models_url(url, provider).removesuffix("/tags") + "/ps", {}):
            case {"models": list(rows)}:
                self._loaded[url] = frozenset(map(model_name, _names_in(rows)))
            case _:
                self._loaded.pop(url, None)

    async def _answers(self, url: str, provider: Provider) -> frozenset[str] | None:
        key = provider.key.get_secret_value().strip() if provider.key is not None else None
        if key == "":
            return None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = await self._get(_models_url(url, provider), headers)
        match answer:
            case {"data": list(rows)}:
                ids = {row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
                self.state.offered[url] = tuple(sorted(ids)[:MOST_OFFERED])
        # Only listed: such servers take more names than they tell, so none is passed over for its name. Those that do
        # not list their models (many for speech and images) are there all the same.
        is_there = answer is not None or self._status.get(_models_url(url, provider)) in NO_LIST
        return frozenset() if is_there else None

    async def _get(
        self, url: str, headers: dict[str, str], asked: Any = None, threads: ThreadPoolExecutor | None = None
    ) -> Any:
        """The JSON behind a URL, or None. With something `asked` it is posted."""
        assert self._client is not None
        try:
            self._status.pop(url, None)
            loop = asyncio.get_running_loop()
            body = orjson.dumps(asked) if asked is not None else None
            work = threads or self._threads
            status, answer = await loop.run_in_executor(work, _fetch, self._client, url, headers, body)
            self._status[url] = status
            return orjson.loads(answer) if status == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None


def _fetch(client: httpx.Client, url: str, headers: dict[str, str], asked: bytes | None) -> tuple[int, bytes]:
    """(status, body) of a GET, or of a POST of what is asked; raises httpx.HTTPError. Runs in a thread.

    httpx's asynchronous client would leave a connection open for ever whose TLS handshake is not answered (httpcore
    1.0: a time limit ends it as a cancellation, which it does not clean up after); this one closes it.
    """
    until = time.monotonic() + PATIENCE
    body = b""
    with client.stream("GET" if asked is None else "POST", url, headers=headers, content=asked) as response:
        for piece in response.iter_bytes():
            body += piece
            if time.monotonic() > until or len(body) > MAX_LIST:  # httpx counts each read anew
                raise httpx.ReadTimeout("the answer does not end")
        return response.status_code, body


def _names_in(rows: list[Any]) -> frozenset[str]:
    return frozenset(row["name"] for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str))


def _models_url(url: str, provider: Provider) -> str:
    parts = urlsplit(url)
    path = DIALECTS[provider.dialect].models_path(parts.path, Facets(provider.profile))
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
