"""The one appender of a thread: numbers events, folds them, stores them in batches and shows them.

Inside a process everything that happens to a thread goes through its `ThreadLog`; between processes the
store's `expect` decides. It is no engine and starts nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from stepwell.errors import Conflict, NotFound, StoreError
from stepwell.events import (
    Asked,
    CallDelta,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunClaimed,
    RunStarted,
    RunWaiting,
    Steered,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolProgress,
    Transient,
    Unknown,
)
from stepwell.log import NO_BLOBS, Log, NestedLog, Workers, worker_of
from stepwell.messages import Message
from stepwell.runs.channel import Channel
from stepwell.runs.facts import KEPT, Losses, facts, fits, open_messages, referred, taken_back
from stepwell.runs.rows import Rows
from stepwell.state.thread import NEVER, State
from stepwell.store.base import KeyUse, Store, ThreadInfo, is_prefix


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _unheard(time: int) -> None:
    """Nobody wants to know."""


def _nothing(log: ThreadLog) -> None:
    """Nobody wants to know."""


_LOOKED_AT = frozenset({MessageStarted, MessageEnded, Asked, RunWaiting})
"""Events that the appender itself does something about."""


class ThreadLog:
    """The log of one thread; implements `log.Log`.

    Args:
        store: Where it is kept.
        thread: The thread's id.
        state: The fold of what is stored.
        owner: Whose thread it is.
        clock: Gives the time in milliseconds since 1970.
        alarm: Told a time, in milliseconds since 1970, at which somebody has to look at the thread.

    Attributes:
        outside: Number of the newest event that somebody outside the run appended.
        carried: Number of the run that is to be carried out here; 0: another process took it; -1: it never began.
        turn: Held by whoever drives a run of the thread.
        interrupt: Makes the one who drives look at the log again; None while nobody does.
        idle: Called with the log when nothing waits for its commit any more: whoever recorded it may have left.
    """

    __slots__ = (
        "_again",
        "_alarm",
        "_blobs",
        "_clock",
        "_early",
        "_keys",
        "_new",
        "_rebasing",
        "_rows",
        "_saved",
        "_saving",
        "_saving_blobs",
        "_scheduled",
        "_store",
        "_unsaved",
        "_waiters",
        "_waiting_outside",
        "_workers",
        "carried",
        "channel",
        "error",
        "idle",
        "interrupt",
        "outside",
        "owner",
        "path",
        "state",
        "thread",
        "turn",
        "whole",
    )

    def __init__(
        self,
        store: Store,
        thread: str,
        state: State,
        owner: str,
        clock: Callable[[], int] = now_ms,
        alarm: Callable[[int], None] = _unheard,
    ) -> None:
        self.thread, self.owner, self.path = thread, owner, ""
        self.state = self.whole = state
        self.channel = Channel(state.seq)
        self.error: StoreError | None = None
        self.carried = self.outside = 0
        self.turn = asyncio.Lock()
        self.interrupt: Callable[[], None] | None = None
        self.idle: Callable[[ThreadLog], None] = _nothing
        self._workers, self._rebasing = Workers(), asyncio.Lock()
        self._store, self._clock, self._alarm = store, clock, alarm
        self._unsaved: list[Recorded] = []
        self._saving: list[Recorded] | None = None
        self._blobs: dict[str, bytes] = {}
        """What `_unsaved` refers to."""
        self._saving_blobs: dict[str, bytes] = {}
        self._scheduled, self._saved = False, state.seq
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._waiting_outside: list[asyncio.Future[None]] = []
        self._again: list[Stored] = []
        """Unsaved events that are decided again by whoever appended them where another writer came first."""
        self._rows = Rows(state)
        self._early: list[tuple[int, ToolProgress]] = []
        self._new: ThreadInfo | None = None
        self._keys: list[tuple[int, KeyUse]] = []
        """Uses of keys, with the number of the first event that is stored with each."""

    @property
    def workers(self) -> Workers:
        """The agents that work side by side; see `log.Log`."""
        return self._workers

    def interrupt_at(self, path: str) -> None:
        """Make whoever carries an agent on look at the log again, whatever it waits for; others go on."""
        stop = worker_of(self._workers, path) or self.interrupt
        if stop is not None:
            stop()

    def make(self, new: ThreadInfo) -> None:
        """Store the thread's row with its first events, in one transaction."""
        self._new = new

    def use_key(self, use: KeyUse) -> None:
        """Store the use of an idempotency key with the next events, in one transaction."""
        self._keys.append((self.state.seq + 1, use))

    def at(self, path: str) -> Log:
        """Return the log as another agent sees it; see `log.Log`."""
        return NestedLog(self, path) if path else self

    @property
    def busy(self) -> bool:
        """Whether a run is carried out here or events wait for their commit."""
        run = self.state.run
        carried = run is not None and run.seq == self.carried and run.waiting is None
        return carried or self._saving is not None or bool(self._unsaved)

    def append(
        self, *events: Stored, blobs: Mapping[str, bytes] = NO_BLOBS, path: str = "", again: bool = False
    ) -> int:
        """Number and apply events, store them soon with the blobs; return the number of the first.

        Args:
            events: Stored together, in order.
            blobs: Results stored whole with them.
            path: The agent that they happened to.
            again: Whoever appends them waits for their commit and decides again after a conflict, so that `rebase`
                must not keep them.

        Raises:
            StoreError: The log lost its store or its place; see `rebase`.
        """
        state, now, first = self.state, self._clock(), self.state.seq + 1
        if blobs:
            self._blobs.update(blobs)
        if self.error is not None:
            raise self._refuse(events, now, path, again)
        for seq, event in enumerate(events, first):
            kind = type(event)
            run = seq if kind is RunStarted else state.run.seq if state.run else 0
            recorded = Recorded(seq, now, run, event, path)
            state.apply(recorded)
            self._unsaved.append(recorded)
            if kind in _LOOKED_AT:
                self._look_at(event, seq, path)
        if again:
            self._again += events
        self._schedule()
        return first

    def _refuse(self, events: Sequence[Stored], now: int, path: str, again: bool) -> StoreError:
        """Return why nothing can be appended now; what has happened is kept for `rebase` all the same."""
        error, run = self.error, self.state.run
        assert error is not None
        self._keys.clear()  # they belong to what is not appended
        if not again:
            number = run.seq if run else 0
            self._unsaved += [Recorded(0, now, number, event, path) for event in events if isinstance(event, KEPT)]
        return error

    def _look_at(self, event: Stored, seq: int, path: str) -> None:
        match event:
            case MessageStarted():
                self.channel.hold(seq, path)
            case MessageEnded():
                self.channel.release(path)
            case Asked(until=until) if until:
                self._alarm(until)
            case RunWaiting() if self.state.wake < NEVER:
                self._alarm(self.state.wake)
            case _:
                pass

    def tell(self, *events: Stored, path: str = "", again: bool = False) -> int:
        """Append what came from outside the run, and wake whoever waits for it by `changed`; see `append`."""
        try:
            first = self.append(*events, path=path, again=again)
        finally:
            self._come(self.state.seq)
        return first

    def _come(self, seq: int) -> None:
        self.outside = max(self.outside, seq)
        waiters, self._waiting_outside = self._waiting_outside, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, seq: int) -> None:
        """Wait until somebody outside has appended something; see `log.Log`."""
        while self.outside <= seq:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_outside.append(waiter)
            await waiter

    async def record(
        self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS, path: str | None = None
    ) -> None:
        """Number, apply and store events; see `log.Log`."""
        self.append(*events, blobs=blobs, path=path or "")
        if durable:
            await self.committed()

    def publish(self, delta: Transient) -> None:
        """Show a transient event to whoever follows."""
        run = self.state.run
        if isinstance(delta, ToolProgress) and self.channel.seq < self.state.seq:
            # Nobody waited for the commit of a pure call's intent, and the call must be shown before its progress.
            self._early.append((self.state.seq, delta))
        else:
            self.channel.piece(run.seq if run else 0, delta)

    async def visible(self) -> None:
        """Wait until everything recorded so far may be shown; see `log.Log`."""
        if not self._store.instant or self.error is not None:
            await self.committed()
        elif self._unsaved:  # nothing waits for memory: it takes the same events in when somebody looks
            self._show(self._unsaved)

    async def committed(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        if self.error is None:
            self.flush()
        if self.error is not None:
            raise self.error
        target = self.state.seq
        if self._saved >= target:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((target, waiter))
        await waiter

    def flush(self) -> None:
        """Give a store that is done at once what is recorded; all others are given it soon anyhow."""
        if self._store.instant:
            self._save()

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events, those not yet stored as well; see `log.Log`."""
        while True:
            self.flush()
            state = self.state
            # Looked at before the store is asked: what is not here then has been stored.
            waiting = [*(self._saving or []), *self._unsaved] if self.error is None else []
            found = await self._store.read(self.thread, after=after, limit=limit)
            if self.state is state:
                break
        last = found[-1].seq if found else after
        found += [recorded for recorded in waiting if recorded.seq > last]
        return found[:limit]

    async def blob(self, prefix: str) -> bytes | None:
        """Return a result that is stored whole or soon will be; see `log.Log`."""
        waiting = self._saving_blobs | self._blobs
        found = [hash for hash in waiting if hash.startswith(prefix)] if is_prefix(prefix) else []
        if found:
            return waiting[found[0]] if len(found) == 1 else None
        return await self._store.blob(self.thread, prefix)

    def now(self) -> int:
        """Return the time in milliseconds since 1970; see `log.Log`."""
        return self._clock()

    def partial(self, message: int) -> Message:
        """Return what has been published of an open message; see `log.Log`."""
        text: list[str] = []
        thinking: list[str] = []
        for event in self.channel.pieces(message) if message else []:
            match event:
                case TextDelta():
                    text.append(event.text)
                case ThinkingDelta():
                    thinking.append(event.text)
                case _:
                    assert isinstance(event, CallDelta)
        return Message("assistant", "".join(text), thinking="".join(thinking))

    async def rebase(self) -> None:
        """Read what another writer appended, fold it, and append the facts that were not stored after it.

        Raises:
            NotFound: The thread is gone.
            StoreError: The thread cannot be read, or the store failed otherwise than by a conflict.
        """
        async with self._rebasing:
            if self.error is None:
                return  # another task did it meanwhile
            if not isinstance(self.error, Conflict):
                raise self.error
            stored = await self._store.read(self.thread)
            if not stored and await self._store.thread(self.thread) is None:
                self.channel.close()
                raise NotFound("There is no such thread.", "thread")
            self._start_over(stored)

    async def refresh(self) -> int:
        """Take in what other processes appended, if nothing of ours is under way; return how many events are stored."""
        async with self._rebasing:
            stored = await self._store.read(self.thread)
            quiet = self.error is None and self._saving is None and not self._unsaved
            if quiet and len(stored) > self._saved:
                self._start_over(stored)
            return max(self._saved, len(stored))

    def _start_over(self, stored: list[Recorded]) -> None:
        news = [recorded for recorded in stored if recorded.seq > self._saved]
        again = {id(event) for event in self._again}
        unsaved = [each for each in self._unsaved if id(each.event) not in again]
        blobs, old, lost = self._blobs, self.state.run, self.carried > self._saved
        state = self.state = self.whole = State(stored)
        self._again, self._keys = [], []
        self._rows.forget()
        self._unsaved, self._early, self.error, self._saved = [], [], None, state.seq
        self._blobs, self.outside = {}, min(self.outside, state.seq)
        if news:
            self.channel.stored(news)
        run = state.run
        self.channel.release(*self.channel.held.difference(open_messages(state)))
        claimed = any(isinstance(each.event, RunClaimed) for each in news)
        if lost or claimed or (run is not None and news and run.seq >= news[0].seq):
            self.carried = -1 if lost else 0
        kept = self._keep_facts([] if state.foreign else facts(unsaved), news, claimed, blobs)
        same = run is not None and old is not None and run.seq == old.seq and not claimed and run.cancel is None
        if news:
            self._come(state.seq)
        if self.interrupt is not None and not (same and len(kept) == len(unsaved)):
            self.interrupt()
        else:
            for each in news:
                if isinstance(each.event, Steered) and each.event.interrupt:
                    self.interrupt_at(each.path)

    def _keep_facts(
        self, found: list[Recorded], news: list[Recorded], claimed: bool, blobs: Mapping[str, bytes]
    ) -> list[Recorded]:
        kept, losses = list[Recorded](), Losses(news)
        for each in found:
            if not losses.hold(each) and self._keep(each, claimed, blobs):
                kept.append(each)
            else:
                losses.add(each)
        return kept

    def _keep(self, recorded: Recorded, claimed: bool, blobs: Mapping[str, bytes]) -> bool:
        event, path = recorded.event, recorded.path
        if isinstance(event, Unknown) or not fits(recorded, self.state, claimed):
            return False
        self.append(*taken_back(recorded, self.state), event, blobs=referred(event, blobs), path=path)
        return True

    def _schedule(self) -> None:
        if self._store.instant:
            # Nobody can tell when memory took events in, unless somebody looks: see `flush`.
            if self.channel.readers:
                self._save()
        elif not self._scheduled and self._saving is None:
            # Waiting for the end of this turn of the loop puts a whole step into one append; the first step of a run
            # begins in the next turn, when its driver does.
            self._scheduled = True
            soon, run = asyncio.get_running_loop().call_soon, self.state.run
            begins = run is not None and self._unsaved[0].seq <= run.seq
            soon(soon, self._save) if begins else soon(self._save)

    def _save(self) -> None:
        self._scheduled = False
        if self._saving is not None or not self._unsaved:
            return
        key = self._keys.pop(0)[1] if self._keys else None
        batch, self._unsaved = self._unsaved, []
        if self._keys:
            # An append takes one key: what another one belongs to comes after it.
            upto = self._keys[0][0]
            self._unsaved = [each for each in batch if each.seq >= upto]
            batch = batch[: len(batch) - len(self._unsaved)]
        blobs, self._blobs = self._blobs, {}
        self._saving, self._saving_blobs = batch, blobs
        new, self._new = self._new, None
        future = self._store.append(
            self.thread,
            batch,
            expect=batch[0].seq - 1,
            new=new,
            key=key,
            blobs=blobs,
            wake=self._rows.wake(self.state, bool(self._unsaved)),
            spent=self._rows.spent(self.state),
        )
        if future.done():
            self._settle(future)
        else:
            future.add_done_callback(self._settle)

    def _settle(self, future: asyncio.Future[None]) -> None:
        batch, self._saving = self._saving or [], None
        blobs, self._saving_blobs = self._saving_blobs, {}
        error = future.exception()
        if error is None:
            self._saved = batch[-1].seq
            if self._again and not self._unsaved:
                self._again = []
            elif self._again:
                saved = {id(each.event) for each in batch}
                self._again = [event for event in self._again if id(event) not in saved]
            self._show(batch)
            if self._waiters:
                self._wake()
            if self._unsaved:
                self._save()
            elif self.interrupt is None:  # whoever drives a run holds on to the log
                self.idle(self)
            return
        self.error = error if isinstance(error, StoreError) else StoreError(str(error))
        self._unsaved = batch + self._unsaved
        self._blobs = blobs | self._blobs
        self._wake()
        if not isinstance(error, Conflict):
            self.channel.close()
            if self.interrupt is not None:
                self.interrupt()  # who waits for people or a tool would hold on to a log that takes nothing more
            self.idle(self)

    def _show(self, batch: list[Recorded]) -> None:
        """Show what of these was not shown before, and progress that came before its call could be shown."""
        channel, run = self.channel, self.state.run
        while self._early and self._early[0][0] <= batch[-1].seq:
            seq, delta = self._early.pop(0)
            if seq > channel.seq:
                channel.stored([each for each in batch if channel.seq < each.seq <= seq])
            channel.piece(run.seq if run else 0, delta)
        if channel.seq < batch[-1].seq:
            channel.stored(batch[channel.seq - batch[-1].seq :])

    def _wake(self) -> None:
        left: list[tuple[int, asyncio.Future[None]]] = []
        for target, waiter in self._waiters:
            if waiter.done():
                continue
            if self.error is not None:
                waiter.set_exception(self.error)
            elif self._saved >= target:
                waiter.set_result(None)
            else:
                left.append((target, waiter))
        self._waiters = left
