"""What people are asked, and what they do to a thread and its runs.

The messages that they begin runs with are in `runs.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from stepwell.events.base import Event, Policy
from stepwell.messages import Message
from stepwell.questions import Decision, QuestionKind, Scope
from stepwell.specs import RunSpec


class CancelRequested(Event, frozen=True, gc=False, tag="cancel_requested"):
    """Somebody asked the open run to stop."""

    reason: str = ""


class PauseRequested(Event, frozen=True, gc=False, tag="pause_requested"):
    """Somebody asked the open run to halt before its next model call or tool."""

    reason: str = ""


class ResumeRequested(Event, frozen=True, gc=False, tag="resume_requested"):
    """Somebody asked a halted run to go on."""


class Asked(Event, frozen=True, gc=False, tag="asked"):
    """The run, or one of its agents, needs a person, or its client. The event's number names the question.

    What an approval is about is the call as the log has it: no second copy of the arguments exists.

    Args:
        kind: What is asked; it decides which answers there are.
        call: The call that it is about; empty for none.
        text: The question in words.
        reason: Why it is asked, such as the rule that asks.
        hash: What an approval is bound to (`questions.call_hash`); 64 hexadecimal digits.
        choices: Answers to choose from; empty for free text.
        form: JSON schema of an answer that has fields; None for text.
        until: When it expires, in milliseconds since 1970; 0 for never.
        default: The answer that counts then; None: it expires without one.
    """

    kind: QuestionKind
    call: str = ""
    text: str = ""
    reason: str = ""
    hash: str = ""
    choices: tuple[str, ...] = ()
    form: dict[str, Any] | None = None
    until: int = 0
    default: str | None = None


class Answered(Event, frozen=True, gc=False, tag="answered"):
    """A question is decided, once and for all.

    Args:
        question: Number of its `Asked`.
        decision: What was decided.
        text: The answer, the reason of a refusal, or the result of a call that somebody says is done.
        arguments: The arguments that run instead of the model's, as JSON text; empty for those.
        value: The fields of an answer with a form.
        scope: How far an approval reaches.
        by: Who decided; empty for the run itself.
    """

    question: int
    decision: Decision
    text: str = ""
    arguments: str = ""
    value: dict[str, Any] | None = None
    scope: Scope = "once"
    by: str = ""


class Steered(Event, frozen=True, gc=False, tag="steered"):
    """Somebody said something to a running agent; it meets that before its next model call.

    Args:
        message: What was said.
        interrupt: What is under way is closed first.
        source: Who said it: a person, or an engine that passes on what one said.
    """

    message: Message
    interrupt: bool = False
    source: Literal["user", "engine"] = "user"


class MessageQueued(Event, frozen=True, gc=False, tag="message_queued"):
    """A message waits for the open run to end. The event's number names it.

    Args:
        message: What was said.
        spec: How its run will go.
    """

    message: Message
    spec: RunSpec


class QueueEdited(Event, frozen=True, gc=False, tag="queue_edited"):
    """A waiting message was changed, moved or taken out.

    Args:
        item: Number of its `MessageQueued`.
        message: What stands in its place; None leaves it as it is.
        before: Number of the waiting message that it is put in front of; 0 for the end; None leaves it in its place.
        removed: It is taken out.
    """

    item: int
    message: Message | None = None
    before: int | None = None
    removed: bool = False


class PolicyChanged(Event, frozen=True, gc=False, tag="policy_changed"):
    """What becomes of messages that come while a run is open."""

    policy: Policy


class TitleChanged(Event, frozen=True, gc=False, tag="title_changed"):
    """The thread has a new title."""

    title: str


class Feedback(Event, frozen=True, gc=False, tag="feedback"):
    """Somebody said what they think of an answer. It changes nothing else; of several for one the newest counts.

    Args:
        message: Number of the event that brought the answer.
        score: By custom from 0 to 100: more is better.
        reason: Why, in words.
    """

    message: int
    score: int
    reason: str = ""


class Forked(Event, frozen=True, gc=False, tag="forked"):
    """The thread up to here is a copy of another's beginning, perhaps with one event changed.

    Args:
        parent: Id of the other thread.
        at: Number of its event up to which it was copied.
        edited: Number of the event that was changed, or 0.
        spec: How the open run goes on, where that was changed.
        origin: Id of the thread in which the newest of the copied events happened, where the other is itself a copy as
            far as that; empty for the other.
        earlier: Numbers of copied events that were changed in forks of which this log says nothing else.
    """

    parent: str
    at: int
    edited: int = 0
    spec: RunSpec | None = None
    origin: str = ""
    earlier: tuple[int, ...] = ()
