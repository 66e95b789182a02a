"""One bounded task: how it ends, whatever the model does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepwell.agent.options import AgentOptions
from stepwell.agent.task_agents import ToolAgent
from stepwell.engines import plan, react
from stepwell.engines.calls import Calls
from stepwell.engines.react import ReactEngine
from stepwell.events import (
    Answered,
    Asked,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    PauseRequested,
    Recorded,
    ResumeRequested,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    StepStarted,
    TaskSubmitted,
    ToolEnded,
    ToolStarted,
)
from stepwell.log import Log
from stepwell.messages import Message, ToolCall
from stepwell.models.base import Failure, ModelProfile, ModelRequest
from stepwell.models.dialects.react import React
from stepwell.models.scripted import WINDOW, Answer, ScriptedModel, Step, call, reply
from stepwell.specs import Limits
from stepwell.tools.mark import tool
from tests.support.runs import bounded, end_of, events_of
from tests.support.tasks import TaskRig, concluded, last_said, offered, results, submit, told


@tool(effect="pure")
async def look(what: str) -> str:
    """Look something up."""
    return f"{what} is blue"


def play(model: list[Step], *, text: str = "What colour is the sky?", **options: Any) -> tuple[TaskRig, list[Recorded]]:
    made = TaskRig(model, look, engine="react", **options)
    return made, asyncio.run(made.play(text))


def statuses(log: list[Recorded]) -> list[str]:
    return [each.status for each in events_of(log, ToolEnded)]


def test_a_task_is_done_submitted_and_concluded_and_the_answer_is_the_last_message() -> None:
    made, log = play([call("look", what="the sky"), submit("it is blue"), concluded("looked", reply="Blue.")])
    made.model.assert_complete()
    assert events_of(log, TaskSubmitted)[0].submission.result == "it is blue"
    assert last_said(log) == "Blue."
    assert end_of(log) == RunEnded("answer")
    assert made.log.state.transcript[-1] == Message("assistant", "Blue.")
    assert made.log.state.longterm.past_tasks[0].summary == "looked"
    assert "looked" in made.log.state.transcript[0].content


def test_the_next_turn_sees_the_answer_and_is_a_task_of_its_own() -> None:
    async def main() -> None:
        script = [submit("a"), concluded(reply="One."), submit("b"), concluded(reply="Two.")]
        made = TaskRig(script, engine="react")
        await made.play("first")
        log = await made.play("second")
        said = [message.content for message in made.model.calls[2].messages]
        assert "One." in said
        assert "second" in made.model.calls[3].messages[-1].content
        assert "first" not in made.model.calls[3].messages[-1].content
        assert last_said(log) == "Two."

    bounded(main)


def test_the_last_step_offers_the_submission_alone_and_forces_it() -> None:
    made, log = play([call("look", what="a"), call("look", what="b"), submit(), concluded()], max_chain_length=3)
    assert [({tool.name for tool in each.tools}, each.settings.tool_choice) for each in made.model.calls[:3]] == [
        ({"look", "subtask_submit"}, ""),
        ({"look", "subtask_submit"}, ""),
        ({"subtask_submit"}, "subtask_submit"),
    ]
    assert "step 2 of at most 3" in made.model.calls[1].messages[-1].content
    assert "last of 3" in made.model.calls[2].messages[-1].content
    assert end_of(log).reason == "answer"


@pytest.mark.parametrize("last", [call("look", what="b"), "I cannot.", call("subtask_submit", result=3)])
def test_a_model_that_never_submits_is_submitted_for(last: Step) -> None:
    _, log = play([call("look", what="a"), last, concluded("out of steps", "failure")], max_chain_length=2)
    submission = events_of(log, TaskSubmitted)[0].submission
    assert submission.submit_type == "max_tool_call"
    assert "2 steps" in submission.result
    assert ("I cannot." in submission.result) == (last == "I cannot.")
    assert last_said(log) == "out of steps"


def test_of_two_submissions_the_first_counts_and_what_follows_it_does_not_run() -> None:
    calls = [call("look", what="x"), submit("one"), call("look", what="y"), submit("two")]
    _, log = play([reply("", *calls), concluded()])
    assert events_of(log, TaskSubmitted) == [events_of(log, TaskSubmitted)[0]]
    assert events_of(log, TaskSubmitted)[0].submission.result == "one"
    assert [each.name for each in events_of(log, ToolStarted)] == ["subtask_submit", "look"]
    ended = {each.call[-1]: each for each in events_of(log, ToolEnded)}
    assert ended["0"].content == "x is blue"
    assert (ended["2"].status, ended["2"].content[:8]) == ("cancelled", "Not run:")
    assert (ended["3"].status, ended["3"].content[:15]) == ("cancelled", "Nothing happens")


def test_a_submission_that_cannot_be_read_is_told_and_may_be_given_again() -> None:
    wrong = [
        ToolCall("", "subtask_submit", "{nonsense"),
        call("subtask_submit", submit_type="done", result="x"),
        call("subtask_submit", submit_type="success", suggestions="x", result=""),
    ]
    _, log = play([*wrong, submit("right"), concluded()])
    assert statuses(log) == ["invalid"] * 3 + ["ok"]
    assert "submit_type" in events_of(log, ToolEnded)[1].content
    assert events_of(log, TaskSubmitted)[0].submission.result == "right"


def test_a_reply_without_a_call_is_told_so_and_the_third_in_a_row_is_the_submission() -> None:
    made, log = play(["It is blue.", call("look", what="x"), "Blue.", "Blue!", "Really blue.", concluded("ok")])
    made.model.assert_complete()
    notices = [each for each in events_of(log, MessageAdded) if each.message.content.startswith("Your reply called")]
    assert len(notices) == 3
    submission = events_of(log, TaskSubmitted)[0].submission
    assert (submission.submit_type, submission.result) == ("success", "Really blue.")


def test_a_model_that_says_nothing_at_all_gives_up() -> None:
    _, log = play([reply(""), reply(""), reply(""), concluded("nothing", "failure")])
    assert events_of(log, TaskSubmitted)[0].submission.submit_type == "give_up"
    assert end_of(log).reason == "answer"


def test_a_conclusion_that_does_not_fit_is_repaired_once() -> None:
    broken = call("conclusion", summary="x")
    made, log = play([submit("it is blue"), broken, concluded("repaired")])
    assert [each.repairs for each in events_of(log, StepStarted)] == [False, False, True]
    assert last_said(log) == "repaired"
    assert "status" in made.model.calls[2].messages[-1].content


@pytest.mark.parametrize(("kind", "status"), [("success", "success"), ("give_up", "failure")])
def test_without_a_conclusion_that_fits_the_submission_stands_for_it(kind: str, status: str) -> None:
    _, log = play([submit("it is blue", kind), "no", "never"])
    assert last_said(log) == "it is blue"
    past = [each.past_task for each in events_of(log, LongTermUpdated) if each.past_task]
    assert [each.status for each in past] == [status]
    assert end_of(log) == RunEnded("answer")


def test_the_status_is_that_of_the_conclusion_not_of_the_submission() -> None:
    made, _ = play([submit("x", "give_up"), concluded("it was reached after all")])
    assert made.log.state.longterm.past_tasks[0].status == "success"


def test_a_model_that_fails_ends_the_run_with_the_cause() -> None:
    _, log = play([call("look", what="x"), Failure("auth", "bad key")])
    assert (end_of(log).reason, end_of(log).cause) == ("failed", "auth")
    assert "bad key" in end_of(log).detail
    assert len(events_of(log, MessageAdded)) == 1, "a failure is no answer"


def test_a_model_that_fails_at_the_conclusion_leaves_what_was_submitted() -> None:
    _, log = play([submit("it is blue"), Failure("connect", "gone")])
    assert (end_of(log).reason, end_of(log).cause, last_said(log)) == ("failed", "connect", "it is blue")


@pytest.mark.parametrize(("limits", "cause"), [(Limits(steps=2), "steps"), (Limits(tool_calls=1), "tool_calls")])
def test_a_limit_ends_the_task_with_words_that_name_it(limits: Limits, cause: str) -> None:
    async def main() -> None:
        made = TaskRig(lambda _: call("look", what="x"), look, engine="react")
        log = await made.play(limits=limits)
        assert (end_of(log).reason, end_of(log).cause) == ("limit", cause)
        assert "limit of" in last_said(log)

    bounded(main)


def test_a_limit_between_submission_and_conclusion_keeps_what_was_submitted() -> None:
    made = TaskRig([submit("it is blue")], engine="react")
    log = asyncio.run(made.play(limits=Limits(steps=1)))
    assert (end_of(log).reason, last_said(log)) == ("limit", "it is blue")


def test_what_is_said_beside_a_submission_reopens_the_task() -> None:
    async def main() -> None:
        made = TaskRig(brain, engine="react")

        @tool
        async def slow() -> str:
            """Take a while."""
            made.say(Steered(Message("user", "in French, please")))
            return "ok"

        made.toolbox = TaskRig([], slow).toolbox
        log = await made.play()
        submissions = events_of(log, TaskSubmitted)
        assert [each.submission.result for each in submissions] == ["bleu"]
        assert last_said(log) == "done"

    def brain(request: ModelRequest) -> Answer:
        if "conclusion" in offered(request):
            return concluded()
        if any(message.content == "in French, please" for message in request.messages):
            return submit("bleu")
        return reply("", call("slow"), submit("blue"))

    bounded(main)


@pytest.mark.parametrize(("steps", "submitted"), [(9, ["blue", "bleu"]), (1, ["blue", "blue"])])
def test_what_is_said_while_the_conclusion_is_made_is_met(steps: int, submitted: list[str]) -> None:
    async def main() -> None:
        told = False

        def brain(request: ModelRequest) -> Answer:
            nonlocal told
            french = any(message.content == "in French, please" for message in request.messages)
            if "conclusion" not in offered(request):
                return submit("bleu" if french else "blue")
            if not told:
                told = True
                made.say(Steered(Message("user", "in French, please")))
            return concluded(reply="bleu" if french else "blue")

        made = TaskRig(brain, engine="react", max_chain_length=steps)
        log = await made.play()
        assert [each.submission.result for each in events_of(log, TaskSubmitted)] == submitted
        assert (end_of(log).reason, last_said(log)) == ("answer", "bleu")

    bounded(main)


def test_a_paused_task_waits_before_its_next_model_call() -> None:
    async def main() -> None:
        made = TaskRig([submit(), concluded()], engine="react")
        made.log.append(RunStarted(made.spec()), MessageAdded(Message("user", "go")), PauseRequested())
        log = await made.go_on()
        assert isinstance(log[-1].event, RunWaiting)
        assert made.asked == 0
        made.say(ResumeRequested())
        assert end_of(await made.go_on()).reason == "answer"

    bounded(main)


def test_a_chinese_task_is_spoken_to_in_chinese() -> None:
    made = TaskRig(["好", submit("蓝"), concluded("完成")], engine="react")
    asyncio.run(made.play("天空是什么颜色？", language="zh"))
    assert "第 1 步" in made.model.calls[0].messages[-1].content
    assert "没有调用任何工具" in made.model.calls[1].messages[-2].content


def test_whether_somebody_can_be_asked_is_said_in_the_step() -> None:
    @tool
    async def ask_human(question: str) -> str:
        """Ask a person."""
        return question

    for people, tools, words in (
        (True, [ask_human], "`ask_human`"),
        (True, [], "No human is available"),
        (False, [ask_human], "No human is available"),
    ):
        made = TaskRig([submit(), concluded()], *tools, engine="react")
        asyncio.run(made.play(people=people))
        assert words in made.model.calls[0].messages[-1].content


def test_replay_is_told_of_what_decides_besides_the_log() -> None:
    found = {**react.constants(), **plan.constants()}
    assert {*found} == {"react.texts", "react.prompts", "react.time_over", "plan.attempts", "plan.prompts"}
    assert len(found["react.prompts"]) == len(found["plan.prompts"]) == 12
    assert found["react.prompts"] != found["plan.prompts"]


def test_a_model_without_tool_calls_does_a_task_in_the_react_form() -> None:
    profile = ModelProfile(window=WINDOW, native_tools=False)
    conclusion = '{"summary": "s", "status": "success", "reached_goals": [], "failed_goals": [], "reply": "Blue."}'
    script: list[Step] = [
        'Thought: look.\nAction: look\nAction Input: {"what": "sky"}',
        "Thought: I know it. It is blue.",
        'Action: subtask_submit\nAction Input: {"submit_type": "success", "result": "blue"}',
        f"Final Answer: {conclusion}",
    ]
    made = TaskRig(ScriptedModel(script, profile=profile), look, engine="react", dialect=React(), max_chain_length=3)
    log = asyncio.run(made.play())
    assert last_said(log) == "Blue."
    prompt = made.model.calls[2].messages[-1].content
    assert "subtask_submit" in prompt
    assert "look:" not in prompt


def test_options_taken_over_later_tell_the_agent_its_tools() -> None:
    async def main() -> None:
        made = TaskRig([submit(), concluded()], look, engine="react")
        agents: list[ToolAgent] = []

        def make_agent(log: Log) -> ToolAgent:
            agents.append(made.tool_agent(log))
            return agents[-1]

        engine = ReactEngine(make_agent, Calls(made.toolbox))
        await engine.lazy_init(AgentOptions(language="zh"))
        made.assemble = lambda spec: engine
        log = await made.play()
        names = [each["function"]["name"] for each in made.log.state.longterm.available_tools]
        assert names == ["look", "subtask_submit"]
        assert [each.config.language for each in agents] == ["zh"]
        assert end_of(log).reason == "answer"

    bounded(main)


def test_after_a_stop_at_any_event_the_task_ends_the_same_and_asks_no_more_often() -> None:
    def brain(request: ModelRequest) -> Answer:
        if "conclusion" in offered(request):
            return concluded("looked", reply="Blue.") if "does not fit" in told(request) else call("conclusion")
        found = results(request)
        spoke = any(message.content.startswith("Your reply called") for message in request.messages)
        if not found:
            return call("look", what="sky")
        return reply("", submit("blue"), call("look", what="more")) if spoke else "Hm."

    async def main() -> None:
        first = TaskRig(brain, look, engine="react")
        whole = await first.play()
        assert first.asked == 5
        for end in range(2, len(whole)):
            made = TaskRig(brain, look, engine="react")
            await made.take_over(whole[:end])
            log = await made.go_on()
            assert last_said(log) == "Blue."
            assert end_of(log) == end_of(whole)
            assert list(made.log.state.transcript) == list(first.log.state.transcript)
            assert made.log.state.longterm == first.log.state.longterm
            if end in first.log.ends:
                ended = [each for each in whole[:end] if isinstance(each.event, MessageEnded)]
                assert made.asked == first.asked - len(ended)

    bounded(main)


def test_at_a_limit_a_question_ends_before_the_call_that_asked_it() -> None:
    async def main() -> None:
        made = TaskRig([], look, engine="react")
        calls = (ToolCall("a", "look", '{"what": "x"}'), ToolCall("b", "look", '{"what": "y"}'))
        events = [
            RunStarted(made.spec(limits=Limits(tool_calls=1))),
            MessageAdded(Message("user", "go")),
            StepStarted(1, ""),
            MessageStarted(),
            MessageEnded(Message("assistant", calls=calls), "tool_calls"),
            *(ToolStarted(each.id, "look", "write") for each in calls),
            Asked("elicitation", "b", "How much?"),
            ToolEnded("a", "done"),
        ]
        await made.take_over([Recorded(at, 0, 1, each) for at, each in enumerate(events, 1)])
        log = await made.go_on()
        kinds = [type(each.event) for each in log[len(events) + 1 :]]
        assert kinds[:2] == [Answered, ToolEnded]
        assert end_of(log).cause == "tool_calls"

    bounded(main)
