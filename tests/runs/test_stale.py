"""A thread that is known here as it was before another process wrote to it: what that process left is gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

from stepwell.events import (
    Answered,
    Asked,
    MessageQueued,
    Recorded,
    RunClaimed,
    RunStarted,
    RunWaiting,
    TitleChanged,
    ToolEnded,
)
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.questions import Inquiry
from stepwell.runs.channel import Item
from stepwell.runs.log import ThreadLog
from stepwell.runs.people import answer
from stepwell.runs.service import RunRef
from stepwell.specs import Rule, RunSpec
from stepwell.state.thread import State
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import ToolContext
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, Rig, answer_of, bounded, events_of, is_, rig, said, until

ASK = (Rule(decision="ask", tool="save"),)


def on(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "stepwell.db")


def stalls(request: ModelRequest) -> Answer:
    """Answer half, and never the rest."""
    return reply(["Half", "."], gates={1: Gate()})


def echo(request: ModelRequest) -> str:
    return f"to {request.messages[-1].content}"


@asynccontextmanager
async def read(made: Rig, thread: str, runs: int) -> AsyncIterator[Callable[[], ThreadLog]]:
    """Have a thread read, so that it is kept as it is known; in the end the reader got so many runs, and all once."""
    ends = 0

    def last(item: Item) -> bool:
        nonlocal ends
        ends += item.ends_run
        return ends == runs

    reader = asyncio.ensure_future(until(made.service, thread, last))
    while thread not in made.service._logs:
        await asyncio.sleep(0)
    yield lambda: made.service._logs[thread]
    assert [item for item in await reader if isinstance(item, Recorded)] == await made.log(thread)


async def gone_on(here: Rig, ref: RunRef) -> list[Recorded]:
    """Go on with what a dead process left, and return the audited log; there is nothing more to go on with."""
    assert await here.service.resume() == 1
    log = await here.ended(ref)
    assert await here.service.resume() == 0
    return log


def test_a_run_that_began_in_a_process_that_died_is_gone_on_with_where_the_thread_was_idle(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=on(tmp_path)) as here:
            first = await here.start("one")
            await here.ended(first)
            async with read(here, first.thread, 2) as known:
                async with rig(stalls, store=on(tmp_path)) as there:
                    left = await there.start("two", first.thread)
                    await until(there.service, first.thread, said("Half"))
                assert known().state.seq < left.run
                log = await gone_on(here, left)
            assert answer_of(log) == "to two"
            assert events_of(log, RunClaimed) == [RunClaimed(1)]

    bounded(main)


def test_a_run_that_waited_here_and_went_on_elsewhere_is_gone_on_with_and_repeats_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        ran = list[str]()

        @tool(effect="write")
        async def save() -> str:
            """Save."""
            ran.append("saved")
            return "saved"

        async with rig([call("save"), "Done"], save, store=on(tmp_path)) as here:
            ref = await here.start(approvals=ASK)
            async with read(here, ref.thread, 1) as known:
                await until(here.service, ref.thread, is_(RunWaiting))
                (number,) = known().state.questions
                async with rig(stalls, save, store=on(tmp_path)) as there:
                    await answer(there.service, OWNER, ref.thread, number, "approve")
                    await until(there.service, ref.thread, said("Half"))
                run = known().state.run
                assert run is not None
                assert run.waiting is not None
                log = await gone_on(here, ref)
            assert ran == ["saved"]
            assert answer_of(log) == "Done"
            assert len(events_of(log, Answered)) == len(events_of(log, ToolEnded)) == 1
            assert events_of(log, RunClaimed) == [RunClaimed(1), RunClaimed(2)]

    bounded(main)


def test_a_message_that_another_process_let_wait_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=on(tmp_path)) as here:
            first = await here.start("one")
            await here.ended(first)
            async with read(here, first.thread, 2) as known:
                there = on(tmp_path)
                log = ThreadLog(there, first.thread, State(await there.read(first.thread)), OWNER)
                number = log.append(MessageQueued(Message("user", "two"), RunSpec()))
                await log.committed()
                await there.close()
                assert not known().state.queue
                ended = await gone_on(here, RunRef(first.thread, number + 1))
            assert answer_of(ended) == "to two"
            assert [each.queued for each in events_of(ended, RunStarted)] == [0, number]

    bounded(main)


def test_a_tool_that_asks_here_is_given_up_when_its_run_was_ended_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        over = asyncio.Event()

        @tool(timeout=inf)
        async def save(context: ToolContext) -> str:
            """Ask, as long as it takes."""
            assert context.ask is not None
            try:
                await context.ask(Inquiry(kind="elicitation", text="Which?"))
            finally:
                over.set()
            return "saved"

        async with rig([call("save")], save, store=on(tmp_path)) as here:
            ref = await here.start()
            await until(here.service, ref.thread, is_(Asked))
            async with rig([], save, store=on(tmp_path)) as there:
                await there.service.cancel(OWNER, ref.thread, ref.run)
                log = await there.ended(ref)
            assert await here.service.resume() == 0
            await over.wait()
            while here.service._logs:
                await asyncio.sleep(0)
            assert await here.log(ref.thread) == log
            assert [each.decision for each in events_of(log, Answered)] == ["cancelled"]

    bounded(main)


class Meanwhile(SqliteStore):
    """A store during whose next read something else happens."""

    then: Callable[[], object] | None = None

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found = await super().read(thread, after=after, limit=limit)
        then, self.then = self.then, None
        if then is not None:
            then()
        return found


def test_what_is_recorded_here_meanwhile_does_not_hide_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        store = Meanwhile(tmp_path / "stepwell.db")
        async with rig(echo, store=store) as here:
            first = await here.start("one")
            await here.ended(first)
            async with read(here, first.thread, 2) as known:
                async with rig(stalls, store=on(tmp_path)) as there:
                    left = await there.start("two", first.thread)
                    await until(there.service, first.thread, said("Half"))
                log = known()
                store.then = lambda: log.append(TitleChanged("mine"))
                ended = await gone_on(here, left)
            assert answer_of(ended) == "to two"
            assert events_of(ended, TitleChanged) == [TitleChanged("mine")]

    bounded(main)
