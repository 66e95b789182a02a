"""A run that a program outside carries out while it is written into a thread's log.

It decides nothing and knows no framework: whoever carries the run out says what happened, and this appends it as a
driver would, so that the run is seen, followed and cancelled like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from stepwell.engines.base import close
from stepwell.engines.words import words
from stepwell.errors import Busy, Conflict
from stepwell.events import EndReason, Stored, Transient
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import NewThread
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state.run import RunState
from stepwell.state.thread import AgentState

ORPHANED = {
    "en": "The program that carried this run out stopped, and nobody else can go on with it.",
    "zh": "执行此运行的程序已停止，其他程序无法继续。",
}
"""What people are told of a run whose program is gone."""

Decide = Callable[[AgentState, RunState], Sequence[Stored]]
"""Looks at what was recorded so far and returns what is appended; asked again where somebody else came first."""


class OutsideEngine:
    """Ends runs whose program is gone; implements `engines.base.Engine`.

    A run that is carried out from outside has no decisions that could be made here, so that going on with it is
    ending it.
    """

    async def step(self, log: Log) -> bool:
        """End the run as `failed` with the cause `orphaned`; see the port."""
        run = log.state.run
        if run is not None:
            await close(log, "failed", "orphaned", ORPHANED.get(run.spec.language, ORPHANED["en"]))
        return False

    async def close(self) -> None:
        """Do nothing: nothing goes on beside the run."""


class OutsideRun:
    """An open run and its log, as long as a program outside carries it out; made by `begin`.

    Args:
        service: The threads.
        log: The thread's, with the run just begun.
        number: The run's.
    """

    def __init__(self, service: RunService, log: ThreadLog, number: int) -> None:
        self.thread, self.number = log.thread, number
        self._service, self._log = service, log
        self._held = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._left = False

    @classmethod
    async def begin(
        cls, service: RunService, owner: str, message: Message, spec: RunSpec, thread: str, new: NewThread | None = None
    ) -> OutsideRun:
        """Record a message and the start of a run on it; both are durable on return.

        Args:
            service: The threads.
            owner: Whose thread it is.
            message: What the user said.
            spec: How the run goes, as far as that is known.
            thread: Where; empty makes a thread.
            new: What came before the message.

        Raises:
            Busy: The thread has an open run.
            NotFound: There is no such thread.
            StoreError: The store failed.
        """
        log = await service.begin(owner, message, spec, thread=thread, new=new)
        self = cls(service, log, log.carried)
        log.interrupt = self._interrupted  # before anything is awaited: from here on somebody drives the run
        try:
            await self._held.enter_async_context(service.using(owner, log.thread))
            await self._held.enter_async_context(log.turn)
            await self._commit()
        except BaseException:
            await self._leave()
            raise
        if self.run is None:
            await self._leave()
            if log.carried < 0:  # another process appended something before the run was stored: it begins anew
                return await cls.begin(service, owner, message, spec, log.thread, new)
            raise Busy("Another process started a run of the thread first; wait for its end.", "thread")
        return self

    @property
    def run(self) -> RunState | None:
        """What the run has come to; None when it is over or another process has it."""
        run = self._log.state.run
        return run if run is not None and run.seq == self.number == self._log.carried else None

    async def record(self, decide: Decide) -> bool:
        """Append what happened and wait until it is on the disk; return False when the run is over.

        Raises:
            NotFound: The thread is gone.
            StoreError: The store failed.
        """
        log = self._log
        while (run := self.run) is not None and run.cancel is None:
            try:
                if events := decide(log.state, run):
                    log.append(*events, again=True)
                await log.committed()
            except Conflict:
                await log.rebase()
            else:
                return True
        return False

    def publish(self, *deltas: Transient) -> None:
        """Show what is not stored, as long as the run is open."""
        for delta in deltas if self.run is not None else ():
            self._log.publish(delta)

    def partial(self, message: int) -> Message:
        """Return what was shown of an open message."""
        return self._log.partial(message)

    async def end(self, reason: EndReason, cause: str = "", detail: str = "") -> None:
        """Close what is open and end the run; nothing happens where that was done.

        Raises:
            StoreError: The store failed.
        """
        try:
            while self.run is not None:
                try:
                    await close(self._log, reason, cause, detail)
                except Conflict:
                    await self._log.rebase()
        finally:
            await self._leave()

    def _interrupted(self) -> None:
        """Look at the log again: somebody wants the run to end."""
        run = self.run
        if run is not None and run.cancel is not None and self._closing is None:
            detail = words("cancelled", run.spec.language)
            self._closing = asyncio.ensure_future(self.end("cancelled", "cancelled", detail))

    async def _commit(self) -> None:
        try:
            await self._log.committed()
        except Conflict:
            await self._log.rebase()

    async def _leave(self) -> None:
        """Let go of the log, and let the next message that waits have its run."""
        if self._left:
            return
        self._left = True
        self._log.interrupt = None
        self._service.next(self._log)
        await self._held.aclose()
