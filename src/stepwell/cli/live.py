"""Shows a run while it happens: text as it comes, thinking that steps back, tool calls with their results."""

from __future__ import annotations

from stepwell.cli.describe import describe
from stepwell.cli.screen import Screen, Style, short
from stepwell.cli.tree import Put, Tree
from stepwell.cli.turn import Turn
from stepwell.events import (
    Answered,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    Recorded,
    ResumeRequested,
    RunEnded,
    RunStarted,
    Steered,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Warned,
)
from stepwell.messages import Message
from stepwell.questions import visible
from stepwell.runs.channel import Item
from stepwell.specs import EngineName

SHOWN = 500
"""Characters shown of a tool's arguments, progress and result."""
TASKS = frozenset({"generate_plan", "subtask_operations", "subtask_submit"})
FRONT = frozenset({"answer_user", "ask_user", "start_task", "exit_task", "respond", "chat", "detail"})
"""Calls that are shown by what comes of them, and as calls only where they are refused: those of agents that have a
task, and those of the front that talks."""


class Live:
    """The view of one run.

    Args:
        screen: Where it is shown.
        put: Writes a line about a plan or a task; by default beside the answers.
        after: Number of the last event that is taken in and not shown.
    """

    def __init__(self, screen: Screen, put: Put | None = None, after: int = 0) -> None:
        self._screen, self._turn, self._tree = screen, Turn(), Tree(screen, self._put)
        self._line, self._after = put, after
        self._text = ""
        self._engine: EngineName = "chat"
        self._begun = set[str]()
        """Calls that were shown."""
        self._apart = False
        """Whether something stands on the current line."""

    @property
    def answered(self) -> bool:
        """Whether the run ended with an answer."""
        end = self._turn.end
        return end is not None and end.reason == "answer"

    def show(self, item: Item) -> None:
        """Show the next event of the run."""
        if isinstance(item.event, RunStarted):
            self._turn, self._engine = Turn(), item.event.spec.engine
        self._turn.take(item)
        if not self._taken(item):
            self._show(item)

    def _taken(self, item: Item) -> bool:
        """Tell whether nothing of an event is left to show."""
        if item.seq <= self._after:
            if isinstance(item, Recorded):
                self._tree.take(item)
            return True
        return (isinstance(item, Recorded) and self._tree.show(item)) or self._turn.hidden(item)

    def _show(self, item: Item) -> None:
        match item.event:
            case MessageStarted():
                self._text = ""
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
        inside = f"[{item.path}] " if isinstance(item, Recorded) and item.path else ""
        match item.event:
            case ToolStarted(call=id, name=name):
                if not self._is_told(name, inside):
                    self._began(id, name, inside)
            case ToolProgress(text=text):
                self._aside(f"  … {short(text, SHOWN)}", "dim")
            case ToolEnded() as result:
                self._ended(result, inside)
            case _ if isinstance(item, Recorded):
                self._show_person(item, inside)
            case _:
                pass

    def _is_told(self, name: str, inside: str) -> bool:
        """Tell whether a call is shown by what comes of it; a tool of the same name is none of these."""
        if self._engine == "interaction" and not inside:
            return name in FRONT
        return name in TASKS and (inside != "" or self._engine != "chat")

    def _began(self, id: str, name: str, inside: str) -> None:
        call = self._turn.calls.get(id)
        self._begun.add(id)
        self._aside(f"{inside}• {name} {short(visible(call.arguments) if call else '', SHOWN)}".rstrip())

    def _ended(self, result: ToolEnded, inside: str) -> None:
        """Show a result; a call that never began, because it was refused or taken back, has not been shown yet."""
        call = self._turn.calls.get(result.call)
        if call is not None and result.status == "ok" and self._is_told(call.name, inside):
            return
        if call is not None and result.call not in self._begun:
            self._began(result.call, call.name, inside)
        self._begun.discard(result.call)
        name = call.name if call is not None else result.call
        self._aside(f"{inside}  {name} → {short(result.content, SHOWN)}", "tool" if result.status == "ok" else "warn")

    def _show_person(self, item: Recorded, inside: str) -> None:
        match item.event:
            case MessageAdded(source="engine", message=message) if message.role == "assistant" and not item.path:
                self._complete(message)
            case Steered() | Answered() | PauseRequested() | ResumeRequested() | Warned() as event:
                words, style = describe(event, self._screen)
                self._break()
                self._screen.aside(f"{inside}{words}\n", style)
            case _:
                pass

    def _put(self, words: str, style: Style) -> None:
        self._break()
        if self._line is not None:
            self._line(words, style)
        else:
            self._screen.aside(words + "\n", style)

    def _think(self, text: str) -> None:
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
        self._text = ""

    def _void(self) -> None:
        if self._text:
            self._break()
            self._aside(self._screen.say("void"), "dim")
        self._break()
        self._text = ""

    def _fail(self, failed: ModelFailed) -> None:
        self._break()
        name = "failed_attempt" if failed.retry_in is None else "retrying"
        self._screen.note(self._screen.say(name, cause=failed.detail, seconds=failed.retry_in or 0.0), "warn")

    def _end(self, end: RunEnded) -> None:
        self._break()
        if end.reason == "failed":
            self._screen.fail(end.detail)
        elif end.detail and end.cause != "question":  # those words stand in the conversation
            self._screen.note(end.detail, "warn")

    def _aside(self, words: str, style: Style = "tool") -> None:
        self._break()
        self._screen.aside(words + "\n", style)

    def _break(self) -> None:
        """End the line that something stands on, where it stands."""
        if not self._apart:
            return
        self._apart = False
        if self._text:
            self._screen.write("\n")
        else:
            self._screen.aside("\n")
