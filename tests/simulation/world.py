"""What outlives processes: the disk, and the ledger of what tools did outside; and the processes themselves.

A process runs the real run service over a store of its own, whose commits take time. When it dies, a part of what it
has under way is on the disk and the rest is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from random import Random
from typing import Any, NamedTuple, TypeVar

from stepwell.agent.accounts import Accounts
from stepwell.errors import Conflict, StoreError, StoreFull
from stepwell.events import Answered, Recorded, decode
from stepwell.runs.driver import Assemble
from stepwell.runs.service import RunService
from stepwell.specs import Limits
from stepwell.store.base import ApiKey, KeyUse, Spending, ThreadInfo
from stepwell.store.memory import MemoryStore
from tests.simulation.loop import PROCESS

BEGIN = 1_700_000_000_000
"""The time at which each world begins, in milliseconds since 1970."""
MOST_AT_ONCE = 8
"""Appends in one commit."""

KEY = "k1"
"""Id of the key on whose account runs are, in worlds that have one."""

T = TypeVar("T")

Assembling = Callable[[Accounts], Assemble]
"""Returns what builds the engines of a process, from the accounts that it keeps."""


class Gone(Exception):
    """The process that was spoken to has died; nobody knows what it did."""


class NoRoom(StoreFull):
    """The disk of this world is full."""


class Broken(StoreError):
    """The disk of this world fails."""


class Effect(NamedTuple):
    """What a tool did outside.

    Args:
        tool: Its name.
        key: The call's idempotency key.
        n: The argument.
        process: Number of the process that ran it.
    """

    tool: str
    key: str
    n: int
    process: int


class Disk(MemoryStore):
    """What is committed; events come back as they were written."""

    def __init__(self) -> None:
        super().__init__(limit=1_000_000)
        self.deleted: set[str] = set()
        self.displaced: set[str] = set()
        """Threads in which an engine's work stands after what it did not know of, and forks of them."""
        self.raced: set[str] = set()
        """Threads to which two wrote at once."""
        self.most: dict[str, int] = {}
        """The most that was ever spent and reserved on the account of a key, in billionths."""
        self.trouble: StoreError | None = None
        """How commits fail now; None while they do not."""
        self.failing = 0.0
        """How probable it is then that one fails."""
        self.failed = 0
        """Commits that failed."""

    def append(self, thread: str, events: Sequence[Recorded], *, expect: int, **more: Any) -> asyncio.Future[None]:
        if len(self._events.get(thread, ())) != expect:
            self.raced.add(thread)
        future = super().append(thread, events, expect=expect, **more)
        if future.exception() is not None:
            return future
        for key in more.get("spent", ()):
            money = sum(each.money for each in self._accounts[key].values())
            self.most[key] = max(self.most.get(key, 0), money)
        return future

    def fork(
        self, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], *, key: KeyUse | None = None
    ) -> asyncio.Future[None]:
        if thread in self.displaced:
            self.displaced.add(new.id)
        return super().fork(thread, upto, new, events, key=key)

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found = await super().read(thread, after=after, limit=limit)
        return [Recorded(each.seq, each.time, each.run, decode(each.body), each.path) for each in found]

    async def delete(self, thread: str) -> bool:
        self.deleted.add(thread)
        return await super().delete(thread)

    def row(self, id: str) -> ThreadInfo | None:
        """Return a thread's row as it was made."""
        return self._threads.get(id)

    def holds(self, thread: str, event: Answered) -> bool:
        """Tell whether something that was decided is on the disk, or its thread was removed."""
        return thread not in self._threads or any(each.event == event for each in self._events[thread])

    @property
    def ids(self) -> list[str]:
        """The threads, oldest first."""
        return list(self._threads)


