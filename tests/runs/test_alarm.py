"""The timer of the service: it rings at the first of many times, whatever the wall clock does meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from stepwell.runs import alarm
from stepwell.runs.alarm import Alarm
from stepwell.state.thread import NEVER
from tests.support.runs import bounded


class Bell:
    """A clock that is set by hand, and the times at which an alarm rang."""

    def __init__(self) -> None:
        self.now, self.rang = 1000, list[int]()
        self.nexts = list[int]()
        self.ringing = asyncio.Event()
        self.alarm = Alarm(lambda: self.now, self.ring)

    async def ring(self) -> int:
        self.rang.append(self.now)
        self.ringing.set()
        await asyncio.sleep(0)
        return self.nexts.pop(0) if self.nexts else NEVER

    async def wait(self) -> None:
        await self.ringing.wait()
        self.ringing.clear()


def test_it_rings_at_the_first_time_and_then_at_the_next_that_it_is_told() -> None:
    async def main() -> None:
        bell = Bell()
        bell.nexts.append(900)
        bell.alarm.set(NEVER)
        bell.alarm.set(10**12)
        bell.alarm.set(1000)
        await bell.wait()
        await bell.wait()
        bell.alarm.set(1)  # told while it rings, or right after
        await bell.wait()
        await bell.alarm.stop()
        bell.alarm.set(1)
        assert bell.rang == [1000, 1000, 1000]

    bounded(main)


def test_a_clock_that_jumps_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(alarm, "LOOK", 0.001)
        bell = Bell()
        bell.alarm.set(1000 + 86_400_000)
        looks = 0

        def back() -> int:
            nonlocal looks
            looks += 1
            return bell.now

        monkeypatch.setattr(bell.alarm, "_clock", back)
        while looks < 5:
            await asyncio.sleep(0)
        assert bell.rang == []
        bell.now -= 3_600_000  # back: it waits on
        seen = looks
        while looks < seen + 5:
            await asyncio.sleep(0)
        assert bell.rang == []
        bell.now += 100_000_000  # and a day ahead
        await bell.wait()
        await bell.alarm.stop()
        assert len(bell.rang) == 1

    bounded(main)


def test_it_stops_in_the_middle_of_its_ringing() -> None:
    async def main() -> None:
        reached, never = asyncio.Event(), asyncio.Event()

        async def ring() -> int:
            reached.set()
            await never.wait()
            return NEVER

        stuck = Alarm(lambda: 5, ring)
        stuck.set(5)
        await reached.wait()
        await stuck.stop()
        assert len(asyncio.all_tasks()) == 1

    bounded(main)
