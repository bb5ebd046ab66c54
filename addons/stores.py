"""The stores of limits, by the scheme of their URL: what `limits.store` of the rules file may say.

A new store is a storage of the library `limits` that is a Store (counters.py) as well, with a scheme of its own that
begins with `unigate+`, and a place in the list below. The library knows it from then on.
"""

from __future__ import annotations

from typing import cast

from limits.aio.storage import Storage
from limits.storage import storage_from_string

from addons.counters_away import SharedStore
from addons.counters_memory import MemoryStore
from addons.counters_redis import RedisStore

_OURS = "unigate+"

STORES: dict[str, type[Storage]] = {
    scheme.removeprefix(_OURS): store for store in (MemoryStore, RedisStore) for scheme in store.STORAGE_SCHEME
}


def open_store(url: str) -> MemoryStore | SharedStore:
    """The store at a URL, or `memory`. Raises ValueError for one that nobody knows; nothing is connected yet."""
    scheme = url.partition(":")[0]
    if scheme not in STORES:
        raise ValueError(f"limits.store: no store is called '{scheme}'; there are {', '.join(STORES)}")
    return cast(MemoryStore | SharedStore, storage_from_string(_OURS + (url if ":" in url else f"{url}://")))
