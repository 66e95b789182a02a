"""The one appender of a thread: numbers events, folds them, stores them in batches and shows them.

Inside a process everything that happens to a thread goes through its `ThreadLog`; between processes the
store's `expect` decides. It is no engine and starts nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from stepwell.errors import Conflict, StoreError
from stepwell.events import (
    CallDelta,
    CancelRequested,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    TitleChanged,
    ToolEnded,
    Transient,
    Unknown,
)
from stepwell.messages import Message
from stepwell.runs.channel import Channel
from stepwell.state import State
from stepwell.store.base import KeyUse, Store, ThreadInfo

FACTS = (MessageEnded, ToolEnded, MessageAdded, CancelRequested, TitleChanged)
"""What has happened and is kept when another writer came first; the rest was intent and is decided again."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class ThreadLog:
    """The log of one thread; implements `state.Log`.

    Args:
        store: Where it is kept.
        thread: The thread's id.
        state: The fold of what is stored.
        owner: Whose thread it is.
        clock: Gives the time in milliseconds since 1970.
    """

    def __init__(self, store: Store, thread: str, state: State, owner: str, clock: Callable[[], int] = now_ms) -> None:
        self.thread, self.state, self.owner = thread, state, owner
        self.channel = Channel(state.seq)
        self.error: StoreError | None = None
        self._store, self._clock = store, clock
        self._unsaved: list[Recorded] = []
        self._saving: list[Recorded] | None = None
        self._scheduled = False
        self._saved = state.seq
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._new: ThreadInfo | None = None
        self._key: KeyUse | None = None

    def make(self, new: ThreadInfo) -> None:
        """Store the thread's row with its first events, in one transaction."""
        self._new = new

    def use_key(self, use: KeyUse) -> None:
        """Store the use of an idempotency key with the next events, in one transaction."""
        self._key = use

    @property
    def busy(self) -> bool:
        """Whether a run is open or events wait for their commit."""
        return self.state.run is not None or self._saving is not None or bool(self._unsaved)

    def append(self, *events: Stored) -> int:
        """Number and apply events, store them soon; return the number of the first.

        Raises:
            StoreError: The log lost its store or its place; see `rebase`.
        """
        state, now, first = self.state, self._clock(), self.state.seq + 1
        if self.error is not None:
            # What has happened is kept for `rebase` even though this appender has lost its place.
            self._unsaved += [Recorded(0, now, 0, event) for event in events if isinstance(event, FACTS)]
            raise self.error
        for event in events:
            seq = state.seq + 1
            run = seq if isinstance(event, RunStarted) else state.run.seq if state.run else 0
            recorded = Recorded(seq, now, run, event)
            state.apply(recorded)
            self._unsaved.append(recorded)
            if isinstance(event, MessageStarted):
                self.channel.hold(seq)
            elif isinstance(event, MessageEnded):
                self.channel.release()
        self._schedule()
        return first

    async def record(self, *events: Stored, durable: bool = False) -> State:
        """Number, apply and store events; see `state.Log`."""
        self.append(*events)
        if durable:
            await self.committed()
        return self.state

    def publish(self, delta: Transient) -> None:
        """Show a transient event to whoever follows."""
        run = self.state.run
        self.channel.piece(run.seq if run else 0, delta)

    async def committed(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        if self.error is not None:
            raise self.error
        target = self.state.seq
        if self._saved >= target:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((target, waiter))
        await waiter

    def partial(self) -> Message:
        """Return what has been published of the open message."""
        run = self.state.run
        text: list[str] = []
        thinking: list[str] = []
        for event in self.channel.pieces(run.message) if run and run.message else []:
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
            StoreError: The thread cannot be read, or the store failed otherwise than by a conflict.
        """
        if self.error is not None and not isinstance(self.error, Conflict):
            raise self.error
        kept = _kept([recorded.event for recorded in self._unsaved])
        stored = await self._store.read(self.thread)
        news = [recorded for recorded in stored if recorded.seq > self._saved]
        self.state, self._unsaved, self.error = State(stored), [], None
        self._saved = self.state.seq
        if news:
            self.channel.stored(news)
        if kept and self.state.run is not None:
            self.append(*kept)

    def _schedule(self) -> None:
        if self._store.instant:
            self._save()
        elif not self._scheduled and self._saving is None:
            # Waiting for the end of this turn of the loop puts a whole step into one append.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._save)

    def _save(self) -> None:
        self._scheduled = False
        if self._saving is not None or not self._unsaved:
            return
        batch, self._unsaved = self._unsaved, []
        self._saving = batch
        new, key, self._new, self._key = self._new, self._key, None, None
        future = self._store.append(self.thread, batch, expect=batch[0].seq - 1, new=new, key=key)
        if future.done():
            self._settle(future)
        else:
            future.add_done_callback(self._settle)

    def _settle(self, future: asyncio.Future[None]) -> None:
        batch, self._saving = self._saving or [], None
        error = future.exception()
        if error is None:
            self._saved = batch[-1].seq
            self.channel.stored(batch)
            self._wake()
            if self._unsaved:
                self._save()
            return
        self.error = error if isinstance(error, StoreError) else StoreError(str(error))
        self._unsaved = batch + self._unsaved
        self._wake()

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


def _kept(events: list[Stored | Unknown]) -> list[Stored]:
    """Return the events up to the last fact; a run that lost the race to start is dropped whole."""
    stored = [event for event in events if not isinstance(event, Unknown)]
    starts = [index for index, event in enumerate(stored) if isinstance(event, RunStarted)]
    stored = stored[: starts[0]] if starts else stored
    facts = [index for index, event in enumerate(stored) if isinstance(event, FACTS)]
    return stored[: facts[-1] + 1] if facts else []
