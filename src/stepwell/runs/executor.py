"""The in-process executor: one task a run, and the timer of its time limit.

It knows nothing of logs; a run is a coroutine function to it. A later executor may hand runs to other
processes instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol


class Executor(Protocol):
    """Carries runs out somewhere."""

    def submit(self, thread: str, drive: Callable[[], Awaitable[None]]) -> None:
        """Carry out the open run of a thread; at most one at a time for each thread."""
        ...

    def cancel(self, thread: str) -> bool:
        """Interrupt the run of a thread; return whether it is carried out here."""
        ...

    def carries(self, thread: str) -> bool:
        """Tell whether the run of a thread is carried out here."""
        ...

    async def wait(self, thread: str) -> None:
        """Wait until nothing of the thread is carried out here."""
        ...

    async def stop(self, grace: float) -> None:
        """Give runs `grace` seconds, then interrupt them; their logs stay open and are resumed later."""
        ...


class InProcessExecutor:
    """Carries runs out as tasks of the current loop."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def submit(self, thread: str, drive: Callable[[], Awaitable[None]]) -> None:
        """Start a task for the run."""
        self._tasks[thread] = asyncio.ensure_future(self._carry_out(thread, drive))

    async def _carry_out(self, thread: str, drive: Callable[[], Awaitable[None]]) -> None:
        try:
            await drive()
        finally:
            if self._tasks.get(thread) is asyncio.current_task():
                del self._tasks[thread]

    def cancel(self, thread: str) -> bool:
        """Interrupt the run's task."""
        task = self._tasks.get(thread)
        return task is not None and task.cancel()

    def carries(self, thread: str) -> bool:
        """Tell whether the thread has a task."""
        return thread in self._tasks

    async def wait(self, thread: str) -> None:
        """Wait for the run's task."""
        task = self._tasks.get(thread)
        if task is not None:
            await asyncio.wait([task])

    async def stop(self, grace: float) -> None:
        """Wait, then interrupt what is left."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