class World:
    """Time, the disk, the ledger, and chance.

    Args:
        seed: Decides everything.
        loop: Tells the time.
    """

    def __init__(self, seed: int, loop: asyncio.AbstractEventLoop) -> None:
        self.seed, self.loop = seed, loop
        self.disk = Disk()
        self.effects: list[Effect] = []
        self.calm = False
        """Nothing fails any more, and everything is quick."""
        self.acknowledged: dict[str, list[Recorded]] = {}
        self.processes: list[Process] = []
        self.errors: list[str] = []
        self.happened: list[str] = []
        chance = self.chance("keys")
        self.keys = {KEY: Limits(money=chance.choice((0.02, 0.1, 0.5)))} if chance.random() < 0.25 else {}
        """What all runs on the account of a key may use together."""
        self.has_clients = self.chance("client tools of runs").random() < 0.3
        """Some runs bring tools that their client carries out."""
        self.has_askers = self.chance("tools that ask").random() < 0.3
        """There are tools that ask people while they run."""
        self.has_trouble = self.chance("full disk").random() < 0.3
        """The disk is full, or fails, for a while now and then."""
        self.has_summaries = self.chance("background").random() < 0.3
        """A model makes summaries in the background, and there is much to summarise."""
        self._luck = self.chance("commits")

    def chance(self, name: str) -> Random:
        """Return a source of chance of one's own."""
        return Random(f"{self.seed}/{name}")

    def now(self) -> int:
        return BEGIN + round(self.loop.time() * 1000)

    def failure(self) -> StoreError | None:
        """Return how the next commit fails, or None."""
        trouble = self.disk.trouble
        if trouble is None or self._luck.random() >= self.disk.failing:
            return None
        self.disk.failed += 1
        return type(trouble)()

    def tell(self, what: str) -> None:
        """Note something for whoever looks for the cause of a failure."""
        self.happened.append(f"{self.loop.time():10.3f} {what}")

    @property
    def living(self) -> list[Process]:
        return [each for each in self.processes if not each.dead]

    def start(self, assembling: Assembling) -> Process:
        """Start a process."""
        process = Process(self, len(self.processes) + 1, assembling)
        self.processes.append(process)
        self.tell(f"{process} begins")
        return process


