"""The store of programs that keep nothing: everything in memory, gone with the process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

from stepwell.errors import Conflict
from stepwell.events import Recorded, RunEnded, RunStarted, TitleChanged
from stepwell.state import NO_BLOBS
from stepwell.store.base import ApiKey, KeyUse, ThreadInfo, is_prefix


class MemoryStore:
    """Keeps threads in dictionaries; an append is done when it returns.

    Args:
        limit: How many threads to keep; beyond it the oldest without an open run are forgotten.
    """

    instant = True

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._threads: dict[str, ThreadInfo] = {}
        self._events: dict[str, list[Recorded]] = {}
        self._uses: dict[tuple[str, str, str], KeyUse] = {}
        self._scopes: dict[str, list[tuple[str, str, str]]] = {}
        self._keys: dict[str, ApiKey] = {}
        self._running: dict[str, int] = {}
        self._blobs: dict[str, bytes] = {}
        self._refs: dict[str, set[str]] = {}
        self._users: Counter[str] = Counter()

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
    ) -> asyncio.Future[None]:
        """Append events; see the port."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = self._events.get(thread, [])
        used = key is not None and (key.owner, key.route, key.key) in self._uses
        if (thread in self._threads) == (new is not None) or len(log) != expect or used:
            future.set_exception(Conflict(f"thread {thread} does not end with event {expect}"))
            return future
        if new is not None:
            self._forget_oldest()
            self._threads[thread], self._events[thread] = new, log
        log.extend(events)
        if key is not None:
            scope = (key.owner, key.route, key.key)
            self._uses[scope] = key
            self._scopes.setdefault(thread, []).append(scope)
        self._derive(thread, events)
        self._keep(thread, blobs)
        future.set_result(None)
        return future

    def _forget_oldest(self) -> None:
        if len(self._threads) >= self._limit:
            idle = (id for id in self._threads if id not in self._running)
            for id in list(islice(idle, len(self._threads) - self._limit + 1)):
                self._remove(id)

    def _keep(self, thread: str, blobs: Mapping[str, bytes]) -> None:
        for hash, data in blobs.items():
            refs = self._refs.setdefault(thread, set())
            if hash not in refs:
                refs.add(hash)
                self._users[hash] += 1
                self._blobs.setdefault(hash, data)

    def _remove(self, thread: str) -> None:
        self._threads.pop(thread, None)
        self._events.pop(thread, None)
        self._running.pop(thread, None)
        for scope in self._scopes.pop(thread, ()):
            self._uses.pop(scope, None)
        for hash in self._refs.pop(thread, ()):
            self._users[hash] -= 1
            if not self._users[hash]:
                del self._users[hash], self._blobs[hash]

    def _derive(self, thread: str, events: Sequence[Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if isinstance(event, RunStarted):
                self._running[thread] = recorded.seq
            elif isinstance(event, RunEnded):
                self._running.pop(thread, None)
            elif isinstance(event, TitleChanged):
                self._threads[thread] = msgspec.structs.replace(self._threads[thread], title=event.title)

    def _info(self, id: str) -> ThreadInfo:
        return msgspec.structs.replace(self._threads[id], seq=len(self._events[id]), run=self._running.get(id, 0))

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events; see the port."""
        return self._events.get(thread, [])[after : None if limit is None else after + limit]

    async def blob(self, thread: str, prefix: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a part of a blob; see the port."""
        data = self._blob(thread, prefix)
        return None if data is None else data[offset : None if length is None else offset + length]

    async def blob_size(self, thread: str, prefix: str) -> int | None:
        """Return how many bytes a blob has, or None."""
        data = self._blob(thread, prefix)
        return None if data is None else len(data)

    def _blob(self, thread: str, prefix: str) -> bytes | None:
        found = [hash for hash in self._refs.get(thread, ()) if hash.startswith(prefix)] if is_prefix(prefix) else []
        return self._blobs[found[0]] if len(found) == 1 else None

    async def thread(self, thread: str) -> ThreadInfo | None:
        """Return the thread's row, or None."""
        return self._info(thread) if thread in self._threads else None

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        """Return an owner's threads, newest first."""
        ids = [id for id, info in self._threads.items() if info.owner == owner][::-1]
        start = ids.index(before) + 1 if before in ids else 0
        return [self._info(id) for id in ids[start : start + limit]]

    async def open_runs(self) -> list[ThreadInfo]:
        """Return the threads that have an open run."""
        return [self._info(id) for id in self._running]

    async def delete(self, thread: str) -> bool:
        """Remove a thread."""
        there = thread in self._threads
        self._remove(thread)
        return there

    async def expired(self, now: int) -> list[str]:
        """Return threads whose time is over."""
        return [id for id, info in self._threads.items() if 0 < info.expires <= now and id not in self._running]

    async def key_use(self, owner: str, route: str, key: str) -> KeyUse | None:
        """Return how an idempotency key was used, or None."""
        return self._uses.get((owner, route, key))

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new API key."""
        self._keys[key.id] = key

    async def api_keys(self) -> list[ApiKey]:
        """Return all API keys."""
        return list(self._keys.values())

    async def revoke_api_key(self, id: str, now: int) -> bool:
        """Revoke a key."""
        key = self._keys.get(id)
        if key is None or key.revoked:
            return False
        self._keys[id] = msgspec.structs.replace(key, revoked=now)
        return True

    async def close(self) -> None:
        """Forget everything."""
        self._threads.clear()
        self._events.clear()
        self._blobs.clear()
        self._refs.clear()
        self._users.clear()
