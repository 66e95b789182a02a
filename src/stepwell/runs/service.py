"""The run service: the one door to threads and runs for faces, the command line and the library.

It checks owners, starts, cancels and resumes runs, and sees to it that those who wait go on. It knows no wire protocol;
drives no engine itself (`driver.py`) and appends through the one `ThreadLog` of each thread. What people do to runs and
threads besides is in `people.py`, `queue.py` and `forks.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from stepwell.engines.base import Engine, close
from stepwell.engines.words import words
from stepwell.errors import Busy, Conflict, InputError, NotFound, StoreError
from stepwell.events import (
    Answered,
    CancelRequested,
    MessageAdded,
    MessageQueued,
    Policy,
    PolicyChanged,
    QueueEdited,
    RunClaimed,
    RunEnded,
    RunStarted,
    Steered,
    Stored,
)
from stepwell.messages import Message, clean
from stepwell.running import RunState
from stepwell.runs.alarm import Alarm
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.driver import Assemble, drive
from stepwell.runs.executor import Executor, InProcessExecutor
from stepwell.runs.log import ThreadLog, now_ms
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.threads import Threads, check_known, cleaned
from stepwell.specs import RunSpec
from stepwell.state import NEVER
from stepwell.store.base import KeyUse, Store, ThreadInfo

__all__ = ["GRACE", "NewThread", "Once", "RunRef", "RunService"]

GRACE = 5.0
"""Seconds that runs get to reach an end when the service stops."""
AGAIN = 5_000
"""Milliseconds until what is overdue is looked for again after the store failed."""

_QUIET = (MessageQueued, QueueEdited, PolicyChanged)
"""What a waiting run does not go on for."""

_log = logging.getLogger("stepwell.runs")

Decide = Callable[[], Sequence[tuple[str, Stored]]]
"""Looks at the log as it is now and returns what is appended, with the agents that it happens to; nothing for
nothing. May raise."""


class RunService(Threads):
    """Threads and runs over a store.

    Args:
        store: Where logs live.
        assemble: Builds the engine of a run.
        executor: Who carries runs out; by default tasks of this process.
        clock: Gives the time in milliseconds since 1970; it may jump.
        ended: Told each run that came to its end here.
    """

    def __init__(
        self,
        store: Store,
        assemble: Assemble,
        executor: Executor | None = None,
        clock: Callable[[], int] = now_ms,
        ended: Callable[[RunState], None] | None = None,
    ) -> None:
        self._alarm = Alarm(clock, self._ring)
        super().__init__(store, clock, self._alarm.set)
        self._assemble, self._ended = assemble, ended
        self._executor = executor or InProcessExecutor()
        self._orphans: set[str] = set()
        self._leaving: set[str] = set()
        self._stopping = False

    async def delete(self, owner: str, thread: str) -> None:
        """Remove a thread; an open run is cancelled first."""
        async with self.using(owner, thread) as log:
            self._leaving.add(thread)
            try:
                if log.state.run is not None:
                    await self.cancel(owner, thread, log.state.run.seq)
                async with log.turn:  # whoever drove the run has left
                    await self._remove(thread)
            finally:
                self._leaving.discard(thread)

    # runs

    async def start(
        self,
        owner: str,
        message: Message | None,
        spec: RunSpec,
        *,
        thread: str = "",
        new: NewThread | None = None,
        once: Once | None = None,
        policy: Policy | str = "",
    ) -> RunRef:
        """Store a message and start a run on it; both are durable when this returns.

        Args:
            owner: Who asks.
            message: What they say; None to go on from the history of a new thread.
            spec: How the run goes.
            thread: Where; empty makes a thread.
            new: How to make it.
            once: Makes the request happen once.
            policy: What becomes of it while a run is open; empty for what the thread says.

        Returns:
            The run; or 0 and the number under which the message waits; or the open run and the number under which it
            was told of it.

        Raises:
            NotFound: There is no such thread.
            Busy: The thread has an open run, and the policy is `reject`.
            KeyReused: The idempotency key came before with another body.
        """

        async def enter() -> RunRef:
            made = new or NewThread()
            known = thread or await self._known(owner, made.id)
            log = await self._current(owner, known) if known else self._make(owner, message, made)
            return await self._entered(log, message, spec, policy, once, None if known else made)

        return await self.do_once(owner, once, enter)

    async def _entered(
        self,
        log: ThreadLog,
        message: Message | None,
        spec: RunSpec,
        policy: str,
        once: Once | None,
        new: NewThread | None,
    ) -> RunRef:
        try:
            ref = self._enter(log, message, spec, policy, once, new)
            await log.committed()
        finally:
            self._let_go(log)
        return ref

    def _enter(
        self,
        log: ThreadLog,
        message: Message | None,
        spec: RunSpec,
        policy: str,
        once: Once | None,
        new: NewThread | None,
    ) -> RunRef:
        """Start a run, or do with the message what the policy says."""
        state, run = log.state, log.state.run
        if message is None and new is None:
            raise InputError("The thread waits for a message; send one.", "content")
        if message is None or (run is None and not state.queue):
            self._begin(log, message and cleaned(message), spec, once, new)
            self._submit(log)
            return RunRef(log.thread, log.carried)
        message = cleaned(message)
        policy = policy or state.policy
        if policy == "reject":
            raise Busy("The thread has an open run; wait for its end or cancel it.", "thread")
        if run is None or policy == "queue" or run.cancel is not None or run.spec.outside:
            return RunRef(log.thread, 0, queued=self._put(log, (("", MessageQueued(message, spec)),), once=once))
        interrupts = policy == "interrupt"
        seq = self._put(log, (("", Steered(message, interrupts)),), interrupts=interrupts, once=once)
        return RunRef(log.thread, run.seq, steered=seq)

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
        """Record a message and the start of a run without driving it; see `start`.

        Raises:
            Busy: The thread has an open run.
        """
        log = await self._current(owner, thread) if thread else self._make(owner, message, new or NewThread())
        if log.state.run is not None:
            self._let_go(log)
            raise Busy("The thread has an open run; wait for its end or cancel it.", "thread")
        self._begin(log, cleaned(message), spec, once, new)
        return log

    def _begin(
        self, log: ThreadLog, message: Message | None, spec: RunSpec, once: Once | None, new: NewThread | None
    ) -> None:
        history = [MessageAdded(cleaned(each), "history") for each in (new.history if new else ())]
        log.carried = log.state.seq + len(history) + 1
        self._use_key(log, once, log.carried)
        said = () if message is None else (MessageAdded(message),)
        log.append(*history, RunStarted(spec), *said, again=True)

    def _use_key(self, log: ThreadLog, once: Once | None, seq: int) -> None:
        if once is not None:
            log.use_key(KeyUse(log.owner, once.route, once.key, once.body, log.thread, seq))

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
        """Carry a run out in the caller's own task, until it is over or waits for somebody."""
        try:
            over = await drive(log, self._assemble)
        except NotFound:
            raise
        except BaseException:
            self._orphans.add(log.thread)
            raise
        else:
            if over is not None and self._ended is not None:
                self._ended(over)
            if log.state.run is not None and log.state.run.seq != log.carried:
                # Another process carries a run out here now: what it does has to be read from the store.
                log.channel.close()
            self.next(log)
        finally:
            self._let_go(log)

    async def abandon(self, log: ThreadLog, number: int) -> None:
        """End the run of this number, whose driver, the caller's own task, was cancelled."""
        run = log.state.run
        try:
            if run is not None and run.seq == number:
                log.append(CancelRequested())
                await close(log, "cancelled", "cancelled", words("cancelled", run.spec.language))
                self.next(log)
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
                await self.check_run(thread, run)
                return
            check_known(log)
            if state.cancel is None:
                with suppress(Conflict):  # it is kept, and appended after what came first
                    log.append(CancelRequested(clean(reason)))
                if log.interrupt is not None:
                    log.interrupt()
                else:
                    self._submit(log)
            await self.committed(log)

    async def check_run(self, thread: str, run: int) -> None:
        """Raise NotFound where a thread never had a run of this number."""
        found = await self.store.read(thread, after=run - 1, limit=1) if run > 0 else []
        if not found or not isinstance(found[0].event, RunStarted):
            raise NotFound("There is no such run.", "run")

    def engine(self, spec: RunSpec) -> Engine:
        """Build the engine of a run."""
        return self._assemble(spec)

    # what waits

    async def resume(self) -> int:
        """Go on with every run of the store that nobody carries out and that waits for nothing; return how many.

        Questions whose time is over are decided first, and messages that wait for no run any more start theirs.
        """
        taken = await self.expire()
        for info in await self.store.due(self.now()):
            with suppress(NotFound):  # removed meanwhile
                taken += await self._resume(info)
        self._alarm.set(await self.store.next_wake(self.now()))
        return taken

    async def _resume(self, info: ThreadInfo) -> bool:
        async with self.using(info.owner, info.id) as log:
            await self.committed(log)
            if info.seq > log.state.seq:
                await log.refresh()  # a process that died appended to a thread that somebody follows here
                await self.committed(log)  # what was recorded here meanwhile kept it from being read
            run = log.state.run
            if log.state.foreign:
                _log.error("run of thread %s is not resumed: it has events of a newer version", info.id)
            elif run is None:
                return self.next(log)
            elif run.waiting is None and log.interrupt is None and not self._executor.carries(info.id):
                self._claim(log)
                return True
        return False

    @property
    def orphaned(self) -> bool:
        """Whether a run was left because the store failed; `resume` goes on with it."""
        return bool(self._orphans)

    async def expire(self) -> int:
        """Decide every question whose time is over, and end waiting runs whose time is; return how many go on."""
        self.flush()
        now, going = self.now(), 0
        for info in await self.store.overdue(now):
            with suppress(NotFound):  # removed meanwhile
                async with self.using(info.owner, info.id) as log:
                    going += 0 if log.state.foreign else await self._expire(log, now)
        return going

    async def _expire(self, log: ThreadLog, now: int) -> bool:
        def overdue() -> list[tuple[str, Stored]]:
            return [
                (each.path, Answered(each.seq, "expired", each.event.default or ""))
                for each in list(log.state.questions.values())
                if 0 < each.event.until <= now
            ]

        run = log.state.run
        waited = run is not None and run.waiting is not None
        await self.decide(log, overdue)
        run = log.state.run
        if waited and run is not None and run.waiting is not None and log.state.wake <= now:
            self._claim(log)  # the time of the run itself is over, and the driver ends it
        return waited

    async def _ring(self) -> int:
        try:
            await self.expire()
            return await self.store.next_wake(self.now())
        except StoreError as error:
            _log.error("what is overdue cannot be looked for: %s", error)
            return NEVER if self._stopping else self.now() + AGAIN

    def next(self, log: ThreadLog) -> bool:
        """Start the run of the first message that waits, where none is open; return whether one was."""
        state = log.state
        idle = state.run is None and log.error is None and not state.foreign
        if not idle or not state.queue or self._stopping or log.thread in self._leaving:
            return False
        item = state.queue[0]
        log.append(RunStarted(item.spec, item.seq), MessageAdded(item.message))
        self._submit(log)
        return True

    async def stop(self, grace: float = GRACE) -> None:
        """Interrupt what runs, leaving its logs open, and close the store."""
        self._stopping = True
        await self._alarm.stop()
        await self._executor.stop(grace)
        for log in self._logs.values():
            log.channel.close()
        await self.store.close()

    # what comes from outside

    async def decide(
        self,
        log: ThreadLog,
        decide: Decide,
        *,
        interrupts: bool = False,
        once: Once | None = None,
        number: Callable[[int], int] | None = None,
    ) -> int:
        """Append what happens to a thread from outside, have a waiting run go on, and wait for the commit.

        Args:
            log: The thread's, held by `using`.
            decide: Says what is appended; asked again where another process came first.
            interrupts: What is under way is to be looked at again at once.
            once: Makes the request happen once; see `do_once`, in which this then has to be called.
            number: Says from the number of the first event which number the key's use leads to; None for that one.

        Returns:
            The number of the first event; 0 for none.

        Raises:
            Conflict: Another process came first, and there is a key that it may have used.
        """
        while True:
            if log.error is not None:
                await log.rebase()
            check_known(log)
            chosen = decide()
            try:
                first = self._put(log, chosen, interrupts=interrupts, once=once, number=number) if chosen else 0
                await log.committed()
            except Conflict:
                if once is not None:
                    raise
                continue
            return first

    def _put(
        self,
        log: ThreadLog,
        chosen: Sequence[tuple[str, Stored]],
        *,
        interrupts: bool = False,
        once: Once | None = None,
        number: Callable[[int], int] | None = None,
    ) -> int:
        waited = log.state.run is not None and log.state.run.waiting is not None
        if self._is_lost(log) and not all(isinstance(event, _QUIET) for _, event in chosen):
            assert log.state.run is not None
            log.append(RunClaimed(log.state.run.epoch + 1))
        first = log.state.seq + 1
        self._use_key(log, once, number(first) if number else first)
        for path, event in chosen:
            log.tell(event, path=path, again=True)
        run = log.state.run
        if run is None:
            self.next(log)
        elif run.seq >= first:
            self._submit(log)
        elif run.waiting is None and log.interrupt is not None and (waited or interrupts):
            log.interrupt_at("" if waited else chosen[0][0])
        elif run.waiting is None and waited:
            self._submit(log)
        return first

    def _is_lost(self, log: ThreadLog) -> bool:
        """Tell whether a run waits and nobody in this process has it."""
        run = log.state.run
        return run is not None and run.waiting is not None and log.interrupt is None and run.seq != log.carried

    # inside

    async def _open(self, owner: str, thread: str) -> ThreadLog:
        log = await super()._open(owner, thread)
        if thread in self._orphans:
            self._orphans.discard(thread)
            if log.error is not None:
                await log.rebase()
            if log.state.run is not None:
                self._claim(log)
        return log

    def _claim(self, log: ThreadLog) -> None:
        """Go on with an open run that nobody carries out."""
        assert log.state.run is not None
        log.append(RunClaimed(log.state.run.epoch + 1))
        self._submit(log)

    async def carry(self, owner: str, thread: str) -> None:
        """Have the open run of a thread that was just made carried out."""
        async with self.using(owner, thread) as log:
            if log.state.run is not None and log.state.run.seq != log.carried:
                self._submit(log)

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
