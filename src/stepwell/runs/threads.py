"""Threads over a store: their rows, the one `ThreadLog` of each that is in use, and those who follow it.

It knows owners, and nothing of how runs are carried out: that is `service.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import msgspec

from stepwell.errors import Conflict, InputError, KeyReused, NotFound
from stepwell.events import MessageQueued, Recorded, Steered, Stored, TitleChanged
from stepwell.messages import Message, clean
from stepwell.runs.channel import Cursor, Eager, Item, join, place_of
from stepwell.runs.locks import Lock, held
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.state.thread import State
from stepwell.store.base import KeyUse, Store, ThreadInfo

PAGE = 500
"""Events read from the store at a time."""
TITLE = 80
"""Characters of a first message that become its thread's title."""


class Threads:
    """Threads over a store.

    Args:
        store: Where logs live.
        clock: Gives the time in milliseconds since 1970.
        alarm: Told a time at which somebody has to look at a thread.

    Attributes:
        now: Gives the time in milliseconds since 1970.
    """

    def __init__(self, store: Store, clock: Callable[[], int], alarm: Callable[[int], None]) -> None:
        self.store, self.now = store, clock
        self._alarm_at = alarm
        self._logs: dict[str, ThreadLog] = {}
        self._loading: dict[str, Lock] = {}
        self._keys: dict[tuple[str, str, str], Lock] = {}

    async def create(self, owner: str, *, title: str = "", once: Once | None = None) -> ThreadInfo:
        """Make an empty thread.

        Raises:
            KeyReused: The idempotency key came before with another body.
        """
        async with held(self._keys, (owner, once.route, once.key) if once else None):
            used = await self._used(owner, once)
            if used is not None:
                return await self.info(owner, used.thread)
            info = ThreadInfo(secrets.token_hex(16), owner, clean(title), self.now())
            use = KeyUse(owner, once.route, once.key, once.body, info.id) if once else None
            await asyncio.shield(self.store.append(info.id, (), expect=0, new=info, key=use))
            return info

    async def do_once(self, owner: str, once: Once | None, make: Callable[[], Awaitable[RunRef]]) -> RunRef:
        """Do what a request asks for, or return what came of it when it came before.

        Args:
            owner: Who asks.
            once: Makes the request happen once; None lets it happen each time.
            make: Does it, the use of the key stored with it; awaited again where it raises Conflict, because another
                process came first: with this key, with a run of its own, or with something small.

        Raises:
            KeyReused: The idempotency key came before with another body.
        """
        async with held(self._keys, (owner, once.route, once.key) if once else None):
            while (used := await self._used(owner, once)) is None:
                with suppress(Conflict):
                    return await make()
            return await self._repeated(used)

    async def info(self, owner: str, thread: str) -> ThreadInfo:
        """Return a thread's row.

        Raises:
            NotFound: There is none, or it is another owner's.
        """
        if (log := self._logs.get(thread)) is not None:
            log.flush()
        info = await self.store.thread(thread)
        if info is None or info.owner != owner:
            raise NotFound("There is no such thread.", "thread")
        return info

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        """Return an owner's threads, newest first."""
        self.flush()
        return await self.store.threads(owner, before=before, limit=limit)

    async def rename(self, owner: str, thread: str, title: str) -> ThreadInfo:
        """Give a thread another title."""
        async with self.using(owner, thread) as log:
            await self.tell(log, TitleChanged(clean(title)))
        return await self.info(owner, thread)

    async def purge(self) -> int:
        """Remove threads whose time is over; return how many."""
        expired = await self.store.expired(self.now())
        for thread in expired:
            await self._remove(thread)
        return len(expired)

    async def _remove(self, thread: str) -> None:
        await self.store.delete(thread)
        log = self._logs.pop(thread, None)
        if log is not None:
            log.channel.close()

    def flush(self) -> None:
        """Give a store that is done at once what all logs have recorded."""
        for log in self._logs.values():
            log.flush()

    async def catch_up(self) -> None:
        """Take in what other processes appended to threads where something here waits for people."""
        for log in [each for each in self._logs.values() if each.state.questions]:
            info = await self.store.thread(log.thread)
            if info is not None and info.seq > log.state.seq:
                await log.refresh()

    # following

    async def events(self, owner: str, thread: str, *, after: int = 0, limit: int = PAGE) -> list[Recorded]:
        """Return stored events with numbers above `after`, at most `limit`."""
        await self.info(owner, thread)
        return await self.store.read(thread, after=after, limit=limit)

    async def follow(
        self, owner: str, thread: str, cursor: Cursor | None = None, eager: Eager | None = None
    ) -> AsyncGenerator[list[Item]]:
        """Yield what lies beyond a cursor, then what happens, in batches, until the thread is deleted.

        An empty batch means that `beat` was called while nothing happened.

        Args:
            owner: Who asks.
            thread: Which thread.
            cursor: The last that the client has seen.
            eager: Takes what happens while the follower waits, so that it is not yielded.

        Raises:
            NotFound: There is no such thread.
            InputError: The cursor lies in the future.
            StoreError: The store failed.
        """
        async with self.using(owner, thread) as log:
            place = cursor or Cursor()
            while place.seq > log.channel.seq:  # another process appended it, and what it showed is not shown again
                await self.committed(log)
                known = await log.refresh()
                if place.seq > known:
                    raise InputError(f"The thread ends with event {known}; {place} is not there yet.", "after")
            async with aclosing(self._follow(log, place, eager)) as batches:
                async for items in batches:
                    yield items

    async def _follow(self, log: ThreadLog, cursor: Cursor, eager: Eager | None) -> AsyncGenerator[list[Item]]:
        channel = log.channel
        while True:
            while cursor.seq < channel.first:
                # Not beyond `first`: pieces hang from the events that the channel has.
                limit = min(PAGE, channel.first - cursor.seq)
                older = await self.store.read(log.thread, after=cursor.seq, limit=limit)
                if not older:
                    break
                cursor = Cursor(older[-1].seq)
                yield list(older)
            items, place = channel.after(cursor)
            while items is not None:
                if items:
                    cursor = place_of(items[-1])
                    yield join(items)
                elif log.error is not None and not isinstance(log.error, Conflict):
                    raise log.error
                elif channel.closed:
                    return
                else:
                    shown, place, cursor = await channel.pass_on(eager, place, cursor)
                    if not shown:
                        yield []
                items, place = channel.since(place)

    def beat(self) -> None:
        """Let every waiting follower yield an empty batch, so that faces can tell clients that all is well."""
        for log in self._logs.values():
            log.channel.beat()

    # logs

    @asynccontextmanager
    async def using(self, owner: str, thread: str) -> AsyncGenerator[ThreadLog]:
        """Hold a thread's log.

        Raises:
            NotFound: There is none, or it is another owner's.
        """
        log = await self._open(owner, thread)
        log.channel.readers += 1
        log.flush()
        try:
            yield log
        finally:
            log.channel.readers -= 1
            self._let_go(log)

    async def tell(self, log: ThreadLog, event: Stored) -> None:
        """Record what somebody asks for, and wait for its commit; whoever calls holds the log by `using`."""
        check_known(log)
        with suppress(Conflict):  # it is kept, and appended after what came first
            log.append(event)
        await self.committed(log)

    async def committed(self, log: ThreadLog) -> None:
        """Wait until everything recorded is on the disk, after what other processes appended."""
        while True:
            try:
                return await log.committed()
            except Conflict:
                await log.rebase()

    async def came_before(self, owner: str, once: Once | None) -> bool:
        """Tell whether a request came before under its idempotency key, so that it makes nothing new.

        Raises:
            KeyReused: It came with another body.
        """
        return await self._used(owner, once) is not None

    async def _used(self, owner: str, once: Once | None) -> KeyUse | None:
        if once is None:
            return None
        used = await self.store.key_use(owner, once.route, once.key)
        if used is not None and used.body != once.body:
            raise KeyReused(field="Idempotency-Key")
        return used

    async def _repeated(self, used: KeyUse) -> RunRef:
        found = await self.store.read(used.thread, after=used.run - 1, limit=1) if used.run else []
        if found and isinstance(found[0].event, MessageQueued):
            return RunRef(used.thread, 0, True, queued=used.run)
        if found and isinstance(found[0].event, Steered):
            return RunRef(used.thread, found[0].run, True, steered=used.run)
        return RunRef(used.thread, used.run, True)

    def _log_of(self, thread: str, state: State, owner: str) -> ThreadLog:
        log = self._logs[thread] = ThreadLog(self.store, thread, state, owner, self.now, self._alarm_at)
        log.idle = self._let_go
        return log

    async def _known(self, owner: str, id: str) -> str:
        """Return an id that a new thread is to have if there is a thread of the owner with it; else nothing.

        Raises:
            NotFound: It is another owner's.
        """
        if not id:
            return ""
        if id in self._logs and self._logs[id].owner == owner:
            return id
        info = await self.store.thread(id)
        if id in self._logs and self._logs[id].owner == owner:
            return id  # it was made meanwhile
        if info is None:
            return ""
        if info.owner != owner:
            raise NotFound("There is no such thread.", "thread")
        return id

    def _make(self, owner: str, message: Message | None, new: NewThread) -> ThreadLog:
        id = new.id or secrets.token_hex(16)
        said = message or next((each for each in reversed(new.history) if each.role == "user"), None)
        title = new.title or (" ".join(said.content.split())[:TITLE] if said is not None else "")
        log = self._log_of(id, State(), owner)
        log.make(ThreadInfo(id, owner, title, self.now(), expires=new.expires))
        return log

    async def _open(self, owner: str, thread: str) -> ThreadLog:
        log = self._logs.get(thread)
        if log is None or log.owner != owner:
            async with held(self._loading, thread):
                info = await self.info(owner, thread)
                log = self._logs.get(thread)  # somebody else may have read it meanwhile
                if log is None:
                    events = await self.store.read(thread)
                    log = self._log_of(thread, State(events), info.owner)
        return log

    async def _current(self, owner: str, thread: str) -> ThreadLog:
        """Open a log to write to it, with everything that other processes appended."""
        log = await self._open(owner, thread)
        log.channel.readers += 1  # or somebody else lets go of it meanwhile, and another is made beside it
        try:
            if log.error is not None:
                await log.rebase()
            elif log.state.run is not None and log.state.run.seq != log.carried:
                await log.refresh()  # another process carries it out, and may have ended it
        finally:
            log.channel.readers -= 1
        check_known(log)
        return log

    def _let_go(self, log: ThreadLog) -> None:
        """Forget a log that nobody uses, for the store has all of it, or that is of no use any more."""
        unused = not log.busy and not log.channel.readers
        if (unused or log.channel.closed) and log.interrupt is None and self._logs.get(log.thread) is log:
            del self._logs[log.thread]


def check_known(log: ThreadLog) -> None:
    """Raise InputError for a thread with events of a newer version: nothing is appended to it."""
    if log.state.foreign:
        number = log.state.foreign[0]
        said = f"Event {number} of the thread was written by a newer version, or is damaged; use that version."
        raise InputError(said, "thread")


def cleaned(message: Message) -> Message:
    """Return a message without characters that cannot be stored."""
    content = clean(message.content)
    return message if content is message.content else msgspec.structs.replace(message, content=content)
