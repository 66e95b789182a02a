"""Whether all that is under way in a run are tools that ask people, or wait behind them: then somebody has to answer.

Such a run does not wait in the log's sense, for its tools do not stop; faces whose clients can only answer between two
streams end theirs here. It encodes nothing.
"""

from __future__ import annotations

from stepwell.events import (
    Answered,
    Asked,
    MessageEnded,
    MessageStarted,
    Recorded,
    StepStarted,
    TaskEnded,
    TaskStarted,
    ToolEnded,
)
from stepwell.state.thread import parent_of


class UnderWay:
    """Follows a run from its beginning on, all of its agents."""

    def __init__(self) -> None:
        self._asides: set[str] = set()
        self._replies: set[str] = set()
        self._calls: dict[tuple[str, str], str] = {}
        self._tasks: dict[str, tuple[str, str]] = {}
        self._questions: dict[int, tuple[str, Asked, str]] = {}

    @property
    def stalled(self) -> bool:
        """Whether tools ask, and nothing else goes on."""
        return self._asks and not self._others

    @property
    def held_up(self) -> bool:
        """Whether tools ask, and nothing goes on besides but other calls of the same MCP servers.

        Those may wait behind them, for a server that asks is called once at a time; and nobody knows of which of its
        calls a question is that comes while several are under way.
        """
        servers = {server for _, asked, server in self._questions.values() if server and asked.kind == "elicitation"}
        return self._asks and all(_server(self._calls[each]) in servers for each in self._others)

    @property
    def _asks(self) -> bool:
        return not self._replies and any(asked.kind == "elicitation" for _, asked, _ in self._questions.values())

    @property
    def _others(self) -> set[tuple[str, str]]:
        """Calls that ask nothing and gave no task."""
        asking = {(path, asked.call) for path, asked, _ in self._questions.values()}
        return self._calls.keys() - asking - set(self._tasks.values())

    def take(self, recorded: Recorded) -> None:
        """Take in the next event."""
        path = recorded.path
        match recorded.event:
            case StepStarted(aside=aside):
                (self._asides.add if aside else self._asides.discard)(path)
            case MessageStarted():
                self._replies.add(path)
            case MessageEnded() as ended:
                self._replies.discard(path)
                if path not in self._asides and ended.stop != "error":  # else its calls are never carried out
                    self._calls |= {(path, call.id): call.name for call in ended.message.calls}
            case ToolEnded(call=call):
                self._calls.pop((path, call), None)
            case Asked() as asked:
                self._questions[recorded.seq] = (path, asked, _server(self._calls.get((path, asked.call), "")))
            case Answered(question=question):
                self._questions.pop(question, None)
            case TaskStarted() | TaskEnded() as task:
                self._task(path, task)
            case _:
                pass

    def _task(self, path: str, task: TaskStarted | TaskEnded) -> None:
        """Take in that an agent begins to work on a task or is done with it; a call may have given it."""
        self._tasks.pop(path, None)
        self._replies.discard(path)
        self._calls = {each: name for each, name in self._calls.items() if each[0] != path}
        if isinstance(task, TaskStarted) and task.call:
            self._tasks[path] = (parent_of(path), task.call)


def _server(tool: str) -> str:
    """Return the MCP server that a tool is of, by its name; empty for none."""
    server, mark, _ = tool.partition("__")
    return server if mark else ""
