"""One timer for the next of many times of the wall clock, which may jump.

What is to be done then is its owner's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stepwell.state.thread import NEVER

LOOK = 20.0
"""Seconds after which the clock is looked at again at the latest, while something is waited for."""


class Alarm:
    """Has a function called at the first of the times that it was told.

    Args:
        clock: Gives the time in milliseconds since 1970.
        ring: Does what is due and returns the next time; it must not fail.
    """

    def __init__(self, clock: Callable[[], int], ring: Callable[[], Awaitable[int]]) -> None:
        self._clock, self._ring = clock, ring
        self._next = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._ringing: asyncio.Future[None] | None = None
        self._stopped = False

    def set(self, time: int) -> None:
        """Ring at a time, in milliseconds since 1970, or before."""
        if time < self._next and not self._stopped:
            self._next = time
            self._arm()

    async def stop(self) -> None:
        """Never ring again, and wait for what is under way."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._ringing is not None:
            self._ringing.cancel()
            await asyncio.wait((self._ringing,))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = min((self._next - self._clock()) / 1000, LOOK)
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._stopped or self._next == NEVER:
            return
        if self._ringing is not None:
            return
        if self._clock() < self._next:
            self._arm()
            return
        self._next = NEVER
        self._ringing = asyncio.ensure_future(self._do())

    async def _do(self) -> None:
        try:
            time = await self._ring()
        finally:
            self._ringing = None
        self._next = min(self._next, time)
        if self._next < NEVER and not self._stopped:
            self._arm()
