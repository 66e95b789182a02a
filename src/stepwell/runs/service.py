"""The run service: the one door to threads and runs for faces, the command line and the library.

It checks owners, starts, cancels and resumes runs, and lets clients follow. It knows no wire protocol; drives
no engine itself (`driver.py`) and appends through the one `ThreadLog` of each thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NamedTuple

import msgspec

from stepwell.engines.base import Engine, close
from stepwell.engines.words import words
from stepwell.errors import Busy, Conflict, InputError, KeyReused, NotFound, StoreError
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    Stored,
    TitleChanged,
)
from stepwell.messages import Message, clean
from stepwell.runs.channel import Cursor, Eager, Item, join, place_of
from stepwell.runs.driver import Assemble, drive
from stepwell.runs.executor import Executor, InProcessExecutor
from stepwell.runs.locks import Lock, held
from stepwell.runs.log import ThreadLog, now_ms
from stepwell.specs import RunSpec
from stepwell.state import State
from stepwell.store.base import KeyUse, Store, ThreadInfo

PAGE = 500
"""Events read from the store at a time."""
TITLE = 80
"""Characters of a first message that become its thread's title."""
GRACE = 5.0
"""Seconds that runs get to reach an end when the service stops."""

_log = logging.getLogger("stepwell.runs")


class RunRef(NamedTuple):
    """A run's address.

    Args:
        thread: The thread's id.
        run: The number of its `RunStarted`.
        repeated: The request was a repetition; the run was there already.
    """

    thread: str
    run: int
    repeated: bool = False


class Once(NamedTuple):
    """What makes a request happen once.

    Args:
        route: The key's scope besides the owner.
        key: The client's idempotency key.
        body: SHA-256 of the request's body.
    """

    route: str
    key: str
    body: str


class NewThread(NamedTuple):
    """How a thread should be made.

    Args:
        title: Empty: the beginning of the first message.
        history: Earlier messages to begin with.
        expires: When it may be removed, in milliseconds since 1970; 0 never.
    """

    title: str = ""
    history: Sequence[Message] = ()
    expires: int = 0


