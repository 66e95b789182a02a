"""What a client is told of a run while it goes on, and what came of it in the end."""

from __future__ import annotations

from stepwell.events import Answered, Asked, MessageEnded, RunEnded, StepStarted, ToolProgress, ToolStarted
from stepwell.runs.channel import Item, Piece

SAID = 200
"""Characters of a tool's own progress that are passed on."""


class Turn:
    """A run, read event by event.

    Args:
        run: Its number.
    """

    def __init__(self, run: int) -> None:
        self._run = run
        self.done = 0
        """Texts that were told."""
        self.answer = ""
        self.end: RunEnded | None = None
        self.asked = False
        """People were asked something, or something was decided, since this was set to false."""

    def take(self, item: Item) -> str:
        """Take an event in and return what to tell of it; mostly nothing."""
        told = self._take(item)
        self.done += bool(told)
        return told

    def _take(self, item: Item) -> str:
        if item.run != self._run:
            return ""
        event = item.event
        if isinstance(item, Piece):
            return event.text[:SAID] if isinstance(event, ToolProgress) else ""
        match event:
            case StepStarted():
                return f"step {event.step}"
            case ToolStarted():
                return event.name
            case Asked() | Answered():
                self.asked = True
            case MessageEnded() if not item.path and event.stop != "error":
                self.answer = event.message.content or self.answer
            case RunEnded():
                self.end = event
            case _:
                pass
        return ""
