"""Drives one run: asks its engine for decisions until it is over, whatever comes between.

Conflicts, cancellation, the time limit and faults of our own end up here and become events. It decides
nothing that an engine could decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stepwell.engines.base import Engine, close
from stepwell.engines.unconcluded import out_of_time
from stepwell.engines.words import words
from stepwell.errors import ConfigError, Conflict, StoreError
from stepwell.events import EndReason
from stepwell.runs.log import ThreadLog
from stepwell.specs import RunSpec
from stepwell.state.run import RunState
from stepwell.state.thread import NEVER

Assemble = Callable[[RunSpec], Engine]
"""Builds the engine of a run; raises ConfigError for a name that the settings do not have."""

_log = logging.getLogger("stepwell.runs")


async def drive(log: ThreadLog, assemble: Assemble) -> RunState | None:
    """Carry the open run of a log on to its end, or until it waits for somebody.

    Returns early when another process took the run over, ended it, or started one of its own first.

    Returns:
        The run, if it is over now.

    Raises:
        CancelledError: The process stops; the run stays open and is resumed later.
        NotFound: The thread is gone.
        StoreError: The store failed; the run stays open.
    """
    async with log.turn:
        run = log.state.run
        if run is None:
            return None
        driver = _Driver(run, log.state.over, log.now())
        log.interrupt = driver.interrupt
        try:
            await _carry_out(log, assemble, driver)
        finally:
            log.interrupt = None
            driver.leave()
            await driver.drop_engine()
        last = log.state.last
        return last[0] if last is not None and last[0].seq == run.seq else None


async def _carry_out(log: ThreadLog, assemble: Assemble, driver: _Driver) -> None:
    while True:
        try:
            if log.error is not None:
                await log.rebase()
            await _advance(log, assemble, driver)
            return await log.committed()
        except Conflict:
            continue
        except asyncio.CancelledError:
            if not driver.settle():
                raise


async def _advance(log: ThreadLog, assemble: Assemble, driver: _Driver) -> None:
    while (run := driver.own(log)) is not None:
        language = run.spec.language
        try:
            end = _end_of(run, driver)
            if end is not None:
                await close(log, *end)
            elif run.waiting is not None:
                return
            else:
                driver.engine = driver.engine or assemble(run.spec)
                before = log.state.seq
                if not await driver.engine.step(log):
                    # Whoever was waited for may have come meanwhile; what goes on then begins from the log alone.
                    await driver.drop_engine()
                    if log.state.seq == before:
                        return
        except StoreError:
            raise
        except ConfigError as error:
            await close(log, "failed", "config", str(error))
        except Exception as error:  # the boundary of a run: a fault of our own ends it with a reason, never silently
            _log.exception("run %s.%s failed", log.thread, run.seq)
            await close(log, "failed", "internal", words("internal", language, detail=type(error).__name__))


def _end_of(run: RunState, driver: _Driver) -> tuple[EndReason, str, str] | None:
    """Return how a run ends that no engine goes on with, with the cause and its words; None where one does."""
    language = run.spec.language
    if run.cancel is not None:
        return "cancelled", "cancelled", words("cancelled", language)
    if driver.late:
        return "limit", driver.limit, out_of_time(run.spec, driver.limit)
    if run.spec.outside:
        return "failed", "orphaned", words("orphaned", language)
    return None


class _Driver:
    """The current task as the driver of a run: who may interrupt it, and for how long it may drive.

    Args:
        run: The run.
        over: When its time is over, in milliseconds since 1970, and the name of the limit.
        now: The time in milliseconds since 1970.
    """

    def __init__(self, run: RunState, over: tuple[int, str], now: int) -> None:
        self.late, self.limit = False, over[1]
        self.engine: Engine | None = None
        self._seq = run.seq
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before, self._interruptions = task, task.cancelling(), 0
        self._timer: asyncio.TimerHandle | None = None
        if over[0] < NEVER:
            left = (over[0] - now) / 1000
            self.late = left <= 0
            self._timer = None if self.late else asyncio.get_running_loop().call_later(left, self._time_out)

    def own(self, log: ThreadLog) -> RunState | None:
        """Return the run as long as it is open and no other process has taken it over or came first."""
        run = log.state.run
        mine = run is not None and run.seq == self._seq == log.carried
        return run if mine and not log.state.foreign else None

    def interrupt(self) -> None:
        """Make the driver look at the log again, whatever it waits for."""
        if asyncio.current_task() is not self._task:
            self._interruptions += 1
            self._task.cancel()

    def settle(self) -> bool:
        """Take interruptions back; return whether there were any and nobody else cancelled the task."""
        interruptions, self._interruptions = self._interruptions, 0
        for _ in range(interruptions):
            self._task.uncancel()
        return interruptions > 0 and self._task.cancelling() <= self._before

    async def drop_engine(self) -> None:
        """Give up what the engine has under way beside the run."""
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.close()

    def leave(self) -> None:
        """Let the task run on as it was before."""
        if self._timer is not None:
            self._timer.cancel()
        self.settle()

    def _time_out(self) -> None:
        self.late = True
        self.interrupt()
