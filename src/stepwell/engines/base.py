"""The port of engines, and the one way to close what a run has open.

An engine is asked again and again for one decision until it says that the run is over. Because each decision
is made from the fold, going on after a crash is the same call.
"""

from __future__ import annotations

from typing import Protocol

from stepwell.engines.words import words
from stepwell.events import EndReason, MessageEnded, RunEnded, StepEnded, Stored, SummaryEnded, ToolEnded
from stepwell.state import Log


class Engine(Protocol):
    """The policy that decides the next step of a run."""

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; return False when the run is over.

        Raises:
            Conflict: Somebody else appended; ask again.
        """
        ...

    async def close(self) -> None:
        """Give up what goes on beside the run; it records nothing more."""
        ...


async def close(log: Log, reason: EndReason, cause: str, detail: str) -> None:
    """Close every bracket that the run has open, then the run, in one append, and wait for its commit.

    Calls without a result get one that says so, so that the history stays valid for the next turn.

    Args:
        log: The run's log; nothing happens without an open run.
        reason: Why the run ends.
        cause: A stable word for the cause.
        detail: The cause in words.
    """
    run = log.state.run
    if run is None:
        return
    text = words("cancelled_call", run.spec.language)
    events: list[Stored] = [ToolEnded(each.call.id, text, "cancelled") for each in run.unanswered()]
    if run.message:
        events.append(MessageEnded(log.partial(), "cancelled"))
    if run.step:
        events.append(StepEnded())
    for each in log.state.history.summarizing.values():
        events.append(SummaryEnded(each.kind, each.first, each.last, "cancelled", detail="the run ended"))
    await log.record(*events, RunEnded(reason, cause, detail), durable=True)