class Process:
    """A process with a run service, as long as it lives."""

    def __init__(self, world: World, number: int, assembling: Assembling) -> None:
        self.world, self.number = world, number
        self.dead = self.leaving = False
        self.frozen: list[asyncio.Handle] = []
        self.died: asyncio.Future[Any] = world.loop.create_future()
        self._context = copy_context()
        self._context.run(PROCESS.set, self)
        self.store = SimStore(world, world.chance(f"store {number}"))
        accounts = Accounts(self._account)
        self.service = RunService(self.store, assembling(accounts), clock=world.now, ended=accounts.ended)

    def __repr__(self) -> str:
        return f"process {self.number}"

    async def _account(self, key: str) -> tuple[Limits | None, Spending]:
        return self.world.keys.get(key), await self.store.spent(key)

    async def do(self, work: Callable[[RunService], Awaitable[T]], patience: float = 0.0) -> T:
        """Have the process do something for somebody outside.

        Args:
            work: What it does.
            patience: Seconds after which whoever asked gives up; 0 for never.

        Raises:
            Gone: It died meanwhile, or whoever asked gave up.
        """
        if self.dead or self.leaving:
            raise Gone(str(self))

        async def inside() -> T:
            try:
                return await work(self.service)
            except StoreError as error:
                if self.leaving and not isinstance(error, Conflict):
                    raise Gone(f"{self} is about to stop") from error
                raise

        task = self._context.copy().run(self.world.loop.create_task, inside())
        await asyncio.wait({task, self.died}, timeout=patience or None, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not self.dead:
            task.cancel()
            await asyncio.wait({task, self.died}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():
            raise Gone(str(self))
        return task.result()

    def crash(self) -> None:
        """Die at once."""
        self.dead = True
        self.store.die()
        self.world.tell(f"{self} dies")
        self._end()

    async def stop(self, grace: float) -> None:
        """Leave in good order."""
        self.world.tell(f"{self} is to stop within {grace:.2f} s")
        await self.do(lambda service: self._stop(service, grace))
        self.dead = True
        self.world.tell(f"{self} has stopped")
        self._end()

    async def _stop(self, service: RunService, grace: float) -> None:
        self.leaving = True
        await service.stop(grace)

    def _end(self) -> None:
        if not self.died.done():
            self.died.set_result(None)


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    kept: tuple[str, Sequence[Recorded]] = ("", ())


class SimStore:
    """The store of one process over the common disk; implements `Store`.

    Appends are committed in order, several at once or each alone, after some time; whoever waits hears of it later.
    """

    instant = False

    def __init__(self, world: World, chance: Random) -> None:
        self.world, self.chance, self.disk = world, chance, world.disk
        self.slow = chance.choice((0.0, 0.001, 0.01, 0.1))
        self._queue: list[_Job] = []
        self._writing: list[_Job] = []
        self._closed = False

    # writing

    def append(self, thread: str, events: Sequence[Recorded], *, expect: int, **more: Any) -> asyncio.Future[None]:
        batch = list(events)
        for each in batch:
            assert each.body  # encoded now, as it is
        return self._put(lambda: self.disk.append(thread, batch, expect=expect, **more), thread, batch)

    def fork(
        self, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], *, key: KeyUse | None = None
    ) -> asyncio.Future[None]:
        batch = list(events)
        return self._put(lambda: self.disk.fork(thread, upto, new, batch, key=key), new.id, batch)

    def _put(self, work: Callable[[], Any], thread: str = "", events: Sequence[Recorded] = ()) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.world.loop.create_future()
        if self._closed:
            future.set_exception(StoreError("the store is closed"))
            return future
        self._queue.append(_Job(work, future, (thread, events)))
        self._begin()
        return future

    def _pause(self) -> float:
        return 0.0 if self.world.calm or not self.slow else self.chance.expovariate(1 / self.slow)

    def _begin(self) -> None:
        if not self._writing and self._queue:
            size = self.chance.randint(1, MOST_AT_ONCE)
            self._writing, self._queue = self._queue[:size], self._queue[size:]
            self.world.loop.call_later(self._pause(), self._commit)

    def _commit(self) -> None:
        done, self._writing = self._writing, []
        failure = self.world.failure()
        ends = [(job, failure or _carried_out(job)) for job in done]
        self.world.loop.call_later(self._pause() / 4, self._announce, ends)

    def _announce(self, ends: list[tuple[_Job, Any]]) -> None:
        for job, end in ends:
            if isinstance(end, BaseException):
                if not job.future.done():
                    job.future.set_exception(end)
                continue
            thread, events = job.kept
            self.world.acknowledged.setdefault(thread, []).extend(events)
            if not job.future.done():
                job.future.set_result(end)
        self._begin()

    def die(self) -> None:
        """Have a part of what was given to the store be on the disk; nobody hears of it."""
        waiting = [*self._writing, *self._queue]
        for job in waiting[: self.chance.randint(0, len(waiting))]:
            if self.world.failure() is not None:
                break
            _carried_out(job)
        self._writing, self._queue, self._closed = [], [], True

    def bury(self) -> None:
        """Do nothing any more."""
        self._writing, self._queue, self._closed = [], [], True

    # reading

    async def _read(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        await asyncio.sleep(self._pause() / 4)
        found = await work()
        await asyncio.sleep(self._pause() / 4)
        return found

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        return await self._read(lambda: self.disk.read(thread, after=after, limit=limit))

    async def blob(self, thread: str, prefix: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        return await self._read(lambda: self.disk.blob(thread, prefix, offset=offset, length=length))

    async def blob_size(self, thread: str, prefix: str) -> int | None:
        return await self._read(lambda: self.disk.blob_size(thread, prefix))

    async def thread(self, thread: str) -> ThreadInfo | None:
        return await self._read(lambda: self.disk.thread(thread))

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        return await self._read(lambda: self.disk.threads(owner, before=before, limit=limit))

    async def due(self, now: int) -> list[ThreadInfo]:
        return await self._read(lambda: self.disk.due(now))

    async def next_wake(self, now: int) -> int:
        return await self._read(lambda: self.disk.next_wake(now))

    async def overdue(self, now: int) -> list[ThreadInfo]:
        return await self._read(lambda: self.disk.overdue(now))

    async def asking(self, owner: str, limit: int) -> list[str]:
        return await self._read(lambda: self.disk.asking(owner, limit))

    async def spent(self, key: str) -> Spending:
        return await self._read(lambda: self.disk.spent(key))

    async def delete(self, thread: str) -> bool:
        return await asyncio.shield(self._put(lambda: self.disk.delete(thread)))

    async def expired(self, now: int) -> list[str]:
        return await self._read(lambda: self.disk.expired(now))

    async def key_use(self, owner: str, route: str, key: str) -> KeyUse | None:
        return await self._read(lambda: self.disk.key_use(owner, route, key))

    async def add_api_key(self, key: ApiKey) -> None:
        await asyncio.shield(self._put(lambda: self.disk.add_api_key(key)))

    async def api_keys(self) -> list[ApiKey]:
        return await self._read(self.disk.api_keys)

    async def revoke_api_key(self, id: str, now: int) -> bool:
        return await asyncio.shield(self._put(lambda: self.disk.revoke_api_key(id, now)))

    async def close(self) -> None:
        """Write what is queued."""
        if not self._closed:
            last = self._put(lambda: None)
            self._closed = True
            with suppress(NoRoom, Broken):  # whoever gave the store something hears of that
                await last


def _carried_out(job: _Job) -> Any:
    """Do a job on the disk, which takes no time; return what comes of it, or its error."""
    made = job.work()
    if isinstance(made, asyncio.Future):
        error = made.exception()
        return error if error is not None else made.result()
    if made is None:
        return None
    try:
        made.send(None)
    except StopIteration as end:
        return end.value
    except Conflict as error:
        return error
    raise AssertionError("the disk does not wait")
