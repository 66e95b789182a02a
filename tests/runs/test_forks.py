"""Forks: a thread with the beginning of another, one event perhaps changed, that goes on and pays nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import InputError, NotFound
from stepwell.events import (
    Answered,
    Forked,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    PauseRequested,
    QueueEdited,
    Recorded,
    ResumeRequested,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepStarted,
    Stored,
    TaskStarted,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolSpec, Usage
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, Step, call, reply
from stepwell.runs.forks import Edit, Line, diff, fork, regenerate
from stepwell.runs.people import answer, pause, pending, questions
from stepwell.runs.service import NewThread, RunRef, RunService
from stepwell.specs import Limits, Prices, Rule, RunSpec, TaskOptions
from stepwell.state.thread import State
from stepwell.store.base import ThreadInfo
from stepwell.tools.client import ClientTool
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, WAIT, Rig, answer_of, bounded, end_of, events_of, is_, open_store, rig, until
from tests.support.tasks import TaskRig, concluded, offered, plan, sub, submit

STORES = ("memory", "sqlite")


def counting(request: ModelRequest) -> Answer:
    """Add twice, then tell what came."""
    results = [each.content for each in request.messages if each.role == "tool"]
    said = next(each.content for each in request.messages if each.role == "user")
    if len(results) < 2:
        return call("add", a=len(results), b=10)
    return f"{said}: {', '.join(results)}"


class Adder:
    """A tool, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

        @tool(effect="pure")
        async def add(a: int, b: int) -> int:
            """Add."""
            self.asked.append((a, b))
            return a + b

        self.tool: Any = add


def place(log: Sequence[Recorded], kind: type[Stored], nth: int = 0) -> int:
    return [each.seq for each in log if isinstance(each.event, kind)][nth]


async def forked(made: Rig, ref: RunRef, at: int, **more: Any) -> tuple[RunRef, list[Recorded]]:
    made_ref = await fork(made.service, OWNER, ref.thread, at, **more)
    return made_ref, await made.ended(made_ref)


