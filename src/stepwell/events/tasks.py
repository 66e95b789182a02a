"""Plans and the tasks in them. How they add up to a tree is in `stepwell/plans.py`."""

from __future__ import annotations

from typing import Literal

from stepwell.contexts import TaskConclusion
from stepwell.events.base import Event
from stepwell.plans import Task, TaskSubmission
from stepwell.specs import RunSpec


class PlanMade(Event, frozen=True, gc=False, tag="plan_made"):
    """A plan began.

    Args:
        root: The task that it serves.
        tasks: Its first tasks, below the root; none where the root itself is the work.
    """

    root: Task
    tasks: tuple[Task, ...] = ()


class PlanChanged(Event, frozen=True, gc=False, tag="plan_changed"):
    """The plan was edited.

    Args:
        operation: What was done; `exit` ends a rectification.
        target: Id of the task that it was done to.
        tasks: New tasks: parts of a target that was split, or siblings right after one.
        upto: Number of the event up to which what asked for a change has been dealt with; set by `exit`.
    """

    operation: Literal["split", "add", "delete", "exit"]
    target: str = ""
    tasks: tuple[Task, ...] = ()
    upto: int = 0


class TaskStarted(Event, frozen=True, gc=False, tag="task_started"):
    """An agent of its own began a task; its path names the agent.

    Args:
        task: What it is to do.
        spec: How it goes.
        call: The call that delegated it; empty for a task of a plan.
    """

    task: Task
    spec: RunSpec
    call: str = ""


class TaskSubmitted(Event, frozen=True, gc=False, tag="task_submitted"):
    """The agent of a task ended its work."""

    submission: TaskSubmission


class TaskEnded(Event, frozen=True, gc=False, tag="task_ended"):
    """The task is over; nothing of its agent follows.

    Args:
        status: The task's one status.
        conclusion: What became of it.
        cause: As in `RunEnded`, where it did not end by its submission.
        detail: The cause in words.
    """

    status: Literal["success", "failure", "cancelled"]
    conclusion: TaskConclusion | None = None
    cause: str = ""
    detail: str = ""
