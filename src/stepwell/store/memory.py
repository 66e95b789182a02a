"""The store of programs that keep nothing: everything in memory, gone with the process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

from stepwell.contexts import handle_of_blob
from stepwell.errors import Conflict
from stepwell.events import Answered, Asked, Recorded, RunEnded, RunStarted, TitleChanged, ToolEnded
from stepwell.log import NO_BLOBS
from stepwell.state.thread import NEVER
from stepwell.store.base import NO_SPENDING, ApiKey, KeyUse, Spending, ThreadInfo, is_prefix

_DERIVED = frozenset({RunStarted, RunEnded, TitleChanged, Asked, Answered})
"""Events that more is kept of than themselves."""


class MemoryStore:
    """Keeps threads in dictionaries; an append is done when it returns.

    It belongs to one `runs.threads.Threads`, which shows what happens before it is given here.

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
        self._wakes: dict[str, int] = {}
        self._blobs: dict[str, bytes] = {}
        self._refs: dict[str, set[str]] = {}
        self._users: Counter[str] = Counter()
        self._questions: dict[str, dict[int, tuple[int, int]]] = {}
        """By thread and number: when it was asked, and when its time is over."""
        self._accounts: dict[str, dict[str, Spending]] = {}

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
        wake: int | None = None,
        spent: Mapping[str, Spending] = NO_SPENDING,
    ) -> asyncio.Future[None]:
        """Append events; see the port."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log = self._events.get(thread, [])
        if (thread in self._threads) == (new is not None) or len(log) != expect or self._is_used(key):
            future.set_exception(Conflict(f"thread {thread} does not end with event {expect}"))
            return future
        if new is not None:
            self._forget_oldest()
            self._threads[thread], self._events[thread] = new, log
        log.extend(events)
        if key is not None:
            self._use(key)
        self._derive(thread, events)
        if wake == NEVER and thread not in self._running:
            self._wakes.pop(thread, None)
        elif wake is not None:
            self._wakes[thread] = wake
        if blobs:
            self._keep(thread, blobs)
        for name, total in spent.items():
            self._accounts.setdefault(name, {})[thread] = total
        future.set_result(None)
        return future

    def fork(
        self, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], *, key: KeyUse | None = None
    ) -> asyncio.Future[None]:
        """Make a thread that begins with another's events; see the port."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        copied = self._events.get(thread, [])[:upto]
        if len(copied) != upto or new.id in self._threads or self._is_used(key):
            future.set_exception(Conflict(f"thread {thread} has no event {upto}, or the key was used"))
            return future
        referred = {hash for hash in self._refs.get(thread, ()) if any(_refers(each, hash) for each in copied)}
        self._forget_oldest()
        self._threads[new.id], self._events[new.id] = new, [*copied, *events]
        if new.run:
            self._running[new.id], self._wakes[new.id] = new.run, 0
        self._keep(new.id, {hash: self._blobs[hash] for hash in referred if hash in self._blobs})
        self._derive(new.id, events)
        self._use(key)
        future.set_result(None)
        return future

    def _is_used(self, key: KeyUse | None) -> bool:
        return key is not None and (key.owner, key.route, key.key) in self._uses

    def _use(self, key: KeyUse | None) -> None:
        if key is not None:
            scope = (key.owner, key.route, key.key)
            self._uses[scope] = key
            self._scopes.setdefault(key.thread, []).append(scope)

    def _forget_oldest(self) -> None:
        if len(self._threads) >= self._limit:
            idle = (id for id in self._threads if id not in self._wakes)
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
        self._wakes.pop(thread, None)
        self._questions.pop(thread, None)
        for account in self._accounts.values():
            if thread in account:
                account[""] = account.get("", Spending()) + account.pop(thread)
        for scope in self._scopes.pop(thread, ()):
            self._uses.pop(scope, None)
        for hash in self._refs.pop(thread, ()):
            self._users[hash] -= 1
            if not self._users[hash]:
                del self._users[hash], self._blobs[hash]

    def _derive(self, thread: str, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if type(recorded.event) not in _DERIVED:
                continue
            match recorded.event:
                case RunStarted():
                    self._running[thread], self._wakes[thread] = recorded.seq, 0
                case RunEnded(cause=cause):
                    self._running.pop(thread, None)
                    self._wakes.pop(thread, None)
                    if cause != "question":
                        self._let_go(thread, recorded.run)
                case TitleChanged(title=title):
                    self._threads[thread] = msgspec.structs.replace(self._threads[thread], title=title)
                case Asked(until=until):
                    self._questions.setdefault(thread, {})[recorded.seq] = (recorded.time, until)
                case Answered(question=question):
                    self._questions.get(thread, {}).pop(question, None)
                case _:
                    pass

    def _let_go(self, thread: str, run: int) -> None:
        """Nobody needs answers to what an ended run has asked."""
        asked = self._questions.get(thread)
        if not asked:
            return
        for seq in [seq for seq in asked if seq > run]:
            del asked[seq]

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

    async def due(self, now: int) -> list[ThreadInfo]:
        """Return the threads that have work by now."""
        return [self._info(id) for id in self._threads if self._wakes.get(id, NEVER) <= now]

    async def next_wake(self, now: int) -> int:
        """Return the first time after now at which a thread has work."""
        times = [*self._wakes.values(), *(until for asked in self._questions.values() for _, until in asked.values())]
        return min((time for time in times if time > now), default=NEVER)

    async def overdue(self, now: int) -> list[ThreadInfo]:
        """Return the threads of which a time is over; see the port."""
        waiting = {id for id, wake in self._wakes.items() if 0 < wake <= now}
        for id, asked in self._questions.items():
            if any(0 < until <= now for _, until in asked.values()):
                waiting.add(id)
        return [self._info(id) for id in self._threads if id in waiting]

    async def asking(self, owner: str, limit: int) -> list[str]:
        """Return an owner's threads that have open questions; see the port."""
        asked = {id: min(times.values()) for id, times in self._questions.items() if times}
        return sorted((id for id in asked if self._threads[id].owner == owner), key=lambda id: asked[id])[:limit]

    async def spent(self, key: str) -> Spending:
        """Return what is on the account of a key; see the port."""
        return sum(self._accounts.get(key, {}).values(), Spending())

    async def delete(self, thread: str) -> bool:
        """Remove a thread."""
        there = thread in self._threads
        self._remove(thread)
        return there

    async def expired(self, now: int) -> list[str]:
        """Return threads whose time is over."""
        return [id for id, info in self._threads.items() if 0 < info.expires <= now and self._is_over(id, info, now)]

    def _is_over(self, id: str, info: ThreadInfo, now: int) -> bool:
        events, at_rest = self._events[id], id not in self._running or self._wakes.get(id, 0) > now
        newest = events[-1].time if events else info.created
        return at_rest and newest + info.expires - info.created <= now

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
        self._questions.clear()
        self._accounts.clear()


def _refers(recorded: Recorded, hash: str) -> bool:
    event = recorded.event
    return isinstance(event, ToolEnded) and (event.blob == hash or handle_of_blob(hash) in event.content)
