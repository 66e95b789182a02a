"""The in-process executor: one task a run.

It knows nothing of logs; a run is a coroutine function to it. A later executor may hand runs to other
processes instead.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

AGAIN = 1.0
"""Seconds until a task that caught its cancellation and went on is cancelled again."""


class Executor(Protocol):
    """Carries runs out somewhere."""

    def submit(self, thread: str, drive: Callable[[], Awaitable[None]]) -> None:
        """Carry out the open run of a thread."""
        ...

    def carries(self, thread: str) -> bool:
        """Tell whether something of a thread is carried out here."""
        ...

    async def stop(self, grace: float) -> None:
        """Give runs `grace` seconds, then interrupt them; their logs stay open and are resumed later."""
        ...


class InProcessExecutor:
    """Carries runs out as tasks of the current loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[None]] = set()
        self._threads: Counter[str] = Counter()

    def submit(self, thread: str, drive: Callable[[], Awaitable[None]]) -> None:
        """Start a task for the run."""
        task = asyncio.ensure_future(drive())
        self._tasks.add(task)
        self._threads[thread] += 1
        task.add_done_callback(functools.partial(self._left, thread))

    def carries(self, thread: str) -> bool:
        """Tell whether the thread has a task."""
        return thread in self._threads

    def _left(self, thread: str, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        self._threads[thread] -= 1
        if not self._threads[thread]:
            del self._threads[thread]

    async def stop(self, grace: float) -> None:
        """Wait, then interrupt what is left until nothing is."""
        tasks = set(self._tasks)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=grace)
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=AGAIN)
