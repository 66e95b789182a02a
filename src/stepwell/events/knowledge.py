"""What changes what an agent knows and is shown: contexts, compactions, summaries.

The messages themselves are in `runs.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stepwell.contexts import TaskConclusion
from stepwell.events.base import Event
from stepwell.messages import Usage
from stepwell.specs import SummaryKind


class LongTermUpdated(Event, frozen=True, gc=False, tag="long_term_updated"):
    """What the agent knows for long changed; None leaves a part as it is.

    Args:
        user_message: Added to the user's messages.
        past_task: Added to the past tasks.
        pinned: Added to the pinned facts.
        unpinned: Taken out of the pinned facts.
        rolled: Replaces the rolling summary, which takes in as many of the oldest user messages and past tasks as
            `rolled_messages` and `rolled_tasks` say.
    """

    user_message: str | None = None
    past_task: TaskConclusion | None = None
    experience: str | None = None
    skills_description: tuple[str, ...] | None = None
    ideas: tuple[str, ...] | None = None
    current_goal: str | None = None
    available_tools: tuple[dict[str, Any], ...] | None = None
    resource: tuple[str, ...] | None = None
    pinned: str | None = None
    unpinned: str | None = None
    rolled: str | None = None
    rolled_messages: int = 0
    rolled_tasks: int = 0


class WorkingUpdated(Event, frozen=True, gc=False, tag="working_updated"):
    """A new working context began.

    Args:
        basic_info: What the step should know besides time and number, by name.
        observation: What came of the step before; None where nothing is said.
    """

    basic_info: dict[str, str] = {}  # noqa: RUF012 - each record gets its own
    observation: str | None = None


class HistoryCleared(Event, frozen=True, gc=False, tag="history_cleared"):
    """The agent begins anew: steps and calls so far are no part of what it is shown."""


class Cut(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a message that stays in the conversation is shortened.

    Args:
        seq: Number of the event that brought it.
        head: Characters kept of its beginning; for arguments of calls, of each long text in them.
        tail: Characters kept of its end.
        part: What is shortened.
    """

    seq: int
    head: int = 0
    tail: int = 0
    part: Literal["content", "arguments", "images"] = "content"


class ContextCompacted(Event, frozen=True, gc=False, tag="context_compacted"):
    """The conversation as the model sees it was rewritten so that requests fit the window.

    Args:
        upto: Messages up to this event's number are left out; `digest` stands for them.
        digest: What stands in front of the first user message that is kept.
        cuts: How kept messages are shortened.
        rung: How hard it was pressed, from 0.
        before: Upper bound of the request's tokens before.
        after: The same after.
        excess: Tokens by which the provider's count was above the bound so far; the allowance is raised by them.
    """

    upto: int
    digest: str = ""
    cuts: tuple[Cut, ...] = ()
    rung: int = 0
    before: int = 0
    after: int = 0
    excess: int = 0


class WindowLearned(Event, frozen=True, gc=False, tag="window_learned"):
    """The endpoint refused a request as too long: the window is smaller than was thought.

    Args:
        window: What is believed from now on, in tokens.
        model: The model's name in the settings, and the one sent where it is another.
    """

    window: int
    model: str = ""


class SummaryStarted(Event, frozen=True, gc=False, tag="summary_started"):
    """A model is asked for a summary in the background.

    Args:
        kind: Of what: tool calls, working contexts, or what rolled out of the long-term context.
        first: Number of the first event that it covers.
        last: Number of the last.
        reserved: As in `StepStarted`.
    """

    kind: SummaryKind
    first: int
    last: int
    reserved: int = 0


class SummaryEnded(Event, frozen=True, gc=False, tag="summary_ended"):
    """The summary is there, or will not come.

    Args:
        kind: As it started.
        first: As it started.
        last: As it started.
        status: `stale` came too late to be of use.
        text: The summary, where the status is `ok`.
        self_examination: What the model would do better.
        critical: Numbers of the results that matter most.
        detail: Why there is none.
        usage: Tokens counted by the provider.
        cost: As in `MessageEnded`.
    """

    kind: SummaryKind
    first: int
    last: int
    status: Literal["ok", "failed", "cancelled", "stale"] = "ok"
    text: str = ""
    self_examination: str = ""
    critical: tuple[int, ...] = ()
    detail: str = ""
    usage: Usage | None = None
    cost: int = 0
