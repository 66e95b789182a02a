"""The one appender of a thread: numbers events, folds them, stores them in batches and shows them.

Inside a process everything that happens to a thread goes through its `ThreadLog`; between processes the
store's `expect` decides. It is no engine and starts nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from stepwell.contexts import handle_of_blob
from stepwell.errors import Conflict, NotFound, StoreError
from stepwell.events import (
    CallDelta,
    CancelRequested,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TextDelta,
    ThinkingDelta,
    TitleChanged,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Transient,
    Unknown,
    WindowLearned,
)
from stepwell.messages import Message
from stepwell.runs.channel import Channel
from stepwell.state import NO_BLOBS, RunState, State
from stepwell.store.base import KeyUse, Store, ThreadInfo, is_prefix

FACTS = (
    MessageEnded,
    ToolEnded,
    MessageAdded,
    CancelRequested,
    TitleChanged,
    LongTermUpdated,
    WindowLearned,
    SummaryEnded,
)
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

    Attributes:
        carried: Number of the run that is to be carried out here; 0 where another process took it.
        turn: Held by whoever drives a run of the thread.
        interrupt: Makes the one who drives look at the log again; None while nobody does.
    """

    def __init__(self, store: Store, thread: str, state: State, owner: str, clock: Callable[[], int] = now_ms) -> None:
        self.thread, self.state, self.owner = thread, state, owner
        self.channel = Channel(state.seq)
        self.error: StoreError | None = None
        self.carried = 0
        self.turn = asyncio.Lock()
        self.interrupt: Callable[[], None] | None = None
        self._rebasing = asyncio.Lock()
        self._store, self._clock = store, clock
        self._unsaved: list[Recorded] = []
        self._saving: list[Recorded] | None = None
        self._blobs: dict[str, bytes] = {}
        """What `_unsaved` refers to."""
        self._saving_blobs: dict[str, bytes] = {}
        self._scheduled = False
        self._saved = state.seq
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._early: list[tuple[int, ToolProgress]] = []
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
        """Whether a run is carried out here or events wait for their commit."""
        run = self.state.run
        return (run is not None and run.seq == self.carried) or self._saving is not None or bool(self._unsaved)

    def append(self, *events: Stored, blobs: Mapping[str, bytes] = NO_BLOBS) -> int:
        """Number and apply events, store them soon with the blobs; return the number of the first.

        Raises:
            StoreError: The log lost its store or its place; see `rebase`.
        """
        state, now, first = self.state, self._clock(), self.state.seq + 1
        if blobs:
            self._blobs.update(blobs)
        if self.error is not None:
            # What has happened is kept for `rebase` even though this appender has lost its place.
            run = state.run.seq if state.run else 0
            self._unsaved += [Recorded(0, now, run, event) for event in events if isinstance(event, FACTS)]
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

    async def record(self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS) -> State:
        """Number, apply and store events; see `state.Log`."""
        self.append(*events, blobs=blobs)
        if durable:
            await self.committed()
        return self.state

    def publish(self, delta: Transient) -> None:
        """Show a transient event to whoever follows."""
        run = self.state.run
        if isinstance(delta, ToolProgress) and self._saved < self.state.seq:
            # Nobody waited for the commit of a pure call's intent, and the call must be shown before its progress.
            self._early.append((self.state.seq, delta))
        else:
            self.channel.piece(run.seq if run else 0, delta)

    async def committed(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        if self.error is not None:
            raise self.error
        self.flush()
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
        """Return events, those not yet stored as well; see `state.Log`."""
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
        """Return a result that is stored whole or soon will be; see `state.Log`."""
        waiting = self._saving_blobs | self._blobs
        found = [hash for hash in waiting if hash.startswith(prefix)] if is_prefix(prefix) else []
        if found:
            return waiting[found[0]] if len(found) == 1 else None
        return await self._store.blob(self.thread, prefix)

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

    async def refresh(self) -> None:
        """Take in what other processes appended, if nothing of ours is under way."""
        async with self._rebasing:
            stored = await self._store.read(self.thread)
            quiet = self.error is None and self._saving is None and not self._unsaved
            if quiet and len(stored) > self._saved:
                self._start_over(stored)

    def _start_over(self, stored: list[Recorded]) -> None:
        news = [recorded for recorded in stored if recorded.seq > self._saved]
        unsaved, blobs, old = self._unsaved, self._blobs, self.state.run
        state = self.state = State(stored)
        self._unsaved, self._early, self.error, self._saved = [], [], None, state.seq
        self._blobs = {}
        if news:
            self.channel.stored(news)
        run = state.run
        if run is None or not run.message:
            self.channel.release()
        claimed = any(isinstance(each.event, RunClaimed) for each in news)
        if claimed or (run is not None and news and run.seq >= news[0].seq):
            self.carried = 0
        kept = [] if state.foreign else [each for each in _facts(unsaved) if self._keep(each, claimed, blobs)]
        same = run is not None and old is not None and run.seq == old.seq and not claimed and run.cancel is None
        if self.interrupt is not None and not (same and len(kept) == len(unsaved)):
            self.interrupt()

    def _keep(self, recorded: Recorded, claimed: bool, blobs: Mapping[str, bytes]) -> bool:
        if isinstance(recorded.event, Unknown) or not _fits(recorded, self.state, claimed):
            return False
        self.append(recorded.event, blobs=_referred(recorded.event, blobs))
        return True

    def _schedule(self) -> None:
        if self._store.instant:
            # Nobody can tell when memory took events in, unless somebody looks: see `flush`.
            if self.channel.readers:
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
        blobs, self._blobs = self._blobs, {}
        self._saving, self._saving_blobs = batch, blobs
        new, key, self._new, self._key = self._new, self._key, None, None
        future = self._store.append(self.thread, batch, expect=batch[0].seq - 1, new=new, key=key, blobs=blobs)
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
            self._show(batch)
            self._wake()
            if self._unsaved:
                self._save()
            return
        self.error = error if isinstance(error, StoreError) else StoreError(str(error))
        self._unsaved = batch + self._unsaved
        self._blobs = blobs | self._blobs
        self._wake()
        if not isinstance(error, Conflict):
            self.channel.close()

    def _show(self, batch: list[Recorded]) -> None:
        """Show stored events, and progress that came before their commit in its place."""
        while self._early and self._early[0][0] <= self._saved:
            seq, delta = self._early.pop(0)
            cut = seq - batch[0].seq + 1 if batch else 0
            if cut > 0:
                self.channel.stored(batch[:cut])
                batch = batch[cut:]
            self.channel.piece(self.state.run.seq if self.state.run else 0, delta)
        if batch:
            self.channel.stored(batch)

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


def _referred(event: Stored, blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the blobs that an event refers to, by their hash or by a handle in its text."""
    if not isinstance(event, ToolEnded):
        return {}
    return {hash: data for hash, data in blobs.items() if hash == event.blob or handle_of_blob(hash) in event.content}


def _is_command(event: Stored | Unknown) -> bool:
    """Tell whether somebody asked for it from outside, whichever run is open."""
    if isinstance(event, LongTermUpdated):
        return event.pinned is not None or event.unpinned is not None
    return isinstance(event, TitleChanged)


def _facts(unsaved: list[Recorded]) -> list[Recorded]:
    """Return the facts with the brackets that they end; a run that lost the race to start is dropped whole."""
    starts = [index for index, each in enumerate(unsaved) if isinstance(each.event, RunStarted)]
    if starts:
        commands = [each for each in unsaved[starts[0] :] if _is_command(each.event)]
        unsaved = unsaved[: starts[0]] + commands
    summaries = {_covered(each.event) for each in unsaved if isinstance(each.event, SummaryEnded)}
    ended = {each.event.call for each in unsaved if isinstance(each.event, ToolEnded)}
    replies = [index for index, each in enumerate(unsaved) if isinstance(each.event, MessageEnded)]
    kept: list[Recorded] = []
    for index, each in enumerate(unsaved):
        match each.event:
            case ToolStarted(call=call):
                keep = call in ended
            case SummaryStarted() as started:
                keep = _covered(started) in summaries
            case StepStarted() | StepEnded() | MessageStarted() | ModelFailed():
                keep = bool(replies) and index < replies[-1]
            case RunClaimed():
                keep = True  # whoever goes on without it would not be known to have taken the run
            case event:
                keep = isinstance(event, FACTS)
        if keep:
            kept.append(each)
    return kept


def _covered(event: SummaryStarted | SummaryEnded) -> tuple[str, int, int]:
    return event.kind, event.first, event.last


def _fits(recorded: Recorded, state: State, claimed: bool) -> bool:
    """Tell whether a fact can still follow: what it is about is open, and is not another process's by now."""
    event, run = recorded.event, state.run
    if _is_command(event):
        return True
    if recorded.run != (run.seq if run else 0):
        return False
    match event:
        case LongTermUpdated():
            return not claimed
        case WindowLearned():
            known = state.windows.get(event.model, 0)
            return not claimed and (not known or event.window < known)
        case SummaryStarted():
            return not claimed and event.kind not in state.history.summarizing
        case SummaryEnded():
            under_way = state.history.summarizing.get(event.kind)
            return not claimed and under_way is not None and _covered(under_way) == _covered(event)
        case _:
            return run is not None and _fits_run(event, run, claimed)


def _fits_run(event: Stored | Unknown, run: RunState, claimed: bool) -> bool:
    match event:
        case RunClaimed():
            return not claimed and event.epoch == run.epoch + 1
        case CancelRequested():
            return run.cancel is None
        case ToolStarted() | ToolEnded():
            call = run.calls.get(event.call)
            return call is not None and not (call.started if isinstance(event, ToolStarted) else call.ended)
        case StepStarted():
            return not claimed and not run.step
        case MessageStarted():
            return not claimed and run.step > 0 and not run.message
        case StepEnded():
            return not claimed and run.step > 0 and not run.message and not run.unanswered()
        case _:
            return not claimed and run.message > 0
