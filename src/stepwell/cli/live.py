"""Shows a run while it happens: text as it comes, thinking that steps back, tool calls with their results."""

from __future__ import annotations

from stepwell.cli.screen import Screen, short
from stepwell.cli.turn import Turn
from stepwell.events import (
    MessageEnded,
    MessageStarted,
    ModelFailed,
    RunEnded,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
)
from stepwell.messages import Message
from stepwell.runs.channel import Item

SHOWN = 500
"""Characters shown of a tool's arguments, progress and result."""


class Live:
    """The view of one run.

    Args:
        screen: Where it is shown.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen, self._turn = screen, Turn()
        self._text = self._thinking = ""
        self._apart = False
        """Whether something stands on the current line."""

    @property
    def answered(self) -> bool:
        """Whether the run ended with an answer."""
        end = self._turn.end
        return end is not None and end.reason == "answer"

    def show(self, item: Item) -> None:
        """Show the next event of the run."""
        self._turn.take(item)
        match item.event:
            case MessageStarted():
                self._text = self._thinking = ""
            case ThinkingDelta(text=text):
                self._think(text)
            case TextDelta(text=text):
                self._speak(text)
            case MessageEnded(stop="error"):
                self._void()
            case MessageEnded(message=message):
                self._complete(message)
            case ModelFailed() as failed:
                self._fail(failed)
            case RunEnded() as end:
                self._end(end)
            case _:
                self._show_tool(item)

    def _show_tool(self, item: Item) -> None:
        match item.event:
            case ToolStarted(call=id, name=name):
                call = self._turn.calls.get(id)
                self._aside(f"• {name} {short(call.arguments if call else '', SHOWN)}")
            case ToolProgress(text=text):
                self._aside(f"  … {short(text, SHOWN)}", dim=True)
            case ToolEnded() as result:
                call = self._turn.calls.get(result.call)
                self._aside(f"  {call.name if call else result.call} → {short(result.content, SHOWN)}")
            case _:
                pass

    def _think(self, text: str) -> None:
        self._thinking += text
        self._screen.aside(text, "dim")
        self._apart = True

    def _speak(self, text: str) -> None:
        if not self._text:
            self._break()
        self._text += text
        self._screen.write(text)
        self._apart = True

    def _complete(self, message: Message) -> None:
        """Show what of a whole reply was not streamed; the whole replaces what was."""
        if not message.content.startswith(self._text):
            self._void()
        if rest := message.content[len(self._text) :]:
            self._speak(rest)
        self._break()
        self._text = self._thinking = ""

    def _void(self) -> None:
        if self._text:
            self._break()
            self._aside(self._screen.say("void"), dim=True)
        self._break()
        self._text = self._thinking = ""

    def _fail(self, failed: ModelFailed) -> None:
        self._break()
        name = "failed_attempt" if failed.retry_in is None else "retrying"
        self._screen.note(self._screen.say(name, cause=failed.detail, seconds=failed.retry_in or 0.0), "warn")

    def _end(self, end: RunEnded) -> None:
        self._break()
        if end.reason == "failed":
            self._screen.fail(end.detail)
        elif end.detail:
            self._screen.note(end.detail, "warn")

    def _aside(self, words: str, *, dim: bool = False) -> None:
        self._break()
        self._screen.aside(words + "\n", "dim" if dim else "tool")

    def _break(self) -> None:
        """End the line that something stands on, where it stands."""
        if not self._apart:
            return
        self._apart = False
        if self._text:
            self._screen.write("\n")
        else:
            self._screen.aside("\n")
