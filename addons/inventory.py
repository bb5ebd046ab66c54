"""What the upstream servers have and whether they are there: asked in the background, so that no call ever waits.

Ollama is asked for its models every few seconds. A server with a key is asked rarely, for /health alone. What was
learnt lives in a TTL cache: if asking stops for any reason, old knowledge ends by itself. That a server was reached at
all is never forgotten: the sandbox must not stand in for one that is away.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from cachetools import TTLCache
from loguru import logger

from addons.state import State
from rules.conditions import Seen, model_name
from rules.schema import Provider
from wire.dialects import DIALECTS, Facets

REMOTE_INTERVAL = 60.0
"""Seconds between two looks at a server that is not asked for models."""
KEY_REFUSED = (401, 402, 403)
PATIENCE = 3.0
"""Seconds for an answer, from its first byte to its last; a list of models takes milliseconds."""
FIRST_LOOK = 1.0
"""Seconds that a start waits for the local servers to say what they have."""


class Sight(Mapping[str, Seen]):
    """provider -> what is known of its server at this moment, for those that were asked."""

    def __init__(self, models: TTLCache[str, frozenset[str]], reached: dict[str, bool]) -> None:
        self._models = models
        self._reached = reached

    def __getitem__(self, provider: str) -> Seen:
        return Seen(self._models.get(provider), self._reached[provider])

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
        ttl = max(10 * state.rules.defaults.refresh, 2 * REMOTE_INTERVAL)
        size = len(state.rules.file.providers)
        self._names: TTLCache[str, frozenset[str]] = TTLCache(size, ttl, timer=state.clock)
        self._models: TTLCache[str, frozenset[str]] = TTLCache(size, ttl, timer=state.clock)
        self._reached: dict[str, bool] = {}
        state.names, state.seen = self._names, Sight(self._models, self._reached)
        self._client: httpx.AsyncClient | None = None
        self._status: dict[str, int] = {}
        """URL of a list of models -> how it was answered last."""

    async def start(self) -> None:
        """Returns when each local server was asked once, so that the first call is routed on facts; waits not long."""
        # Environment proxies are not for servers that the rules file names.
        # Cookies are kept per host, whatever the port: one server's would go to the next one on the same machine.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.AsyncClient(
            timeout=PATIENCE, trust_env=False, verify=self._tls or False, cookies=no_cookies
        )
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
        except TimeoutError:
            pass

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        if self._client is not None:
            await self._client.aclose()

    def nudge(self, provider: str) -> None:
        """A call found a server away or a model missing: look now, not at the next turn."""
        event = self._nudges.get(provider)
        if event is not None:
            event.set()

    async def _watch(self, name: str, provider: Provider, looked: asyncio.Event) -> None:
        interval = self.state.rules.defaults.refresh if provider.dialect == "ollama" else REMOTE_INTERVAL
        nudge = self._nudges[name]
        await self._ask(name, provider)
        looked.set()
        while True:
            try:
                await asyncio.wait_for(nudge.wait(), interval)
                nudge.clear()
                # A server that refuses calls is asked often, but not in a busy loop.
                await asyncio.sleep(min(0.2, interval))
            except TimeoutError:
                pass
            await self._ask(name, provider)

    async def _ask(self, name: str, provider: Provider) -> None:
        before = self.state.seen.get(name, Seen())
        models: frozenset[str] | None = None
        for url in provider.urls:
            found = await (
                self._ollama_models(url, provider) if provider.dialect == "ollama" else self._answers(url, provider)
            )
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
        if (before.models is None) != (models is None) and self._reached[name]:
            logger.info("{}: {}", name, "connected" if models is not None else "away")

    async def _ollama_models(self, url: str, provider: Provider) -> frozenset[str] | None:
        answer = await self._get(_models_url(url, provider), {})
        match answer:
            case {"models": list(rows)}:
                return frozenset(
                    row["name"] for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)
                )
            case {"models": None}:
                return frozenset()
            case _:
                return None

    async def _answers(self, url: str, provider: Provider) -> frozenset[str] | None:
        key = provider.key.get_secret_value().strip() if provider.key is not None else None
        if key == "":
            return None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = await self._get(_models_url(url, provider), headers)
        return frozenset() if answer is not None else None

    async def _get(self, url: str, headers: dict[str, str]) -> Any:
        """The JSON behind a URL, or None."""
        assert self._client is not None
        try:
            async with asyncio.timeout(PATIENCE):  # httpx counts each read anew
                response = await self._client.get(url, headers=headers)
            self._status[str(url)] = response.status_code
            return orjson.loads(response.content) if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError):
            return None


def _models_url(url: str, provider: Provider) -> str:
    parts = urlsplit(url)
    path = DIALECTS[provider.dialect].models_path(parts.path, Facets(provider.profile))
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
