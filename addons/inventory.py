"""What the upstream servers have and whether they are there: asked in the background, so that no call ever waits.

Ollama is asked for its models every few seconds. A server with a key is asked rarely, for /health alone. What was
learnt lives in a TTL cache: if asking stops for any reason, old knowledge ends by itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from cachetools import TTLCache
from loguru import logger

from addons.state import State
from rules.conditions import Seen, model_name
from rules.schema import Provider

REMOTE_INTERVAL = 60.0
"""Seconds between two looks at a server that is not asked for models."""
PATIENCE = 3.0
"""Seconds; a list of models takes milliseconds."""


class Inventory:
    """Refreshes State.seen. start() and stop() belong to the gateway's own life."""

    def __init__(self, state: State, tls: Callable[[], ssl.SSLContext]) -> None:
        self.state = state
        self._make_tls = tls
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        refresh = state.rules.defaults.refresh
        self._known: TTLCache[str, frozenset[str]] = TTLCache(maxsize=256, ttl=max(10 * refresh, 60.0))
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Returns when each local server was asked once (or did not answer): the first call is routed on facts."""
        providers = self.state.rules.file.providers
        remote = any(urlsplit(url).scheme == "https" for p in providers.values() for url in p.urls)
        verify: ssl.SSLContext | bool = self._make_tls() if remote else False
        # Environment proxies are not for servers that the rules file names.
        self._client = httpx.AsyncClient(timeout=PATIENCE, trust_env=False, verify=verify)
        self.state.report_down = self.nudge
        local = [name for name, provider in providers.items() if provider.dialect == "ollama"]
        await asyncio.gather(*(self._ask(name, providers[name]) for name in local))
        for name, provider in providers.items():
            if provider.dialect != "sandbox":
                self._nudges[name] = asyncio.Event()
                self._tasks[name] = asyncio.create_task(self._watch(name, provider), name=f"inventory {name}")

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

    async def _watch(self, name: str, provider: Provider) -> None:
        local = provider.dialect == "ollama"
        interval = self.state.rules.defaults.refresh if local else REMOTE_INTERVAL
        if not local:
            await self._ask(name, provider)
        while True:
            nudge = self._nudges[name]
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
            found = await (self._ollama_models(url) if provider.dialect == "ollama" else self._answers(url, provider))
            if found is not None:
                models = found if models is None else models | found
        if models is not None:
            self._known[name] = models
        else:
            self._known.pop(name, None)
        normal = frozenset(map(model_name, models)) if models is not None else None
        now = Seen(normal, before.reached or normal is not None)
        # New dicts each time: a call that is being decided keeps the one it holds.
        self.state.names = {**self.state.names, name: models or frozenset()}
        self.state.seen = {**self.state.seen, name: now}
        if (before.models is None) != (now.models is None) and (before.reached or now.reached):
            logger.info("{} is {}", name, "connected" if now.models is not None else "away")

    async def _ollama_models(self, url: str) -> frozenset[str] | None:
        answer = await self._get(_at(url, "/api/tags", drop=("/api/chat", "/api", "/v1")), {})
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
        answer = await self._get(_at(url, "/models", drop=("/chat/completions",)), headers)
        return frozenset() if answer is not None else None

    async def _get(self, url: str, headers: dict[str, str]) -> Any:
        """The JSON behind a URL, or None."""
        assert self._client is not None
        try:
            response = await self._client.get(url, headers=headers)
            return response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None


def _at(url: str, path: str, drop: tuple[str, ...]) -> str:
    parts = urlsplit(url)
    base = parts.path.rstrip("/")
    for ending in drop:
        base = base.removesuffix(ending)
    return urlunsplit((parts.scheme, parts.netloc, base + path, "", ""))
