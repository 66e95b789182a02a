"""A plan: how it is made, carried out, changed and concluded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stepwell.agent.options import AgentOptions
from stepwell.events import (
    PlanChanged,
    PlanMade,
    Recorded,
    RunEnded,
    Steered,
    TaskEnded,
    TaskStarted,
    ToolEnded,
    Warned,
)
from stepwell.messages import Message
from stepwell.models.base import Failure, ModelProfile, ModelRequest
from stepwell.models.dialects.react import React
from stepwell.models.scripted import WINDOW, Answer, Gate, ScriptedModel, Step, call, reply
from stepwell.specs import Limits
from stepwell.tools.mark import tool
from tests.support.runs import bounded, end_of, events_of
from tests.support.tasks import (
    TaskRig,
    concluded,
    last_said,
    offered,
    operation,
    plan,
    results,
    sub,
    submit,
    task_of,
    told,
)


def play(model: list[Step] | Callable[[ModelRequest], Answer], **options: Any) -> tuple[TaskRig, list[Recorded]]:
    made = TaskRig(model, **options)
    return made, asyncio.run(made.play("Do it all."))


def refusals(log: list[Recorded]) -> list[str]:
    return [each.content for each in events_of(log, ToolEnded) if each.status == "denied"]


EXIT = operation("exit")


def test_a_plan_is_made_its_tasks_done_in_order_and_the_whole_concluded() -> None:
    script = [plan(sub("a"), sub("b")), submit("A"), concluded("a is done"), submit("B"), concluded("b is done")]
    made, log = play([*script, concluded("all done", reply="Here you are.")])
    made.model.assert_complete()
    assert made.outline() == ["1.1 a SUCCESS", "1.2 b SUCCESS"]
    assert [(each.path, each.event.task.id) for each in log if isinstance(each.event, TaskStarted)] == [
        ("1.1", "1.1"),
        ("1.2", "1.2"),
    ]
    assert end_of(log) == RunEnded("answer")
    assert last_said(log) == "Here you are."
    second = made.model.calls[3]
    assert "b goal" in second.messages[1].content
    assert "1.1 [SUCCESS] a" in second.messages[1].content
    assert "a is done" in second.messages[0].content, "a task sees what became of those before it"
    assert "1.2 [SUCCESS] b" in made.model.calls[5].messages[-1].content


def test_a_question_that_needs_no_plan_is_answered_by_one_model_call() -> None:
    made, log = play([call("answer_directly", answer="42.")])
    assert made.asked == 1
    assert made.model.calls[0].settings.tool_choice == "required"
    assert not events_of(log, PlanMade)
    assert last_said(log) == "42."
    assert end_of(log) == RunEnded("answer")


def test_an_answer_counts_at_the_limit_and_not_where_something_was_said_since() -> None:
    made = TaskRig([call("answer_directly", answer="42.")])
    assert end_of(asyncio.run(made.play(limits=Limits(steps=1)))) == RunEnded("answer")

    async def main() -> None:
        gate = Gate()
        made = TaskRig(
            [reply("", call("answer_directly", answer="42."), gates={0: gate}), call("answer_directly", answer="43.")]
        )
        going = asyncio.ensure_future(made.play())
        await gate.reached.wait()
        made.say(Steered(Message("user", "And one more.")))
        gate.set()
        assert last_said(await going) == "43."

    bounded(main)


def test_without_the_fast_path_only_a_plan_can_be_made() -> None:
    made, log = play(
        [call("answer_directly", answer="42."), plan(sub("a")), submit(), concluded(), concluded()], fast_path=False
    )
    assert {tool.name for tool in made.model.calls[0].tools} == {"generate_plan"}
    assert made.model.calls[0].settings.tool_choice == "generate_plan"
    assert events_of(log, ToolEnded)[0].status == "unknown_tool"
    assert made.outline() == ["1.1 a SUCCESS"]


def test_without_an_initial_plan_the_whole_is_one_task_and_its_conclusion_the_answer() -> None:
    made, log = play([submit(), concluded("x", reply="All of it.")], initial_plan=False)
    assert [each.path for each in log if isinstance(each.event, TaskStarted)] == ["1"]
    assert last_said(log) == "All of it."
    assert len(made.log.state.longterm.past_tasks) == 1


UNFIT: list[tuple[Step, str]] = [
    ("Let me think.", "called none of the tools"),
    (plan(), "`subtasks` is empty"),
    (plan(*[sub(str(at)) for at in range(6)]), "at most 5"),
    (plan(sub("a", "b"), sub("b", "a")), "circle: a, b"),
    (plan(sub("a", "a")), "circle"),
    (plan(sub("a", "nobody")), "needs 'nobody'"),
    (plan({"goal": "no name"}), "subtask 1 has no `name`"),
    (call("generate_plan", subtasks="a"), "array"),
    (call("answer_directly", answer=" "), "`answer` is empty"),
]


@pytest.mark.parametrize(("first", "fault"), UNFIT)
def test_a_plan_that_cannot_be_used_is_asked_for_once_more(first: Step, fault: str) -> None:
    made, _ = play([first, plan(sub("a")), submit(), concluded(), concluded()])
    made.model.assert_complete()
    assert any(fault in message.content for message in made.model.calls[1].messages[2:-1])
    assert made.outline() == ["1.1 a SUCCESS"]


def test_after_two_plans_that_cannot_be_used_the_whole_is_one_task() -> None:
    made, log = play([plan(), "no", submit("did it"), concluded(reply="Done.")])
    made.model.assert_complete()
    assert events_of(log, Warned)[0].code == "no_plan"
    assert last_said(log) == "Done."


def test_of_several_calls_the_first_that_can_be_used_decides() -> None:
    calls = (plan(), plan(sub("a")), call("answer_directly", answer="x"), call("look"))
    made, log = play([reply("", *calls), submit(), concluded(), concluded()])
    assert [each.status for each in events_of(log, ToolEnded)][:4] == ["invalid", "ok", "cancelled", "cancelled"]
    assert made.outline() == ["1.1 a SUCCESS"]


def test_a_rectification_refuses_and_accepts_edits_in_words_and_the_new_tasks_are_done() -> None:
    script: list[Step] = [
        plan(sub("a"), sub("b")),
        submit("A is not all", need_plan_rectification=True, suggestions=["b is too big", "add c"]),
        concluded("a"),
        operation("split", "7.7", sub("x")),
        operation("delete", "1.1"),
        operation("split", "1.02", sub("b1"), sub("b2", "b1")),
        operation("add", "1.2", sub("c", "1.2")),
        EXIT,
        *(each for name in ("b1", "b2", "c") for each in (submit(name), concluded(name))),
        concluded("all", reply="Good."),
    ]
    made, log = play(script)
    made.model.assert_complete()
    assert refusals(log) == [
        "There is no task 7.7. The tasks are 1, 1.1, 1.2; nothing happens.",
        "Task 1.1 is SUCCESS; only a task to be done can be deleted; nothing happens.",
    ]
    changed = [(each.operation, each.target) for each in events_of(log, PlanChanged)]
    assert changed == [("exit", ""), ("split", "1.2"), ("add", "1.2"), ("exit", "1.1")]
    assert made.outline() == [
        "1.1 a SUCCESS",
        "1.2 b SPLIT",
        "1.2.1 b1 SUCCESS",
        "1.2.2 b2 SUCCESS",
        "1.3 c SUCCESS",
    ]
    assert made.task("1.2.2").needs == ("1.2.1",)
    assert made.task("1.3").needs == ("1.2",)
    first = made.model.calls[3]
    assert first.settings.tool_choice == "subtask_operations"
    assert "b is too big; add c" in first.messages[-1].content
    assert "The current task is 1.1" in first.messages[-1].content
    assert last_said(log) == "Good."


@pytest.mark.parametrize(
    ("edits", "asked"),
    [
        ([operation("add", "1.1", sub(name)) for name in "xyz"], 3),
        ([operation("delete", "9")] * 3, 3),
        (["What?", "Why?", "No."], 3),
        ([operation("delete", "9"), operation("add", "1.1", sub("x")), EXIT], 3),
        ([reply("", *[operation("add", "1.1", sub(name)) for name in "vwxyz"])], 1),
        ([reply("", operation("add", "1.1", sub("x")), EXIT, operation("add", "1.1", sub("y")))], 1),
    ],
)
def test_a_rectification_ends_after_three_edits_or_three_refusals_or_by_exit(edits: list[Answer], asked: int) -> None:
    left = iter(edits)

    def brain(request: ModelRequest) -> Answer:
        if "conclusion" in offered(request):
            return concluded()
        if "generate_plan" in offered(request):
            return plan(sub("a"))
        if "subtask_operations" in offered(request):
            return next(left)
        return submit("r", need_plan_rectification=task_of(request) == "a", suggestions=["more"])

    made, log = play(brain)
    assert end_of(log).reason == "answer"
    assert next(left, None) is None
    operations = [each for each in made.model.calls if any(tool.name == "subtask_operations" for tool in each.tools)]
    assert len(operations) == asked
    done = [each for each in events_of(log, PlanChanged) if each.operation == "add"]
    assert len(done) <= 3
    assert events_of(log, PlanChanged)[-1].operation == "exit"


def test_what_is_said_while_a_task_runs_changes_the_plan_and_later_tasks_know_it() -> None:
    async def main() -> None:
        @tool(effect="pure")
        async def wait_for_news() -> str:
            """Wait."""
            made.say(Steered(Message("user", "Only a, please, and in French.")))
            return "ok"

        def brain(request: ModelRequest) -> Answer:
            if "conclusion" in offered(request):
                return concluded()
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"), sub("c"))
            if "subtask_operations" in offered(request):
                return operation("delete", "1.2") if "1.2 [" in told(request) else EXIT
            return submit() if results(request) or task_of(request) != "a" else call("wait_for_news")

        made = TaskRig(brain, wait_for_news)
        log = await made.play()
        assert made.outline() == ["1.1 a SUCCESS", "1.3 c SUCCESS"]
        refining = next(each for each in made.model.calls if any(x.name == "subtask_operations" for x in each.tools))
        assert "Only a, please, and in French." in refining.messages[-1].content
        of_c = [each for each in made.model.calls if "\n\nc goal\n" in each.messages[1].content]
        assert "in French" in of_c[0].messages[0].content
        assert end_of(log).reason == "answer"

    bounded(main)


def test_siblings_without_open_needs_are_done_side_by_side_up_to_the_limit() -> None:
    async def main() -> None:
        gates = {name: Gate() for name in "ab"}
        at_once: list[int] = []
        active = 0

        @tool(effect="pure")
        async def work(name: str) -> str:
            """Work."""
            nonlocal active
            active += 1
            at_once.append(active)
            if name in gates:
                gates[name].reached.set()
                await gates["b" if name == "a" else "a"].reached.wait()
            active -= 1
            return name

        def brain(request: ModelRequest) -> Answer:
            if "conclusion" in offered(request):
                return concluded()
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"), sub("c", "a", "b"), sub("d", "3"))
            return submit() if results(request) else call("work", name=task_of(request))

        made = TaskRig(brain, work, max_parallel_tasks=2)
        log = await made.play()
        assert max(at_once) == 2
        order = [
            (type(each.event).__name__, each.path) for each in log if isinstance(each.event, TaskStarted | TaskEnded)
        ]
        assert order[:2] == [("TaskStarted", "1.1"), ("TaskStarted", "1.2")]
        assert order[4:] == [(kind, path) for path in ("1.3", "1.4") for kind in ("TaskStarted", "TaskEnded")]
        assert made.task("1.4").needs == ("1.3",)
        assert end_of(log).reason == "answer"

    bounded(main)


def test_a_task_whose_need_failed_is_done_all_the_same_and_knows_it() -> None:
    script = [plan(sub("a"), sub("b", "a")), submit("no", "give_up"), concluded("a went wrong", "failure"), submit()]
    made, log = play([*script, concluded(), concluded()])
    assert made.outline() == ["1.1 a FAIL", "1.2 b SUCCESS"]
    assert "a went wrong" in made.model.calls[3].messages[0].content
    assert end_of(log).reason == "answer"


def test_a_failed_task_may_be_split() -> None:
    script: list[Step] = [
        plan(sub("a")),
        submit("too big", "give_up", need_plan_rectification=True),
        concluded("no", "failure"),
        operation("split", "1.1", sub("x")),
        EXIT,
        submit(),
        concluded(),
        concluded("well", reply="Well."),
    ]
    made, _ = play(script)
    made.model.assert_complete()
    assert made.outline() == ["1.1 a SPLIT", "1.1.1 x SUCCESS"]


def test_a_model_that_fails_in_one_task_leaves_the_others_to_be_done() -> None:
    script: list[Step] = [plan(sub("a"), sub("b")), Failure("request", "bad"), submit(), concluded(), concluded("half")]
    made, log = play(script)
    assert made.outline() == ["1.1 a FAIL", "1.2 b SUCCESS"]
    assert [each.cause for each in events_of(log, TaskEnded)] == ["request", ""]
    assert last_said(log) == "half"


def test_a_model_that_fails_altogether_ends_the_run_with_the_cause_and_what_stands() -> None:
    gone = Failure("connect", "gone")
    _, log = play([gone])
    assert (end_of(log).reason, end_of(log).cause) == ("failed", "connect")
    _, log = play([gone, gone], initial_plan=False)
    assert (end_of(log).reason, "Not reached" in last_said(log)) == ("failed", True)
    _, log = play([submit("x"), gone], initial_plan=False)
    assert (end_of(log).reason, last_said(log)) == ("answer", "x")
    _, log = play([plan(sub("a"), sub("b")), submit(), concluded("a is done"), gone, gone])
    assert (end_of(log).reason, end_of(log).cause) == ("failed", "connect")
    assert "a is done" in last_said(log)
    assert "1.2 b" in last_said(log)


@pytest.mark.parametrize("limit", range(1, 6))
def test_a_limit_ends_a_plan_with_what_was_done_and_what_was_not(limit: int) -> None:
    script = [plan(sub("a"), sub("b")), submit(), concluded("a done"), submit(), concluded()]
    made = TaskRig(script[:limit])
    log = asyncio.run(made.play(limits=Limits(steps=limit)))
    assert (end_of(log).reason, end_of(log).cause) == ("limit", "steps")
    said = last_said(log)
    assert f"limit of {limit} model calls" in said
    assert ("a done" in said) == (limit >= 3)
    assert ("1.2 b" in said) == (limit >= 2)
    assert ("Not begun" in said) == (limit in (2, 3))
    assert ("found" in said) == (limit in (2, 4)), "what was submitted is not lost"


def test_a_conclusion_of_the_whole_that_does_not_fit_is_replaced_by_what_stands() -> None:
    made, log = play([plan(sub("a")), submit(), concluded("a is there"), "no", "still no"])
    made.model.assert_complete()
    assert "a is there" in last_said(log)
    assert end_of(log) == RunEnded("answer")


def test_the_next_turn_makes_a_plan_of_its_own_and_knows_what_was_said() -> None:
    async def main() -> None:
        one = [plan(sub("a")), submit("x", need_plan_rectification=True), concluded(), EXIT, concluded(reply="First.")]
        two = [plan(sub("b")), submit(), concluded(), concluded(reply="Second.")]
        made = TaskRig([*one, *two])
        await made.play("first")
        log = await made.play("second")
        assert last_said(log) == "Second."
        assert made.outline() == ["1.1 b SUCCESS"]
        assert "First." in [message.content for message in made.model.calls[5].messages]
        assert "first" in made.model.calls[6].messages[0].content
        assert "reviewed" not in made.model.calls[5].messages[-1].content

    bounded(main)


def test_a_model_without_tool_calls_carries_out_a_plan_in_the_react_form() -> None:
    fields = '"reached_goals": [], "failed_goals": []'
    script: list[Step] = [
        'Thought: plan.\nAction: generate_plan\nAction Input: {"subtasks": [{"name": "a", "goal": "g", "milestones": []}]}',  # noqa: E501
        'Action: subtask_submit\nAction Input: {"submit_type": "success", "result": "x", "need_plan_rectification": true}',  # noqa: E501
        f'Final Answer: {{"summary": "s", "status": "success", {fields}, "reply": "r"}}',
        'Action: subtask_operations\nAction Input: {"operation": "exit"}',
        f'{{"summary": "all", "status": "success", {fields}, "reply": "Done."}}',
    ]
    profile = ModelProfile(window=WINDOW, native_tools=False)
    made = TaskRig(ScriptedModel(script, profile=profile), dialect=React())
    assert last_said(asyncio.run(made.play())) == "Done."


def test_a_plan_in_chinese_is_spoken_of_in_chinese() -> None:
    done = [submit(need_plan_rectification=True), concluded(), operation("delete", "3"), EXIT, concluded()]
    made = TaskRig([plan(), plan(sub("甲")), *done])
    log = asyncio.run(made.play("做完", language="zh"))
    assert "请决定" in made.model.calls[0].messages[-1].content
    assert refusals(log)[0].endswith("没有任何变化。")


def test_options_can_be_taken_over() -> None:
    async def main() -> None:
        made = TaskRig([call("answer_directly", answer="x")])
        engine = made.assemble(made.spec())
        await engine.lazy_init(AgentOptions(language="zh"), get_available_tools=False)  # type: ignore[attr-defined]
        made.assemble = lambda spec: engine
        assert end_of(await made.play()).reason == "answer"

    bounded(main)


@pytest.mark.parametrize("edits", [0, 3])
def test_what_is_said_while_the_whole_is_concluded_is_met(edits: int) -> None:
    async def main() -> None:
        asked = 0

        def brain(request: ModelRequest) -> Answer:
            nonlocal asked
            if "subtask_operations" in offered(request):
                return EXIT
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"))
            if "conclusion" not in offered(request):
                return submit("A")
            asked += 1
            if asked == 3:  # that of the whole
                made.say(Steered(Message("user", "In French, please.")))
            return concluded(reply="bleu" if asked == 4 else "blue")

        made = TaskRig(brain, max_plan_refine_chain_length=edits)
        log = await made.play("Do it all.")
        assert (end_of(log).reason, last_said(log), asked) == ("answer", "bleu", 4)

    bounded(main)


def test_what_was_said_to_a_task_that_fails_before_it_meets_that_is_passed_on() -> None:
    async def main() -> None:
        said = False

        def brain(request: ModelRequest) -> Answer:
            nonlocal said
            if "subtask_operations" in offered(request):
                return EXIT
            if "generate_plan" in offered(request):
                return plan(sub("a"), sub("b"))
            if "conclusion" in offered(request):
                return concluded()
            if not said:
                said = True
                made.say(Steered(Message("user", "Mind the gap.")), path="1.1")
                return Failure("auth", "no such key", 401)
            return submit("B")

        made = TaskRig(brain)
        log = await made.play("Do it all.")
        passed = [(each.path, each.event.source) for each in log if isinstance(each.event, Steered)]
        assert passed == [("1.1", "user"), ("", "engine")]
        assert end_of(log).reason == "answer"

    bounded(main)