class RunService:
    """Threads and runs over a store.

    Args:
        store: Where logs live.
        assemble: Builds the engine of a run.
        executor: Who carries runs out; by default tasks of this process.
    """

    def __init__(self, store: Store, assemble: Assemble, executor: Executor | None = None) -> None:
        self.store, self._assemble = store, assemble
        self._executor = executor or InProcessExecutor()
        self._logs: dict[str, ThreadLog] = {}
        self._loading: dict[str, Lock] = {}
        self._keys: dict[tuple[str, str, str], Lock] = {}
        self._orphans: set[str] = set()
        self._stopping = False

    # threads

    async def create(self, owner: str, *, title: str = "", once: Once | None = None) -> ThreadInfo:
        """Make an empty thread.

        Raises:
            KeyReused: The idempotency key came before with another body.
        """
        async with held(self._keys, (owner, once.route, once.key) if once else None):
            used = await self._used(owner, once)
            if used is not None:
                return await self.info(owner, used.thread)
            info = ThreadInfo(secrets.token_hex(16), owner, clean(title), now_ms())
            use = KeyUse(owner, once.route, once.key, once.body, info.id) if once else None
            await asyncio.shield(self.store.append(info.id, (), expect=0, new=info, key=use))
            return info

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
        for log in self._logs.values():
            log.flush()
        return await self.store.threads(owner, before=before, limit=limit)

    async def rename(self, owner: str, thread: str, title: str) -> ThreadInfo:
        """Give a thread another title."""
        async with self.using(owner, thread) as log:
            await self.tell(log, TitleChanged(clean(title)))
        return await self.info(owner, thread)

    async def delete(self, owner: str, thread: str) -> None:
        """Remove a thread; an open run is cancelled first."""
        async with self.using(owner, thread) as log:
            if log.state.run is not None:
                await self.cancel(owner, thread, log.state.run.seq)
            async with log.turn:  # whoever drove the run has left
                await self._remove(thread)

    async def purge(self) -> int:
        """Remove threads whose time is over; return how many."""
        expired = await self.store.expired(now_ms())
        for thread in expired:
            await self._remove(thread)
        return len(expired)

    async def _remove(self, thread: str) -> None:
        await self.store.delete(thread)
        log = self._logs.pop(thread, None)
        if log is not None:
            log.channel.close()

    # runs

    async def start(
        self,
        owner: str,
        message: Message,
        spec: RunSpec,
        *,
        thread: str = "",
        new: NewThread | None = None,
        once: Once | None = None,
    ) -> RunRef:
        """Store a message and start a run on it; both are durable when this returns.

        Args:
            owner: Who asks.
            message: What they say.
            spec: How the run goes.
            thread: Where; empty makes a thread.
            new: How to make it.
            once: Makes the request happen once.

        Raises:
            NotFound: There is no such thread.
            Busy: The thread has an open run.
            KeyReused: The idempotency key came before with another body.
        """
        async with held(self._keys, (owner, once.route, once.key) if once else None):
            used = await self._used(owner, once)
            while used is None:
                log = await self.begin(owner, message, spec, thread=thread, new=new, once=once)
                self._submit(log)
                run = log.carried
                try:
                    await log.committed()
                except Conflict:
                    # Another process came first: with this key, with a run of its own, or with something small.
                    used = await self._used(owner, once)
                else:
                    return RunRef(log.thread, run)
            return RunRef(used.thread, used.run, True)

    async def begin(
        self,
        owner: str,
        message: Message,
        spec: RunSpec,
        *,
        thread: str = "",
        new: NewThread | None = None,
        once: Once | None = None,
    ) -> ThreadLog:
        """Record a message and the start of a run without driving it; see `start`."""
        log = await self._current(owner, thread) if thread else self._make(owner, message, new or NewThread())
        if log.state.run is not None:
            self._let_go(log)
            raise Busy("The thread has an open run; wait for its end or cancel it.", "thread")
        history = [MessageAdded(_cleaned(each), "history") for each in (new.history if new else ())]
        log.carried = log.state.seq + len(history) + 1
        if once is not None:
            log.use_key(KeyUse(owner, once.route, once.key, once.body, log.thread, log.carried))
        log.append(*history, RunStarted(spec), MessageAdded(_cleaned(message)))
        return log

    async def stream(self, owner: str, message: Message, spec: RunSpec, *, thread: str = "") -> AsyncGenerator[Item]:
        """Start a run and yield everything of it as it happens, its `RunEnded` last; see `start`."""
        log = await self.begin(owner, message, spec, thread=thread)
        run = log.carried
        self._submit(log)
        async with aclosing(self.follow(owner, log.thread, Cursor(run - 1))) as batches:
            async for items in batches:
                for item in items:
                    yield item
                    if item.run == run and isinstance(item.event, RunEnded):
                        return

    async def drive(self, log: ThreadLog) -> None:
        """Carry a run out in the caller's own task."""
        try:
            await drive(log, self._assemble)
        except NotFound:
            raise
        except BaseException:
            self._orphans.add(log.thread)
            raise
        else:
            if log.state.run is not None and log.state.run.seq != log.carried:
                # Another process carries a run out here now: what it does has to be read from the store.
                log.channel.close()
        finally:
            self._let_go(log)

    async def abandon(self, log: ThreadLog, number: int) -> None:
        """End the run of this number, whose driver, the caller's own task, was cancelled."""
        run = log.state.run
        try:
            if run is not None and run.seq == number:
                log.append(CancelRequested())
                await close(log, "cancelled", "cancelled", words("cancelled", run.spec.language))
            self._orphans.discard(log.thread)
        except StoreError as error:
            _log.error("run %s.%s stays open: %s", log.thread, number, error)
        self._let_go(log)

    async def cancel(self, owner: str, thread: str, run: int, reason: str = "") -> None:
        """Ask a run to stop; nothing happens when it is over.

        Raises:
            NotFound: There is no such thread or run.
        """
        async with self.using(owner, thread) as log:
            state = log.state.run
            if state is None or state.seq != run:
                await self._check_run(thread, run)
                return
            _check_known(log)
            if state.cancel is None:
                with suppress(Conflict):  # it is kept, and appended after what came first
                    log.append(CancelRequested(clean(reason)))
                if log.interrupt is not None:
                    log.interrupt()
                else:
                    self._submit(log)
            await self._committed(log)

    async def resume(self) -> int:
        """Take over every unfinished run of the store and go on with it; return how many."""
        taken = 0
        for info in await self.store.open_runs():
            log = await self._open(info.owner, info.id)
            if log.state.foreign:
                _log.error("run of thread %s is not resumed: it has events of a newer version", info.id)
                self._let_go(log)
            elif log.state.run is not None and log.interrupt is None and not self._executor.carries(info.id):
                self._claim(log)
                taken += 1
        return taken

    async def stop(self, grace: float = GRACE) -> None:
        """Interrupt what runs, leaving its logs open, and close the store."""
        self._stopping = True
        await self._executor.stop(grace)
        for log in self._logs.values():
            log.channel.close()
        await self.store.close()

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
            if place.seq > log.state.seq:
                raise InputError(f"The thread ends with event {log.state.seq}; {place} is not there yet.", "after")
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

    def engine(self, spec: RunSpec) -> Engine:
        """Build the engine of a run."""
        return self._assemble(spec)

    # inside

    async def _used(self, owner: str, once: Once | None) -> KeyUse | None:
        if once is None:
            return None
        used = await self.store.key_use(owner, once.route, once.key)
        if used is not None and used.body != once.body:
            raise KeyReused(field="Idempotency-Key")
        return used

    def _make(self, owner: str, message: Message, new: NewThread) -> ThreadLog:
        id = secrets.token_hex(16)
        title = new.title or " ".join(message.content.split())[:TITLE]
        log = self._logs[id] = ThreadLog(self.store, id, State(), owner)
        log.make(ThreadInfo(id, owner, title, now_ms(), expires=new.expires))
        return log

    async def _open(self, owner: str, thread: str) -> ThreadLog:
        log = self._logs.get(thread)
        if log is None or log.owner != owner:
            async with held(self._loading, thread):
                info = await self.info(owner, thread)
                log = self._logs.get(thread)  # somebody else may have read it meanwhile
                if log is None:
                    log = ThreadLog(self.store, thread, State(await self.store.read(thread)), info.owner)
                    self._logs[thread] = log
        if thread in self._orphans:
            self._orphans.discard(thread)
            if log.state.run is not None:
                self._claim(log)
        return log

    async def _current(self, owner: str, thread: str) -> ThreadLog:
        """Open a log to write to it, with everything that other processes appended."""
        log = await self._open(owner, thread)
        if log.error is not None:
            await log.rebase()
        elif log.state.run is not None and log.state.run.seq != log.carried:
            await log.refresh()  # another process carries it out, and may have ended it
        _check_known(log)
        return log

    async def tell(self, log: ThreadLog, event: Stored) -> None:
        """Record what somebody asks for, and wait for its commit; whoever calls holds the log by `using`."""
        _check_known(log)
        with suppress(Conflict):  # it is kept, and appended after what came first
            log.append(event)
        await self._committed(log)

    async def _committed(self, log: ThreadLog) -> None:
        while True:
            try:
                return await log.committed()
            except Conflict:
                await log.rebase()

    def _claim(self, log: ThreadLog) -> None:
        """Go on with an open run that nobody carries out."""
        assert log.state.run is not None
        log.append(RunClaimed(log.state.run.epoch + 1))
        self._submit(log)

    @asynccontextmanager
    async def using(self, owner: str, thread: str) -> AsyncGenerator[ThreadLog]:
        """Hold a thread's log."""
        log = await self._open(owner, thread)
        log.channel.readers += 1
        log.flush()
        try:
            yield log
        finally:
            log.channel.readers -= 1
            self._let_go(log)

    def _let_go(self, log: ThreadLog) -> None:
        """Forget a log that nobody uses, for the store has all of it, or that is of no use any more."""
        unused = not log.busy and not log.channel.readers
        if (unused or log.channel.closed) and log.interrupt is None and self._logs.get(log.thread) is log:
            del self._logs[log.thread]

    def _submit(self, log: ThreadLog) -> None:
        """Have the open run carried out here; while another is about to leave the thread, after it."""
        assert log.state.run is not None
        log.carried = log.state.run.seq

        async def carry_out() -> None:
            try:
                await self.drive(log)
            except NotFound:
                _log.info("thread %s was removed during a run", log.thread)
            except StoreError as error:
                _log.error("run of thread %s stays open: %s", log.thread, error)
            except Exception:  # the boundary of a task: nobody else would hear of it
                _log.exception("run of thread %s stays open", log.thread)

        if not self._stopping:
            self._executor.submit(log.thread, carry_out)

    async def _check_run(self, thread: str, run: int) -> None:
        found = await self.store.read(thread, after=run - 1, limit=1) if run > 0 else []
        if not found or not isinstance(found[0].event, RunStarted):
            raise NotFound("There is no such run.", "run")


def _check_known(log: ThreadLog) -> None:
    if log.state.foreign:
        number = log.state.foreign[0]
        raise InputError(f"Event {number} of the thread was written by a newer version; use that one.", "thread")


def _cleaned(message: Message) -> Message:
    content = clean(message.content)
    return message if content is message.content else msgspec.structs.replace(message, content=content)
