"""The state that AG-UI's clients share: the newest plan of a run as a tree, and counters, under the key `stepwell`."""

from __future__ import annotations

from typing import Any

import msgspec

from stepwell.events import (
    MessageEnded,
    PlanChanged,
    PlanMade,
    Recorded,
    StepStarted,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
    ToolEnded,
)
from stepwell.messages import Usage
from stepwell.runs.outline import Outline, view
from stepwell.server.agui.wire import NAME, event

Object = dict[str, Any]


class Board:
    """The shared state of a run.

    Args:
        thread: The thread's id.
        run: The run's number.
        own: The state of the client, which stays as it is; None where it is no object, so that nothing can be added.
    """

    def __init__(self, thread: str, run: int, own: Object | None) -> None:
        self._own = own
        self._outline = Outline()
        self._now: Object = {"thread": thread, "run": run, "plan": None, "steps": 0, "toolCalls": 0}
        self._now |= {"inputTokens": 0, "outputTokens": 0, "cachedTokens": 0, "cost": 0}
        self._told: Object = {}

    def take(self, recorded: Recorded) -> None:
        """Take in the next event."""
        self._outline.take(recorded)
        now, happened = self._now, recorded.event
        match happened:
            case StepStarted():
                now["steps"] += 1
            case ToolEnded():
                now["toolCalls"] += 1
            case MessageEnded():
                usage = happened.usage or Usage()
                now["inputTokens"] += usage.input
                now["outputTokens"] += usage.output
                now["cachedTokens"] += usage.cached
                now["cost"] += happened.cost
            case PlanMade() | PlanChanged() | TaskStarted() | TaskSubmitted() | TaskEnded():
                plan = self._outline.plan
                now["plan"] = msgspec.to_builtins(view(plan.root)) if plan is not None else None
            case _:
                pass

    def snapshot(self) -> list[bytes]:
        """Return the whole of it as an event."""
        if self._own is None:
            return []
        self._told = dict(self._now)
        return [event("STATE_SNAPSHOT", snapshot={**self._own, NAME: self._told})]

    def changes(self) -> list[bytes]:
        """Return what changed since it was told last as an event, if anything did."""
        if self._own is None:
            return []
        changed = {name: value for name, value in self._now.items() if value != self._told.get(name)}
        if not changed:
            return []
        self._told |= changed
        patch = [{"op": "replace", "path": f"/{NAME}/{name}", "value": value} for name, value in changed.items()]
        return [event("STATE_DELTA", delta=patch)]
