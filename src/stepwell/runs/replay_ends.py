"""Why a stored run was ended from outside its engine: read from what was closed before its end."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.engines.unconcluded import TIMES, is_last_word, out_of_time
from stepwell.events import (
    Answered,
    Forked,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunEnded,
    StepEnded,
    Stored,
    SummaryEnded,
    TaskEnded,
    ToolEnded,
    Unknown,
)
from stepwell.state.run import RunState

FAULTS = ("config", "internal")
"""Causes of an end that lie outside the log: settings of that time, and faults of our own."""


def interruption(events: Sequence[Recorded], first: int, run: RunState | None) -> RunEnded | None:
    """Return the end of a run if it comes next and was not its engine's decision.

    Args:
        events: Of the thread.
        first: Index of the event that comes next.
        run: The open run.
    """
    left: set[str] = set()
    for at in range(first, len(events)):
        path = events[at].path
        if any(path.startswith(f"{each}/") if each else path for each in left):
            return None  # those inside are closed first
        match events[at].event:
            case ToolEnded(status="cancelled") | MessageEnded(stop="cancelled") | TaskEnded(status="cancelled"):
                continue
            case StepEnded():
                left.add(path)
            case SummaryEnded() | Answered(decision="cancelled"):
                continue
            case LongTermUpdated() | MessageAdded() if _is_said_last(events, at, run, after_step=path in left):
                continue
            case RunEnded() as end if end.cause in ("cancelled", *TIMES, *FAULTS):
                return end
            case Forked() if at > first and (cause := _half_closed(events[first:at], run)):
                return RunEnded("cancelled" if cause == "cancelled" else "limit", cause)
            case _:
                return None
    return None


def _is_said_last(events: Sequence[Recorded], at: int, run: RunState | None, *, after_step: bool) -> bool:
    """Tell whether an event is of what is said where a run is closed; an engine speaks before its step ends."""
    if _was_edited(events, at):
        return True
    return bool(_time_over(events[at].event, run)) and (run is None or not run.step or after_step)


def _was_edited(events: Sequence[Recorded], at: int) -> bool:
    """Tell whether a thread was forked at an event to change it, so that nobody can tell what it said."""
    following = events[at + 1].event if at + 1 < len(events) else None
    return isinstance(following, Forked) and following.edited == events[at].seq


def _time_over(event: Stored | Unknown, run: RunState | None) -> str:
    """Return the name of the limit of time of which an event is a last word; empty for none."""
    if run is None:
        return ""
    return next((cause for cause in TIMES if is_last_word(event, out_of_time(run.spec, cause))), "")


def _half_closed(events: Sequence[Recorded], run: RunState | None) -> str:
    """Return why a run was being closed when its thread was forked in the middle of that; empty for no such."""
    if run is None or run.cancel is not None:
        return "cancelled" if run is not None else ""
    causes = [each.event.cause for each in events if isinstance(each.event, TaskEnded)]
    seconds = run.spec.limits.seconds
    late = "thread_seconds" if seconds is None else "seconds"
    if seconds is not None and events and events[0].time >= run.started + seconds * 1000:
        causes.append("seconds")  # an engine closes nothing after that
    causes += filter(None, (_time_over(each.event, run) for each in events))
    if not run.interrupted and any(isinstance(each.event, MessageEnded) and not each.path for each in events):
        causes.append(late)  # else nobody cuts a reply off
    return next((cause for cause in causes if cause in (*TIMES, *FAULTS)), "")
