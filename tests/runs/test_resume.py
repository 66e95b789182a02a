"""Runs that were interrupted: a new process over the same file goes on with them, and they end well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.errors import StoreError
from stepwell.events import (
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, Step, call, reply
from stepwell.runs.executor import InProcessExecutor
from stepwell.specs import Limits, RunSpec
from stepwell.store.base import ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import ToolContext
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import OWNER, REQUEST, answer_of, bounded, end_of, events_of, is_, open_store, rig, said, until

UNKNOWN = (
    "The outcome is unknown: the process stopped while this tool ran. It was not run again. "
    "Check whether it took effect before you repeat it."
)


def test_a_run_stopped_while_the_model_answered_asks_again(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply(["Half", "!"], gates={1: gate})], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(limits=Limits(steps=1))
            await until(made.service, ref.thread, said("Half"))
        async with rig(["Whole"], store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 1
            log = await made.ended(ref)
            assert [each.event for each in log[2:]] == [
                StepStarted(1, REQUEST),
                MessageStarted(),
                RunClaimed(1),
                ModelFailed("interrupted", "the process stopped while the model answered"),
                MessageEnded(Message("assistant"), "error"),
                StepEnded(),
                StepStarted(1, REQUEST),
                MessageStarted(),
                MessageEnded(Message("assistant", "Whole"), "stop"),
                StepEnded(),
                RunEnded("answer"),
            ]
            assert events_of(log, StepStarted)[0] == events_of(log, StepStarted)[1]
            assert await made.service.resume() == 0

    bounded(main)


@pytest.mark.parametrize("effect", ["pure", "idempotent", "write"])
def test_a_run_stopped_while_a_tool_ran_repeats_it_only_if_it_may(effect: str, tmp_path: Path) -> None:
    async def main() -> None:
        at, keys = Gate(), list[str]()

        @tool(effect=effect)  # type: ignore[call-overload]
        async def work(context: ToolContext) -> str:
            """Work."""
            keys.append(context.key)
            await at.wait()
            return "worked"

        async with rig([call("work")], work, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(people=False)
            await at.reached.wait()
        async with rig(["Done"], work, store=open_store("sqlite", tmp_path)) as made:
            at.set()
            assert await made.service.resume() == 1
            log = await made.ended(ref)
            assert answer_of(log) == "Done"
            assert len(events_of(log, ToolStarted)) == 1
            if effect == "write":
                assert [(each.content, each.status) for each in events_of(log, ToolEnded)] == [(UNKNOWN, "unknown")]
                assert len(keys) == 1
            else:
                assert [(each.content, each.status) for each in events_of(log, ToolEnded)] == [("worked", "ok")]
                assert len(keys) == 2
                assert len(set(keys)) == 1

    bounded(main)


def test_results_that_were_in_are_kept_and_calls_that_had_not_begun_are_made(tmp_path: Path) -> None:
    async def main() -> None:
        at, ran = Gate(), list[str]()

        @tool
        async def save(what: str) -> str:
            """Save."""
            ran.append(what)
            if what == "slow":
                await at.wait()
            return f"saved {what}"

        calls = [ToolCall("a", "save", '{"what": "fast"}'), ToolCall("b", "save", '{"what": "slow"}')]
        async with rig([reply("", *calls)], save, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(people=False)
            await until(made.service, ref.thread, is_(ToolEnded))
            await at.reached.wait()
        async with rig(["Done"], save, store=open_store("sqlite", tmp_path)) as made:
            await made.service.resume()
            log = await made.ended(ref)
            assert [message.content for message in made.asked[0].messages[2:]] == ["saved fast", UNKNOWN]
            assert ran == ["fast", "slow"]
            assert end_of(log).reason == "answer"

    bounded(main)


def test_every_prefix_that_a_crash_can_leave_comes_to_the_same_end() -> None:
    """The events of one append are stored together, so a log ends between two appends."""

    def brain(request: ModelRequest) -> Answer:
        done = sum(message.role == "tool" for message in request.messages)
        if done < 6:
            return reply("", call("add", a=done, b=1), call("add", a=done, b=2), call("nothing"))
        return f"{done} results, the last but one is {request.messages[-2].content}"

    @tool(effect="pure")
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async def cut(log: list[Recorded], end: int) -> list[Recorded]:
        store = MemoryStore()
        await store.append("t", log[:end], expect=0, new=ThreadInfo("t", OWNER))
        async with rig(brain, add, store=store) as made:
            assert await made.service.resume() == (end < len(log))
            await until(made.service, "t", lambda item: item.ends_run)
            return await made.log("t")

    async def main() -> None:
        async with rig(brain, add) as made:
            whole = await made.ended(await made.start(limits=Limits(steps=3, tool_calls=6)))
        together = {
            place + 1
            for place, each in enumerate(whole[:-1])
            if isinstance(each.event, RunStarted | StepStarted) or isinstance(whole[place + 1].event, RunEnded)
        }
        for end in range(1, len(whole) + 1):
            if end not in together:
                log = await cut(whole, end)
                assert (answer_of(log), end_of(log)) == (answer_of(whole), end_of(whole)), end
                assert list(audit(log).transcript) == list(audit(whole).transcript)

    bounded(main)


def test_a_cancel_that_was_stored_is_obeyed_by_the_next_process(tmp_path: Path) -> None:
    async def main() -> None:
        at = Gate()

        @tool
        async def stubborn() -> str:
            """Ignore the first cancel."""
            try:
                await at.wait()
            except asyncio.CancelledError:
                await at.wait()
            return "never"

        async with rig([call("stubborn")], stubborn, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await at.reached.wait()
            await made.service.cancel(OWNER, ref.thread, ref.run, "enough")
        async with rig([], stubborn, store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 1
            log = await made.ended(ref)
            assert end_of(log).reason == "cancelled"
            assert made.asked == []

    bounded(main)


def test_a_run_whose_time_is_over_by_then_ends_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store("sqlite", tmp_path)
        started = Recorded(1, 1000, 1, RunStarted(RunSpec(limits=Limits(seconds=60))))
        said = Recorded(2, 1000, 1, MessageAdded(Message("user", "go")))
        await store.append("t", [started, said], expect=0, new=ThreadInfo("t", OWNER))
        async with rig(lambda _: reply("x", gates={0: Gate()}), store=store) as made:
            await made.service.resume()
            await until(made.service, "t", lambda item: item.ends_run)
            assert (end_of(await made.log("t")).reason, end_of(await made.log("t")).cause) == ("limit", "seconds")

    bounded(main)


def test_only_runs_that_nobody_carries_out_are_resumed() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("a", gates={0: gate})]) as made:
            ref = await made.start()
            assert await made.service.resume() == 0
            await gate.reached.wait()
            assert await made.service.resume() == 0
            gate.set()
            assert events_of(await made.ended(ref), RunClaimed) == []

    bounded(main)


def test_many_interrupted_runs_are_resumed_together(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig(lambda _: reply("never", gates={0: gate}), store=open_store("sqlite", tmp_path)) as made:
            refs = [await made.start(str(number)) for number in range(50)]
        async with rig(lambda request: request.messages[-1].content, store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 50
            for number, ref in enumerate(refs):
                assert answer_of(await made.ended(ref)) == str(number)

    bounded(main)


# stopping


def test_stopping_gives_runs_time_to_end_and_ends_readers(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("a", gates={0: gate})], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda _: False))
            stopping = asyncio.ensure_future(made.service.stop(20.0))
            await asyncio.sleep(0)
            gate.set()
            await stopping
            assert (await reader)[-1].ends_run
            with pytest.raises(StoreError, match="closed"):
                await made.start()

    bounded(main)


def test_a_run_started_while_the_service_stops_is_carried_out_by_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("a", gates={0: gate})], store=open_store("sqlite", tmp_path)) as made:
            await made.start()
            await gate.reached.wait()
            stopping = asyncio.ensure_future(made.service.stop(20.0))
            await asyncio.sleep(0)
            late = await made.start("late")
            gate.set()
            await stopping
            assert len(made.asked) == 1
        async with rig(["Done"], store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 1
            assert answer_of(await made.ended(late)) == "Done"

    bounded(main)


def test_a_tool_that_ignores_its_cancellation_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async def main() -> None:
        at = Gate()

        @tool
        async def stubborn() -> str:
            """Ignore the first cancel."""
            try:
                await at.wait()
            except asyncio.CancelledError:
                return "ignored"
            return ""

        script: list[Step] = [call("stubborn"), reply("never", gates={0: Gate()})]
        async with rig(script, stubborn, store=open_store("sqlite", tmp_path)) as made:
            await made.start()
            await at.reached.wait()
        assert len(made.asked) == 2

    bounded(main)


def test_tasks_are_waited_for_then_cancelled_until_they_are_over(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        executor, ended = InProcessExecutor(), list[str]()

        def work(name: str, ignores: int, gate: asyncio.Event) -> Callable[[], object]:
            async def body() -> None:
                left = ignores
                while True:
                    try:
                        await gate.wait()
                        break
                    except asyncio.CancelledError:
                        left -= 1
                        if left < 0:
                            ended.append(f"{name} cancelled")
                            raise
                ended.append(name)

            return body

        soon, never = asyncio.Event(), asyncio.Event()
        executor.submit("a", work("one", 0, soon))  # type: ignore[arg-type]
        executor.submit("a", work("two", 0, never))  # type: ignore[arg-type]
        executor.submit("b", work("three", 1, never))  # type: ignore[arg-type]
        assert executor.carries("a")
        assert not executor.carries("c")
        stopping = asyncio.ensure_future(executor.stop(0.05))
        await asyncio.sleep(0)
        soon.set()
        await stopping
        assert ended == ["one", "two cancelled", "three cancelled"]
        assert not executor.carries("a")
        await executor.stop(0.0)

    bounded(main)


# settings that are gone


def test_a_run_whose_tool_is_gone_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        at = Gate()

        @tool(effect="pure")
        async def work() -> None:
            """Work."""
            await at.wait()

        async with rig([call("work")], work, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await at.reached.wait()
        async with rig(["Done"], store=open_store("sqlite", tmp_path)) as made:
            await made.service.resume()
            assert [each.status for each in events_of(await made.ended(ref), ToolEnded)] == ["unknown_tool"]

    bounded(main)
