"""How the events of a replay are compared with the stored ones, and which of those no engine makes.

It reads no log: that is `replay_log.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    Feedback,
    Forked,
    HistoryCleared,
    Imported,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    PolicyChanged,
    QueueEdited,
    Recorded,
    ResumeRequested,
    RunClaimed,
    RunEnded,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TaskEnded,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    encode,
)
from stepwell.state.run import RunState

Kind = Literal["version", "request", "event", "model", "tool"]

INPUTS = (
    Imported,
    TitleChanged,
    CancelRequested,
    SummaryStarted,
    SummaryEnded,
    Answered,
    PauseRequested,
    ResumeRequested,
    MessageQueued,
    QueueEdited,
    PolicyChanged,
    Feedback,
    HistoryCleared,
)
"""What comes from people, and from work beside the run."""
TAKERS = (RunClaimed, Forked)
"""Where these stand, whoever carried the run out before is gone."""
RAN = ("ok", "failed", "timeout", "unknown")
"""How calls end that were run, or asked about."""


class Difference(msgspec.Struct, frozen=True):
    """The first place where a replay leaves the log.

    Args:
        seq: Number of the stored event.
        kind: A `version` in force changed; a `request` or another `event` is made otherwise; the engine would ask
            the `model` or run a `tool` where the log says that something else came.
        name: The version, the number of the step, or the tool.
        stored: What the log has: a version, a request's hash, or an event as JSON.
        now: What is made of it today; empty where there is nothing.
        proved: Number of the newest step whose request was the same: what is different was recorded after it.
    """

    seq: int
    kind: Kind
    name: str
    stored: str
    now: str
    proved: int


def asks(following: Sequence[Stored | Unknown]) -> bool:
    """Tell whether an engine went on to ask a model, or was refused the money for it: it did not know of a halt yet."""
    for event in following:
        match event:
            case StepStarted():
                return True
            case RunEnded(cause=cause):
                return cause.startswith("key_")
            case RunWaiting() | ResumeRequested() | RunClaimed() | Forked():
                return False
            case _:
                continue
    return False


def closes(event: Stored | Unknown) -> bool:
    """Tell whether an event ends something that is given up."""
    match event:
        case ToolEnded(status="cancelled") | MessageEnded(stop="cancelled") | TaskEnded() | StepEnded():
            return True
        case SummaryEnded() | Answered(decision="cancelled"):
            return True
        case _:
            return False


def closes_fork(event: Stored | Unknown) -> bool:
    """Tell whether an event closes, in a fork, what was open in the parent."""
    if isinstance(event, ToolEnded):
        return event.status == "unknown"
    return isinstance(event, QueueEdited | Answered | ResumeRequested)


def by_others(event: Stored | Unknown) -> bool:
    """Tell whether somebody else than the agent that it happens to may have recorded an event."""
    match event:
        case ToolEnded(status="cancelled") | MessageEnded(stop="cancelled") | Steered():
            return True
        case _:
            return False


def is_input(event: Stored | Unknown) -> bool:
    """Tell whether an event came from outside the engine and changes none of its work in hand."""
    if isinstance(event, MessageAdded):
        return event.source != "engine"
    if isinstance(event, Asked):
        return event.kind == "elicitation"  # no tool runs that could ask
    if isinstance(event, LongTermUpdated):
        return event.pinned is not None or event.unpinned is not None
    if isinstance(event, Steered):
        return event.source == "user"
    if isinstance(event, Answered):
        return event.decision != "cancelled"  # that is how engines take a question back
    return isinstance(event, INPUTS)


def same(stored: Stored | Unknown, made: Stored) -> bool:
    """Tell whether an event that was made again is the stored one, but for what a clock or a crash decides."""
    if isinstance(stored, Asked) and isinstance(made, Asked):
        # The clock may have ticked between the look at it and the storing.
        return msgspec.structs.replace(made, until=stored.until) == stored and bool(made.until) == bool(stored.until)
    if isinstance(stored, StepStarted) and isinstance(made, StepStarted) and stored.max_tokens is None:
        # Logs of old do not say what was paid for; the request's hash covers it.
        return msgspec.structs.replace(made, max_tokens=None) == stored
    if not isinstance(stored, MessageEnded) or not isinstance(made, MessageEnded):
        return stored == made
    if stored.stop != made.stop or stored.stop in ("error", "cancelled"):
        return stored.stop == made.stop  # what was streamed until then is void or came from outside
    # What was mended of the reply cannot be told from the reply.
    made = msgspec.structs.replace(made, replaced_characters=stored.replaced_characters)
    if not stored.message.raw:
        return stored == made
    # The raw text of a dialect is without the thinking that the endpoint streamed apart from it.
    thinking = stored.message.thinking
    same = msgspec.structs.replace(made.message, thinking=thinking) == stored.message
    return same and thinking.endswith(made.message.thinking)


def has_place(run: RunState, event: Stored | Unknown) -> bool:
    """Tell whether an event of a run can stand where it does: in the brackets that are open."""
    match event:
        case StepStarted():
            return not run.step and event.step == run.steps + 1
        case MessageStarted():
            return run.step > 0 and not run.message
        case MessageEnded() | ModelFailed():
            return run.message > 0
        case ToolStarted(call=call) | ToolEnded(call=call):
            opened = run.calls.get(call)
            return opened is not None and opened.ended is None
        case StepEnded():
            return run.step > 0 and not run.message and not run.unanswered()
        case RunEnded():
            return not run.step
        case _:
            return True


def difference_of(recorded: Recorded, made: Stored | None, proved: int) -> Difference:
    """Return how what is made now differs from a stored event."""
    stored = recorded.event
    if isinstance(stored, StepStarted) and isinstance(made, StepStarted) and stored.step == made.step:
        return Difference(recorded.seq, "request", str(stored.step), stored.request, made.request, proved)
    now = encode(made).decode() if made is not None else ""
    return Difference(recorded.seq, "event", "", recorded.body.decode(), now, proved)
