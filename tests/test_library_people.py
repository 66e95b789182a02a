"""People in the runs of a program: approvals, answers in a later process, forks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import Agent, Answer, Rule, RunWaits, tool
from stepwell.errors import Busy, Decided, InputError, NotFound
from stepwell.events import RunEnded, Steered, TextDelta, ToolEnded, ToolProgress
from stepwell.models.scripted import Gate, ScriptedModel, call, reply
from stepwell.tools.base import ToolContext
from stepwell.tools.builtin.ask_human import ask_human_tool
from tests.support.runs import bounded


@tool(effect="write")
def send(to: str) -> str:
    """Send the report.

    Args:
        to: Who gets it.
    """
    SENT.append(to)
    return f"sent to {to}"


SENT: list[str] = []
ASKING = [Rule(decision="ask", effect="write")]


def sending() -> ScriptedModel:
    SENT.clear()
    return ScriptedModel([reply("", call("send", to="everybody")), reply("Done.")])


@pytest.mark.parametrize(
    ("ask", "sent"),
    [
        (lambda _: True, ["everybody"]),
        (lambda _: Answer("approve", arguments='{"to": "Ann"}'), ["Ann"]),
        (lambda _: False, []),
        (None, []),
    ],
)
def test_a_program_decides_what_its_agent_may_run(ask: Any, sent: list[str]) -> None:
    async def main() -> None:
        async with Agent(sending(), tools=[send], approvals=ASKING, ask=ask) as agent:
            assert (await agent.run("Send the report.")).text == "Done."
        assert sent == SENT

    asyncio.run(main())


def test_a_run_that_waits_is_answered_by_a_later_process(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "threads.db"
        async with Agent(sending(), tools=[send], approvals=ASKING, ask="wait", path=path) as agent:
            with pytest.raises(RunWaits) as waits:
                await agent.run("Send the report.")
        thread = waits.value.thread
        model = ScriptedModel([reply("Done.")])
        async with Agent(model, tools=[send], approvals=ASKING, ask="wait", path=path) as agent:
            (asked,) = await agent.questions(thread)
            assert (asked.kind, asked.tool, asked.shown) == ("approval", "send", '{"to":"everybody"}')
            assert SENT == []
            await agent.answer(thread, asked.seq, Answer("approve"))
            result = await agent.result(thread, waits.value.run)
            assert (result.text, SENT) == ("Done.", ["everybody"])
            assert await agent.result(thread) == result, "without a number it is that of the last run, too"
            with pytest.raises(NotFound):
                await agent.result("0" * 32)
            with pytest.raises(Decided):
                await agent.answer(thread, asked.seq, Answer("approve"))

    asyncio.run(main())


def test_a_thread_is_forked_with_another_result_and_compared() -> None:
    async def main() -> None:
        model = ScriptedModel([reply("", call("send", to="Ann")), reply("It went to Ann."), reply("It failed.")])
        async with Agent(model, tools=[send]) as agent:
            first = await agent.run("Send the report.")
            events = [event async for event in numbered(agent, first.thread)]
            at = next(seq for seq, event in events if isinstance(event, ToolEnded))
            other = await agent.fork(first.thread, at, result="no connection")
            assert (await agent.result(other.thread, other.run)).text == "It failed."
            parted = await agent.diff(first.thread, other.thread)
            assert parted.common == at - 1
            assert [parted.one[0].text, parted.other[0].text] == ["sent to Ann", "no connection"]

    asyncio.run(main())


async def numbered(agent: Agent, thread: str) -> AsyncIterator[tuple[int, object]]:
    service = agent._parts.service()
    for recorded in await service.events("local", thread):
        yield recorded.seq, recorded.event


def talking(gate: Gate) -> ScriptedModel:
    """Return a model whose first reply waits."""
    return ScriptedModel([reply("one", gates={0: gate}), reply("two"), reply("three")])


def test_messages_are_sent_while_a_run_is_open_and_wait_or_reach_it_as_the_policy_says() -> None:
    async def main() -> None:
        gate = Gate()
        async with Agent(talking(gate)) as agent:
            first = await agent.send("First.")
            await gate.reached.wait()
            later = await agent.send("Later.", thread=first.thread)
            assert (later.run, later.queued > first.run) == (0, True)
            assert [(each.seq, each.message.content) for each in await agent.queue(first.thread)] == [
                (later.queued, "Later.")
            ]
            told = await agent.send("And?", thread=first.thread, policy="steer")
            assert (told.run, told.steered > 0) == (first.run, True)
            with pytest.raises(Busy):
                await agent.send("No.", thread=first.thread, policy="reject")
            gate.set()
            assert (await agent.result(first.thread, first.run)).text == "two"
            async with asyncio.timeout(10):
                while await agent.queue(first.thread):
                    pass
            events = [event async for _, event in numbered(agent, first.thread)]
            assert [each.message.content for each in events if isinstance(each, Steered)] == ["And?"]

    asyncio.run(main())


def task(name: str) -> dict[str, object]:
    return {"name": name, "goal": f"{name} goal"}


def planned(tool_name: str = "") -> ScriptedModel:
    ended = {"status": "success", "reached_goals": [], "failed_goals": []}
    first = [reply("", call(tool_name))] if tool_name else []
    return ScriptedModel(
        [
            reply("", call("generate_plan", subtasks=[task("look"), task("do")])),
            *first,
            reply("I look.", call("subtask_submit", submit_type="success", result="seen")),
            reply("", call("conclusion", summary="I looked.", reply="", **ended)),
            reply("", call("subtask_submit", submit_type="give_up", result="stuck")),
            reply("", call("conclusion", summary="It did not work.", reply="", **{**ended, "status": "failure"})),
            reply("", call("conclusion", summary="Half.", reply="Half of it.", **ended)),
        ]
    )


def test_the_newest_plan_of_a_thread_is_a_tree_of_records() -> None:
    async def main() -> None:
        async with Agent(planned()) as agent:
            result = await agent.run("Do it.", engine="plan")
            root = await agent.plan(result.thread)
            assert root is not None
            assert (root.id, root.goal, [each.id for each in root.tasks]) == ("1", "Do it.", ["1.1", "1.2"])
            first, second = root.tasks
            assert (first.name, first.status, second.status) == ("look", "SUCCESS", "FAIL")
            assert first.submission is not None
            assert first.conclusion is not None
            assert (first.submission.result, first.conclusion.summary) == ("seen", "I looked.")
            with pytest.raises(NotFound):
                await agent.plan("0" * 32)
        async with Agent(ScriptedModel(["Hi."])) as agent:
            assert await agent.plan((await agent.run("hello")).thread) is None

    asyncio.run(main())


def test_a_stream_tells_on_wish_which_agent_each_event_happened_to() -> None:
    @tool(effect="pure")
    async def dig(context: ToolContext) -> str:
        """Dig."""
        context.progress("digging")
        return "dug"

    async def main() -> None:
        async with Agent(planned("dig"), tools=[dig]) as agent:
            seen = [each async for each in agent.stream("Do it.", engine="plan", paths=True)]
        assert (seen[-1].path, isinstance(seen[-1].event, RunEnded)) == ("", True)
        assert {each.path for each in seen if isinstance(each.event, TextDelta)} == {"1.1"}
        assert {each.path for each in seen if isinstance(each.event, ToolProgress)} == {"1.1"}
        assert {each.path for each in seen} == {"", "1.1", "1.2"}
        async with Agent(planned()) as agent:
            plain = [each async for each in agent.stream("Do it.", engine="plan")]
        assert isinstance(plain[-1], RunEnded)

    asyncio.run(main())


class Waits:
    """A tool with an effect that takes its time, and how often it began and ended."""

    def __init__(self) -> None:
        self.at, self.begun, self.done = Gate(), 0, 0

        @tool(effect="write")
        async def send(to: str) -> str:
            """Send."""
            self.begun += 1
            await self.at.wait()
            self.done += 1
            return f"sent to {to}"

        self.tool: Any = send


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_cancelled_after_an_answer_ends_and_starts_nothing_more(kept: bool, tmp_path: Path) -> None:
    async def main() -> None:
        waits, path = Waits(), tmp_path / "threads.db" if kept else None
        model = ScriptedModel([reply("", call("send", to="Ann")), "Done."])
        async with Agent(model, tools=[waits.tool], approvals=ASKING, ask=lambda _: True, path=path) as agent:
            running = asyncio.ensure_future(agent.run("Send the report."))
            await waits.at.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            service = agent._parts.service()
            (info,) = await service.threads("local")
            events = await service.events("local", info.id)
            assert isinstance(events[-1].event, RunEnded)
            assert events[-1].event.reason == "cancelled"
            assert (info.run, waits.begun, waits.done) == (0, 1, 0)
            assert (await agent.run("Thanks.", thread=info.id)).text == "Done."

    bounded(main)


def test_the_result_of_an_earlier_run_is_found_when_others_have_followed() -> None:
    async def main() -> None:
        async with Agent(ScriptedModel(["one", "two"])) as agent:
            first = await agent.send("a")
            await agent.send("b", thread=first.thread)
            while (last := await agent.result(first.thread)).run == first.run:
                await asyncio.sleep(0)
            assert last.text == "two"
            found = await agent.result(first.thread, first.run)
            assert (found.text, found.run) == ("one", first.run)
            with pytest.raises(NotFound):
                await agent.result(first.thread, 99)

    bounded(main)


def test_a_question_that_is_over_before_somebody_answers_does_not_disturb_the_run() -> None:
    async def main() -> None:
        asked: list[int] = []

        async def slow(question: Any) -> str:
            asked.append(question.seq)
            while await agent.questions(question.thread):
                await asyncio.sleep(0.01)
            return "too late"

        wish = call("ask_human", question="Which?", timeout_seconds=0.05, default="red")
        async with Agent(ScriptedModel([wish, "Red it is."]), tools=[ask_human_tool()], ask=slow) as agent:
            assert (await agent.run("go")).text == "Red it is."
            assert len(asked) == 1

    bounded(main)


@pytest.mark.parametrize("said", [None, 1, {"approved": False}, []])
def test_what_is_neither_yes_nor_no_approves_nothing(said: Any) -> None:
    async def main() -> None:
        async with Agent(sending(), tools=[send], approvals=ASKING, ask=lambda _: said) as agent:
            with pytest.raises(InputError, match="`ask` returned"):
                await agent.run("Send the report.")
        assert SENT == []

    asyncio.run(main())


def test_a_policy_that_there_is_not_is_refused() -> None:
    async def main() -> None:
        async with Agent(ScriptedModel([])) as agent:
            with pytest.raises(InputError, match="`policy` is one of queue, steer, interrupt, reject, not 'later'"):
                await agent.send("Hello.", policy="later")  # type: ignore[arg-type]

    asyncio.run(main())
