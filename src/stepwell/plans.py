"""Tasks, what their agents submit, and the tree that they stand in (XAgent's Task, TaskSubmission and PlanTree).

The tree is filled by the fold of the log. Which change of it is allowed is the plan engine's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from stepwell.contexts import TaskConclusion

TaskStatus = Literal["TODO", "DOING", "SUCCESS", "FAIL", "SPLIT"]
"""Not begun; under way; done well; done badly; replaced by its parts."""

SubmitType = Literal["success", "give_up", "max_tool_call", "human_suggestion"]

ROOT = "1"
"""Id of the task that the whole plan serves."""


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A bounded piece of work.

    Args:
        id: Its place when it was made, such as `1.2`: it stays with the task, whatever is inserted or deleted.
        name: A few words.
        goal: What is to be reached.
        milestones: How one can tell that it is, one each.
        prior_criticism: What its maker would look out for.
        needs: Ids of siblings that must end before it begins.
    """

    id: str = ""
    name: str
    goal: str
    milestones: tuple[str, ...] = ()
    prior_criticism: str = ""
    needs: tuple[str, ...] = ()


class TaskSubmission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How the agent of a task ended its work.

    Args:
        submit_type: `give_up` is a legal end; `max_tool_call` says that it ran out of calls.
        need_plan_rectification: Whether the plan should be changed before the next task.
        suggestions: What should be changed, one each.
        result: What was done and found.
    """

    submit_type: SubmitType
    need_plan_rectification: bool = False
    suggestions: tuple[str, ...] = ()
    result: str = ""


def number_of(id: str) -> tuple[int, ...]:
    """Return a task's id as numbers, so that 1.10 comes after 1.2.

    Raises:
        ValueError: It is no id.
    """
    return tuple(map(int, id.split(".")))


class Node:
    """A task in its plan.

    Attributes:
        task: What is to be done.
        status: How far it is.
        parent: The task that it is a part of; None for the root.
        children: Its parts, in order.
        submission: How its agent ended its work, or None.
        conclusion: What became of it, or None.
    """

    __slots__ = ("children", "conclusion", "parent", "status", "submission", "task")

    def __init__(self, task: Task, parent: Node | None = None) -> None:
        self.task, self.parent = task, parent
        self.status: TaskStatus = "TODO"
        self.children: list[Node] = []
        self.submission: TaskSubmission | None = None
        self.conclusion: TaskConclusion | None = None

    @property
    def depth(self) -> int:
        """How deep it stands; the root has 1."""
        return 1 if self.parent is None else self.parent.depth + 1

    @property
    def over(self) -> bool:
        """Whether nothing is left to do of it; one that was split is over with its parts."""
        if self.children or self.status == "SPLIT":
            return all(child.over for child in self.children)
        return self.status in ("SUCCESS", "FAIL")

    def walk(self) -> Iterator[Node]:
        """Yield it and everything below in the order in which it is done (pre-order)."""
        yield self
        for child in self.children:
            yield from child.walk()


class Plan:
    """The tree of one run.

    Attributes:
        root: What the whole serves.
        rectified: Number of the event up to which what asks for a change of the plan has been dealt with.
    """

    __slots__ = ("_made", "nodes", "rectified", "root")

    def __init__(self, root: Task) -> None:
        self.root = Node(root)
        self.nodes: dict[str, Node] = {root.id: self.root}
        self._made: dict[str, int] = {}
        self.rectified = 0

    def attach(self, tasks: tuple[Task, ...], parent: str, after: str = "") -> None:
        """Put tasks, which have their ids, under a parent: at the end, or right after one of its children."""
        node = self.nodes[parent]
        made = [Node(task, node) for task in tasks]
        at = len(node.children) if not after else node.children.index(self.nodes[after]) + 1
        node.children[at:at] = made
        self.nodes.update((each.task.id, each) for each in made)
        self._made[parent] = self._made.get(parent, 0) + len(made)

    def detach(self, id: str) -> None:
        """Take a task out, with everything below."""
        node = self.nodes[id]
        assert node.parent is not None
        node.parent.children.remove(node)
        for each in node.walk():
            del self.nodes[each.task.id]

    def next_id(self, parent: str, offset: int = 0) -> str:
        """Return the id of the next task made under a parent; ids of deleted tasks are not used again."""
        return f"{parent}.{self._made.get(parent, 0) + offset + 1}"

    def leaves(self) -> list[Node]:
        """Return the tasks that agents do, in order."""
        return [node for node in self.root.walk() if not node.children and node.status != "SPLIT"]

    def find(self, id: str) -> Node | None:
        """Return the task that an id names, compared as numbers, so that `1.02` names 1.2; None where there is none."""
        node = self.nodes.get(id)
        if node is not None:
            return node
        try:
            number = number_of(id)
        except ValueError:
            return None
        return next((each for key, each in self.nodes.items() if number_of(key) == number), None)

    def ready(self, node: Node) -> bool:
        """Tell whether all that a task and those that it is a part of need is over, well or badly, or was deleted."""
        above: Node | None = node
        while above is not None:
            needed = [self.nodes[id] for id in above.task.needs if id in self.nodes]
            if not all(each.over for each in needed):
                return False
            above = above.parent
        return True

    def next(self, most: int) -> list[Node]:
        """Return the tasks that may begin now, in order.

        That is the next one in pre-order that needs nothing any more, or, beside tasks under way, their siblings; and
        of its later siblings those that need nothing, up to the first whose parts are not over.

        Args:
            most: How many may be under way together.
        """
        leaves = self.leaves()
        doing = [node for node in leaves if node.status == "DOING"]
        most -= len(doing)
        waiting = [node for node in leaves if node.status == "TODO"]
        if most <= 0 or not waiting:
            return []
        if doing:
            parent = doing[0].parent
            return self._beside(parent, most) if parent is not None else []
        first = next((node for node in waiting if self.ready(node)), waiting[0])
        if first.parent is None or most == 1:
            return [first]
        return self._beside(first.parent, most) or [first]

    def _beside(self, parent: Node, most: int) -> list[Node]:
        found: list[Node] = []
        for node in parent.children:
            if node.status == "SPLIT" and not node.over:
                break
            if node.status == "TODO" and self.ready(node):
                found.append(node)
        return found[:most]
