"""Two writers on one file: whoever comes second reads what came first and decides again, and no effect is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from stepwell.errors import Busy, Conflict, InputError, NotFound
from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    PlanChanged,
    PlanMade,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    TaskStarted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Brain, Gate, Step, call, reply
from stepwell.plans import Task
from stepwell.questions import QuestionKind
from stepwell.runs.channel import Cursor
from stepwell.runs.log import ThreadLog
from stepwell.runs.service import Once, RunRef
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import Store
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Tool
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, HeldStore, Rig, answer_of, bounded, end_of, events_of, is_, rig, said, until


@asynccontextmanager
async def two(
    folder: Path, script: list[Step] | Brain, *tools: Tool | object
) -> AsyncIterator[tuple[Rig, SqliteStore]]:
    """Give a rig, and the file as another process has it."""
    other = SqliteStore(folder / "stepwell.db")
    async with rig(script, *tools, store=SqliteStore(folder / "stepwell.db")) as made:  # type: ignore[arg-type]
        yield made, other
    await other.close()


async def strictly(made: Rig, text: str, thread: str) -> RunRef:
    """Start a run where none may be open."""
    return await made.service.start(OWNER, Message("user", text), RunSpec(), thread=thread, policy="reject")


async def append(store: Store, thread: str, *events: Stored) -> None:
    log = ThreadLog(store, thread, State(await store.read(thread)), OWNER)
    if log.state.run is None and isinstance(events[0], CancelRequested):
        raise Conflict
    log.append(*events)
    await log.committed()


def once(tool: str) -> Brain:
    """Call a tool, then answer; by the request, for a call of the model may be made again."""
    return lambda request: "Done" if request.messages[-1].role == "tool" else call(tool)


def kinds(log: list[Recorded]) -> list[str]:
    return [type(each.event).__name__ for each in log]


@pytest.mark.parametrize("other", [TitleChanged("theirs"), CancelRequested("theirs")])
def test_what_came_while_the_model_answered_is_taken_in(other: Stored, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()

        def brain(request: ModelRequest) -> Answer:
            asked = request.messages[-1].role == "user"
            return reply(["Wait", "."], call("add", a=1, b=2), gates={1: gate}) if asked else "Done"

        @tool
        async def add(a: int, b: int) -> int:
            """Add."""
            return a + b

        async with two(tmp_path, brain, add) as (made, store):
            ref = await made.start()
            await gate.reached.wait()
            await append(store, ref.thread, other)
            gate.set()
            log = await made.ended(ref)
            # The reply was paid for: it stands behind what came first.
            assert [each.event for each in log[4:5]] == [other]
            assert log[5].event == MessageEnded(
                Message("assistant", "Wait.", calls=events_of(log, MessageEnded)[0].message.calls), "tool_calls"
            )
            assert end_of(log).reason == ("cancelled" if isinstance(other, CancelRequested) else "answer")
            results = [each.status for each in events_of(log, ToolEnded)]
            assert results == (["cancelled"] if isinstance(other, CancelRequested) else ["ok"])

    bounded(main)


def test_results_of_tools_that_ran_are_kept_and_none_runs_twice(tmp_path: Path) -> None:
    async def main() -> None:
        gates, ran = {"one": Gate(), "two": Gate()}, list[str]()

        @tool
        async def save(what: str) -> str:
            """Save."""
            ran.append(what)
            await gates[what].wait()
            return f"saved {what}"

        async with two(tmp_path, [reply("", call("save", what="one"), call("save", what="two")), "Done"], save) as (
            made,
            store,
        ):
            ref = await made.start()
            await gates["one"].reached.wait()
            await gates["two"].reached.wait()
            await append(store, ref.thread, TitleChanged("theirs"))
            gates["one"].set()
            while made.service._logs[ref.thread].error is None:
                await asyncio.sleep(0)
            gates["two"].set()
            log = await made.ended(ref)
            assert [(each.content, each.status) for each in events_of(log, ToolEnded)] == [
                ("saved one", "ok"),
                ("saved two", "ok"),
            ]
            assert ran == ["one", "two"]
            assert answer_of(log) == "Done"

    bounded(main)


@pytest.mark.parametrize("turns", range(12))
def test_a_cancel_of_another_process_comes_before_an_effect_or_after_it_but_never_between(
    turns: int, tmp_path: Path
) -> None:
    async def main() -> None:
        ran: list[str] = []

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            return "saved"

        async with two(tmp_path, once("save"), save) as (made, store):
            ref = await made.start()
            for _ in range(turns):
                await asyncio.sleep(0)
            with suppress(Conflict):  # the run came first, or is over
                await append(store, ref.thread, CancelRequested("theirs"))
            log = await made.ended(ref)
            assert ran == ["saved"] * [each.status for each in events_of(log, ToolEnded)].count("ok")
            assert end_of(log).reason in ("answer", "cancelled")

    bounded(main)


def test_a_run_that_another_process_took_over_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        gate, ran = Gate(), list[str]()

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            return "saved"

        async with two(tmp_path, [reply(["Let me", "."], call("save"), gates={1: gate})], save) as (made, store):
            ref = await made.start()
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda _: False))
            await until(made.service, ref.thread, said("Let me"))
            await append(store, ref.thread, RunClaimed(1))
            gate.set()
            items = await reader
            log = await made.log(ref.thread)
            assert kinds(log)[4:] == ["RunClaimed"]
            assert [item for item in items if isinstance(item, Recorded)] == log
            assert ran == []
            assert not made.service._logs
            with pytest.raises(Busy):
                await strictly(made, "again", ref.thread)
            # The one who has the run now carries it out.
            async with rig(["Done"], save, store=SqliteStore(tmp_path / "stepwell.db")) as taker:
                assert await taker.service.resume() == 1
                log = await taker.ended(ref)
                assert answer_of(log) == "Done"
                assert events_of(log, RunClaimed) == [RunClaimed(1), RunClaimed(2)]
            assert [item async for item in _stored(made, ref)] == log

    bounded(main)


async def _stored(made: Rig, ref: RunRef) -> AsyncIterator[Recorded]:
    for recorded in await made.service.events(OWNER, ref.thread):
        yield recorded


def test_a_result_that_came_in_after_a_takeover_is_told_if_nobody_knew_it_yet(tmp_path: Path) -> None:
    async def main() -> None:
        gate, ran = Gate(), list[str]()

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            await gate.wait()
            return "saved"

        async with two(tmp_path, once("save"), save) as (made, store):
            ref = await made.start()
            await gate.reached.wait()
            await append(store, ref.thread, RunClaimed(1))
            gate.set()
            await until(made.service, ref.thread, is_(ToolEnded))
            async with rig(["Done"], save, store=SqliteStore(tmp_path / "stepwell.db")) as taker:
                await taker.service.resume()
                log = await taker.ended(ref)
                assert [each.status for each in events_of(log, ToolEnded)] == ["ok"]
                assert answer_of(log) == "Done"
            assert ran == ["saved"]

    bounded(main)


@pytest.mark.parametrize("kind", ["elicitation", "outcome"])
def test_what_another_attempt_at_a_call_asked_ends_with_the_result_that_comes_first(
    kind: QuestionKind, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = Gate()

        @tool
        async def save() -> str:
            """Save."""
            await gate.wait()
            return "saved"

        async with two(tmp_path, once("save"), save) as (made, store):
            ref = await made.start()
            await gate.reached.wait()
            (started,) = events_of(await made.log(ref.thread), ToolStarted)
            await append(store, ref.thread, RunClaimed(1), Asked(kind, started.call, "Which?"))
            assert await store.asking(OWNER, 10) == [ref.thread]
            gate.set()
            await until(made.service, ref.thread, is_(ToolEnded))
            log = await made.log(ref.thread)
            (asked,) = [each.seq for each in log if isinstance(each.event, Asked)]
            assert kinds(log)[-4:] == ["RunClaimed", "Asked", "Answered", "ToolEnded"]
            assert events_of(log, Answered) == [Answered(asked, "cancelled")]
            assert await store.asking(OWNER, 10) == []

    bounded(main)


def test_two_services_that_take_over_at_once_come_to_one_end(tmp_path: Path) -> None:
    async def main() -> None:
        ran: list[str] = []

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            return "saved"

        gate = Gate()
        async with rig([reply("x", gates={0: gate})], save, store=SqliteStore(tmp_path / "stepwell.db")) as made:
            ref = await made.start()
            await gate.reached.wait()
        stores = [SqliteStore(tmp_path / "stepwell.db") for _ in range(3)]
        rigs = [Rig(store, once("save"), [save]) for store in stores]
        await asyncio.gather(*(each.service.resume() for each in rigs))
        log: list[Recorded] = []
        while not log or not log[-1].ends_run:
            log = await stores[0].read(ref.thread)
        for each in rigs:
            await each.service.stop(5.0)
        async with rig([], store=SqliteStore(tmp_path / "stepwell.db")) as made:
            log = await made.log(ref.thread)
            assert len(events_of(log, RunEnded)) == 1
            assert end_of(log).reason == "answer"
            # The second taker may have come while the tool ran for the first: then nobody knows, and nobody repeats it.
            assert len(ran) <= 1
            assert [each.status for each in events_of(log, ToolEnded)] in (["ok"], ["unknown"])

    bounded(main)


def test_of_two_processes_that_start_a_run_one_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, [reply("mine", gates={0: Gate()})]) as (made, store):
            info = await made.service.create(OWNER)
            # A reader keeps the log in memory as it was before the other process came.
            reader = asyncio.ensure_future(until(made.service, info.id, lambda _: False))
            while not made.service._logs:
                await asyncio.sleep(0)
            await append(store, info.id, RunStarted(RunSpec()), MessageAdded(Message("user", "theirs")))
            with pytest.raises(Busy):
                await strictly(made, "mine", info.id)
            assert kinds(await made.log(info.id)) == ["RunStarted", "MessageAdded"]
            await reader
            assert not made.service._logs

    bounded(main)


def test_a_run_starts_although_another_process_changed_something_small(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, ["one", "two"]) as (made, store):
            ref = await made.start()
            await made.ended(ref)
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda item: item.seq > 8 and item.ends_run))
            while not made.service._logs:
                await asyncio.sleep(0)
            await append(store, ref.thread, TitleChanged("theirs"))
            again = await made.start("again", ref.thread)
            assert again.run == 9
            log = await made.ended(again)
            assert kinds(log)[7:10] == ["TitleChanged", "RunStarted", "MessageAdded"]
            assert log[8].run == 9
            assert [item for item in await reader if isinstance(item, Recorded)] == log
            assert len(made.asked) <= 3

    bounded(main)


def test_commands_come_through_although_another_process_came_first(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with two(tmp_path, [reply(["Half", "."], gates={1: gate})]) as (made, store):
            ref = await made.start()
            await until(made.service, ref.thread, said("Half"))
            await append(store, ref.thread, TitleChanged("theirs"))
            assert (await made.service.rename(OWNER, ref.thread, "mine")).title == "mine"
            await append(store, ref.thread, TitleChanged("theirs again"))
            await made.service.cancel(OWNER, ref.thread, ref.run, "enough")
            log = await made.ended(ref)
            assert [each.event for each in log[4:]] == [
                TitleChanged("theirs"),
                TitleChanged("mine"),
                TitleChanged("theirs again"),
                CancelRequested("enough"),
                MessageEnded(Message("assistant", "Half"), "cancelled"),
                StepEnded(),
                RunEnded("cancelled", "cancelled", "The run was cancelled."),
            ]

    bounded(main)


def test_a_tool_that_runs_is_not_disturbed_by_a_new_title(tmp_path: Path) -> None:
    async def main() -> None:
        gate, ran = Gate(), list[str]()

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            await gate.wait()
            return "saved"

        async with two(tmp_path, once("save"), save) as (made, store):
            ref = await made.start()
            await gate.reached.wait()
            await append(store, ref.thread, TitleChanged("theirs"))
            await made.service.rename(OWNER, ref.thread, "mine")
            gate.set()
            log = await made.ended(ref)
            assert [each.status for each in events_of(log, ToolEnded)] == ["ok"]
            assert ran == ["saved"]

    bounded(main)


def test_a_run_that_another_process_ended_is_over_here_too(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with two(tmp_path, [reply(["Half", "."], gates={1: gate}), "next"]) as (made, store):
            ref = await made.start()
            await until(made.service, ref.thread, said("Half"))
            end = (MessageEnded(Message("assistant", "Half"), "cancelled"), StepEnded(), RunEnded("cancelled"))
            await append(store, ref.thread, *end)
            gate.set()
            log = await made.ended(ref)
            assert [each.event for each in log[4:]] == list(end)
            assert answer_of(await made.ended(await made.start("next", ref.thread))) == "next"

    bounded(main)


def test_a_thread_that_another_process_removed_is_gone_here_too(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with two(tmp_path, [reply(["Half", "."], gates={1: gate})]) as (made, store):
            ref = await made.start()
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda _: False))
            await until(made.service, ref.thread, said("Half"))
            await store.delete(ref.thread)
            gate.set()
            await reader
            with pytest.raises(NotFound):
                await made.start("again", ref.thread)

    bounded(main)


def test_a_key_that_another_process_used_first_finds_its_run(tmp_path: Path) -> None:
    async def main() -> None:
        once = Once("/messages", "k", "1" * 64)
        message = Message("user", "go")
        async with (
            rig(["a"], store=SqliteStore(tmp_path / "stepwell.db")) as one,
            rig(["a"], store=SqliteStore(tmp_path / "stepwell.db")) as other,
        ):
            starts = (each.service.start(OWNER, message, RunSpec(), once=once) for each in (one, other))
            first, second = await asyncio.gather(*starts)
            assert first[:2] == second[:2]
            assert sorted((first.repeated, second.repeated)) == [False, True]
            assert len(await one.service.threads(OWNER)) == 1
            winner = one if not first.repeated else other
            assert answer_of(await winner.ended(first)) == "a"
            while one.service._logs or other.service._logs:
                await asyncio.sleep(0)

    bounded(main)


def test_calls_of_one_reply_that_meet_a_conflict_are_not_a_fault_of_ours(tmp_path: Path) -> None:
    """Several calls find the moved log at the same time; the run goes on as if one had."""

    async def main() -> None:
        at = Gate()

        @tool(effect="pure")
        async def look(what: str) -> str:
            """Look."""
            await at.wait()
            return what

        calls = [ToolCall(id, "look", f'{{"what": "{id}"}}') for id in "abc"]
        async with two(tmp_path, lambda _: reply("", *calls) if not at.is_set() else "Done", look) as (made, store):
            ref = await made.start()
            await at.reached.wait()
            await made.service._logs[ref.thread].committed()
            await append(store, ref.thread, TitleChanged("theirs"))
            at.set()
            log = await made.ended(ref)
            assert end_of(log) == RunEnded("answer")
            assert [each.status for each in events_of(log, ToolEnded)] == ["ok"] * 3
            assert len(events_of(log, ToolStarted)) == 3
            assert len(events_of(log, StepStarted)) == 2

    bounded(main)


def test_a_run_of_another_process_is_looked_up_anew_before_the_next_one_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, ["mine"]) as (made, store):
            info = await made.service.create(OWNER)
            await append(store, info.id, RunStarted(RunSpec()), MessageAdded(Message("user", "theirs")))
            with pytest.raises(Busy):
                await strictly(made, "mine", info.id)
            assert not made.service._logs
            # Even where a reader keeps what was known of it.
            reader = asyncio.ensure_future(until(made.service, info.id, lambda item: item.seq > 3 and item.ends_run))
            while not made.service._logs:
                await asyncio.sleep(0)
            with pytest.raises(Busy):
                await strictly(made, "mine", info.id)
            await append(store, info.id, RunEnded("answer"))
            log = await made.ended(await made.start("mine", info.id))
            assert answer_of(log) == "mine"
            assert [item for item in await reader if isinstance(item, Recorded)] == log

    bounded(main)


def test_a_follower_that_has_seen_more_than_this_process_misses_nothing_and_sees_nothing_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, ["Done"]) as (made, store):
            ref = await made.start()
            end = (await made.ended(ref))[-1].seq
            async with made.service.using(OWNER, ref.thread):  # it is known here as it was
                await append(store, ref.thread, TitleChanged("x"), TitleChanged("y"))
                with pytest.raises(InputError, match="not there yet"):
                    await until(made.service, ref.thread, is_(TitleChanged), Cursor(end + 3))
                await append(store, ref.thread, TitleChanged("z"))
                await made.service.rename(OWNER, ref.thread, "ours")
                seen = await until(made.service, ref.thread, is_(TitleChanged), Cursor(end + 3))
            assert [(each.seq, each.event) for each in seen] == [(end + 4, TitleChanged("ours"))]

    bounded(main)


def test_one_log_stands_for_a_thread_while_it_is_read_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, ["Done"]) as (made, store):
            ref = await made.start()
            await made.ended(ref)
            service = made.service
            while service._logs:
                await asyncio.sleep(0)
            await append(store, ref.thread, RunStarted(RunSpec()), MessageAdded(Message("user", "theirs")))
            async with service.using(OWNER, ref.thread) as log:
                opened = asyncio.ensure_future(service._current(OWNER, ref.thread))
                await asyncio.sleep(0)
            assert not opened.done()
            assert service._logs[ref.thread] is log  # nobody else uses it, and it is not made once more
            assert await opened is log

    bounded(main)


def test_a_client_that_leaves_while_its_message_is_stored_leaves_no_log_behind() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(["Done"], store=store) as made:
            ref = await made.start()
            await made.ended(ref)
            while made.service._logs:
                await asyncio.sleep(0)
            store.held = True
            queued = asyncio.ensure_future(made.service.rename(OWNER, ref.thread, "x"))
            while not store.waiting:
                await asyncio.sleep(0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            assert made.service._logs
            store.release()
            while made.service._logs:
                await asyncio.sleep(0)

    bounded(main)


def test_a_plan_that_tasks_began_by_is_kept_and_no_task_begins_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, []) as (made, other):
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec(engine="plan"))
            log.append(StepStarted(1, ""), MessageStarted())
            await log.committed()
            await append(other, log.thread, TitleChanged("Other"))
            made_by, changed_by = ToolCall("a", "generate_plan", "{}"), ToolCall("b", "subtask_operations", "{}")
            a, b, c = (Task(id=f"1.{at}", name=f"t{at}", goal="g") for at in (1, 2, 3))
            log.append(
                MessageEnded(Message("assistant", calls=(made_by, changed_by)), "tool_calls"),
                ToolStarted("a", "generate_plan"),
                ToolEnded("a", "There are two tasks."),
                PlanMade(Task(id="1", name="all", goal="all"), (a, b)),
                PlanChanged("exit", upto=2),
                ToolStarted("b", "subtask_operations"),
                PlanChanged("add", "1.2", (c,)),
                ToolEnded("b", "There is a third."),
            )
            log.append(TaskStarted(a, RunSpec(engine="react")), StepStarted(1, ""), MessageStarted(), path="1.1")
            send = Message("assistant", calls=(ToolCall("c", "send", "{}"),))
            log.append(MessageEnded(send, "tool_calls"), ToolStarted("c", "send", "write"), path="1.1")
            log.append(ToolEnded("c", "sent"), path="1.1")
            with suppress(Conflict):
                await log.committed()
            await log.rebase()
            run = log.state.run
            assert run is not None
            assert run.plan is not None
            assert [(node.task.id, node.status) for node in run.plan.leaves()] == [
                ("1.1", "DOING"), ("1.2", "TODO"), ("1.3", "TODO")
            ]  # fmt: skip
            assert run.plan.rectified == 0
            assert log.state.agents["1.1"].calls == 1
            await log.committed()
            await made.service.delete(OWNER, log.thread)

    bounded(main)
