"""What people follow of a thread: its newest plan, open questions and waiting messages, from few of its events.

The fold itself is `State`'s; this leaves out what costs time and shows nothing, such as messages.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stepwell.contexts import TaskConclusion
from stepwell.events import (
    Answered,
    Asked,
    Forked,
    MessageQueued,
    PlanChanged,
    PlanMade,
    PolicyChanged,
    QueueEdited,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
)
from stepwell.plans import Node, Plan, TaskStatus, TaskSubmission
from stepwell.state.thread import State, parent_of

_FOLLOWED = (
    RunStarted
    | RunEnded
    | RunWaiting
    | Asked
    | Answered
    | MessageQueued
    | QueueEdited
    | PolicyChanged
    | Forked
    | PlanMade
    | PlanChanged
    | TaskStarted
    | TaskSubmitted
    | TaskEnded
)


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a plan with everything below it.

    Args:
        id: Its id, which is also the path of its agent's events.
        name: A few words.
        goal: What is to be reached.
        milestones: How one can tell that it is.
        needs: Ids of siblings that must end before it begins.
        status: How far it is.
        submission: How its agent ended its work, or None.
        conclusion: What became of it, or None.
        tasks: Its parts, in order.
    """

    id: str
    name: str
    goal: str
    milestones: tuple[str, ...]
    needs: tuple[str, ...]
    status: TaskStatus
    submission: TaskSubmission | None
    conclusion: TaskConclusion | None
    tasks: tuple[TaskView, ...]


class Outline:
    """The fold; events may begin with any run.

    Attributes:
        state: Questions, waiting messages and the open run; it knows nothing of what was said.
        plan: The newest plan, or None.
        run: Number of the run that it is or was made in, or 0.
    """

    def __init__(self, events: Iterable[Recorded] = ()) -> None:
        self.state = State()
        self.plan: Plan | None = None
        self.run = 0
        for each in events:
            self.take(each)

    def take(self, recorded: Recorded) -> bool:
        """Take in the next event; return whether it was one that people follow."""
        above = parent_of(recorded.path)
        if not isinstance(recorded.event, _FOLLOWED) or (above and above not in self.state.agents):
            return False
        self.state.apply(recorded)
        if isinstance(recorded.event, PlanMade):
            agent = self.state.agents.get(recorded.path) if recorded.path else self.state
            if agent is not None and agent.run is not None:
                self.plan, self.run = agent.run.plan, recorded.run
        return True


def view(node: Node) -> TaskView:
    """Return a task and everything below it as clients get it."""
    task = node.task
    return TaskView(
        id=task.id,
        name=task.name,
        goal=task.goal,
        milestones=task.milestones,
        needs=task.needs,
        status=node.status,
        submission=node.submission,
        conclusion=node.conclusion,
        tasks=tuple(map(view, node.children)),
    )
