"""What every engine decides first: what was said meanwhile, interrupts, limits, runs that go in circles."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engines.turns import limit_reached, paused, settle
from stepwell.events import (
    Answered,
    Asked,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    RunEnded,
    RunStarted,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    TaskStarted,
    TextDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall, Usage
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, ScriptedModel, call, reply
from stepwell.plans import Task
from stepwell.questions import Decision
from stepwell.specs import NANO, Limits, Rule, RunSpec
from stepwell.tools.mark import tool
from tests.support.people import Desk, desk, prefixes, resumed
from tests.support.runs import OWNER, answer_of, bounded, end_of, events_of, said, until

STEP: tuple[Stored, ...] = (StepStarted(1, "…", reserved=70), MessageStarted())


@tool(effect="pure")
async def look(what: str) -> str:
    """Look at it."""
    return f"saw {what}"


# a crash and an interrupt


def test_a_reply_that_a_crash_cut_off_is_asked_for_again_and_paid_in_full() -> None:
    async def main() -> None:
        async with desk(["Here."]) as at:
            await at.log.record(*STEP)
            await at.go()
            events = await at.happened()
            assert events[2:4] == [
                ModelFailed("interrupted", "the process stopped while the model answered"),
                MessageEnded(Message("assistant"), "error", cost=70),
            ]
            assert events[-1] == RunEnded("answer")
            spent = at.log.state.spent
            assert (spent.steps, spent.reserved, spent.money) == (1, 0, 70)

    bounded(main)


def test_an_interrupt_keeps_what_was_shown_and_the_model_hears_what_was_said() -> None:
    async def main() -> None:
        script = [reply(["Half ", "a ", "reply"], gates={2: Gate()}), "As you say."]
        async with desk(script) as at:
            async with at.going():
                await until(at.made.service, at.log.thread, said("Half a "))
                at.log.tell(Steered(Message("user", "Stop. Do the other."), True))
                assert at.log.interrupt is not None
                at.log.interrupt()
            ended, second = events_of(await at.events(), MessageEnded)
            assert ended == MessageEnded(Message("assistant", "Half a "), "cancelled")
            assert second.message.content == "As you say."
            assert [each.content for each in at.made.asked[1].messages] == ["go", "Half a ", "Stop. Do the other."]
            assert end_of(await at.events()) == RunEnded("answer")

    bounded(main)


def test_an_interrupt_closes_calls_and_takes_their_questions_back() -> None:
    async def main() -> None:
        gate = Gate()

        @tool
        async def slow() -> None:
            """Take long."""
            await gate.wait()

        @tool
        async def write() -> None:
            """Write."""

        script = [reply("", ToolCall("s", "slow"), ToolCall("w", "write")), "As you say."]
        rules = (Rule(decision="ask", tool="write"),)
        async with desk(script, slow, write, approvals=rules) as at:
            async with at.going():
                await gate.reached.wait()
                number = at.questions[0].seq
                at.log.tell(Steered(Message("user", "No."), True))
                assert at.log.interrupt is not None
                at.log.interrupt()
            text = "No result: somebody interrupted the work before this call ended. It may have taken effect in part."
            early = "Not run: somebody interrupted the work before this call began."
            happened = await at.happened()
            begun = happened.index(Steered(Message("user", "No."), True))
            assert happened[begun + 1 : begun + 4] == [
                Answered(number, "cancelled"),
                ToolEnded("s", text, "cancelled"),
                ToolEnded("w", early, "cancelled"),
            ]
            assert [each.role for each in at.log.state.transcript] == [
                "user",
                "assistant",
                "tool",
                "tool",
                "user",
                "assistant",
            ]

    bounded(main)


def test_what_is_said_while_the_model_answers_is_met_before_the_next_call_of_it() -> None:
    async def main() -> None:
        script = [reply(["All ", "done."], gates={1: (gate := Gate())}), "That, too."]
        async with desk(script) as at:
            async with at.going():
                await gate.reached.wait()
                at.log.tell(Steered(Message("user", "And the other?")))
                gate.set()
            events = await at.events()
            assert [each.content for each in at.made.asked[1].messages] == ["go", "All done.", "And the other?"]
            assert (answer_of(events), end_of(events)) == ("That, too.", RunEnded("answer"))

    bounded(main)


def test_what_is_said_while_tools_run_stands_after_their_results() -> None:
    async def main() -> None:
        gate = Gate()

        @tool(effect="pure")
        async def slow() -> str:
            """Take long."""
            await gate.wait()
            return "slow"

        async with desk([call("slow"), "Well."], slow) as at:
            async with at.going():
                await gate.reached.wait()
                at.log.tell(Steered(Message("user", "Quick!")))
                gate.set()
            assert [each.content for each in at.made.asked[1].messages][2:] == ["slow", "Quick!"]
            assert end_of(await at.events()) == RunEnded("answer")

    bounded(main)


def test_nothing_is_settled_where_nothing_is_left_open() -> None:
    async def main() -> None:
        async with desk(["Here."]) as at:
            run = at.log.state.run
            assert run is not None
            assert not await settle(at.log, run)
            await at.log.record(*STEP)
            at.log.publish(TextDelta(run.message, "Half"))
            at.log.tell(Steered(Message("user", "Stop"), True))
            assert await settle(at.log, run)
            assert events_of(await at.events(), MessageEnded) == [
                MessageEnded(Message("assistant", "Half"), "cancelled", cost=70)
            ]
            assert not await settle(at.log, run)

    bounded(main)


# limits


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(steps=1), "steps"),
        (Limits(tokens=10), "tokens"),
        (Limits(money=7e-8), "money"),
        (Limits(steps=2, tokens=11, money=8e-8, tool_calls=0), None),
    ],
)
@pytest.mark.parametrize("path", ["", "1.1"])
def test_all_agents_of_a_run_spend_from_one_purse(limits: Limits, name: str | None, path: str) -> None:
    async def main() -> None:
        async with desk(["Here."], limits=limits) as at:
            task = TaskStarted(Task(id="1.1", name="a", goal="b"), RunSpec())
            await at.log.record(task, path="1.1")
            ended = MessageEnded(Message("assistant", "x"), "stop", Usage(6, 4), cost=70)
            await at.log.record(*STEP, ended, StepEnded(), path=path)
            for each in ("", "1.1"):
                found = limit_reached(at.log.at(each))
                assert (found and found[0]) == name
                assert found is None or found[1].startswith("The run reached its limit of")

    bounded(main)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(steps=2), "thread_steps"),
        (Limits(tokens=20), "thread_tokens"),
        (Limits(money=140 / NANO), "thread_money"),
        (Limits(seconds=0.0), "thread_seconds"),
        (Limits(steps=3, tokens=21, money=1.0, seconds=1e6), None),
    ],
)
def test_runs_of_a_thread_share_its_limits(limits: Limits, name: str | None, language: str) -> None:
    async def main() -> None:
        async with desk(["Here."], thread_limits=limits, language=language) as at:
            ended = MessageEnded(Message("assistant", "x"), "stop", Usage(6, 4), cost=70)
            spec = RunSpec(thread_limits=limits, language=language)
            await at.log.record(*STEP, ended, StepEnded(), RunEnded("answer"), RunStarted(spec))
            await at.log.record(*STEP, ended, StepEnded())
            found = limit_reached(at.log)
            assert (found and found[0]) == name
            assert found is None or ("The thread" in found[1]) == (language == "en")

    bounded(main)


def test_without_a_run_there_is_no_limit_and_no_pause() -> None:
    async def main() -> None:
        async with desk(["Here."]) as at:
            await at.go()
            assert limit_reached(at.log) is None
            assert not paused(at.log)

    bounded(main)


def test_a_pause_of_the_run_holds_its_agents_too() -> None:
    async def main() -> None:
        async with desk(["Here."]) as at:
            await at.log.record(TaskStarted(Task(id="1.1", name="a", goal="b"), RunSpec()), path="1.1")
            assert not paused(at.log.at("1.1"))
            at.log.tell(PauseRequested())
            assert paused(at.log.at("1.1"))
            assert paused(at.log)

    bounded(main)


# running in circles


def circling(request: ModelRequest) -> Answer:
    return call("look", what="it")


def test_the_same_call_with_the_same_result_asks_whether_it_may_go_on() -> None:
    async def main() -> None:
        async with desk(circling, look, repetitions=3) as at:
            await at.go()
            (question,) = at.questions
            text = "The same calls brought the same results 3 times in a row. May the run go on?"
            assert question.event == Asked("repetition", text=text, choices=("continue", "stop"))
            assert len(events_of(await at.events(), ToolStarted)) == 3
            at.answer(question, "continue")
            await at.go()
            assert len(events_of(await at.events(), ToolStarted)) == 6
            at.answer(at.questions[0], "stop")
            await at.go()
            why = "The run was stopped: the same calls brought the same results 3 times in a row."
            assert end_of(await at.events()) == RunEnded("limit", "repetition", why)

    bounded(main)


@pytest.mark.parametrize(("decision", "ends"), [("expired", True), ("forked", False), ("cancelled", False)])
def test_only_a_person_lets_a_run_go_on_in_circles(decision: Decision, ends: bool) -> None:
    async def main() -> None:
        async with desk(circling, look, repetitions=2) as at:
            await at.go()
            at.answer(at.questions[0], decision)
            await at.go()
            assert (at.log.state.run is None) == ends
            assert len(at.questions) == (0 if ends else 1)

    bounded(main)


def test_where_nobody_can_answer_a_run_in_circles_ends() -> None:
    async def main() -> None:
        async with desk(circling, look, repetitions=3, people=False) as at:
            await at.go()
            assert end_of(await at.events()).cause == "repetition"
            assert len(at.made.asked) == 3
        script: list[Any] = [*[call("nothing")] * 4, "Done."]
        async with desk(ScriptedModel(script), look, repetitions=3, people=False) as at:
            await at.go()
            assert end_of(await at.events()) == RunEnded("answer")

    bounded(main)


def test_a_run_in_circles_goes_on_alike_after_a_crash_at_every_event() -> None:
    async def stop(at: Desk) -> None:
        await at.go()
        while at.questions:
            at.answer(at.questions[0], "stop")
            await at.go()

    async def main() -> None:
        async with desk(circling, look, repetitions=2) as at:
            await stop(at)
            whole = await at.events()
        for prefix in prefixes(whole):
            async with resumed(prefix, circling, look) as at:
                await stop(at)
                events = await at.events()
                assert end_of(events).cause == "repetition"
                assert len(events_of(events, Asked)) == 1
                assert at.log.owner == OWNER

    bounded(main)
