"""Drives one run: asks its engine for decisions until it is over, whatever comes between.

Conflicts, cancellation, the time limit and faults of our own end up here and become events. It decides
nothing that an engine could decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stepwell.engines.base import Engine, close
from stepwell.engines.words import words
from stepwell.errors import ConfigError, Conflict, StoreError
from stepwell.events import RunSpec
from stepwell.runs.log import ThreadLog, now_ms

Assemble = Callable[[RunSpec], Engine]
"""Builds the engine of a run; raises ConfigError for a name that the settings do not have."""

_log = logging.getLogger("stepwell.runs")


async def drive(log: ThreadLog, assemble: Assemble) -> None:
    """Carry the open run of a log on to its end.

    Returns early, leaving the run open, when another process took it over.

    Raises:
        CancelledError: The process stops; the run stays open and is resumed later.
        StoreError: The store failed; the run stays open.
    """
    run = log.state.run
    if run is None:
        return
    epoch = run.epoch
    deadline = _Deadline(run.spec.limits.seconds, run.started)
    try:
        while log.state.run is not None and log.state.run.epoch == epoch:
            try:
                await _advance(log, assemble, deadline)
            except Conflict:
                await log.rebase()
    finally:
        deadline.disarm()


async def _advance(log: ThreadLog, assemble: Assemble, deadline: _Deadline) -> None:
    run = log.state.run
    assert run is not None
    language = run.spec.language
    try:
        if run.cancel is not None:
            await close(log, "cancelled", "cancelled", words("cancelled", language))
            return
        engine = assemble(run.spec)
        while await engine.step(log):
            pass
    except asyncio.CancelledError:
        await _interrupted(log, deadline, language)
    except StoreError:
        raise
    except ConfigError as error:
        await close(log, "failed", "config", str(error))
    except Exception as error:  # the boundary of a run: a fault of our own ends it with a reason, never silently
        _log.exception("run %s.%s failed", log.thread, run.seq)
        await close(log, "failed", "internal", words("internal", language, detail=type(error).__name__))


async def _interrupted(log: ThreadLog, deadline: _Deadline, language: str) -> None:
    """End a run that was asked to stop or ran out of time; let every other cancellation through."""
    run, task = log.state.run, asyncio.current_task()
    if run is None:
        return
    if run.cancel is None and not deadline.passed:
        raise asyncio.CancelledError
    if task is not None:
        task.uncancel()
    if run.cancel is not None:
        await close(log, "cancelled", "cancelled", words("cancelled", language))
    else:
        await close(log, "limit", "seconds", words("seconds", language, limit=deadline.seconds))


class _Deadline:
    """Interrupts the current task when a run's seconds are over.

    Args:
        seconds: What the run may take, or None.
        started: When it started, in milliseconds since 1970.
    """

    def __init__(self, seconds: float | None, started: int) -> None:
        self.seconds, self.passed = seconds or 0.0, False
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        if seconds is not None:
            left = max(0.0, seconds - (now_ms() - started) / 1000)
            self._timer = asyncio.get_running_loop().call_later(left, self._pass)

    def _pass(self) -> None:
        self.passed = True
        if self._task is not None:
            self._task.cancel()

    def disarm(self) -> None:
        """Let the task run on."""
        if self._timer is not None:
            self._timer.cancel()
