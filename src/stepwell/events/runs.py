"""What happens inside a run: steps, replies of models, calls of tools.

What people do to it is in `people.py`, tasks and plans are in `tasks.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from stepwell.events.base import Effect, EndReason, Event, ToolStatus
from stepwell.messages import Image, Message, StopReason, Usage
from stepwell.specs import RunSpec


class RunStarted(Event, frozen=True, gc=False, tag="run_started"):
    """A run opened; at most one is open in a thread.

    Args:
        spec: How it goes.
        queued: Number of the `MessageQueued` that it takes up, or 0.
    """

    spec: RunSpec
    queued: int = 0


class RunEnded(Event, frozen=True, gc=False, tag="run_ended"):
    """The run is over; nothing of it follows.

    Args:
        reason: How it ended.
        cause: A stable word for the cause, such as `steps`, `rate_limit`, `malformed_tool_call`.
        detail: The cause in words; shown to people.
    """

    reason: EndReason
    cause: str = ""
    detail: str = ""


class RunClaimed(Event, frozen=True, gc=False, tag="run_claimed"):
    """A process took up an open run that nobody carried out: one had stopped, or it had waited.

    Args:
        epoch: Counts the takers of this run; a taker that meets a higher one leaves.
    """

    epoch: int


class RunWaiting(Event, frozen=True, gc=False, tag="run_waiting"):
    """Nothing can go on by itself; whoever carried the run out lets go of it until something is appended to it.

    Args:
        until: When it goes on by itself, in milliseconds since 1970; 0 for never.
    """

    until: int = 0


class MessageAdded(Event, frozen=True, gc=False, tag="message_added"):
    """A message that came whole: from a person, from imported history, or from the engine."""

    message: Message
    source: Literal["user", "history", "engine"] = "user"


class Imported(Event, frozen=True, gc=False, tag="imported"):
    """Messages of a conversation follow that took place elsewhere: data from outside, of which nothing happened here.

    Args:
        source: The format that it was read from, such as `chatgpt`.
        origin: Its id there, by which it is known when it comes again.
        messages: How many follow.
        digest: SHA-256 of all of its messages so far, 64 hexadecimal digits.
        left_out: How much of what was left out, by a word such as `system`; None for nothing.
    """

    source: str
    origin: str
    messages: int
    digest: str
    left_out: dict[str, int] | None = None


class StepStarted(Event, frozen=True, gc=False, tag="step_started"):
    """A step began: one request to the model.

    Args:
        step: Counts the steps of the run from 1.
        request: SHA-256 of the request, as 43 characters of URL-safe base64.
        tail: Messages of this request alone, which stood after the conversation.
        reply: Name of the schema that the reply was asked to fit; empty for none.
        tools: Names of the tools offered, where they were not the run's own.
        model: The model asked, where it was not the run's own.
        aside: The reply is no part of the conversation.
        repairs: The reply takes the place of the one before, which did not fit its form.
        reserved: What the call may cost at most, in billionths of the unit of money.
        max_tokens: Tokens of the longest reply that was paid for, which the request asked for; 0 where its length
            costs nothing; None where no money was limited.
    """

    step: int
    request: str
    tail: tuple[Message, ...] = ()
    reply: str = ""
    tools: tuple[str, ...] | None = None
    model: str = ""
    aside: bool = False
    repairs: bool = False
    reserved: int = 0
    max_tokens: int | None = None


class StepEnded(Event, frozen=True, gc=False, tag="step_ended"):
    """The step is over, with the results of its tool calls."""


class MessageStarted(Event, frozen=True, gc=False, tag="message_started"):
    """A reply is about to stream. Its number in the log names the message in deltas."""


class TextDelta(Event, frozen=True, gc=False, tag="text_delta"):
    """More visible text of an open message. Transient."""

    message: int
    text: str


class ThinkingDelta(Event, frozen=True, gc=False, tag="thinking_delta"):
    """More thinking of an open message. Transient."""

    message: int
    text: str


class CallDelta(Event, frozen=True, gc=False, tag="call_delta"):
    """More of a tool call of an open message. Transient.

    Args:
        message: The open message.
        index: Which call of the message.
        name: Set on the call's first piece.
        text: More of the arguments' JSON text.
    """

    message: int
    index: int
    name: str = ""
    text: str = ""


class MessageEnded(Event, frozen=True, gc=False, tag="message_ended"):
    """The open message is whole; its text replaces whatever was streamed of it.

    Args:
        message: The reply; partial when `stop` is `error` or `cancelled`.
        stop: Why it ended.
        usage: Tokens counted by the provider, if it told.
        cost: What the call cost, in billionths of the unit of money, where something was reserved for it.
        replaced_characters: How many characters of the reply no store takes, or were no text, and became U+FFFD.
    """

    message: Message
    stop: StopReason
    usage: Usage | None = None
    cost: int = 0
    replaced_characters: int = 0


class ModelFailed(Event, frozen=True, gc=False, tag="model_failed"):
    """A call of the model failed. The text streamed by this attempt is void.

    Args:
        kind: As in `models.base.FailureKind`.
        detail: The cause in words.
        status: HTTP status, or 0.
        retry_in: Seconds until the next attempt; None when there is none.
    """

    kind: str
    detail: str
    status: int = 0
    retry_in: float | None = None


class ToolStarted(Event, frozen=True, gc=False, tag="tool_started"):
    """A tool is about to run: the intent, stored before any effect. A call that is refused has none.

    The idempotency key of the call is the thread's id and this event's number.

    Args:
        call: Id of the call.
        name: The tool.
        effect: What running it twice would do.
        threaded: It runs in a thread, which nobody can stop.
        untrusted: Its result is text of strangers, such as a page of the web.
    """

    call: str
    name: str
    effect: Effect = "pure"
    threaded: bool = False
    untrusted: bool = False


class ToolProgress(Event, frozen=True, gc=False, tag="tool_progress"):
    """A running tool tells how far it is. Transient."""

    call: str
    text: str


class ToolEnded(Event, frozen=True, gc=False, tag="tool_ended"):
    """A call has its result.

    Args:
        call: Id of the call.
        content: What the model is told.
        status: How it ended.
        images: Shown to models that see.
        details: For people's screens; the model is not told.
        blob: SHA-256 of the whole result, 64 hexadecimal digits, where `content` is only a part of it.
        size: Bytes of the whole result, where it is a blob.
    """

    call: str
    content: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()
    details: dict[str, Any] | None = None
    blob: str = ""
    size: int = 0


class Warned(Event, frozen=True, gc=False, tag="warned"):
    """Something is not as it should be and the run goes on.

    Args:
        code: A stable word, such as `no_reply`.
        detail: What it is, in words.
    """

    code: str
    detail: str = ""
