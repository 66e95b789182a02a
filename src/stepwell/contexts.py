"""What an agent knows: its long-term and its working context, conclusions of tasks, and the mark of cut text.

Records only: they are filled by the fold of the log, and how they read as text is `rendering`'s business.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stepwell.messages import ToolCall

WRAPPED = "`wrapped`"
"""Stands wherever text was left out, in every language (XAgent's mark of truncation)."""

_BLOB_DIGITS = 12


class FailureGoal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A goal that a task did not reach.

    Args:
        goal: What was to be reached.
        reason: Why it was not.
        reflection: What to do otherwise.
    """

    goal: str
    reason: str
    reflection: str = ""


class ToolReflection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was learned about one tool.

    Args:
        tool_name: The tool.
        reflection: One lesson each.
    """

    tool_name: str
    reflection: tuple[str, ...] = ()


class TaskConclusion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What became of a task, in the words of the agent that did it (XAgent's TaskConclusion).

    Args:
        summary: What was done and found.
        status: Whether the task as a whole was reached.
        reached_goals: What was reached.
        failed_goals: What was not, and why.
        reflections: Lessons for later tasks.
        tool_reflection: Lessons about tools.
        reply: What the user is told.
    """

    summary: str
    status: Literal["success", "failure"]
    reached_goals: tuple[str, ...] = ()
    failed_goals: tuple[FailureGoal, ...] = ()
    reflections: tuple[str, ...] = ()
    tool_reflection: tuple[ToolReflection, ...] = ()
    reply: str = ""


class LongTermContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent knows for as long as its thread lives.

    Args:
        user_message: What users said, oldest first; the oldest may have gone into `rolled`.
        past_tasks: Conclusions of tasks, oldest first; the same holds.
        experience: What earlier work taught.
        skills_description: What the agent can do, one skill each.
        ideas: Thoughts to keep in mind.
        current_goal: What it works on.
        available_tools: Tools in the form of OpenAI's chat completions.
        resource: What it may draw on, such as files and pages.
        pinned: Facts that somebody asked to keep; they are never summarised.
        rolled: Summary of the user messages and past tasks that were taken out.
    """

    user_message: tuple[str, ...] = ()
    past_tasks: tuple[TaskConclusion, ...] = ()
    experience: str = ""
    skills_description: tuple[str, ...] = ()
    ideas: tuple[str, ...] = ()
    current_goal: str = ""
    available_tools: tuple[dict[str, Any], ...] = ()
    resource: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    rolled: str = ""


class WorkingContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent has before it in one step, and what came of the step.

    Args:
        basic_info: Lines such as the time and the number of the step.
        observation: What the step before brought.
        thoughts: The replies of the step apart from calls, each as the fields of its schema.
        tool_calls: The calls that the step asked for.
        summary: Stands for thoughts and calls once it is made.
        self_examination: What the agent would do better.
    """

    basic_info: str = ""
    observation: str = ""
    thoughts: tuple[dict[str, Any], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    summary: str = ""
    self_examination: str = ""


def handle_of_event(seq: int) -> str:
    """Return the handle under which the text of a stored event can be recalled."""
    return f"event:{seq}"


def handle_of_blob(sha: str) -> str:
    """Return the handle under which a big result can be recalled.

    Args:
        sha: Its SHA-256, 64 hexadecimal digits.
    """
    return f"blob:{sha[:_BLOB_DIGITS]}"


def cut_text(text: str, head: int, tail: int, handle: str) -> str:
    """Return a text without its middle, with one line in its place that says how much is missing and where it is.

    The text comes back as it is where the result would not be shorter. The line is the same in every language:
    a model has to find the handle in it.

    Args:
        text: What is cut.
        head: Characters kept of the beginning; below 0 counts as 0.
        tail: Characters kept of the end; below 0 counts as 0.
        handle: Where all of it can be recalled; empty where it cannot.
    """
    head, tail = max(head, 0), max(tail, 0)
    left_out = len(text) - head - tail
    if left_out <= 0:
        return text
    line = f"{WRAPPED} {left_out} characters left out" + (f"; recall {handle}" if handle else "")
    cut = "\n".join(part for part in (text[:head], line, text[len(text) - tail :]) if part)
    return cut if len(cut) < len(text) else text
