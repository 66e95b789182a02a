"""Whether all that is under way in a run are tools that ask people: then nothing more happens until somebody answers.

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
from stepwell.state import parent_of


class UnderWay:
    """Follows a run from its beginning on, all of its agents."""

    def __init__(self) -> None:
        self._asides: set[str] = set()
        self._replies: set[str] = set()
        self._calls: set[tuple[str, str]] = set()
        self._tasks: dict[str, tuple[str, str]] = {}
        self._questions: dict[int, tuple[str, Asked]] = {}

    @property
    def stalled(self) -> bool:
        """Whether tools ask, and nothing else goes on."""
        if self._replies or not any(asked.kind == "elicitation" for _, asked in self._questions.values()):
            return False
        asking = {(path, asked.call) for path, asked in self._questions.values()}
        return self._calls <= asking | set(self._tasks.values())

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
                    self._calls |= {(path, call.id) for call in ended.message.calls}
            case ToolEnded(call=call):
                self._calls.discard((path, call))
            case Asked() as asked:
                self._questions[recorded.seq] = (path, asked)
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
        self._calls = {each for each in self._calls if each[0] != path}
        if isinstance(task, TaskStarted) and task.call:
            self._tasks[path] = (parent_of(path), task.call)
