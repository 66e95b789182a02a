"""Whose task drives a run and who may interrupt it: interruptions end runs, never the task that carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stepwell.engines.base import Engine
from stepwell.events import RunEnded, ToolEnded
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.models.scripted import Gate, call, reply
from stepwell.runs.log import ThreadLog
from stepwell.runs.service import RunRef
from stepwell.specs import Limits, RunSpec
from stepwell.store.memory import MemoryStore
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import OWNER, HeldStore, Rig, bounded, end_of, events_of, rig

GO = Message("user", "go")


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def begun(made: Rig, **spec: object) -> ThreadLog:
    return await made.service.begin(OWNER, GO, RunSpec(**spec))  # type: ignore[arg-type]


def test_a_run_in_the_callers_task_that_runs_out_of_time_leaves_the_task_alone() -> None:
    async def main() -> None:
        async with rig([reply("x", gates={0: Gate()})]) as made:
            log = await begun(made, limits=Limits(seconds=0.02))
            async with asyncio.timeout(10):
                await made.service.drive(log)
            assert cancelling() == 0
            assert end_of(await made.log(log.thread)).cause == "seconds"

    bounded(main)


def test_a_run_in_the_callers_task_can_be_cancelled_by_another() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("x", gates={0: gate})]) as made:
            log = await begun(made)
            driving = asyncio.ensure_future(made.service.drive(log))
            await gate.reached.wait()
            assert await made.service.resume() == 0
            await made.service.cancel(OWNER, log.thread, 1)
            await driving
            assert end_of(await made.log(log.thread)).reason == "cancelled"

    bounded(main)


def test_a_caller_who_is_cancelled_too_is_not_kept_from_leaving() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("x", gates={0: gate})]) as made:
            log = await begun(made)
            driving = asyncio.ensure_future(made.service.drive(log))
            await gate.reached.wait()
            cancel = asyncio.ensure_future(made.service.cancel(OWNER, log.thread, 1))
            await asyncio.sleep(0)
            driving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await driving
            assert log.state.run is not None
            await made.service.abandon(log, 1)
            await cancel
            assert end_of(await made.log(log.thread)).reason == "cancelled"

    bounded(main)


def test_a_task_with_an_old_cancellation_can_drive_runs() -> None:
    async def main() -> None:
        async with rig([reply("x", gates={0: Gate()})]) as made:
            log = await begun(made, limits=Limits(seconds=0.02))

            async def survivor() -> int:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await made.service.drive(log)
                return cancelling()

            task = asyncio.ensure_future(survivor())
            await asyncio.sleep(0)
            task.cancel()
            assert await task == 1
            assert end_of(await made.log(log.thread)).cause == "seconds"

    bounded(main)


def test_time_that_runs_out_while_the_end_is_stored_changes_nothing() -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        async with rig([reply("answer", gates={0: gate})], store=store) as made:
            log = await begun(made, limits=Limits(seconds=0.05))
            driving = asyncio.ensure_future(made.service.drive(log))
            await gate.reached.wait()
            await log.committed()
            store.held = True
            gate.set()
            interrupt = log.interrupt
            assert interrupt is not None
            while log.state.run is not None:
                await asyncio.sleep(0)
            interrupt()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not driving.done()
            store.release()
            await driving
            assert end_of(await made.log(log.thread)) == RunEnded("answer")

    bounded(main)


def test_a_cancel_while_the_end_is_stored_comes_too_late() -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        async with rig([reply("answer", gates={0: gate})], store=store) as made:
            ref = await made.start()
            await gate.reached.wait()
            log = made.service._logs[ref.thread]
            await log.committed()
            store.held = True
            gate.set()
            while log.state.run is not None:
                await asyncio.sleep(0)
            cancel = asyncio.ensure_future(made.service.cancel(OWNER, ref.thread, ref.run))
            await asyncio.sleep(0)
            store.release()
            await cancel
            assert end_of(await made.ended(ref)) == RunEnded("answer")

    bounded(main)


def test_one_task_at_a_time_drives_a_thread() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate})]) as made:
            log = await begun(made)
            drivers = [asyncio.ensure_future(made.service.drive(log)) for _ in range(5)]
            await gate.reached.wait()
            gate.set()
            await asyncio.gather(*drivers)
            assert len(made.asked) == 1
            audit(await made.store.read(log.thread))

    bounded(main)


class Failing:
    """An engine that does what it is told."""

    def __init__(self, does: Callable[[Log], Awaitable[bool]]) -> None:
        self._does = does

    async def close(self) -> None: ...

    async def step(self, log: Log) -> bool:
        return await self._does(log)


def test_a_fault_is_told_by_its_kind_and_in_the_runs_language(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(log: Log) -> bool:
        raise ZeroDivisionError("a secret")

    def assemble(spec: RunSpec) -> Engine:
        return Failing(fail)

    async def main() -> None:
        made = Rig(MemoryStore(), ["x"])
        made.service._assemble = assemble
        end = end_of(await made.ended(await made.start(language="zh")))
        assert end == RunEnded("failed", "internal", "Stepwell 内部出错：ZeroDivisionError。运行已结束，日志完整。")
        await made.service.stop(0.0)

    bounded(main)
    assert "a secret" in caplog.text


def test_tools_that_are_cancelled_with_a_run_get_to_clean_up() -> None:
    async def main() -> None:
        gate, cleaned = Gate(), list[str]()

        @tool
        async def work(name: str) -> str:
            """Work."""
            try:
                await gate.wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(name)
            return ""

        async with rig([reply("", call("work", name="a"), call("work", name="b"))], work) as made:
            ref: RunRef = await made.start()
            await gate.reached.wait()
            await made.service.cancel(OWNER, ref.thread, ref.run)
            log = await made.ended(ref)
            assert sorted(cleaned) == ["a", "b"]
            assert [each.status for each in events_of(log, ToolEnded)] == ["cancelled"] * 2

    bounded(main)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01])
def test_a_limit_of_no_time_at_all_is_kept(seconds: float) -> None:
    async def main() -> None:
        async with rig(lambda _: reply("x", gates={0: Gate()})) as made:
            log = await made.ended(await made.start(limits=Limits(seconds=seconds)))
            assert (end_of(log).reason, end_of(log).cause) == ("limit", "seconds")

    bounded(main)
