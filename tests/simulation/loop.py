"""An event loop whose time is made up: nothing waits, the clock jumps to the next timer.

Processes are groups of tasks that can die together: from then on nothing of theirs is run. Sets of tasks and futures
have the same order each time, so that what runs on the loop depends on nothing but its input.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, Protocol, cast

MOST_TURNS = 500_000
"""Turns of the loop after which it is thought that something goes in circles."""


class Mortal(Protocol):
    """Whoever runs tasks and may die.

    Attributes:
        dead: Nothing of it is run any more.
        frozen: What would have been run since.
    """

    dead: bool
    frozen: list[asyncio.Handle]


PROCESS: ContextVar[Mortal | None] = ContextVar("PROCESS", default=None)
"""Whose code this is; None for what belongs to no process."""


class Deadlock(AssertionError):
    """Everybody waits and no timer is set; says who waits where."""


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        _run(self, super()._run)


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        _run(self, super()._run)


def _run(handle: Any, run: Callable[[], None]) -> None:
    process = handle._context.get(PROCESS)
    if process is not None and process.dead:
        process.frozen.append(handle)
    else:
        run()


class _Task(asyncio.Task[Any]):
    """A task with a hash that is the same each time."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **more: Any) -> None:
        context: Context | None = more.get("context")
        self.number = number
        self.process = PROCESS.get() if context is None else context.get(PROCESS)
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future[Any]):
    """A future with a hash that is the same each time."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimLoop(base_events.BaseEventLoop):
    """The loop; its time is in seconds from 0.

    Attributes:
        turns: How often it looked for something to do.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._now = 0.0
        self._numbers = count(1)
        self._made: list[_Task] = []
        self._kept = 256
        self.turns = 0
        self.set_task_factory(cast(Any, self._make_task))

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Pass the time until the next timer instead of waiting for it."""
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Deadlock(f"{MOST_TURNS} turns of the loop bring no end\n{self.waiting()}")
        if timeout is None:
            raise Deadlock(f"everybody waits\n{self.waiting()}")
        if timeout > 0:
            self._now = max(self._now, self._scheduled[0].when())
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        cast(Any, timer)._scheduled = True
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(next(self._numbers), self)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call at once what would be called in a thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # handed to whoever waits, as from a thread
            future.set_exception(error)
        return future

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), coro, loop=loop, **more)
        self._made.append(task)
        if len(self._made) > self._kept:
            self._made = [each for each in self._made if not each.done()]
            self._kept = 2 * len(self._made) + 256
        return task

    def tasks(self) -> list[_Task]:
        """Return the tasks that are not done, oldest first, those of the dead included."""
        return [each for each in self._made if not each.done()]

    def waiting(self) -> str:
        """Say which living tasks wait, and where."""
        lines: list[str] = []
        for task in self.tasks():
            if task.process is None or not task.process.dead:
                lines.append(f"{task.get_name()} [{task.process}]: {' < '.join(_places(task.get_coro()))}")
        return "\n".join(lines)

    def run_frozen(self, process: Mortal) -> None:
        """Have what a dead process left run to its end after all: the world has ended, and its objects are let go."""
        process.dead = False
        self._ready.extend(process.frozen)
        process.frozen.clear()


def _places(coro: Any) -> list[str]:
    """Return the innermost places of what a coroutine waits for."""
    places: list[str] = []
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "ag_frame", None) or getattr(coro, "gi_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        coro = getattr(coro, "cr_await", None) or getattr(coro, "ag_await", None) or getattr(coro, "gi_yieldfrom", None)
    return places[::-1][:6]