@pytest.mark.parametrize("kind", STORES)
def test_a_fork_at_any_event_comes_to_the_same_end_and_asks_only_for_what_lies_beyond(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        adder = Adder()
        async with rig(counting, adder.tool, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            for at in range(2, len(log)):
                asked, ran = len(made.asked), len(adder.asked)
                other, copy = await forked(made, ref, at)
                assert (other.thread != ref.thread, other.run) == (True, ref.run)
                assert copy[:at] == log[:at]
                assert copy[at].event == Forked(ref.thread, at)
                assert answer_of(copy) == "go: 10, 11"
                later = log[at:]
                # A message that was open is asked for again.
                opened = sum(isinstance(each.event, MessageEnded) for each in later)
                assert len(made.asked) - asked == opened
                assert len(adder.asked) - ran == len(events_of(later, ToolEnded))
                info = await made.service.info(OWNER, other.thread)
                assert (info.parent, info.forked, info.title) == (ref.thread, at, "go")
            end = await fork(made.service, OWNER, ref.thread, len(log), title="a \0title")
            assert end.run == 0
            assert (await made.service.info(OWNER, end.thread)).title == "a \ufffdtitle"
            assert await made.log(ref.thread) == log
            await made.service.delete(OWNER, ref.thread)
            assert (await made.log(end.thread))[: len(log)] == log
            assert (await made.start("more", end.thread)).thread == end.thread

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_one_event_may_be_changed(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        adder = Adder()
        async with rig(counting, adder.tool, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            edits: list[tuple[int, Edit, str, list[tuple[int, int]]]] = [
                (place(log, MessageAdded), Edit(content="sum"), "sum: 10, 11", [(0, 10), (1, 10)]),
                (place(log, MessageEnded), Edit(arguments='{"a": 5, "b": 5}'), "go: 10, 11", [(5, 5), (1, 10)]),
                (place(log, ToolEnded), Edit(result="seven"), "go: seven, 11", [(1, 10)]),
                (place(log, ToolEnded, 1), Edit(result="eight"), "go: 10, eight", []),
            ]
            for at, edit, told, ran in edits:
                adder.asked.clear()
                other, copy = await forked(made, ref, at, edit=edit)
                assert answer_of(copy) == told
                assert adder.asked == ran
                assert copy[: at - 1] == log[: at - 1]
                assert copy[at - 1] != log[at - 1]
                assert copy[at].event == Forked(ref.thread, at, at)
                assert (await diff(made.service, OWNER, ref.thread, other.thread)).common == at - 1

    bounded(main)


@pytest.mark.parametrize(
    ("at", "edit", "field"),
    [
        (0, None, "at"),
        (999, None, "at"),
        (-1, None, "at"),
        (1, Edit(content="x"), "edit.content"),
        (2, Edit(content=" "), "edit.content"),
        (2, Edit(result="x"), "edit.result"),
        (2, Edit(arguments="{}"), "edit.arguments"),
        (5, Edit(arguments="[]"), "edit.arguments"),
        (5, Edit(arguments='{"a": "\ud800"}'), "edit.arguments"),
        (5, Edit(call="nobody", arguments="{}"), "edit.call"),
        (5, Edit(), "edit"),
        (5, Edit(content="x", result="y"), "edit"),
    ],
)
def test_what_cannot_be_forked_so_is_refused_and_makes_nothing(at: int, edit: Edit | None, field: str) -> None:
    async def main() -> None:
        async with rig(counting, Adder().tool) as made:
            ref = await made.start()
            log = await made.ended(ref)
            assert isinstance(log[4].event, MessageEnded)
            with pytest.raises(InputError) as caught:
                await fork(made.service, OWNER, ref.thread, at, edit=edit)
            assert caught.value.field == field
            empty = await made.service.create(OWNER)
            with pytest.raises(InputError, match="no events"):
                await fork(made.service, OWNER, empty.id, 1)
            for owner, thread in (("eve", ref.thread), (OWNER, "nowhere")):
                with pytest.raises(NotFound):
                    await fork(made.service, owner, thread, 1)
                with pytest.raises(NotFound):
                    await regenerate(made.service, owner, thread)
                with pytest.raises(NotFound):
                    await diff(made.service, owner, ref.thread, thread)
            with pytest.raises(NotFound):
                await regenerate(made.service, OWNER, empty.id)
            assert len(await made.service.threads(OWNER)) == 2

    bounded(main)


def test_the_run_of_a_fork_may_go_on_otherwise() -> None:
    async def main() -> None:
        specs: list[str] = []
        async with rig(["one", "two"]) as made:
            inner = made.assemble

            def assemble(spec: RunSpec) -> Any:
                specs.append(spec.model)
                return inner(spec)

            made.service = RunService(made.store, assemble)
            ref = await made.start(model="a")
            await made.ended(ref)
            _, copy = await forked(made, ref, 2, spec=RunSpec(model="b"))
            assert specs == ["a", "b"]
            assert events_of(copy, Forked) == [Forked(ref.thread, 2, 0, RunSpec(model="b"))]
            assert answer_of(copy) == "two"

    bounded(main)


def test_a_task_under_way_goes_on_with_the_other_model_too_and_pays_its_price() -> None:
    def brain(request: ModelRequest) -> Answer:
        names, usage = offered(request), Usage(1000, 0)
        if "generate_plan" in names:
            return reply("", plan(sub("a")), usage=usage)
        return reply("", concluded() if "conclusion" in names else submit(), usage=usage)

    class PlanRig(Rig):
        def assemble(self, spec: RunSpec) -> Any:
            made = TaskRig([], engine=spec.engine)
            made.answers = self.model
            return made.assemble(spec)

    async def main() -> None:
        cheap: dict[str, Any] = {"engine": "plan", "tasks": TaskOptions(fast_path=False), "max_output": 10}
        cheap |= {"model": "cheap", "prices": Prices(1.0, 1.0), "limits": Limits(money=1000.0), "system": "S"}
        dear = RunSpec(**{**cheap, "model": "dear", "prices": Prices(1000.0, 1000.0)})
        async with rig(brain, kind=PlanRig) as made:
            ref = await made.start(**cheap)
            log = await made.ended(ref)
            at = place(log, TaskStarted)
            _, copy = await forked(made, ref, at, spec=dear)
            paid = max(each.cost for each in events_of(log, MessageEnded))
            assert all(each.cost > 100 * paid for each in events_of(copy[at:], MessageEnded))
            task = State(copy[: at + 1]).agents["1.1"].run
            assert task is not None
            assert (task.spec.model, task.spec.engine, task.spec.system) == ("dear", "react", "S")

    bounded(main)


def test_what_a_client_was_asked_for_is_asked_for_anew() -> None:
    async def main() -> None:
        measure = ClientTool(ToolSpec("measure", "Measures.", {"type": "object", "properties": {}}))
        async with rig([call("measure"), "one", "other"], measure) as made:
            ref = await made.start()
            async with asyncio.timeout(WAIT):
                await until(made.service, ref.thread, is_(RunWaiting))
            (question,) = await questions(made.service, OWNER, ref.thread)
            other = await fork(made.service, OWNER, ref.thread, question.seq)
            async with asyncio.timeout(WAIT):
                await until(made.service, other.thread, is_(RunWaiting))
            (again,) = await questions(made.service, OWNER, other.thread)
            await answer(made.service, OWNER, other.thread, again.seq, "done", text="7 cm")
            copy = await made.ended(other)
            assert [each.content for each in events_of(copy, ToolEnded)] == ["7 cm"]
            await answer(made.service, OWNER, ref.thread, question.seq, "skip")
            await made.ended(ref)

    bounded(main)


def test_what_is_open_at_the_point_is_settled_in_the_fork_alone(tmp_path: Path) -> None:
    async def main() -> None:
        gate, ran = Gate(), list[str]()

        @tool(effect="write")
        async def send(what: str) -> str:
            """Send."""
            ran.append(what)
            if what == "slow":
                await gate.wait()
            return f"sent {what}"

        def brain(request: ModelRequest) -> Answer:
            results = [each.content for each in request.messages if each.role == "tool"]
            if not results:
                return reply("", call("send", what="slow"), call("send", what="asked"))
            return "Done"

        rules = (Rule(decision="ask", tool="send", arguments={"what": "asked"}),)
        async with rig(brain, send, store=open_store("sqlite", tmp_path)) as made:
            service = made.service
            ref = await made.start(approvals=rules)
            await gate.reached.wait()
            (question,) = await questions(service, OWNER, ref.thread)
            await service.start(OWNER, Message("user", "later"), RunSpec(), thread=ref.thread)
            await pause(service, OWNER, ref.thread, ref.run)
            log = await made.log(ref.thread)
            other = await fork(service, OWNER, ref.thread, len(log))
            copy = await made.log(other.thread)
            after = [type(each.event) for each in copy[len(log) : len(log) + 5]]
            assert after == [Forked, QueueEdited, Answered, ToolEnded, ResumeRequested]
            assert events_of(copy, Answered)[0] == Answered(question.seq, "forked", by=OWNER)
            unknown = events_of(copy, ToolEnded)[0]
            assert (unknown.status, "forked" in unknown.content) == ("unknown", True)
            # The fork asks by itself, and the parent waits for its own answer as before.
            async with asyncio.timeout(10):
                while len(await pending(service, OWNER, 9)) < 2:
                    await asyncio.sleep(0)
            (asked,) = await questions(service, OWNER, other.thread)
            await answer(service, OWNER, other.thread, asked.seq, "approve")
            assert end_of(await made.ended(other)).reason == "answer"
            assert ran == ["slow", "asked"]
            assert [each.seq for each in await questions(service, OWNER, ref.thread)] == [question.seq]
            gate.set()

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_the_newest_answer_is_made_again(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        script: list[Step] = ["one", "two", "two again"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            await made.ended(ref)
            second = await made.start("more", ref.thread)
            log = await made.ended(second)
            again = await regenerate(made.service, OWNER, ref.thread)
            copy = await made.ended(again)
            assert (again.run, answer_of(copy)) == (second.run, "two again")
            assert [each.content for each in made.asked[2].messages] == ["go", "one", "more"]
            found = await diff(made.service, OWNER, ref.thread, again.thread)
            assert found.common == second.run + 1
            assert found.one == (Line(seq=len(log) - 2, kind="message", name="assistant", text="two"),)
            assert [line.text for line in found.other] == ["two again"]
            same = await diff(made.service, OWNER, ref.thread, ref.thread)
            assert (same.common, same.one, same.other) == (len(log), (), ())

    bounded(main)


def test_an_answer_to_a_history_alone_is_made_again() -> None:
    async def main() -> None:
        async with rig(["one", "again"]) as made:
            new = NewThread(history=(Message("user", "go"),))
            ref = await made.service.start(OWNER, None, RunSpec(), new=new)
            await made.ended(ref)
            again = await regenerate(made.service, OWNER, ref.thread)
            assert answer_of(await made.ended(again)) == "again"
            assert [each.content for each in made.asked[1].messages] == ["go"]

    bounded(main)


def test_a_difference_is_told_in_messages_calls_and_results() -> None:
    async def main() -> None:
        async with rig(counting, Adder().tool) as made:
            ref = await made.start()
            log = await made.ended(ref)
            at = place(log, MessageEnded, 1)
            other, _ = await forked(made, ref, at, edit=Edit(arguments='{"a": 2, "b": 2}'))
            found = await diff(made.service, OWNER, ref.thread, other.thread)
            kinds = [(line.kind, line.name, line.text, line.status) for line in found.other]
            assert kinds == [
                ("call", "add", '{"a": 2, "b": 2}', ""),
                ("result", "", "4", "ok"),
                ("message", "assistant", "go: 10, 4", ""),
            ]
            assert found.one[0].seq == found.other[0].seq == at

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_big_results_of_the_prefix_are_there_in_the_fork(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        data = "0123456789" * 5000

        @tool(effect="pure", output_limit=200)
        async def big() -> str:
            """Return much."""
            return data

        def brain(request: ModelRequest) -> Answer:
            return "Done" if request.messages[-1].role == "tool" else call("big")

        async with rig(brain, big, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            at = place(log, ToolEnded)
            blob = events_of(log, ToolEnded)[0].blob
            shared, _ = await forked(made, ref, at)
            edited, _ = await forked(made, ref, at, edit=Edit(result="little"))
            await made.service.delete(OWNER, ref.thread)
            assert await made.store.blob(shared.thread, blob) == data.encode()
            assert await made.store.blob(edited.thread, blob) is None

    bounded(main)


def test_a_fork_whose_process_died_is_taken_up_by_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(["one"], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            row = ThreadInfo("f" * 32, OWNER, run=ref.run, parent=ref.thread, forked=2)
            await made.store.fork(ref.thread, 2, row, [Recorded(3, log[1].time, ref.run, Forked(ref.thread, 2))])
        async with rig(["two"], store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 1
            copy = await made.ended(RunRef(row.id, ref.run))
            assert answer_of(copy) == "two"

    bounded(main)


def test_a_fork_puts_on_the_account_only_what_it_spends_itself(tmp_path: Path) -> None:
    async def main() -> None:
        script: list[Step] = [
            reply("", call("add", a=1, b=1), usage=Usage(100, 10)),
            reply("first", usage=Usage(200, 20)),
            reply("second", usage=Usage(1000, 1)),
        ]
        async with rig(script, Adder().tool, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(key="k")
            log = await made.ended(ref)
            before = await made.store.spent("k")
            assert (before.tokens, before.steps, before.tool_calls) == (330, 2, 1)
            await forked(made, ref, place(log, ToolEnded))
            after = await made.store.spent("k")
            assert (after.tokens, after.steps, after.tool_calls) == (1331, 3, 1)
            await made.service.delete(OWNER, ref.thread)
            assert await made.store.spent("k") == after

    bounded(main)


def test_a_halt_and_a_wait_of_the_prefix_are_no_part_of_a_thread_without_a_run() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate}), "two"]) as made:
            ref = await made.start()
            await gate.reached.wait()
            waiting = await made.service.start(OWNER, Message("user", "b"), RunSpec(), thread=ref.thread)
            gate.set()
            await until(made.service, ref.thread, is_(RunStarted), None)
            log = await made.ended(ref)
            end = next(each.seq for each in log if isinstance(each.event, RunEnded))
            other = await fork(made.service, OWNER, ref.thread, end)
            assert other.run == 0
            copy = await made.log(other.thread)
            assert copy[-1].event == QueueEdited(waiting.queued, removed=True)
            assert other.thread not in [info.id for info in await made.store.due(2**61)]
            assert not events_of(copy, PauseRequested) + events_of(copy, ResumeRequested) + events_of(copy, ToolStarted)
            assert len(events_of(copy, MessageQueued)) == 1

    bounded(main)


def test_a_copy_of_a_copy_names_where_its_events_happened_and_what_was_changed_in_them() -> None:
    async def main() -> None:
        async with rig(counting, Adder().tool) as made:
            ref = await made.start()
            log = await made.ended(ref)
            at = place(log, ToolEnded)
            first, _ = await forked(made, ref, at, edit=Edit(result="12"))
            deep, _ = await forked(made, first, at + 1)
            for of, upto, origin, earlier in (
                (first, at - 1, ref.thread, ()),
                (first, at, ref.thread, (at,)),
                (first, at + 2, "", ()),
                (deep, at, ref.thread, (at,)),
                (deep, at + 1, first.thread, ()),
            ):
                _, copy = await forked(made, of, upto)
                assert copy[upto].event == Forked(of.thread, upto, 0, None, origin, earlier)

    bounded(main)


def test_a_fork_at_the_beginning_of_a_step_leaves_no_money_reserved() -> None:
    async def main() -> None:
        async with rig(["a", "b"]) as made:
            ref = await made.start(limits=Limits(money=1.0), prices=Prices(1.0, 1.0), max_output=100)
            log = await made.ended(ref)
            _, copy = await forked(made, ref, place(log, StepStarted))
            state = State(copy)
            assert state.last is not None
            assert state.last[0].spent.reserved == 0
            assert answer_of(copy) == "b"

    bounded(main)
