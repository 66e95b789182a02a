"""A person talks with a front while a plan works: what is said, judged, passed on, and how it all ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepwell.agent.accounts import Accounts
from stepwell.agent.base import BaseAgent
from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    Forked,
    MessageAdded,
    PauseRequested,
    PlanChanged,
    Recorded,
    ResumeRequested,
    RunEnded,
    Steered,
    TaskEnded,
    TaskStarted,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.models.base import Failure, ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.questions import Decision
from stepwell.runs.replay import replay
from stepwell.specs import NANO, Limits, Prices, Rule
from stepwell.store.base import Spending
from tests.support.runs import bounded, end_of, events_of
from tests.support.talking import START, TalkRig, Work, replayed, spoken, waits
from tests.support.tasks import offered, results


def test_what_needs_no_work_is_answered_at_once() -> None:
    async def main() -> None:
        made = Work({"Make it.": call("answer_user", answer="It is 4.")}).rig()
        log = await made.play("Make it.")
        assert spoken(log) == ["It is 4."]
        assert end_of(log) == RunEnded("answer")
        assert made.asked == 1
        await replayed(log, made)

    bounded(main)


def test_a_task_is_worked_on_and_what_it_came_to_is_told() -> None:
    async def main() -> None:
        work = Work(START)
        work.gate.set()
        made = work.rig()
        log = await made.play("Make it.")
        assert work.ran == ["a", "b"]
        assert [each.path for each in log if isinstance(each.event, TaskStarted)] == ["plan1", "plan1/1.1", "plan1/1.2"]
        assert spoken(log) == ["Made."]
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_the_front_asks_back_and_the_answer_is_routed_again() -> None:
    async def main() -> None:
        routes = {
            **START,
            "Make it.": call("ask_user", question="Which?"),
            "Both.": call("answer_user", answer="Fine."),
        }
        made = Work(routes).rig()
        await made.play("Make it.")
        assert [each.event.text for each in made.log.state.questions.values()] == ["Which?"]
        assert waits(made)
        made.answer("answer", "Both.")
        log = await made.go_on()
        assert spoken(log) == ["Fine."]
        assert events_of(log, ToolEnded)[0].content == "Both."
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_work_that_the_key_does_not_allow_any_more_ends_the_run_with_its_limit() -> None:
    class Limited(TalkRig):
        def front(self, log: Log) -> BaseAgent:
            return BaseAgent(None, "", "", default_replies=None, model=self.answers, log=log, accounts=accounts)

    async def main() -> None:
        account = await accounts.of("k")
        assert account is not None

        def brain(request: ModelRequest) -> Answer:
            account.take(1)  # another run of the key has made the last call
            return call("start_task", task="Make a and b.")

        made = Limited(brain)
        end = end_of(await made.play("Make it.", key="k"))
        assert (end.reason, end.cause) == ("limit", "key_tool_calls")

    async def load(key: str) -> tuple[Limits | None, Spending]:
        return Limits(tool_calls=1), Spending()

    accounts = Accounts(load)
    bounded(main)


def test_what_the_front_asked_is_asked_anew_in_a_fork() -> None:
    async def main() -> None:
        routes = {"Make it.": call("ask_user", question="Which?"), "Both.": call("answer_user", answer="Fine.")}
        made = Work(routes).rig()
        await made.play("Make it.")
        (question,) = made.log.state.questions
        made.say(Forked("parent", 1), Answered(question, "forked"))
        await made.go_on()
        assert waits(made)
        made.answer("answer", "Both.")
        log = await made.go_on()
        assert events_of(log, ToolEnded)[0].content == "Both."
        assert spoken(log) == ["Fine."]

    bounded(main)


def test_a_message_in_place_of_an_answer_takes_the_question_back() -> None:
    async def main() -> None:
        routes = {"Make it.": call("ask_user", question="Which?"), "Never mind.": call("answer_user", answer="Fine.")}
        made = Work(routes).rig()
        await made.play("Make it.")
        made.steer("Never mind.")
        log = await made.go_on()
        assert [each.decision for each in events_of(log, Answered)] == ["cancelled"]
        assert spoken(log) == ["Fine."]
        await replayed(log, made)

    bounded(main)


def test_where_nobody_can_answer_a_question_ends_the_run_and_names_the_command() -> None:
    async def main() -> None:
        made = Work({"Make it.": call("ask_user", question="Which?")}).rig()
        log = await made.play("Make it.", people=False)
        end = end_of(log)
        assert (end.reason, end.cause) == ("answer", "question")
        assert "stepwell answer t " in spoken(log)[-1]
        assert len(made.log.state.questions) == 1
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("wrong", ["start_task", "nonsense", "detail"])
def test_a_choice_that_is_none_is_told_so_and_asked_for_again(wrong: str) -> None:
    async def main() -> None:
        def brain(request: ModelRequest) -> Answer:
            return call("answer_user", answer="Now.") if results(request) else call(wrong)

        made = TalkRig(brain)
        log = await made.play("Make it.")
        assert [each.status for each in events_of(log, ToolEnded)] == ["invalid", "ok"]
        assert spoken(log) == ["Now."]

        made = TalkRig(lambda request: call(wrong))
        log = await made.play("Make it.")
        assert end_of(log).cause == "malformed_tool_call"
        assert made.asked == 4

    bounded(main)


def test_a_model_that_fails_or_says_nothing_ends_the_run_with_the_cause() -> None:
    async def main() -> None:
        assert end_of(await TalkRig([Failure("request", "bad")]).play()).cause == "request"
        assert end_of(await TalkRig([""]).play()).cause == "empty_reply"
        made = TalkRig(["Just so."])
        assert end_of(await made.play()) == RunEnded("answer")

    bounded(main)


async def talk(work: Work, text: str, **fields: Any) -> tuple[TalkRig, list[Recorded]]:
    """Carry out work in the middle of which something is said."""
    made = work.rig()
    async with made.going(**fields):
        await work.gate.reached.wait()
        made.steer(text)
        await made.seen(ToolEnded, 2, path="")  # the front has dealt with it
        work.gate.set()
    return made, await made.events()


def test_what_has_nothing_to_do_with_the_work_is_answered_beside_it() -> None:
    async def main() -> None:
        made, log = await talk(Work(START, {"Hi?": call("respond", answer="Hello.")}), "Hi?")
        assert spoken(log) == ["Hello.", "Made."]
        await replayed(log, made)

    bounded(main)


def seen_by_workers(made: TalkRig) -> list[list[tuple[str, str]]]:
    """Return what those were asked who work, without the ids of calls, which count through the thread."""
    mine = [each for each in made.model.calls if {tool.name for tool in each.tools} - {"start_task", "exit_task"}]
    return [
        [(each.role, each.content + "".join(call.name + call.arguments for call in each.calls)) for each in of.messages]
        for of in mine
        if not {"start_task", "exit_task"} & {tool.name for tool in of.tools}
    ]


@pytest.mark.parametrize("engine", ["plan", "execution"])
def test_a_chat_about_the_work_leaves_no_trace_in_it(engine: str) -> None:
    async def main() -> None:
        chat = call("chat", engine=engine, question="How far is it?")
        made, log = await talk(Work(START, {"How far?": chat}), "How far?")
        answer, last = spoken(log)
        assert answer == "chat: False True"
        assert last == "Made."
        assert sum(each.path.startswith("chat") for each in log if isinstance(each.event, TaskStarted)) == 1
        silent = Work(START)
        silent.gate.set()
        plain = silent.rig()
        await plain.play("Make it.")
        assert seen_by_workers(made) == seen_by_workers(plain)
        await replayed(log, made)

    bounded(main)


def test_a_detail_reaches_the_planner_and_changes_the_plan() -> None:
    async def main() -> None:
        work = Work(START, {"And c.": call("detail", instruction="Please add c.")})
        made, log = await talk(work, "And c.")
        said = [(each.path, each.event) for each in log if isinstance(each.event, Steered)]
        assert [(path, event.message.content) for path, event in said if event.source == "engine"] == [
            ("plan1", "Please add c.")
        ]
        assert ("add", "1.2") in [(each.operation, each.target) for each in events_of(log, PlanChanged)]
        assert work.ran == ["a", "b", "c"]
        assert spoken(log) == ["Made."]
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("decision", ["approve", "deny"])
def test_an_exit_is_confirmed_by_the_person(decision: Decision) -> None:
    async def main() -> None:
        work = Work(START, {"Stop.": call("exit_task", reason="no use")})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("Stop.")
            asked = await made.seen(Asked)
            assert asked.event.kind == "confirm"
            assert "no use" in asked.event.text
            made.answer(decision)
            if decision == "deny":
                await made.seen(ToolEnded, 2, path="")
                work.gate.set()
        log = await made.events()
        if decision == "approve":
            assert (end_of(log).reason, end_of(log).cause) == ("cancelled", "exit")
            assert work.ran == ["a"]
            assert {each.status for each in events_of(log, TaskEnded)} == {"cancelled"}
        else:
            assert end_of(log) == RunEnded("answer")
            assert spoken(log) == ["Made."]
        await replayed(log, made)

    bounded(main)


def test_an_exit_is_asked_anew_in_a_fork_and_ends_so_after_a_stop_in_its_middle() -> None:
    async def main() -> None:
        work = Work(START, {"Stop.": call("exit_task", reason="no use")})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("Stop.")
            question = (await made.seen(Asked)).seq
            before = list(await made.log.read())
            made.answer("approve")
        log = await made.events()
        ended = [each.seq for each in log if isinstance(each.event, TaskEnded)][-1]
        other = work.rig()
        await other.take_over(log[:ended])
        again = await other.go_on()
        assert (end_of(again).reason, end_of(again).cause) == ("cancelled", "exit")

        fork = work.rig()
        await fork.take_over(before)
        fork.say(Forked("parent", 1), Answered(question, "forked"))
        task = asyncio.create_task(fork.go_on())
        assert (await fork.seen(Asked, 2)).event.kind == "confirm"
        fork.answer("approve")
        assert end_of(await task).cause == "exit"

    bounded(main)


def test_what_comes_after_the_work_ended_is_routed_as_new() -> None:
    async def main() -> None:
        work = Work(
            {**START, "And c.": call("answer_user", answer="Too late.")}, {"And c.": call("detail", instruction="c")}
        )
        judging = Gate()

        def brain(request: ModelRequest) -> Answer:
            found = work(request)
            return reply("", found, gates={0: judging}) if "exit_task" in offered(request) else found  # type: ignore[arg-type]

        made = TalkRig(brain, work.tool)
        async with made.going():
            await work.gate.reached.wait()
            made.steer("And c.")
            await judging.reached.wait()
            work.gate.set()
            await made.seen(TaskEnded, 3)
            judging.set()
        log = await made.events()
        assert spoken(log) == ["Made.", "Too late."]
        assert [each.status for each in events_of(log, ToolEnded)][-2:] == ["failed", "ok"]
        await replayed(log, made)

    bounded(main)


ASK = (Rule(decision="ask", tool="work"),)


def test_messages_that_come_while_the_plan_waits_for_an_approval_are_dealt_with() -> None:
    async def main() -> None:
        judgments = {"Hi?": call("respond", answer="Hello."), "And c.": call("detail", instruction="Please add c.")}
        work = Work(START, judgments)
        work.gate.set()
        made = work.rig()
        await made.play("Make it.", approvals=ASK)
        assert waits(made)
        made.steer("Hi?")
        made.steer("And c.")
        await made.go_on()
        assert spoken(await made.events()) == []  # both are heard by one judgment: of the newest
        assert waits(made)
        while made.log.state.questions:
            made.answer("approve")
            await made.go_on() if made.log.state.run else None
        log = await made.events()
        assert work.ran == ["a", "b", "c"]
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_a_judger_that_fails_is_told_of_and_the_work_goes_on() -> None:
    async def main() -> None:
        work = Work(START, {"Hi?": Failure("request", "bad")})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.steer("Hi?")
            await made.seen(MessageAdded, 2, path="")
            work.gate.set()
        log = await made.events()
        assert "bad" in spoken(log)[0]
        assert spoken(log)[1:] == ["Made."]
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_a_cancel_closes_the_work_and_a_pause_halts_it() -> None:
    async def main() -> None:
        work = Work(START, {"Hi?": call("respond", answer="Hello.")})
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.say(PauseRequested())
            made.steer("Hi?")
            work.gate.set()
        assert waits(made)
        assert spoken(await made.events()) == []
        made.say(ResumeRequested())
        log = await made.go_on()
        assert set(spoken(log)) == {"Hello.", "Made."}
        await replayed(log, made)

        work = Work(START)
        made = work.rig()
        async with made.going():
            await work.gate.reached.wait()
            made.say(CancelRequested())
            assert made.log.interrupt is not None
            made.log.interrupt()
        log = await made.events()
        assert end_of(log).reason == "cancelled"
        assert {each.status for each in events_of(log, TaskEnded)} == {"cancelled"}
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("money", [0.001, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1])
def test_a_limit_of_money_never_leaves_a_message_or_the_work_hanging(money: float) -> None:
    async def main() -> None:
        late = {**START, "And c.": call("answer_user", answer="Too late.")}
        work = Work(late, {"And c.": call("detail", instruction="Please add c.")})
        made = work.rig()
        facts = {"prices": Prices(1.0, 1.0), "max_output": 100}
        task = asyncio.create_task(made.play("Make it.", limits=Limits(money=money), **facts))
        reached = asyncio.create_task(work.gate.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            made.steer("And c.")
        reached.cancel()
        work.gate.set()
        log = await task
        assert end_of(log).reason in ("limit", "answer")
        assert made.log.state.spent.money <= money * NANO
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("limit", range(1, 9))
def test_a_limit_ends_the_run_with_what_the_work_came_to(limit: int) -> None:
    async def main() -> None:
        work = Work(START)
        work.gate.set()
        made = work.rig()
        log = await made.play("Make it.", limits=Limits(steps=limit))
        assert end_of(log).reason in ("limit", "answer")
        assert len(spoken(log)) == 1
        await replayed(log, made)

    bounded(main)


def told_all(made: TalkRig, log: list[Recorded]) -> tuple[object, ...]:
    return (
        sorted(spoken(log)),
        end_of(log),
        {each.event.task.name for each in log if isinstance(each.event, TaskStarted)},
    )


async def go_on_judged(made: TalkRig, work: Work) -> list[Recorded]:
    """Carry the run on, where the work ends after what was said is judged."""
    task = asyncio.create_task(made.go_on())
    try:
        while len([each for each in await made.log.read() if not each.path and isinstance(each.event, ToolEnded)]) < 2:
            assert not task.done(), "nothing was judged"
            if made.log.state.questions:
                made.answer("deny")
            await asyncio.sleep(0)
        work.gate.set()
        return await task
    finally:
        task.cancel()


@pytest.mark.parametrize("judged", ["respond", "chat", "detail", "exit_task"])
def test_after_a_stop_at_any_event_it_comes_to_the_same_end(judged: str) -> None:
    choices = {
        "respond": call("respond", answer="Hello."),
        "chat": call("chat", engine="plan", question="How far is it?"),
        "detail": call("detail", instruction="Please add c."),
        "exit_task": call("exit_task", reason="no use"),
    }

    async def main() -> None:
        first = Work(START, {"Now.": choices[judged]})
        made = first.rig()
        async with made.going():
            await first.gate.reached.wait()
            made.steer("Now.")
            if judged == "exit_task":
                await made.seen(Asked)
                made.answer("deny")
            await made.seen(ToolEnded, 2, path="")
            first.gate.set()
        whole = await made.events()
        steered = next(each.seq for each in whole if isinstance(each.event, Steered))
        for end in range(steered, len(whole)):
            work = Work(START, {"Now.": choices[judged]})
            again = work.rig()
            await again.take_over(whole[:end])
            log = await go_on_judged(again, work)
            assert told_all(again, log) == told_all(made, whole), end
            if end % 5 == 0:
                assert await replay(log, again.parts(), "t") is None, end

    bounded(main, 60)
