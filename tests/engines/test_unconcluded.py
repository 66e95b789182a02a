"""The time of a run is over: what is there by then is stated without a model, and a replay states the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from stepwell.engines.unconcluded import STATED, TIMES
from stepwell.events import (
    Forked,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunEnded,
    StepEnded,
    StepStarted,
    TaskEnded,
    ToolEnded,
)
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.runs.replay import replay
from stepwell.specs import Limits, RunSpec
from stepwell.tools.mark import tool
from tests.engines.test_delegating import Shop, give
from tests.simulation.loop import SimLoop
from tests.support.runs import end_of, events_of
from tests.support.talking import START, Work, spoken
from tests.support.tasks import TaskRig, concluded, last_said, of_path, offered, plan, sub, submit, task_of

CLOSING = (ToolEnded, MessageEnded, StepEnded, TaskEnded, LongTermUpdated, MessageAdded)
OVER = "The run reached its limit of 4 seconds."
LIMITED: dict[str, Any] = {"limits": Limits(seconds=4)}


def in_no_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test on a clock that jumps to the next timer whenever everybody waits."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


async def replayed(log: Sequence[Recorded], made: TaskRig) -> None:
    """Check that a replay of every beginning makes the same decisions; the end of the time is one."""
    answers, box = made.answers, made.toolbox
    for end in range(1, len(log) + 1):
        if any(first < end < last for first, last in ends(log)):
            continue
        found = await replay(log[:end], made.parts(), "t")
        made.answers, made.toolbox = answers, box
        assert found is None, (end, log[end - 1], found)


def ends(log: Sequence[Recorded]) -> list[tuple[int, int]]:
    """Return how many events there were before and after each end of the time: it is stored at once."""
    found: list[tuple[int, int]] = []
    for last, each in enumerate(log):
        if isinstance(each.event, RunEnded) and each.event.cause in TIMES:
            first = last
            while isinstance(log[first - 1].event, CLOSING):
                first -= 1
            found.append((first, last + 1))
    return found


async def ended(made: TaskRig, log: list[Recorded]) -> None:
    """Check that the time ended the run without another model call, and that a replay sees the same."""
    assert end_of(log) == RunEnded("limit", "seconds", OVER)
    assert made.asked == len(events_of(log, StepStarted))
    await replayed(log, made)


@tool(effect="pure")
async def hold() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return ""


def planner(request: ModelRequest) -> Answer:
    """Make a plan of four tasks: the first ends, the second and third are cut off, the last never begins."""
    if "conclusion" in offered(request):
        return concluded(f"{task_of(request)} is made")
    if "generate_plan" in offered(request):
        return plan(sub("a"), sub("b", "a"), sub("c", "a"), sub("d", "b"))
    match task_of(request):
        case "a":
            return submit()
        case "b":
            return reply("I am at b.", call("hold"))
        case _:
            return reply(("Half of ", "c", " is here"), gates={2: Gate()})


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_plan_out_of_time_tells_what_is_done_and_what_is_not(side_by_side: int) -> None:
    async def main() -> None:
        made = TaskRig(planner, hold, max_parallel_tasks=side_by_side)
        log = await made.play(**LIMITED)
        cut: list[tuple[str, Any]] = [(each.path, each.event) for each in log if isinstance(each.event, TaskEnded)][1:]
        assert [(path, end.status, end.cause) for path, end in cut] == [
            (f"1.{at + 2}", "cancelled", "seconds") for at in range(side_by_side)
        ]
        said = last_said(log)
        assert said.split("\n\n")[0] == OVER
        assert "Done:\n- 1.1 a: a is made" in said
        assert "Not reached:\n- 1.2 b: The run reached its limit" in said
        assert "I am at b." in said
        assert ("Half of c" in said) == (side_by_side == 2)
        assert said.endswith("- 1.4 d")
        assert events_of(log, LongTermUpdated)[-1].past_task == msgspec.structs.replace(
            cut[0][1].conclusion, summary=said, reply=said, reached_goals=("a goal",), failed_goals=()
        )
        await ended(made, log)

    in_no_time(main)


def test_a_plan_that_is_not_made_in_time_says_so() -> None:
    async def main() -> None:
        made = TaskRig([reply("", plan(sub("a")), gates={0: Gate()})], fast_path=False)
        log = await made.play(**LIMITED)
        assert last_said(log) == OVER
        await ended(made, log)

    in_no_time(main)


def test_a_task_out_of_time_tells_what_was_said_last_also_half_a_reply() -> None:
    async def main() -> None:
        made = TaskRig([reply("Looking.", call("hold"))], hold, engine="react")
        log = await made.play(**LIMITED)
        assert last_said(log) == f"{OVER}\n\nWhat was said last: Looking."
        await ended(made, log)

        made = TaskRig([reply(("It is ", "7", "."), gates={2: Gate()})], engine="react")
        log = await made.play(language="zh", **LIMITED)
        assert events_of(log, MessageEnded)[0].message.content == "It is 7"
        assert last_said(log) == "运行已达到 4 秒的上限。\n\n最后的内容：It is 7"
        await replayed(log, made)

    in_no_time(main)


def test_a_task_that_was_submitted_in_time_ends_with_what_it_was_submitted_with() -> None:
    async def main() -> None:
        made = TaskRig([submit("7 pens"), reply("", concluded(), gates={0: Gate()})], engine="react")
        log = await made.play(**LIMITED)
        assert last_said(log) == f"{OVER}\n\n7 pens"
        assert events_of(log, LongTermUpdated)[-1].past_task.reached_goals == ("go",)
        await ended(made, log)

    in_no_time(main)


@pytest.mark.parametrize("engine", ["chat", "react"])
def test_the_result_of_a_call_tells_what_its_delegated_task_came_to(engine: str) -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), go=give("reader", "x"), x=reply("I began.", call("slow")))
        made = shop.rig(engine=engine)
        log = await made.play(**LIMITED)
        inside = [each for each in log if isinstance(each.event, TaskEnded)]
        stated = f"{OVER}\n\nWhat was said last: I began."
        assert [(each.status, each.conclusion.reply) for each in events_of(log, TaskEnded)] == [("cancelled", stated)]
        assert [each.status for each in of_path(log, inside[0].path) if isinstance(each, ToolEnded)] == ["cancelled"]
        result = next(each.event for each in log if isinstance(each.event, ToolEnded) and not each.path)
        assert result.content == f"No result: the run was stopped before this call ended.\n\n{stated}"
        if engine == "chat":
            assert not events_of(log, LongTermUpdated)
            assert end_of(log) == RunEnded("limit", "seconds", OVER)
            await replayed(log, made)
        else:
            await ended(made, log)

    in_no_time(main)


def test_a_front_out_of_time_tells_what_the_work_came_to() -> None:
    async def main() -> None:
        made = Work(START).rig()
        log = await made.play("Make it.", **LIMITED)
        (said,) = spoken(log)
        assert said.startswith(f"{OVER}\n\nNot reached:\n- 1.1 a: {OVER}")
        assert said.endswith("Not begun or not finished:\n- 1.2 b")
        work = [each.event for each in log if isinstance(each.event, TaskEnded)][-1]
        assert work.conclusion is not None
        assert work.conclusion.reply == said
        await ended(made, log)

    in_no_time(main)


def test_a_front_that_has_no_work_under_way_adds_nothing() -> None:
    async def main() -> None:
        made = Work({"Make it.": reply("", call("answer_user", answer="4"), gates={0: Gate()})}).rig()
        log = await made.play("Make it.", **LIMITED)
        assert spoken(log) == []
        await ended(made, log)

    in_no_time(main)


def test_the_next_turn_knows_what_was_there() -> None:
    async def main() -> None:
        def brain(request: ModelRequest) -> Answer:
            asked = [each.content for each in request.messages if each.role == "user"]
            if "conclusion" in offered(request):
                return concluded(reply="ready")
            return submit() if "more" in asked else call("hold")

        made = TaskRig(brain, hold, engine="react")
        await made.play(**LIMITED)
        log = await made.play("more")
        assert last_said(log) == "ready"
        assert Message("assistant", OVER) in made.model.calls[1].messages
        await replayed(log, made)

    in_no_time(main)


def test_time_that_ran_out_while_nobody_carried_the_run_is_stated_too() -> None:
    async def main() -> None:
        made = TaskRig(planner, hold)
        log = await made.play(**LIMITED)
        started = max(at for at, each in enumerate(log) if isinstance(each.event, StepStarted))
        early = [msgspec.structs.replace(each, time=each.time - 3_600_000) for each in log[: started + 2]]
        other = TaskRig(planner, hold)
        await other.take_over(early)
        again = await other.go_on()
        assert other.asked == 0
        assert last_said(again).startswith(f"{OVER}\n\nDone:\n- 1.1 a: a is made\n\nNot reached:\n- 1.2 b: {OVER}")
        assert end_of(again) == RunEnded("limit", "seconds", OVER)
        await replayed(again, other)

    in_no_time(main)


def test_a_run_of_an_earlier_version_ends_and_replays_without_a_word() -> None:
    async def main() -> None:
        made = TaskRig(planner, hold, max_parallel_tasks=2)
        log = await made.play(versions={"react.texts": "3"}, **LIMITED)
        assert not [each for each in events_of(log, MessageAdded) if each.message.role == "assistant"]
        assert [each.conclusion for each in events_of(log, TaskEnded)][1:] == [None, None]
        assert end_of(log) == RunEnded("limit", "seconds", OVER)

        class Parts(type(made.parts())):  # type: ignore[misc]
            def versions(self, spec: RunSpec) -> dict[str, str]:
                return {"react.texts": "3", STATED: "1"}

        assert await replay(log, Parts(made), "t") is None

    in_no_time(main)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_fork_at_any_event_of_the_end_replays(side_by_side: int) -> None:
    async def main() -> None:
        made = TaskRig(planner, hold, max_parallel_tasks=side_by_side)
        log = await made.play(**LIMITED)
        answers, box = made.answers, made.toolbox
        ((first, last),) = ends(log)
        assert last - first >= 6
        for at in range(first, last):
            fork = Recorded(at + 1, log[at - 1].time, 1, Forked("p", at))
            assert await replay([*log[:at], fork], made.parts(), "t") is None, log[at - 1]
            made.answers, made.toolbox = answers, box

    in_no_time(main)


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_the_time_of_a_thread_ends_its_open_run_as_the_runs_own_does(side_by_side: int) -> None:
    async def main() -> None:
        made = TaskRig(planner, hold, max_parallel_tasks=side_by_side)
        log = await made.play(thread_limits=Limits(seconds=4))
        over = "The thread reached its limit of 4 seconds."
        assert end_of(log) == RunEnded("limit", "thread_seconds", over)
        assert last_said(log).startswith(f"{over}\n\nDone:\n- 1.1 a: a is made\n\nNot reached:\n- 1.2 b: {over}")
        await replayed(log, made)
        answers, box = made.answers, made.toolbox
        ((first, last),) = ends(log)
        for at in range(first, last):
            fork = Recorded(at + 1, log[at - 1].time, 1, Forked("p", at))
            assert await replay([*log[:at], fork], made.parts(), "t") is None, log[at - 1]
            made.answers, made.toolbox = answers, box

    in_no_time(main)
