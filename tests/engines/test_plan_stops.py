"""Plans among people, crashes and other agents: waiting, going on, stopping, replaying."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepStarted,
    TaskEnded,
    TaskStarted,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import Failure, ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.plans import Task
from stepwell.runs.replay import replay
from stepwell.specs import Rule
from stepwell.state.thread import State
from stepwell.store.base import ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, bounded, end_of, events_of
from tests.support.tasks import (
    MarkedLog,
    TaskRig,
    concluded,
    last_said,
    of_path,
    offered,
    operation,
    plan,
    results,
    sub,
    submit,
    task_of,
    told,
)

EXIT = operation("exit")


def test_a_question_of_a_task_lets_the_run_wait_and_its_answer_lets_it_go_on() -> None:
    @tool
    async def write(text: str) -> str:
        """Write."""
        return "written"

    def brain(request: ModelRequest) -> Answer:
        if "conclusion" in offered(request):
            return concluded()
        if "generate_plan" in offered(request):
            return plan(sub("a"), sub("b"))
        return submit() if results(request) else call("write", text=task_of(request))

    async def main(side_by_side: int) -> None:
        made = TaskRig(brain, write, max_parallel_tasks=side_by_side)
        made.log.append(RunStarted(made.spec(approvals=(Rule(decision="ask"),))), MessageAdded(Message("user", "go")))
        log = await made.go_on()
        for _ in range(3 - side_by_side):
            assert isinstance(log[-1].event, RunWaiting)
            asked = [*made.log.state.questions]
            assert len(asked) == side_by_side
            for seq in reversed(asked):
                made.say(Answered(seq, "approve"), path=made.log.state.questions[seq].path)
            log = await made.go_on()
        assert end_of(log).reason == "answer"
        assert len(events_of(log, Asked)) == 2
        assert Counter(each.name for each in events_of(log, ToolStarted))["write"] == 2

    for side_by_side in (1, 2):
        bounded(lambda: main(side_by_side))  # noqa: B023 - it is called at once


def test_an_answer_for_one_sibling_goes_on_while_the_other_works() -> None:
    @tool
    async def write(text: str) -> str:
        """Write."""
        return "written"

    async def main() -> None:
        gate = Gate()

        @tool(effect="pure")
        async def hold() -> str:
            """Hold."""
            await gate.wait()
            return "held"

        def brain(request: ModelRequest) -> Answer:
            if "conclusion" in offered(request):
                return concluded()
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"))
            if results(request):
                return submit()
            return call("write", text="x") if task_of(request) == "a" else call("hold")

        made = TaskRig(brain, write, hold, max_parallel_tasks=2)
        rules = (Rule(decision="ask", tool="write"), Rule(decision="allow"))
        made.log.append(RunStarted(made.spec(approvals=rules)), MessageAdded(Message("user", "go")))
        going = asyncio.ensure_future(made.go_on())
        await gate.reached.wait()
        while not made.log.state.questions:
            await asyncio.sleep(0)
        (seq,) = made.log.state.questions
        made.say(Answered(seq, "approve"), path="1.1")
        while "1.1" in made.log.state.agents:
            await asyncio.sleep(0)
        assert "1.2" in made.log.state.agents
        gate.set()
        assert end_of(await going).reason == "answer"

    bounded(main)


def test_a_cancel_stops_all_tasks_under_way_and_closes_everything() -> None:
    async def main() -> None:
        gates = [Gate(), Gate()]
        left = iter(gates)

        @tool(effect="pure")
        async def hold() -> str:
            """Hold."""
            await next(left).wait()
            return "held"

        def brain(request: ModelRequest) -> Answer:
            return plan(sub("a"), sub("b"), sub("c")) if "generate_plan" in offered(request) else call("hold")

        made = TaskRig(brain, hold, max_parallel_tasks=2)
        before = asyncio.all_tasks()
        made.log.append(RunStarted(made.spec()), MessageAdded(Message("user", "go")))
        going = asyncio.ensure_future(made.go_on())
        for gate in gates:
            await gate.reached.wait()
        made.say(CancelRequested())
        assert made.log.interrupt is not None
        made.log.interrupt()
        log = await going
        assert end_of(log).reason == "cancelled"
        assert [each.status for each in events_of(log, TaskEnded)] == ["cancelled", "cancelled"]
        assert asyncio.all_tasks() == before

    bounded(main)


# a process that stops


def rectifying(request: ModelRequest) -> Answer:
    """Plan a and b; b is split and an edit is refused after a; the second part of b asks once more."""
    if "conclusion" in offered(request):
        return concluded(f"concluded {task_of(request) if len(request.messages) > 2 else ''}")
    if "generate_plan" in offered(request):
        return plan(sub("a"), sub("b"), sub("c"))
    if "subtask_operations" in offered(request):
        if "1.2 [TODO]" in told(request):
            refused = any(each.endswith("nothing happens.") for each in results(request))
            return operation("split", "1.2", sub("b1"), sub("b2")) if refused else operation("delete", "1.1")
        return operation("delete", "1.3") if "1.3 [" in told(request) and "1.2.2 [SUCCESS]" in told(request) else EXIT
    name = task_of(request)
    return submit(name, need_plan_rectification=name in ("a", "b2")) if results(request) else call("note", text=name)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_after_a_stop_at_any_event_the_plan_ends_the_same_and_each_effect_comes_once(side_by_side: int) -> None:
    async def main() -> None:
        done: list[str] = []

        @tool(effect="idempotent")
        async def note(text: str) -> str:
            """Note."""
            done.append(text)
            return "noted"

        def made() -> TaskRig:
            return TaskRig(rectifying, note, max_parallel_tasks=side_by_side)

        first = made()
        whole = await first.play()
        shape = first.outline()
        split = ["1.1 a SUCCESS", "1.2 b SPLIT", "1.2.1 b1 SUCCESS", "1.2.2 b2 SUCCESS"]
        assert shape == (split if side_by_side == 1 else [f"1.{at} {name} SUCCESS" for at, name in enumerate("abc", 1)])
        for end in range(2, len(whole)):
            other = made()
            done.clear()
            await other.take_over(whole[:end])
            log = await other.go_on()
            assert other.outline() == shape, f"cut after {whole[end - 1]}"
            assert (end_of(log), last_said(log)) == (end_of(whole), last_said(whole)), f"cut after {whole[end - 1]}"
            before = [each.event for each in whole[:end]]
            ended = {each.call for each in before if isinstance(each, ToolEnded)}
            noted = {each.call for each in before if isinstance(each, ToolStarted) and each.name == "note"}
            assert max(Counter(done).values(), default=1) == 1
            assert len(done) + len(noted & ended) == sum(1 for e in events_of(log, ToolStarted) if e.name == "note")
            if end in first.log.ends and side_by_side == 1:
                asked = [each for each in before if isinstance(each, MessageEnded)]
                assert other.asked == first.asked - len(asked), f"cut after {whole[end - 1]}"

    bounded(main)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_replay_of_a_plan_makes_the_same_decisions(side_by_side: int) -> None:
    async def main() -> None:
        @tool(effect="pure")
        async def note(text: str) -> str:
            """Note."""
            await asyncio.sleep(0)
            return "noted"

        made = TaskRig(rectifying, note, max_parallel_tasks=side_by_side)
        made.log.append(RunStarted(made.spec()), MessageAdded(Message("user", "go")))
        log = await made.go_on()
        again = TaskRig(rectifying, note, max_parallel_tasks=side_by_side)
        assert await replay(log, again.parts()) is None

    bounded(main)


class Reading(MemoryStore):
    """A store one of whose reads takes long, while others go on."""

    slow = -1

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found = await super().read(thread, after=after, limit=limit)
        for _ in range(50 * (after == self.slow)):
            await asyncio.sleep(0)
        return found


def test_a_conclusion_that_is_repaired_knows_what_ended_while_its_reply_was_looked_up() -> None:
    async def main() -> None:
        gates = {"a": Gate(), "b": Gate()}

        def brain(request: ModelRequest) -> Answer:
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"))
            if "conclusion" not in offered(request):
                return submit()
            name = task_of(request)
            if name not in gates or "does not fit" in told(request):
                return concluded()
            return reply("", concluded() if name == "b" else call("conclusion"), gates={0: gates[name]})

        made = TaskRig(brain, max_parallel_tasks=2)
        made.store = store = Reading()
        made.log = MarkedLog(store, State())
        made.log.make(ThreadInfo("t", OWNER))
        task = asyncio.create_task(made.play())
        for gate in gates.values():
            await gate.reached.wait()
        run = made.log.state.agents["1.1"].run
        assert run is not None
        store.slow = run.step - 1
        for gate in gates.values():
            gate.set()
        log = await task
        (repair,) = [each for each in made.model.calls if "does not fit" in each.messages[-1].content]
        assert any("1.2 [SUCCESS]" in each.content for each in repair.messages)
        assert await replay(log, made.parts()) is None

    bounded(main)


def _said(request: ModelRequest) -> str:
    """Return what a request says, without times and ids, which are others after a stop."""
    said = [(each.role, each.content, [(call.name, call.arguments) for call in each.calls]) for each in request.all]
    return f"{sorted(offered(request))} {re.sub('Time: .{30}', '', repr(said))}"


def noise(seed: int) -> Callable[[ModelRequest], Answer]:
    """Return a model that says anything, the same to the same request."""

    def brain(request: ModelRequest) -> Answer:
        dice = random.Random(f"{seed} {_said(request)}")
        ids = ["1", "1.1", "1.2", "1.02", "1.1.1", "9", "", "x"]

        def subtasks() -> list[dict[str, Any]]:
            names = dice.sample("abcdef", dice.choice((0, 1, 1, 2, 2, 3)))
            return [sub(name, *dice.choices([*names, "zz"], k=dice.random() < 0.2)) for name in names]

        def one() -> ToolCall:
            kind = dice.choice(("look", *4 * sorted(offered(request))))
            match kind:
                case "generate_plan":
                    return plan(*subtasks())
                case "subtask_operations":
                    name = dice.choice(("split", "add", "delete", "exit", "other"))
                    return operation(name, dice.choice(ids), *subtasks())
                case "subtask_submit":
                    kind = dice.choice(("success", "success", "give_up", "human_suggestion", "odd"))
                    return submit("r", kind, need_plan_rectification=dice.random() < 0.5)
                case "answer_directly":
                    return call(kind, answer=dice.choice(("", "", "x")))
                case "conclusion":
                    return concluded("c", dice.choice(("success", "failure", "failure", "odd")))
                case _:
                    return ToolCall("", kind, dice.choice(("{}", "{", "", '{"what": 3}')))

        said = dice.choice(("", "", "Hm.", "{}"))
        if dice.random() < 0.02:
            return Failure("request", "odd")
        return reply(said, *[one() for _ in range(dice.choice((0, 1, 1, 1, 2, 3)))])

    return brain


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_model_says_a_plan_ends_with_a_valid_log_and_after_a_stop_the_same(seed: int) -> None:
    async def main() -> None:
        first = TaskRig(noise(seed), max_chain_length=3, max_parallel_tasks=1)
        whole = await first.play()
        assert isinstance(whole[-1].event, RunEnded)
        for end in random.Random(seed).sample(first.log.ends[:-1], min(4, len(first.log.ends) - 1)):
            if end >= 2:
                other = TaskRig(noise(seed), max_chain_length=3, max_parallel_tasks=1)
                await other.take_over(whole[:end])
                assert end_of(await other.go_on()) == end_of(whole), f"cut after {whole[end - 1]}"

    bounded(main)


def test_a_task_inside_another_agent_may_be_a_plan() -> None:
    async def main() -> None:
        made = TaskRig([plan(sub("a")), submit(), concluded("a"), concluded("all", reply="Good.")])
        made.log.append(RunStarted(made.spec()), MessageAdded(Message("user", "go")))
        made.log.append(TaskStarted(Task(id="1", name="inner", goal="inner goal"), made.spec()), path="plan1")
        engine, inner = made.assemble(made.spec()), made.log.at("plan1")
        while await engine.step(inner):
            pass
        await engine.close()
        log = await made.events()
        ended = [(each.path, each.event.status) for each in log if isinstance(each.event, TaskEnded)]
        assert ended == [("plan1/1.1", "success"), ("plan1", "success")]
        assert of_path(log, "plan1")[-1].conclusion.reply == "Good."
        assert "inner goal" in made.model.calls[0].messages[1].content
        assert made.log.state.run is not None
        assert len(events_of(log, StepStarted)) == 4

    bounded(main)
