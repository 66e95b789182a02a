"""The guards of plan operations: what is refused, in which words, and what an edit does."""

from __future__ import annotations

import pytest

from stepwell.contexts import TaskConclusion
from stepwell.engines.planning import (
    NewTask,
    Operation,
    Outcome,
    Unfit,
    first_plan,
    operate,
    overview,
    read,
    repeated,
    standing,
    submission_of,
    task_text,
)
from stepwell.events import PlanChanged
from stepwell.messages import ToolCall
from stepwell.plans import Plan, Task
from stepwell.specs import TaskOptions

OPTIONS = TaskOptions()


def new(*names: str, **fields: object) -> tuple[NewTask, ...]:
    return tuple(NewTask(name=name, goal=name, **fields) for name in names)  # type: ignore[arg-type]


def tree() -> Plan:
    """Return 1.1 done, 1.2 split into 1.2.1 (failed) and 1.2.2, 1.3 to be done."""
    plan = Plan(Task(id="1", name="all", goal="all of it"))
    plan.attach(tuple(Task(id=f"1.{at}", name=f"t{at}", goal=f"g{at}") for at in (1, 2, 3)), "1")
    plan.nodes["1.1"].status, plan.nodes["1.2"].status = "SUCCESS", "SPLIT"
    plan.attach(tuple(Task(id=f"1.2.{at}", name=f"t2{at}", goal=f"g2{at}") for at in (1, 2)), "1.2")
    plan.nodes["1.2.1"].status = "FAIL"
    return plan


def ask(
    operation: str, target: str | float = "", *subtasks: NewTask, plan: Plan | None = None, current: str = "1.2.1",
    options: TaskOptions = OPTIONS, language: str = "en",
) -> Outcome:  # fmt: skip
    return operate(plan or tree(), Operation(operation, target, subtasks), current, options, language)


REFUSED: list[tuple[str, str | float, tuple[NewTask, ...], str]] = [
    ("split", "", new("x"), "There is no task ?."),
    ("add", "1.9", new("x"), "There is no task 1.9. The tasks are 1, 1.1, 1.2, 1.2.1, 1.2.2, 1.3;"),
    ("delete", "one", (), "There is no task one."),
    ("wipe", "9.9", (), "There is no task 9.9."),
    ("delete", "1.1", (), "stands before the current task 1.2.1"),
    ("wipe", "1.1", (), "stands before the current task 1.2.1"),
    ("add", "1", new("x"), "stands before the current task"),
    ("split", "1.2", new("x"), "stands before the current task"),
    ("split", "1.2.1", new("x"), "depth 3, and the tree may be 3 deep"),
    ("split", "1.3", (), "`subtasks` is empty"),
    ("split", "1.3", new(*"abcdef"), "6 tasks would stand below 1.3, and at most 5 may"),
    ("add", "1.3", new(*"abc"), "6 tasks would stand below 1, and at most 5 may"),
    ("add", "1.2.2", (), "`subtasks` is empty"),
    ("add", "1.3", new("a", needs=("t21",)), "names none of its siblings: 1.1, 1.2, 1.3, 1.4"),
    ("add", "1.3", new("a", "b", needs=("a",)), "circle"),
    ("delete", "1.2.1", (), "Task 1.2.1 is FAIL; only a task to be done"),
    ("modify", "1.3", (), "There is no operation `modify`"),
]


@pytest.mark.parametrize(("operation", "target", "subtasks", "words"), REFUSED)
def test_an_operation_that_may_not_be_is_refused_in_words(
    operation: str, target: str | float, subtasks: tuple[NewTask, ...], words: str
) -> None:
    outcome = ask(operation, target, *subtasks)
    assert (outcome.kind, outcome.event) == ("refused", None)
    assert words in outcome.text
    assert outcome.text.endswith("nothing happens.")
    assert ask(operation, target, *subtasks, language="zh").text.endswith("没有任何变化。")


def test_an_exit_needs_nothing() -> None:
    assert ask("exit") == ask(" EXIT ", "9.9") == Outcome("exit", "The plan stays as it is now.")


def test_a_split_gives_the_parts_ids_below_the_target() -> None:
    outcome = ask("split", "1.3", *new("a", "b"))
    assert outcome.kind == "done"
    assert outcome.event is not None
    assert [(task.id, task.name) for task in outcome.event.tasks] == [("1.3.1", "a"), ("1.3.2", "b")]
    assert outcome.text == "Task 1.3 is split into 1.3.1, 1.3.2: success."


def test_tasks_are_added_beside_the_target_with_ids_that_were_never_used() -> None:
    plan = tree()
    plan.detach("1.3")
    outcome = ask("add", "1.2.2", *new("a"), plan=plan)
    assert outcome.event == PlanChanged("add", "1.2.2", (Task(id="1.2.3", name="a", goal="a"),))
    outcome = ask("add", "1.2", *new("a"), plan=plan, current="1.2")
    assert outcome.event is not None
    assert outcome.event.tasks[0].id == "1.4"


def test_a_task_to_be_done_is_deleted() -> None:
    assert ask("delete", "1.3").event == PlanChanged("delete", "1.3")


