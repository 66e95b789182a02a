"""Runs are carried out here, and what waits goes on: after a restart, when its time is over, when somebody answers.

It starts no run that somebody asks for (`service.py`), drives no engine itself (`driver.py`), knows no wire protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from stepwell.errors import Conflict, NotFound, StoreError
from stepwell.events import (
    Answered,
    CancelRequested,
    MessageAdded,
    MessageQueued,
    PolicyChanged,
    QueueEdited,
    RunClaimed,
    RunStarted,
    Stored,
)
from stepwell.runs.alarm import Alarm
from stepwell.runs.driver import Assemble, drive
from stepwell.runs.executor import Executor, InProcessExecutor
from stepwell.runs.log import ThreadLog, now_ms
from stepwell.runs.requests import Once
from stepwell.runs.threads import Threads, check_known
from stepwell.state.run import RunState
from stepwell.state.thread import NEVER
from stepwell.store.base import KeyUse, Store, ThreadInfo

GRACE = 5.0
"""Seconds that runs get to reach an end when the service stops."""
AGAIN = 5_000
"""Milliseconds until what is overdue is looked for again after the store failed."""

_QUIET = (MessageQueued, QueueEdited, PolicyChanged)
"""What a waiting run does not go on for."""

_log = logging.getLogger("stepwell.runs")


@contextmanager
def _one_of_many(info: ThreadInfo) -> Generator[None]:
    """Go on with the others where a thread was removed meanwhile or cannot be gone on with."""
    try:
        yield
    except NotFound:
        pass
    except StoreError:
        raise
    except Exception:  # the boundary of a thread: what is wrong with its log must not keep all others waiting
        _log.exception("thread %s cannot be gone on with", info.id)


Decide = Callable[[], Sequence[tuple[str, Stored]]]
"""Looks at the log as it is now and returns what is appended, with the agents that it happens to; nothing for
nothing. May raise."""


class Carrying(Threads):
    """Threads over a store, with runs that are carried out.

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
        """End the run of this number, for which the caller waited in a task that was cancelled."""
        self._orphans.discard(log.thread)
        try:
            async with self.using(log.owner, log.thread) as current:
                await self._end(current, number)
        except NotFound:
            pass
        except BaseException as error:
            self._orphans.add(log.thread)  # whoever opens it next ends it
            if not isinstance(error, StoreError):
                raise
            _log.error("run %s.%s stays open: %s", log.thread, number, error)

    async def _end(self, log: ThreadLog, number: int) -> None:
        """Cancel a run and wait until it has ended, whoever drives it."""
        run = log.state.run
        if run is None or run.seq != number:
            return
        if run.cancel is None:
            with suppress(Conflict):  # it is kept, and appended after what came first
                log.append(CancelRequested())
        if log.interrupt is not None:
            log.interrupt()
        log.carried = number
        await self.drive(log)

    async def carry(self, owner: str, thread: str) -> None:
        """Have the open run of a thread that was just made carried out."""
        async with self.using(owner, thread) as log:
            if log.state.run is not None and log.state.run.seq != log.carried:
                self._submit(log)

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

    def moved(self) -> Self:
        """Return a service that goes on in the running loop, where that of this one was closed with all that it had.

        What had not been given to the store by then is lost, as in a crash; a store in memory is given it now.
        """
        self.flush()
        made = type(self)(self.store, self._assemble, clock=self.now, ended=self._ended)
        runs = [(id, log.state.run, log.carried) for id, log in self._logs.items()]
        left = {id for id, run, carried in runs if run is not None and run.waiting is None and run.seq == carried}
        made._orphans = self._orphans | left
        made._alarm.set(self.now())  # its times are looked up anew
        return made

    # what waits

    async def resume(self) -> int:
        """Go on with every run of the store that nobody carries out and that waits for nothing; return how many.

        Questions whose time is over are decided first, and messages that wait for no run any more start theirs.
        """
        await self.catch_up()
        now = self.now()
        taken = await self.expire(now)
        for info in await self.store.due(self.now()):
            with _one_of_many(info):
                taken += await self._resume(info)
        self._alarm.set(await self.store.next_wake(now))  # what has become due meanwhile, too
        return taken

    async def _resume(self, info: ThreadInfo) -> bool:
        async with self.using(info.owner, info.id) as log:
            await self.committed(log)
            if info.seq > log.state.seq:
                await log.refresh()  # a process that died appended to a thread that somebody follows here
                await self.committed(log)  # what was recorded here meanwhile kept it from being read
            run = log.state.run
            if log.state.foreign:
                _log.error("run of thread %s is not resumed: some events are newer or damaged", info.id)
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

    async def expire(self, now: int | None = None) -> int:
        """Decide every question whose time is over, and end waiting runs whose time is; return how many go on.

        Args:
            now: In milliseconds since 1970; None for the present.
        """
        self.flush()
        now, going = self.now() if now is None else now, 0
        for info in await self.store.overdue(now):
            with _one_of_many(info):
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
        now = self.now()
        try:
            await self.expire(now)
            again = self.now() + AGAIN if self._is_late(now) else NEVER
            return min(again, await self.store.next_wake(now))  # what has become due meanwhile, too
        except StoreError as error:
            _log.error("what is overdue cannot be looked for: %s", error)
            return NEVER if self._stopping else self.now() + AGAIN

    def _is_late(self, now: int) -> bool:
        """Tell whether a question is overdue that the store did not name: it is still on its way there."""
        logs = [log for log in self._logs.values() if not log.state.foreign]
        return any(0 < each.event.until <= now for log in logs for each in log.state.questions.values())

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

    def _use_key(self, log: ThreadLog, once: Once | None, seq: int) -> None:
        if once is not None:
            log.use_key(KeyUse(log.owner, once.route, once.key, once.body, log.thread, seq))

    # inside

    async def _open(self, owner: str, thread: str) -> ThreadLog:
        log = await super()._open(owner, thread)
        if thread in self._orphans:
            if log.error is not None:
                await log.rebase()
            if thread in self._orphans:  # nobody else has taken it up meanwhile
                self._orphans.discard(thread)
                if log.state.run is not None:
                    self._claim(log)
                else:
                    self.next(log)
        return log

    def _claim(self, log: ThreadLog) -> None:
        """Go on with an open run that nobody carries out."""
        assert log.state.run is not None
        log.append(RunClaimed(log.state.run.epoch + 1))
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
