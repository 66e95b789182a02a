"""The port through which agents and engines read and write a thread's log, and the part of it that one agent has.

Who numbers and stores events is the business of those who implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from stepwell.events import Recorded, Stored, Transient
from stepwell.messages import Message
from stepwell.state.agent import AgentState
from stepwell.state.thread import State, parent_of

NO_BLOBS: Mapping[str, bytes] = MappingProxyType({})


class Workers(dict[str, Callable[[], object]]):
    """What stops an agent that works side by side with others, by its path; its engine goes on with it from the log."""

    async def turn(self, path: str) -> None:
        """Let an agent that begins, or was waiting, look at the log: at once; in a replay when it did so then.

        Args:
            path: The agent; empty for the run's own.
        """


class Log(Protocol):
    """One thread's log as one of its agents sees it.

    Attributes:
        thread: The thread's id.
        path: The agent; empty for the run's own.
    """

    thread: str
    path: str

    @property
    def workers(self) -> Workers:
        """The agents of the thread that work side by side; an engine enters those that it lets work."""
        ...

    @property
    def state(self) -> AgentState:
        """What the agent knows."""
        ...

    @property
    def whole(self) -> State:
        """What the whole thread has come to."""
        ...

    def at(self, path: str) -> Log:
        """Return the log as another agent sees it; its task need not have begun.

        Args:
            path: The agent, from the run's own on.
        """
        ...

    async def record(
        self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS, path: str | None = None
    ) -> None:
        """Number, apply and store events.

        Args:
            events: Stored together, in order.
            durable: Wait until they are on the disk; without it they follow soon, in order.
            blobs: Results stored whole with them, by SHA-256 as 64 hexadecimal digits.
            path: The agent that they happened to; None for the one whose log this is.

        Raises:
            Conflict: Somebody else appended; look at the new state and decide again.
        """
        ...

    def publish(self, delta: Transient) -> None:
        """Show a transient event to whoever follows; wait for `visible` before the first of a message."""
        ...

    async def visible(self) -> None:
        """Wait until everything recorded so far may be shown: on the disk, where it is going to be on one."""
        ...

    async def committed(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        ...

    async def changed(self, seq: int) -> None:
        """Wait until somebody outside has appended an event with a number above `seq`."""
        ...

    def now(self) -> int:
        """Return the time in milliseconds since 1970; in a replay, as it was then."""
        ...

    def partial(self, message: int) -> Message:
        """Return what has been published of an open message.

        Args:
            message: Number of its `MessageStarted`.
        """
        ...

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`, those not yet stored as well."""
        ...

    async def blob(self, prefix: str) -> bytes | None:
        """Return a result of this thread that was stored whole, by the beginning of its SHA-256; None if none is."""
        ...


def worker_of(workers: Workers, path: str) -> Callable[[], object] | None:
    """Return what stops the work of one agent and leaves others alone; None where it does not work beside others.

    An agent that has nothing under way while others beside it have needs no stop.

    Args:
        workers: Those that work side by side.
        path: The agent.
    """
    while path:
        if path in workers:
            return workers[path]
        if any(parent_of(each) == parent_of(path) for each in workers):
            return _nothing
        path = parent_of(path)
    return None


def _nothing() -> None:
    pass


class NestedLog:
    """The log of an agent inside a run; implements `Log` over the run's own.

    Args:
        root: The run's own.
        path: The agent.
    """

    __slots__ = ("_root", "path", "thread")

    def __init__(self, root: Log, path: str) -> None:
        self._root, self.path, self.thread = root, path, root.thread

    @property
    def workers(self) -> Workers:
        """The agents of the thread that work side by side; see `Log`."""
        return self._root.workers

    @property
    def state(self) -> AgentState:
        """What the agent knows; see `Log`."""
        return self._root.whole.at(self.path)

    @property
    def whole(self) -> State:
        """What the whole thread has come to; see `Log`."""
        return self._root.whole

    def at(self, path: str) -> Log:
        """Return the log as another agent sees it; see `Log`."""
        return self._root.at(path)

    async def record(
        self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS, path: str | None = None
    ) -> None:
        """Number, apply and store events; see `Log`."""
        await self._root.record(*events, durable=durable, blobs=blobs, path=self.path if path is None else path)

    def publish(self, delta: Transient) -> None:
        """Show a transient event; see `Log`."""
        self._root.publish(delta)

    async def visible(self) -> None:
        """Wait until everything may be shown; see `Log`."""
        await self._root.visible()

    async def committed(self) -> None:
        """Wait for the disk; see `Log`."""
        await self._root.committed()

    async def changed(self, seq: int) -> None:
        """Wait for somebody outside; see `Log`."""
        await self._root.changed(seq)

    def now(self) -> int:
        """Return the time; see `Log`."""
        return self._root.now()

    def partial(self, message: int) -> Message:
        """Return what has been published of an open message; see `Log`."""
        return self._root.partial(message)

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events; see `Log`."""
        return await self._root.read(after=after, limit=limit)

    async def blob(self, prefix: str) -> bytes | None:
        """Return a result that was stored whole; see `Log`."""
        return await self._root.blob(prefix)