@pytest.mark.parametrize("target", ["1.3", "1.03", " 1.3 ", 1.3])
def test_ids_compare_as_numbers(target: str | float) -> None:
    assert ask("delete", target).event == PlanChanged("delete", "1.3")


def test_position_and_not_the_number_says_what_is_past() -> None:
    plan = tree()
    plan.attach((Task(id="1.10", name="ten", goal="ten"),), "1", "1.1")
    assert [node.task.id for node in plan.root.children] == ["1.1", "1.10", "1.2", "1.3"]
    assert "stands before the current task 1.2" in ask("delete", "1.10", plan=plan, current="1.2").text
    assert ask("delete", "1.3", plan=plan, current="1.10").kind == "done"


def test_the_whole_can_be_split_where_it_is_the_only_task_and_nothing_stands_beside_it() -> None:
    plan = Plan(Task(id="1", name="all", goal="all"))
    assert ask("split", "1", *new("a"), plan=plan, current="1").kind == "done"
    assert "nothing can stand beside it" in ask("add", "1", *new("a"), plan=plan, current="1").text


def test_only_what_is_to_be_done_or_failed_is_split() -> None:
    plan = tree()
    for status in ("DOING", "SUCCESS", "SPLIT"):
        plan.nodes["1.3"].status = status
        assert (
            f"is {status}; only a task to be done or one that failed" in ask("split", "1.3", *new("a"), plan=plan).text
        )


def test_needs_are_names_ids_or_places_of_siblings() -> None:
    given = (NewTask(name="A"), NewTask(name="b", needs=(" a ", "1.01")), NewTask(name="c", needs=("2", 1.2, "b")))
    tasks = first_plan(given, Task(id="1", name="all", goal="all"), OPTIONS, "en")
    assert [task.needs for task in tasks] == [(), ("1.1",), ("1.2",)]
    assert tasks[0].goal == "A"
    added = ask("add", "1.3", *new("x", needs=("t1", "1.3")))
    assert added.event is not None
    assert added.event.tasks[0].needs == ("1.1", "1.3")


def test_an_edit_without_a_result_is_recognised() -> None:
    plan = tree()
    add, split = Operation("add", "1.3", new("x", "y")), Operation("split", "1.3", new("x"))
    assert not repeated(plan, add)
    assert not repeated(plan, split)
    assert not repeated(plan, Operation("delete", "1.3"))
    assert not repeated(plan, Operation("other", "1.3"))
    plan.attach((Task(id="1.3.1", name="X", goal=""),), "1.3")
    plan.attach((Task(id="1.4", name="x", goal=""), Task(id="1.5", name="y", goal="")), "1", "1.3")
    assert repeated(plan, add)
    assert repeated(plan, split)
    long = Operation("add", "1.5", new("n" * 300))
    made = operate(plan, long, "1.2.1", TaskOptions(max_plan_tree_width=9), "en").event
    assert made is not None
    plan.attach(made.tasks, "1", "1.5")
    assert repeated(plan, long)
    plan.detach("1.3")
    assert repeated(plan, Operation("delete", "1.3"))


def test_arguments_are_read_strictly_and_faults_name_the_field() -> None:
    with pytest.raises(Unfit, match="cut off"):
        read(ToolCall("", "x", "{"), Operation)
    with pytest.raises(Unfit, match=r"subtasks\[0\]\.milestones"):
        read(ToolCall("", "x", '{"operation": "add", "subtasks": [{"name": "a", "milestones": "m"}]}'), Operation)
    found = submission_of(ToolCall("", "x", '{"submit_type": "give_up", "result": " r ", "suggestions": [" a ", " "]}'))
    assert (found.result, found.suggestions, found.need_plan_rectification) == ("r", ("a",), False)


def test_a_plan_reads_as_one_task_a_line_with_what_became_of_it() -> None:
    plan = tree()
    plan.nodes["1.1"].conclusion = TaskConclusion(summary="one\nis done", status="success")
    assert overview(plan).splitlines() == [
        "1 [DOING] all: all of it",
        "  1.1 [SUCCESS] t1: g1",
        "      -> one is done",
        "  1.2 [SPLIT] t2: g2",
        "    1.2.1 [FAIL] t21: g21",
        "    1.2.2 [TODO] t22: g22",
        "  1.3 [TODO] t3: g3",
    ]


def test_a_task_reads_with_all_that_its_agent_must_know() -> None:
    task = Task(name="n", goal="the goal", milestones=("m1", "m2"), prior_criticism="careful")
    assert task_text(task).splitlines() == ["n", "the goal", "- m1", "- m2", "! careful"]
    assert task_text(Task(name="the goal", goal="the goal is long")) == "the goal is long"


def test_what_stands_of_a_plan_says_what_was_done_and_what_was_not() -> None:
    plan = tree()
    plan.nodes["1.1"].conclusion = TaskConclusion(summary="found it", status="success")
    found = standing(plan, "Stopped.", "en")
    assert found.status == "failure"
    assert found.reply.split("\n\n") == [
        "Stopped.",
        "Done:\n- 1.1 t1: found it",
        "Not reached:\n- 1.2.1 t21",
        "Not begun or not finished:\n- 1.2.2 t22\n- 1.3 t3",
    ]
    for node in plan.leaves():
        node.status = "SUCCESS"
    assert standing(plan, "", "zh").status == "success"
