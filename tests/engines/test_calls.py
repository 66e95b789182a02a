"""Several calls at once: some run, some wait for people, and none of them holds another up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.base import wait
from stepwell.events import (
    Answered,
    Asked,
    MessageEnded,
    PauseRequested,
    ResumeRequested,
    RunEnded,
    RunWaiting,
    StepEnded,
    TitleChanged,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.runs.log import ThreadLog
from stepwell.specs import Limits, Rule, RunSpec
from stepwell.state.thread import State
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.mark import tool
from tests.support.people import Desk, desk
from tests.support.runs import OWNER, bounded, end_of, events_of, rig

ASK = (Rule(decision="ask", tool="write"),)


class Yard:
    """A tool that writes at once, one that takes until its gate opens, and one that works in a thread."""

    def __init__(self) -> None:
        self.gate, self.ran = Gate(), list[str]()

        @tool
        async def write(what: str) -> str:
            """Write it."""
            self.ran.append(what)
            return f"wrote {what}"

        @tool(effect="pure")
        async def slow() -> str:
            """Take long."""
            await self.gate.wait()
            return "slow"

        @tool(effect="pure", untrusted=True)
        def threaded() -> str:
            """Work in a thread."""
            return "threaded"

        self.tools = (write, slow, threaded)


def writes(*ids: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(id, "write", f'{{"what": "{id}"}}') for id in ids)


def brain_of(*calls: ToolCall) -> Any:
    def brain(request: ModelRequest) -> Answer:
        return "Done." if any(message.role == "tool" for message in request.messages) else reply("", *calls)

    return brain


def test_calls_that_may_run_start_at_once_and_an_approval_starts_the_next_while_they_run() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a", "b"), ToolCall("s", "slow")), *yard.tools, approvals=ASK) as at:
            async with at.going():
                await yard.gate.reached.wait()
                first, second = at.questions
                at.answer(second, "approve")
                await at.seen(ToolEnded)
                assert yard.ran == ["b"]
                at.answer(first, "deny")
                await at.seen(ToolEnded, 2)
                assert at.log.state.run is not None
                assert at.log.state.run.waiting is None
                yard.gate.set()
            events = await at.events()
            assert end_of(events) == RunEnded("answer")
            assert not events_of(events, RunWaiting)
            told = [message.content for message in at.log.state.transcript if message.role == "tool"]
            assert told == ["Not run: a person refused this call.", "wrote b", "slow"]

    bounded(main)


def test_an_approval_that_comes_while_nothing_is_awaited_is_not_lost() -> None:
    """The decision stands in the log before the loop looks again, whatever it was about to wait for."""

    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a"), ToolCall("s", "slow")), *yard.tools, approvals=ASK) as at:
            async with at.going():
                await at.seen(Asked)
                at.answer(at.questions[0], "approve")
                await at.seen(ToolEnded)
                assert yard.ran == ["a"]
                yard.gate.set()
            assert end_of(await at.events()) == RunEnded("answer")

    bounded(main)


def test_only_when_all_that_is_left_waits_for_people_the_run_lets_go() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a"), ToolCall("s", "slow")), *yard.tools, approvals=ASK) as at:
            async with at.going():
                await yard.gate.reached.wait()
                assert at.log.state.run is not None
                assert at.log.state.run.waiting is None
                yard.gate.set()
            events = await at.events()
            assert [type(each.event) for each in events[-2:]] == [ToolEnded, RunWaiting]

    bounded(main)


def test_a_pause_lets_what_runs_end_and_starts_nothing_new() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a"), ToolCall("s", "slow")), *yard.tools, approvals=ASK) as at:
            async with at.going():
                await yard.gate.reached.wait()
                at.log.tell(PauseRequested())
                at.answer(at.questions[0], "approve")
                yard.gate.set()
            events = await at.events()
            assert isinstance(events[-1].event, RunWaiting)
            assert [each.call for each in events_of(events, ToolEnded)] == ["s"]
            assert not yard.ran
            at.log.tell(ResumeRequested())
            await at.go()
            assert yard.ran == ["a"]
            assert end_of(await at.events()) == RunEnded("answer")

    bounded(main)


def test_a_pause_before_the_first_step_asks_no_model() -> None:
    async def main() -> None:
        async with desk(["Done."]) as at:
            at.log.tell(PauseRequested())
            await at.go()
            assert at.made.asked == []
            at.log.tell(ResumeRequested())
            await at.go()
            assert await at.happened() == [
                PauseRequested(),
                ResumeRequested(),
                *(await at.happened())[2:5],
                StepEnded(),
                RunEnded("answer"),
            ]

    bounded(main)


def test_a_call_that_works_in_a_thread_or_brings_text_of_strangers_says_so() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk([reply("", call("threaded"), call("write", what="x")), "Done."], *yard.tools) as at:
            await at.go()
            first, second = events_of(await at.events(), ToolStarted)
            assert (first.name, first.threaded, first.untrusted) == ("threaded", True, True)
            assert (second.name, second.threaded, second.untrusted) == ("write", False, False)

    bounded(main)


@pytest.mark.parametrize(("limit", "ran"), [(0, 0), (1, 1), (2, 2)])
def test_calls_that_wait_count_for_the_limit_of_calls(limit: int, ran: int) -> None:
    async def main() -> None:
        yard = Yard()
        spec: dict[str, Any] = {"limits": Limits(tool_calls=limit), "approvals": ASK}
        async with desk(brain_of(*writes("a", "b", "c")), *yard.tools, **spec) as at:
            await at.go()
            while at.questions:
                assert len(at.questions) <= limit
                at.answer(at.questions[0], "approve")
                await at.go()
            assert len(yard.ran) == ran
            end = end_of(await at.events())
            assert (end.reason, end.cause) == ("limit", "tool_calls")

    bounded(main)


def test_calls_of_one_reply_are_no_more_than_the_thread_has_left() -> None:
    async def main() -> None:
        yard = Yard()
        script = [reply("", *writes("a", "b")), "One.", reply("", *writes("c", "d", "e", "f"))]
        async with rig(script, *yard.tools) as made:
            ref = await made.start(thread_limits=Limits(tool_calls=3), limits=Limits(tool_calls=4))
            assert end_of(await made.ended(ref)) == RunEnded("answer")
            ref = await made.start(thread=ref.thread, thread_limits=Limits(tool_calls=3), limits=Limits(tool_calls=4))
            end = end_of(await made.ended(ref))
            assert (end.reason, end.cause, yard.ran) == ("limit", "thread_tool_calls", ["a", "b", "c"])

    bounded(main)


def test_a_cancel_while_some_run_and_others_wait_closes_all_of_them() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a"), ToolCall("s", "slow")), *yard.tools, approvals=ASK) as at:
            async with at.going():
                await yard.gate.reached.wait()
                run = at.log.state.run
                assert run is not None
                await at.made.service.cancel("ann", at.log.thread, run.seq)
            events = await at.events()
            ends = [each.event for each in events if isinstance(each.event, ToolEnded | Answered | RunEnded)]
            assert [type(each) for each in ends] == [Answered, ToolEnded, ToolEnded, RunEnded]
            assert not at.questions

    bounded(main)


def test_calls_that_find_the_log_moved_by_another_process_lose_no_result(tmp_path: Path) -> None:
    async def main() -> None:
        yard, store = Yard(), SqliteStore(tmp_path / "stepwell.db")
        brain = brain_of(*writes("a"), ToolCall("s", "slow"), *writes("b"))
        async with rig(brain, *yard.tools, store=store) as made:
            at = Desk(made, await made.service.begin(OWNER, Message("user", "go"), RunSpec(approvals=ASK)))
            thread = at.log.thread
            async with at.going():
                await yard.gate.reached.wait()
                await at.log.committed()
                other = ThreadLog(store, thread, State(await store.read(thread)), OWNER)
                other.append(TitleChanged("meanwhile"))
                await other.committed()
                for each in at.questions:
                    at.answer(each, "approve")  # kept, though it finds the log moved
                yard.gate.set()
            events = await at.events()
            assert len(events_of(events, TitleChanged)) == 1
            assert {each.call: each.status for each in events_of(events, ToolEnded)} == dict.fromkeys("asb", "ok")
            assert sorted(yard.ran) == ["a", "b"]
            assert end_of(events) == RunEnded("answer")

    bounded(main)


def test_a_run_that_waits_says_until_when() -> None:
    async def main() -> None:
        calls = reply("", call("write", what="x"), call("write", what="y"))
        async with desk([calls], *Yard().tools, approvals=ASK, question_seconds=5.0) as at:
            await at.go()
            untils = [each.event.until for each in at.questions]
            waiting = events_of(await at.events(), RunWaiting)
            assert waiting == [RunWaiting(min(untils))]
            await wait(at.log.at("1"))
            assert events_of(await at.events(), RunWaiting) == waiting

    bounded(main)


def test_replies_of_the_model_stay_as_they_were_whatever_people_decide() -> None:
    async def main() -> None:
        yard = Yard()
        async with desk(brain_of(*writes("a")), *yard.tools, approvals=ASK) as at:
            await at.go()
            at.answer(at.questions[0], "approve", arguments='{"what": "other"}')
            await at.go()
            first = events_of(await at.events(), MessageEnded)[0]
            assert first.message.calls == writes("a")
            assert at.log.state.transcript[1].calls == writes("a")

    bounded(main)
