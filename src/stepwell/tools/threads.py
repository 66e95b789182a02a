"""Threads for blocking functions: as many as run at once, none of which keeps the process alive.

The event loop's own pool is small and also resolves host names; a few hung tools would stop the whole
process, and its exit would wait for them. It is no queue: a call never waits for a free thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

IDLE_SECONDS = 30.0
"""How long a thread without work waits for more before it ends."""


class _Job:
    __slots__ = ("context", "function", "future", "loop")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.context = contextvars.copy_context()

    def run(self) -> tuple[Any, BaseException | None]:
        try:
            return self.context.run(self.function), None
        except (StopIteration, KeyboardInterrupt, GeneratorExit) as raised:
            # A future takes no StopIteration: awaiting it would look like a return. The others would end the loop or
            # whoever waits, and here they come from the function: nobody can have pressed a key in a thread.
            return None, RuntimeError(f"the function raised {type(raised).__name__}({raised})")
        except BaseException as raised:  # the boundary of the thread: all goes to the one who waits
            return None, raised

    def report(self, result: object, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self.deliver, result, error)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    def deliver(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Threads:
    """Runs blocking functions in daemon threads that are reused while there is work."""

    __slots__ = ("_idle", "_jobs")

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    async def run(self, function: Callable[[], Any]) -> Any:
        """Return what the function returns; it sees the caller's context variables.

        A cancelled caller leaves at once. The function cannot be stopped: it goes on and its result is dropped.

        Raises:
            BaseException: What the function raises.
        """
        job = _Job(function)
        self._jobs.put(job)
        if not self._idle.acquire(blocking=False):
            self._start(job)
        return await job.future

    def _start(self, job: _Job) -> None:
        try:
            threading.Thread(target=_work, args=(self._jobs, self._idle), name="stepwell-tool", daemon=True).start()
        except RuntimeError:
            # The system has no thread left. The job is in the queue and must not run after its failure is told.
            job.future.cancel()
            raise


def _work(jobs: SimpleQueue[_Job], idle: threading.Semaphore) -> None:
    while True:
        try:
            job = jobs.get(timeout=IDLE_SECONDS)
        except Empty:
            # Whoever holds the token decides: with it this thread may leave, without it a job is on its way.
            if idle.acquire(blocking=False):
                return
            continue
        outcome = (None, None) if job.future.cancelled() else job.run()
        # Idle before the caller hears of it, so that its next call finds this thread.
        idle.release()
        job.report(*outcome)
        del job, outcome
