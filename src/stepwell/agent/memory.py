"""A log in memory, for an agent that is used by itself. It has one writer, and its end is the program's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from stepwell.events import Recorded, RunStarted, Stored, Transient
from stepwell.log import NO_BLOBS, Log, NestedLog, Workers
from stepwell.messages import Message
from stepwell.state.thread import State


class MemoryLog:
    """A thread's log that lives as long as the object; implements `log.Log`.

    Attributes:
        events: All that was recorded.
    """

    def __init__(self) -> None:
        self.thread, self.path = "memory", ""
        self.state, self.workers = State(), Workers()
        self.events: list[Recorded] = []
        self._blobs: dict[str, bytes] = {}

    @property
    def whole(self) -> State:
        """What the whole thread has come to."""
        return self.state

    def at(self, path: str) -> Log:
        """Return the log as another agent sees it."""
        return NestedLog(self, path) if path else self

    async def record(
        self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS, path: str | None = None
    ) -> None:
        """Number and apply events."""
        now = time.time_ns() // 1_000_000
        self._blobs.update(blobs)
        for event in events:
            seq = self.state.seq + 1
            run = seq if isinstance(event, RunStarted) else self.state.run.seq if self.state.run else 0
            recorded = Recorded(seq, now, run, event, path or "")
            self.state.apply(recorded)
            self.events.append(recorded)

    def publish(self, delta: Transient) -> None:
        """Drop a transient event: nobody follows."""

    async def committed(self) -> None:
        """Return at once: what is recorded is all there is."""

    visible = committed

    async def changed(self, seq: int) -> None:
        """Wait for ever: nobody else writes here."""
        await asyncio.get_running_loop().create_future()

    def now(self) -> int:
        """Return the time in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def partial(self, message: int) -> Message:
        """Return an empty message: nothing of an open one is kept."""
        return Message("assistant")

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`."""
        return self.events[after : None if limit is None else after + limit]

    async def blob(self, prefix: str) -> bytes | None:
        """Return a result that was stored whole, by the beginning of its SHA-256; None if none or several are."""
        found = [data for hash, data in self._blobs.items() if hash.startswith(prefix)]
        return found[0] if len(found) == 1 else None
