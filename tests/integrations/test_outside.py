"""A run that a program outside carries out: nobody else takes it, and its log is let go of afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepwell.errors import Busy
from stepwell.events import MessageEnded, MessageStarted, RunEnded, StepStarted, Stored, TextDelta
from stepwell.integrations.outside import OutsideEngine, OutsideRun
from stepwell.messages import Message
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state.agent import AgentState
from stepwell.state.run import RunState
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from tests.support.audit import audit

OWNER = "ann"
SPEC = RunSpec(face="outside")


def served(store: Store) -> RunService:
    return RunService(store, lambda spec: OutsideEngine())


def begins(state: AgentState, run: RunState) -> Sequence[Stored]:
    return [StepStarted(run.steps + 1, "x" * 43), MessageStarted()]


def test_what_is_left_open_is_closed_with_the_run() -> None:
    async def main() -> None:
        service = served(MemoryStore())
        run = await OutsideRun.begin(service, OWNER, Message("user", "go"), SPEC, "")
        assert await run.record(begins)
        assert run.run is not None
        run.publish(TextDelta(run.run.message, "half a"))
        await run.end("failed", "outside", "gone")
        assert not await run.record(begins), "the run is over"
        run.publish(TextDelta(1, "late"))
        await run.end("answer")
        events = await service.events(OWNER, run.thread)
        audit(events)
        assert [each.event for each in events if isinstance(each.event, RunEnded)] == [
            RunEnded("failed", "outside", "gone")
        ]
        ended = [each.event for each in events if isinstance(each.event, MessageEnded)]
        assert ended == [MessageEnded(Message("assistant", "half a"), "cancelled")]
        await service.stop()

    asyncio.run(main())


def test_of_two_processes_that_begin_at_once_one_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = (served(SqliteStore(tmp_path / "threads.db")) for _ in range(2))
        thread = (await first.create(OWNER)).id
        async with second.using(OWNER, thread):  # what it knows of the thread is old when it begins
            run = await OutsideRun.begin(first, OWNER, Message("user", "one"), SPEC, thread)
            with pytest.raises(Busy):
                await OutsideRun.begin(second, OWNER, Message("user", "two"), SPEC, thread)
        await run.end("answer")
        again = await OutsideRun.begin(second, OWNER, Message("user", "three"), SPEC, thread)
        await again.end("answer")
        events = await first.events(OWNER, thread)
        assert [each.content for each in audit(events).transcript] == ["one", "three"]
        for service in (first, second):
            await service.stop()

    asyncio.run(main())


def test_a_run_begins_anew_where_another_process_appended_something_small_first(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = (served(SqliteStore(tmp_path / "threads.db")) for _ in range(2))
        thread = (await first.create(OWNER)).id
        async with second.using(OWNER, thread):  # what it knows of the thread is old when it begins
            await first.rename(OWNER, thread, "Another title")
            run = await OutsideRun.begin(second, OWNER, Message("user", "go"), SPEC, thread)
        await run.end("answer")
        assert [each.content for each in audit(await first.events(OWNER, thread)).transcript] == ["go"]
        for service in (first, second):
            await service.stop()

    asyncio.run(main())


def test_a_run_that_another_process_took_over_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = (served(SqliteStore(tmp_path / "threads.db")) for _ in range(2))
        run = await OutsideRun.begin(first, OWNER, Message("user", "one"), SPEC, "")
        assert await second.resume() == 1
        async with second.using(OWNER, run.thread) as log:
            while log.state.run is not None:
                await asyncio.sleep(0)
            await second.committed(log)
        assert not await run.record(begins)
        await run.end("answer")
        events = await first.events(OWNER, run.thread)
        audit(events)
        assert [each.event.cause for each in events if isinstance(each.event, RunEnded)] == ["orphaned"]
        for service in (first, second):
            await service.stop()

    asyncio.run(main())
