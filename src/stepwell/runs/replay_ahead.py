"""What a stored log has next, as a replay goes through it.

It compares nothing and takes no decision: that is done in `replay_log.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from stepwell.agent.accounts import NO_CALLS
from stepwell.events import (
    Answered,
    MessageEnded,
    Recorded,
    RunEnded,
    StepEnded,
    TaskEnded,
    ToolEnded,
    Warned,
)
from stepwell.runs.replay_compare import RAN, TAKERS, is_input
from stepwell.state.run import OpenCall
from stepwell.state.thread import State


class Ahead:
    """A place in a stored log, with what was applied by now.

    Args:
        events: All of a thread.
    """

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.state = State()
        self._events = events
        self._at: int = 0

    def next(self) -> Recorded | None:
        """Return the stored event that comes next."""
        return self._events[self._at] if self._at < len(self._events) else None

    def ahead(self, path: str) -> Recorded | None:
        """Return the stored event in which an agent begins a step or ends otherwise; None where it was cut off."""
        for recorded in islice(self._events, self._at, None):
            if isinstance(recorded.event, TAKERS):
                return None
            aside = isinstance(recorded.event, StepEnded | Warned) or is_input(recorded.event)
            if (recorded.path == path and not aside) or isinstance(recorded.event, RunEnded):
                return recorded
        return None

    def cause_ahead(self) -> str:
        """Return why the next task or run ends that has a cause; empty for none."""
        ends = (each.event for each in islice(self._events, self._at, None))
        return next((end.cause for end in ends if isinstance(end, RunEnded | TaskEnded) and end.cause), "")

    def applied(self, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return stored events that were applied by now."""
        return [*self._events[after : self._at]][:limit]

    def failure_end(self) -> MessageEnded | None:
        """Return the end of the message whose last failure comes next; None where the model tried again."""
        following = self._events[self._at + 1].event if self._at + 1 < len(self._events) else None
        return following if isinstance(following, MessageEnded) and following.stop == "error" else None

    def allowed(self, path: str, calls: int) -> int:
        """Return how many of so many calls, those of the reply that an agent ends next, its key allowed."""
        for at in range(self._at, len(self._events) - 1):
            ended, result = self._events[at].event, self._events[at + 1].event
            if self._events[at].path != path or not isinstance(ended, MessageEnded):
                continue
            ids = [each.id for each in ended.message.calls]
            if isinstance(result, ToolEnded) and result.content in NO_CALLS.values() and result.call in ids:
                return ids.index(result.call)
            break
        return calls

    def landing(self, call: str) -> Recorded | None:
        """Return the stored event that comes next, behind questions of a call that are taken back with its result."""
        for recorded in islice(self._events, self._at, None):
            taken = self.state.questions.get(recorded.event.question) if isinstance(recorded.event, Answered) else None
            if taken is None or taken.event.call != call:
                return recorded
        return None

    def lands(self, path: str) -> bool:
        """Tell whether a call that an agent has under way, or one that works for it, ended well before all else."""
        for recorded in islice(self._events, self._at, None):
            match recorded.event:
                case ToolEnded(call=call, status=status):
                    opened, inside = self.open_call(call), f"{recorded.path}/".startswith(f"{path}/" if path else "")
                    return inside and status in RAN and opened is not None and opened.started > 0
                case Answered(question=number) if (asked := self.state.questions.get(number)) is not None:
                    if (opened := self.open_call(asked.event.call)) is None or not opened.started:
                        return False
                case _:
                    return False
        return False

    def open_call(self, call: str) -> OpenCall | None:
        """Return a call without a result."""
        path = self.path_of(call)
        run = self.state.at(path).run if path is not None else None
        return run.calls[call] if run is not None else None

    def path_of(self, call: str) -> str | None:
        """Return the agent that waits for the result of a call."""
        for agent in (self.state, *self.state.agents.values()):
            opened = agent.run.calls.get(call) if agent.run else None
            if opened is not None and opened.ended is None:
                return agent.path
        return None
