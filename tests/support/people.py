"""A run and the people in it: carried out in the test's own task until it ends or waits, answered, and gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from stepwell.events import Answered, Recorded, RunClaimed, RunEnded, RunStarted, RunWaiting, Stored, Unknown
from stepwell.messages import Message
from stepwell.models.base import Model
from stepwell.models.scripted import Brain, Step
from stepwell.questions import Decision
from stepwell.runs.driver import drive
from stepwell.runs.log import ThreadLog
from stepwell.specs import RunSpec
from stepwell.state.run import Question
from stepwell.state.thread import State
from stepwell.store.base import ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Tool
from tests.support.audit import audit
from tests.support.runs import OWNER, Rig, rig

THREAD = "t" * 32


class Desk:
    """One thread with one run, and whoever answers its questions.

    Args:
        made: Its parts.
        log: Its log.
    """

    def __init__(self, made: Rig, log: ThreadLog) -> None:
        self.made, self.log = made, log

    async def go(self) -> None:
        """Carry the run out until it ends or waits."""
        await drive(self.log, self.made.assemble)
        run = self.log.state.run
        assert run is None or run.waiting is not None, "it neither ended nor waits"

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """Have it carried out beside the test, to its end or until it waits."""
        task = asyncio.create_task(self.go())
        try:
            yield
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def questions(self) -> list[Question]:
        """What is to be answered, in order."""
        return list(self.log.state.questions.values())

    def answer(self, question: Question, decision: Decision, **more: Any) -> None:
        """Decide a question."""
        self.log.tell(Answered(question.seq, decision, **more))

    async def events(self) -> list[Recorded]:
        """Return the audited log."""
        await self.log.committed()
        events = await self.made.store.read(self.log.thread)
        audit(events)
        return events

    async def happened(self) -> list[Stored]:
        """Return what happened after the user's message, but for waiting."""
        found = [each.event for each in (await self.events())[2:]]
        return [each for each in found if not isinstance(each, RunWaiting | RunClaimed | Unknown)]

    async def seen(self, kind: type[Stored], count: int = 1) -> None:
        """Wait until so many events of a kind are recorded."""
        while sum(isinstance(each.event, kind) for each in await self.log.read()) < count:
            await asyncio.sleep(0)


@asynccontextmanager
async def desk(
    model: Model | Brain | Sequence[Step], *tools: Tool | Callable[..., Any], **spec: Any
) -> AsyncIterator[Desk]:
    """Give a desk with a run that has not begun to be carried out."""
    async with rig(model, *tools) as made:
        log = await made.service.begin(OWNER, Message("user", "go"), RunSpec(**spec))
        yield Desk(made, log)


@asynccontextmanager
async def resumed(
    events: Sequence[Recorded], model: Model | Brain | Sequence[Step], *tools: Tool | Callable[..., Any]
) -> AsyncIterator[Desk]:
    """Give a desk at which a new process goes on with a log that another left."""
    store = MemoryStore()
    await store.append(THREAD, list(events), expect=0, new=ThreadInfo(THREAD, OWNER, "", 0))
    async with rig(model, *tools, store=store) as made:
        log = ThreadLog(store, THREAD, State(events), OWNER)
        run = log.state.run
        assert run is not None
        log.carried = run.seq
        log.append(RunClaimed(run.epoch + 1))
        yield Desk(made, log)


def prefixes(events: Sequence[Recorded]) -> list[list[Recorded]]:
    """Return every beginning of a log in which its run is open."""
    assert isinstance(events[0].event, RunStarted)
    assert isinstance(events[-1].event, RunEnded)
    return [list(events[:at]) for at in range(2, len(events))]
