"""What an agent did, read back from its log: the numbers at once, all else in pages."""

from __future__ import annotations

import pytest

from stepwell.agent.base import BaseAgent, ToolOutput
from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions, ExperimentOptions
from stepwell.agent.views import PAGE, PastCall, PastCalls, PastSteps, basic_info, working_context
from stepwell.contexts import WorkingContext
from stepwell.events import (
    HistoryCleared,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    ToolEnded,
    ToolStarted,
    WorkingUpdated,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.scripted import ScriptedModel, Step, call, reply
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from tests.support.runs import bounded

NOON = 1_700_049_600_000
"""2023-11-15 12:00:00 UTC, a Wednesday."""


def logged(*events: Stored) -> MemoryLog:
    """Return a log of events, one each second from noon."""
    log = MemoryLog()
    for at, event in enumerate(events):
        run = 1 if isinstance(events[0], RunStarted) else 0
        recorded = Recorded(at + 1, NOON + 1000 * at, run, event)
        log.events.append(recorded)
        log.state.apply(recorded)
    return log


def a_step(text: str = "", *calls: str, aside: bool = False, repairs: bool = False) -> tuple[Stored, ...]:
    message = Message("assistant", text, calls=tuple(ToolCall(each, "look") for each in calls))
    return (
        StepStarted(1, "", aside=aside, repairs=repairs),
        MessageStarted(),
        MessageEnded(message, "stop"),
        StepEnded(),
    )


def result(id: str, text: str = "found") -> tuple[Stored, ...]:
    return ToolStarted(id, "look"), ToolEnded(id, text)


def reads(log: MemoryLog, first: int = 0, last: int | None = None) -> list[WorkingContext]:
    out: list[WorkingContext] = []

    async def main() -> None:
        out.extend(await PastSteps(log).read(first, last))

    bounded(main)
    return out


def calls_of(log: MemoryLog, first: int = 0, last: int | None = None) -> list[PastCall]:
    out: list[PastCall] = []

    async def main() -> None:
        out.extend(await PastCalls(log).read(first, last))

    bounded(main)
    return out


def thoughts(steps: list[WorkingContext]) -> list[str]:
    return [str(each.thoughts[0]["thought"]) if each.thoughts else "" for each in steps]


def test_basic_info_tells_the_stored_time_and_how_many_steps_there_were() -> None:
    assert basic_info(State()) == {"Time": "1970-01-01 Thursday 00:00:00", "Step Id": "No.0"}
    log = logged(RunStarted(RunSpec()), *a_step("one"), *a_step("two"))
    assert basic_info(log.state) == {"Time": "2023-11-15 Wednesday 12:00:00", "Step Id": "No.2"}
    log = logged(RunStarted(RunSpec()), *a_step("one"), WorkingUpdated({"Place": "home"}, "rain"))
    assert basic_info(log.state)["Time"] == "2023-11-15 Wednesday 12:00:05"


def test_a_step_ends_up_in_the_working_context_that_it_began_with() -> None:
    log = logged(RunStarted(RunSpec()), WorkingUpdated({"Place": "home"}, "rain"), *a_step("one", "a"))
    now = working_context(log.state)
    assert now.basic_info == "Time: 2023-11-15 Wednesday 12:00:01\nStep Id: No.1\nPlace: home"
    assert (now.observation, thoughts([now])) == ("rain", ["one"])
    assert [each.id for each in now.tool_calls] == ["a"]
    log = logged(RunStarted(RunSpec()), *a_step("one", "a"), WorkingUpdated({}, "rain"))
    now = working_context(log.state)
    assert (now.observation, now.thoughts, now.tool_calls) == ("rain", (), ())


def test_past_steps_hold_what_each_was_given_and_what_came_of_it() -> None:
    log = logged(
        RunStarted(RunSpec()),
        *a_step("one"),
        WorkingUpdated({"Place": "home"}, "rain"),
        *a_step('{"plan": [], "thought": "two"}', "a", "b"),
        *result("b"),
        *result("a"),
        *a_step("three"),
        WorkingUpdated({}, None),
        *a_step("four"),
    )
    steps = reads(log)
    assert thoughts(steps) == ["one", "two", "three", "four"]
    assert steps[1].thoughts == ({"plan": [], "thought": "two"},)
    assert [each.observation for each in steps] == ["", "rain", "rain", ""]
    assert [each.basic_info for each in steps] == [
        "Time: 2023-11-15 Wednesday 12:00:00\nStep Id: No.0",
        "Time: 2023-11-15 Wednesday 12:00:05\nStep Id: No.1\nPlace: home",
        "Time: 2023-11-15 Wednesday 12:00:05\nStep Id: No.2\nPlace: home",
        "Time: 2023-11-15 Wednesday 12:00:18\nStep Id: No.3",
    ]
    assert [[call.id for call in each.tool_calls] for each in steps] == [[], ["a", "b"], [], []]


@pytest.mark.parametrize(
    ("first", "last"), [(0, None), (2, None), (-1, None), (-3, None), (1, 3), (-3, -1), (3, 1), (9, None), (-99, 99)]
)
def test_a_part_is_read_as_a_slice_of_a_list(first: int, last: int | None) -> None:
    names = [f"c{n}" for n in range(5)]
    steps = [each for name in names for each in (*a_step(name, name), *result(name, f"found {name}"))]
    log = logged(RunStarted(RunSpec()), *steps)
    assert (len(PastSteps(log)), len(PastCalls(log))) == (5, 5)
    assert thoughts(reads(log, first, last)) == names[first:last]
    assert [each.output for each in calls_of(log, first, last)] == [f"found {name}" for name in names[first:last]]


def test_steps_that_left_no_trace_are_not_counted_and_not_shown() -> None:
    failed = ModelFailed("server", "down")
    broken: tuple[Stored, ...] = (
        StepStarted(1, ""),
        MessageStarted(),
        failed,
        MessageEnded(Message("assistant", "half"), "error"),
    )
    cancelled = MessageEnded(Message("assistant", "half"), "cancelled")
    log = logged(
        RunStarted(RunSpec()),
        *a_step("one"),
        *a_step("chat", "x", aside=True),
        *broken,
        StepEnded(),
        *a_step("bad form"),
        *a_step("good form", repairs=True),
        *a_step("bad chat", aside=True),
        *a_step("good chat", aside=True, repairs=True),
        *a_step("two", "a"),
        StepStarted(1, ""),
        MessageStarted(),
        cancelled,
    )
    assert len(PastSteps(log)) == 3
    assert thoughts(reads(log)) == ["one", "good form", "two"]
    assert [each.call.id for each in calls_of(log)] == ["a"]
    assert len(PastCalls(log)) == 1


def test_a_repair_that_was_interrupted_and_made_again_counts_once() -> None:
    log = logged(
        RunStarted(RunSpec()),
        *a_step("one"),
        *a_step("bad form"),
        StepStarted(1, "", repairs=True),
        MessageStarted(),
        ModelFailed("interrupted", ""),
        MessageEnded(Message("assistant"), "error"),
        StepEnded(),
        *a_step("good form", repairs=True),
    )
    assert len(PastSteps(log)) == 2
    assert thoughts(reads(log)) == ["one", "good form"]
    assert [each.content for each in log.state.transcript] == ["one", "good form"]


def test_a_call_is_found_by_its_id_with_what_came_of_it() -> None:
    log = logged(RunStarted(RunSpec()), *a_step("", "a", "b"), *result("b", "found b"))

    async def main() -> None:
        calls = PastCalls(log)
        assert await calls.get("b") == PastCall(ToolCall("b", "look"), "found b", "ok", 7)
        assert await calls.get("a") == PastCall(ToolCall("a", "look"))
        assert await calls.get("c") is None
        # In the order in which they were asked for.
        assert [each.call.id async for each in calls] == ["a", "b"]
        assert len(calls) == 2

    bounded(main)


def test_nothing_before_the_history_was_cleared_is_shown() -> None:
    log = logged(
        MessageAdded(Message("user", "hi"), "history"),
        RunStarted(RunSpec()),
        WorkingUpdated({"Place": "home"}, "rain"),
        *a_step("one", "a"),
        *result("a"),
        HistoryCleared(),
        *a_step("two", "b"),
    )
    assert (len(PastSteps(log)), len(PastCalls(log))) == (1, 1)
    (step,) = reads(log)
    assert thoughts([step]) == ["two"]
    assert (step.observation, step.basic_info[-4:]) == ("", "No.0")
    assert [each.call.id for each in calls_of(log)] == ["b"]
    assert working_context(log.state).observation == ""


def test_a_log_of_many_pages_is_read_to_its_end() -> None:
    count = PAGE // 2
    steps = [each for n in range(count) for each in (*a_step(f"t{n}", f"c{n}"), *result(f"c{n}"))]
    log = logged(RunStarted(RunSpec()), *steps)
    assert len(log.events) > 2 * PAGE
    assert thoughts(reads(log, -2)) == [f"t{count - 2}", f"t{count - 1}"]
    assert [each.call.id for each in calls_of(log)] == [f"c{n}" for n in range(count)]


def test_the_numbers_agree_with_what_is_read_whatever_an_agent_does() -> None:
    script: list[Step] = [
        call("look", what="x"),
        "not the form",
        reply("", call("simple_thought", thought="so")),
        reply("", call("chat", message="hi")),
        "Fine.",
        reply("", call("look", what="y"), call("look", what="z")),
        "Done.",
    ]

    async def main() -> None:
        log = MemoryLog()
        agent = BaseAgent(None, "", default_replies=None, model=ScriptedModel(script), log=log)

        async def agree(steps: int, calls: int) -> None:
            assert (len(agent.history_working_context), len(agent.history_tool_calls)) == (steps, calls)
            assert [len(await agent.history_working_context.read()), len(await agent.history_tool_calls.read())] == [
                steps,
                calls,
            ]

        _, asked = await agent.step()
        await agree(1, 1)
        await agent.update_tool_calls_output([ToolOutput(asked[0].id, "found")])
        await agent.step(replies="simple_thought")
        await agree(2, 1)
        await agent.step(replies="chat", update_working_context=False, chat_mode=True)
        await agree(2, 1)
        await agent.step()
        await agree(3, 1)
        await agent.step()
        await agree(4, 3)
        await agent.lazy_init(AgentOptions(experiment=ExperimentOptions(maintain_history_context=True)))
        await agree(4, 3)
        await agent.lazy_init(AgentOptions())
        await agree(0, 0)
        await agent.step()
        await agree(1, 0)

    bounded(main)
