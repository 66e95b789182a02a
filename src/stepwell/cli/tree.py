"""Shows a plan while it is carried out: the tree whenever it changes, and what each task hands in and comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stepwell.cli.screen import Screen, Style, short
from stepwell.events import PlanChanged, PlanMade, Recorded, TaskEnded, TaskStarted, TaskSubmitted
from stepwell.plans import Node, TaskStatus
from stepwell.questions import visible
from stepwell.runs.outline import Outline

SHOWN = 500
"""Characters shown of what a task came to."""
BESIDE = "chat"
"""How the path of an agent begins that answers a question about the work; what it says is shown as what is said."""
_MARKS: dict[TaskStatus, tuple[str, Style]] = {
    "TODO": ("·", "dim"),
    "DOING": ("▶", "tool"),
    "SUCCESS": ("✓", "good"),
    "FAIL": ("✗", "bad"),
    "SPLIT": ("┬", "dim"),
}

Put = Callable[[str, Style], None]


class Tree:
    """The view of a thread's plans.

    Args:
        screen: Says it in the person's language.
        put: Writes a line.
    """

    def __init__(self, screen: Screen, put: Put) -> None:
        self._screen, self._put, self._outline = screen, put, Outline()

    def take(self, recorded: Recorded) -> None:
        """Take in an event without showing it."""
        self._outline.take(recorded)

    def show(self, recorded: Recorded) -> bool:
        """Show an event if it is about a plan or a task, and tell whether it was."""
        names = {path: agent.run.task for path, agent in self._outline.state.agents.items() if agent.run}
        self._outline.take(recorded)
        match recorded.event:
            case PlanMade() | PlanChanged():
                self._plan(recorded.event)
            case TaskStarted() | TaskEnded() if recorded.path.startswith(BESIDE):
                pass
            case TaskStarted(task=task):
                self._line(f"▶ {recorded.path} {task.name}", "tool")
            case TaskSubmitted():
                self._submitted(recorded.path, recorded.event)
            case TaskEnded():
                task = names.get(recorded.path)
                self._ended(recorded.path, task.name if task else "", recorded.event)
            case _:
                return False
        return True

    def _plan(self, event: PlanMade | PlanChanged) -> None:
        if isinstance(event, PlanChanged):
            if event.operation == "exit":
                return
            tasks = ", ".join(f"{each.id} {each.name}" for each in event.tasks)
            self._line(
                self._screen.say(f"event_plan_{event.operation}", target=event.target, tasks=_text(tasks)), "warn"
            )
        self.draw()

    def draw(self) -> None:
        """Show the whole tree as it is."""
        plan = self._outline.plan
        if plan is None:
            return
        self._line(self._screen.say("plan_heading", goal=_text(plan.root.task.goal)), "strong")
        for line, style in _lines(plan.root.children):
            self._line(line, style)

    def _submitted(self, path: str, event: TaskSubmitted) -> None:
        end = event.submission
        self._line(
            f"  {path} {self._screen.say('event_task_submitted', kind=end.submit_type)} {_text(end.result)}", "tool"
        )
        if end.need_plan_rectification:
            said = self._screen.say("plan_wanted", text=_text("; ".join(end.suggestions)) or "-")
            self._line(f"  {path} {said}", "warn")

    def _ended(self, path: str, name: str, event: TaskEnded) -> None:
        good = event.status == "success"
        words = event.conclusion.summary if event.conclusion else event.detail
        said = self._screen.say("event_task_ended", status=event.status)
        self._line(f"{'✓' if good else '✗'} {path} {name} – {said} {_text(words)}", "good" if good else "bad")
        if self._screen.watched and "/" not in path:
            self.draw()

    def _line(self, words: str, style: Style) -> None:
        self._put(words.rstrip(), style)


def _lines(nodes: list[Node], depth: int = 1) -> Iterator[tuple[str, Style]]:
    for node in nodes:
        mark, style = _MARKS[node.status]
        yield f"{'  ' * depth}{mark} {node.task.id} {_text(node.task.name)}", style
        yield from _lines(node.children, depth + 1)


def _text(words: str) -> str:
    return short(visible(words), SHOWN)
