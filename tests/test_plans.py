"""The tree of tasks: ids, and which task is next."""

from __future__ import annotations

import pytest

from stepwell.plans import Node, Plan, Task, TaskStatus, number_of


def plan(**needs: str) -> Plan:
    """Return tasks a, b, c ... below the root, with what each needs, as letters."""
    made = Plan(Task(id="1", name="all", goal="all"))
    ids = {name: f"1.{at}" for at, name in enumerate(needs, 1)}
    made.attach(
        tuple(
            Task(id=ids[name], name=name, goal=name, needs=tuple(ids[n] for n in all)) for name, all in needs.items()
        ),
        "1",
    )
    return made


def named(nodes: list[Node]) -> str:
    return "".join(node.task.name for node in nodes)


def end(made: Plan, *ids: str, status: TaskStatus = "SUCCESS") -> None:
    for id in ids:
        made.nodes[id].status = status


def split(made: Plan, id: str, *names: str) -> None:
    made.nodes[id].status = "SPLIT"
    made.attach(tuple(Task(id=made.next_id(id, at), name=name, goal=name) for at, name in enumerate(names)), id)


def test_ids_are_numbers_and_those_of_deleted_tasks_are_not_used_again() -> None:
    made = plan(a="", b="")
    made.detach("1.2")
    assert (made.next_id("1"), made.next_id("1", 1), made.next_id("1.1")) == ("1.3", "1.4", "1.1.1")
    assert sorted(["1.10", "1.2", "1.1"], key=number_of) == ["1.1", "1.2", "1.10"]
    with pytest.raises(ValueError, match="x"):
        number_of("1.x")


FOUND = [("1.2", "1.2"), ("1.02", "1.2"), ("01.2", "1.2"), ("1", "1")]


@pytest.mark.parametrize(
    ("text", "id"), [*FOUND, *((text, None) for text in ("1.3", "", "b", "1.2.", "1." + "9" * 9000))]
)
def test_an_id_is_found_by_its_numbers(text: str, id: str | None) -> None:
    found = plan(a="", b="").find(text)
    assert (found.task.id if found else None) == id


def test_the_next_task_is_the_first_in_pre_order_that_needs_nothing() -> None:
    made = plan(a="", b="", c="")
    assert named(made.next(1)) == "a"
    end(made, "1.1")
    split(made, "1.2", "x", "y")
    assert named(made.next(1)) == "x"
    end(made, "1.2.1", "1.2.2", status="FAIL")
    assert named(made.next(1)) == "c"
    end(made, "1.3")
    assert made.next(1) == []


def test_a_task_waits_for_what_it_needs_and_for_the_parts_of_that() -> None:
    made = plan(a="b", b="", c="a")
    assert named(made.next(9)) == "b"
    split(made, "1.2", "x", "y")
    end(made, "1.2.1")
    assert named(made.next(1)) == "y"
    end(made, "1.2.2", status="FAIL")
    assert named(made.next(9)) == "a"


def test_what_was_deleted_is_needed_no_more() -> None:
    made = plan(a="", b="a")
    made.detach("1.1")
    assert named(made.next(1)) == "b"


def test_siblings_are_done_together_up_to_the_limit_and_none_beside_another_branch() -> None:
    made = plan(a="", b="", c="a", d="")
    assert named(made.next(2)) == "ab"
    assert named(made.next(9)) == "abd"
    end(made, "1.1", "1.2", status="DOING")
    assert named(made.next(2)) == ""
    assert named(made.next(3)) == "d"
    end(made, "1.1")
    assert named(made.next(3)) == "cd"
    split(made, "1.2", "x", "y")
    assert named(made.next(9)) == "xy", "c and d stand behind b, which is not over"
    end(made, "1.2.1", "1.2.2")
    assert named(made.next(9)) == "cd"


def test_parts_of_a_task_wait_for_what_the_task_needs() -> None:
    made = plan(a="b", b="")
    split(made, "1.1", "x", "y")
    assert named(made.next(9)) == "b"
    end(made, "1.2")
    assert named(made.next(9)) == "xy"


def test_the_root_alone_is_a_task() -> None:
    made = Plan(Task(id="1", name="all", goal="all"))
    assert named(made.next(3)) == "all"
    end(made, "1", status="DOING")
    assert made.next(3) == []
    end(made, "1")
    assert made.root.over
