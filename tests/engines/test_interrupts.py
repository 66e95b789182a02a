"""Interrupts of one agent and of all: what is under way is closed first, and what was said is met at once."""

from __future__ import annotations

import asyncio

import pytest

from stepwell.engines.words import words
from stepwell.events import (
    MessageEnded,
    RunEnded,
    Steered,
    StepStarted,
    ToolEnded,
)
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.runs.replay import replay
from tests.support.runs import bounded, end_of, events_of
from tests.support.talking import START, TalkRig, Work, closed, replayed, spoken
from tests.support.tasks import TaskRig, concluded, of_path, offered, plan, results, sub, submit, task_of


@pytest.mark.parametrize("path", ["", "plan1", "plan1/1.1"])
def test_an_interrupt_closes_what_is_under_way_and_is_met_at_once(path: str) -> None:
    async def main() -> None:
        work = Work(
            START, {"Add c.": call("detail", instruction="Please add c."), "Twice.": call("respond", answer="Yes.")}
        )
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("Add c.", interrupt=True, path=path)
            made.steer("Twice.", interrupt=True)
            await made.seen(ToolEnded, 2, path="")
            work.gate.set()
        log = await made.events()
        assert closed(log) == [("plan1/1.1", words("interrupted_call", "en"))]
        assert end_of(log) == RunEnded("answer")
        assert "Yes." in spoken(log)
        if path == "plan1":
            assert work.ran[-1] == "c"
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("path", ["plan1", "plan1/1.1"])
def test_an_interrupt_of_those_who_work_is_met_while_the_front_thinks(path: str) -> None:
    async def main() -> None:
        thinking = Gate()
        work = Work(START, {"How far?": reply("Let me see.", call("respond", answer="Halfway."), gates={1: thinking})})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("How far?")
            await thinking.reached.wait()
            made.say(Steered(Message("user", "Not like that."), interrupt=True), path=path)
            made.log.interrupt_at(path)
            await made.seen(StepStarted, 2, path=path)
            assert "Halfway." not in spoken(await made.events())
            work.gate.set()
            thinking.set()
        log = await made.events()
        assert closed(log) == [("plan1/1.1", words("interrupted_call", "en"))]
        assert "Halfway." in spoken(log)
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_an_interrupt_of_all_is_judged_before_the_work_goes_on() -> None:
    async def main() -> None:
        work = Work(START, {"And c.": call("detail", instruction="Please add c.")})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("And c.", interrupt=True)
            work.gate.set()
        log = await made.events()
        at = next(each.seq for each in log if isinstance(each.event, Steered))
        later = [each for each in log[at:] if isinstance(each.event, StepStarted)]
        assert [each.path for each in later][:2] == ["", "plan1"]
        assert work.ran[-1] == "c"
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("path", ["", "1.1"])
def test_an_interrupt_of_a_plan_or_of_one_task_closes_what_is_under_way_there(path: str) -> None:
    async def main() -> None:
        work = Work({})
        made = TaskRig(work, work.tool, engine="plan", fast_path=False)
        task = asyncio.create_task(made.play("Make it."))
        await work.gate.reached.wait()
        for text in ("First.", "Please add c."):
            made.say(Steered(Message("user", text), interrupt=True), path=path)
            assert made.log.interrupt is not None
            made.log.interrupt()
        work.gate.set()
        log = await task
        assert closed(log) == [("1.1", words("interrupted_call", "en"))]
        at = next(each.seq for each in log if isinstance(each.event, Steered))
        next_step = next(each for each in log[at:] if isinstance(each.event, StepStarted))
        assert next_step.path == path, "it is met at once by the one to whom it was said"
        assert work.ran == (["a", "b"] if path else ["a", "b", "c"])
        assert end_of(log) == RunEnded("answer")
        assert await replay(log, made.parts(), "t") is None

    bounded(main)


def test_an_interrupt_cuts_an_open_reply_and_keeps_its_beginning() -> None:
    async def main() -> None:
        gate = Gate()

        def brain(request: ModelRequest) -> Answer:
            if "start_task" not in offered(request):
                return "?"
            if any(each.content == "Shorter." for each in request.messages):
                return call("answer_user", answer="4.")
            return reply(("It is ", "four."), gates={1: gate})

        made = TalkRig(brain)
        async with made.going():
            await gate.reached.wait()
            made.steer("Shorter.", interrupt=True)
        log = await made.events()
        first = events_of(log, MessageEnded)[0]
        assert (first.stop, first.message.content) == ("cancelled", "It is ")
        assert spoken(log) == ["4."]
        await replayed(log, made)

    bounded(main)


def test_an_interrupt_of_one_task_leaves_those_beside_it_alone() -> None:
    async def main() -> None:
        working, thinking = Gate(), Gate()
        ran: list[str] = []

        async def work(name: str) -> str:
            """Work."""
            ran.append(name)
            if name == "a":
                working.reached.set()
                await working.wait()
            return f"{name} is done"

        def brain(request: ModelRequest) -> Answer:
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"))
            if "subtask_submit" not in offered(request):
                return concluded()
            if results(request):
                return submit()
            name = task_of(request)
            if name == "b":
                return reply(("Let me", " see."), call("work", name="b"), gates={1: thinking})
            return call("work", name="a")

        made = TaskRig(brain, work, engine="plan", fast_path=False, max_parallel_tasks=2)
        task = asyncio.create_task(made.play("Make it."))
        await asyncio.gather(working.reached.wait(), thinking.reached.wait())
        made.say(Steered(Message("user", "Not like that."), interrupt=True), path="1.1")
        made.log.interrupt_at("1.1")
        thinking.set()
        log = await task
        assert closed(log) == [("1.1", words("interrupted_call", "en"))]
        assert sum(isinstance(each, StepStarted) for each in of_path(log, "1.2")) == 3
        assert not any(isinstance(each, MessageEnded) and each.stop == "cancelled" for each in of_path(log, "1.2"))
        assert ran == ["a", "b"]
        assert end_of(log) == RunEnded("answer")
        assert await replay(log, made.parts(), "t") is None

    bounded(main)
