"""A bounded queue of texts and an event that work across threads and loops.

LangChain calls async handlers from threads, too, each time in a loop of its own; neither `asyncio.Queue` nor
`asyncio.Event` allows that.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

PATIENCE = 1.0
"""Seconds in which a loop that is not blocked answers."""


class Home:
    """The loop to which a handler belongs, as callbacks in other threads see it.

    Args:
        loop: The loop; None where none runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self._ping: Future[None] | None = None

    async def wait(self, future: Future[None]) -> bool:
        """Wait for a future that the loop will set; return False where the loop cannot, because it is blocked.

        It is blocked by an async function that calls LangChain's synchronous methods: what the loop should do would
        wait for that call, and the call for this.
        """
        waiting = asyncio.wrap_future(future)
        if asyncio.get_running_loop() is self.loop:
            await waiting
            return True
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=PATIENCE)
            if done:
                return True
            if not await self._answers():
                return False

    async def _answers(self) -> bool:
        loop, ping = self.loop, self._ping
        if loop is None or not loop.is_running():
            return False
        if ping is None or ping.done():
            ping = self._ping = Future[None]()
            loop.call_soon_threadsafe(_set, ping)
        done, _ = await asyncio.wait({asyncio.wrap_future(ping)}, timeout=PATIENCE)
        return bool(done)


def home() -> asyncio.AbstractEventLoop | None:
    """Return the running loop, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _set(future: Future[None]) -> None:
    with suppress(InvalidStateError):  # whoever waited has gone
        future.set_result(None)


class Waiters:
    """Those who wait for a change, in whatever loop."""

    def __init__(self) -> None:
        self._waiting: list[Future[None]] = []

    def new(self) -> Future[None]:
        """Return a future that `wake` sets."""
        future: Future[None] = Future()
        self._waiting.append(future)
        return future

    def wake(self) -> None:
        """Wake all; each looks for itself whether it was meant."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            _set(each)


class Done:
    """An event as `asyncio.Event`, for all threads and loops.

    Args:
        changed: Called when it is set.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed, self._lock = changed, threading.Lock()
        self._set, self._waiters = False, Waiters()

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it and wake those who wait."""
        with self._lock:
            self._set = True
            self._waiters.wake()
        self._changed()

    def clear(self) -> None:
        """Unset it."""
        self._set = False

    async def wait(self) -> bool:
        """Wait until it is set."""
        with self._lock:
            waiter = None if self._set else self._waiters.new()
        if waiter is not None:
            await asyncio.wrap_future(waiter)
        return True


class Outlet:
    """A first-in-first-out queue of texts, with the methods of `asyncio.Queue`.

    Args:
        maxsize: Texts that it holds at most; 0 for no bound.

    Attributes:
        maxsize: As given.
        abandoned: The reader left: what comes is thrown away, and nobody waits for room.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize, self.abandoned = maxsize, False
        self._items: deque[str] = deque()
        self._lock = threading.Lock()
        self._getters, self._putters = Waiters(), Waiters()
        self._home = Home(home())

    def qsize(self) -> int:
        """Return how many texts it holds."""
        return len(self._items)

    def empty(self) -> bool:
        """Tell whether it holds nothing."""
        return not self._items

    def full(self) -> bool:
        """Tell whether there is no room."""
        return 0 < self.maxsize <= len(self._items)

    def wake(self) -> None:
        """Let readers look again."""
        with self._lock:
            self._getters.wake()

    def abandon(self) -> None:
        """Throw everything away, now and later: the reader left."""
        with self._lock:
            self.abandoned = True
            self._items.clear()
            self._putters.wake()

    def put_nowait(self, item: str) -> None:
        """Add a text without waiting.

        Raises:
            asyncio.QueueFull: There is no room.
        """
        with self._lock:
            if not self._add(item, False):
                raise asyncio.QueueFull

    async def put(self, item: str, *, force: bool = False) -> None:
        """Add a text when there is room; at once where the reader left or its loop is blocked.

        Args:
            item: The text.
            force: Do not wait for room.
        """
        while True:
            with self._lock:
                if self._add(item, force):
                    return
                waiter = self._putters.new()
            force = not await self._home.wait(waiter)

    def _add(self, item: str, force: bool) -> bool:
        if self.abandoned:
            return True
        if self.full() and not force:
            return False
        self._items.append(item)
        self._getters.wake()
        return True

    def get_nowait(self) -> str:
        """Take the oldest text.

        Raises:
            asyncio.QueueEmpty: There is none.
        """
        with self._lock:
            if not self._items:
                raise asyncio.QueueEmpty
            return self._pop()

    async def get(self) -> str:
        """Wait for a text and take it."""
        item = await self.take(lambda: False)
        assert item is not None
        return item

    async def take(self, over: Callable[[], bool]) -> str | None:
        """Wait for a text and take it; return None when there is none and none will come.

        Args:
            over: Says whether none will come; asked after each `wake`.
        """
        if self._home.loop is not asyncio.get_running_loop():
            self._home = Home(home())
        while True:
            with self._lock:
                if self._items:
                    return self._pop()
                if over():
                    return None
                waiter = self._getters.new()
            await asyncio.wrap_future(waiter)

    def _pop(self) -> str:
        item = self._items.popleft()
        self._putters.wake()
        return item
